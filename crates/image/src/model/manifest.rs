//! Manifests and indexes: what an image consists of (OCI image-spec, manifest.md and image-index.md).

use crate::model::Digest;

/// A pointer to a blob: what it is, how long it is, and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type, as the manifest says it.
    pub media_type: String,
    /// Digest of the blob as stored (compressed).
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// The content itself, where the manifest carries it (`data` field, decoded and already checked against the digest).
    pub data: Option<Vec<u8>>,
    /// Other places to fetch it from (`urls` field of non-distributable layers).
    pub urls: Vec<String>,
}
