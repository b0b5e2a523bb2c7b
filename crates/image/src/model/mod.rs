//! The nouns of the field as values: bytes and strings go in, parsed things come out. No I/O.

mod config;
mod digest;
mod manifest;
mod platform;
mod reference;

pub use config::{ImageConfig, ParsedConfig};
pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{Descriptor, Document, IndexEntry, Manifest};
pub use platform::Platform;
pub use reference::Reference;
