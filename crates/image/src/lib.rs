//! Pulls OCI container images without a daemon and without root: resolve, download, verify, extract, cache.
//!
//! The crate mirrors `microsandbox-image` 0.3.13 and shares its cache directory: what one wrote, the other reads as a
//! cache hit.

pub mod budget;
pub mod error;
#[cfg(feature = "fail-points")]
#[doc(hidden)]
pub mod fail_points {
    //! For tests that end the process in the middle of a pull.
    pub use crate::fs::fail_point::{Step, at, at_none, at_passing, end_at, record};
}
mod fs;
pub mod layer;
pub mod model;
pub mod progress;
pub mod pull;
pub mod registry;
pub mod store;
mod sync;
mod text;

pub use error::{ErrorKind, ImageError, Result};
pub use model::{Digest, ImageConfig, Platform, Reference};
pub use pull::{PullOptions, PullPolicy, PullResult, Registry, Settings};
pub use store::GlobalCache;
