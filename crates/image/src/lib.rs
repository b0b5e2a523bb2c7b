//! Pulls OCI container images without a daemon and without root: resolve, download, verify, extract, cache.
//!
//! The crate mirrors `microsandbox-image` 0.3.13 and shares its cache directory: what one wrote, the other reads as a
//! cache hit.

pub mod error;
mod fs;
pub mod layer;
pub mod model;
pub mod progress;
pub mod registry;

pub use error::{ErrorKind, ImageError, Result};
pub use model::{Digest, ImageConfig, Platform, Reference};
