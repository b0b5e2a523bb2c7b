//! The images of a cache, as people ask for them.

use std::time::SystemTime;

use serde::Serialize;

use crate::{
    error::Result,
    model::{Digest, Platform},
    store::{
        CachedImageMetadata, GlobalCache,
        inventory::{ImageFile, Inventory},
    },
};

/// A pulled image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CachedImage {
    /// Canonical reference; `None` where the original pulled it, which does not write it down.
    pub reference: Option<String>,
    /// Name of its metadata file without `.json`.
    pub key: String,
    /// Platform of the manifest; `None` where the original pulled it.
    pub platform: Option<Platform>,
    /// Digest of the platform's manifest.
    pub manifest_digest: Digest,
    /// Digests of its layers, bottom first.
    pub layer_digests: Vec<Digest>,
    /// Length of its blobs in bytes, each layer once; `None` where the metadata lack it.
    pub compressed_bytes: Option<u64>,
    /// When it was pulled, in milliseconds since 1970; `None` where the original pulled it.
    pub pulled_at: Option<u64>,
    /// When it was last used, in milliseconds since 1970, to the hour.
    pub last_used_at: u64,
    /// True if all its trees are there, so that it is a hit.
    pub complete: bool,
}

impl GlobalCache {
    /// The images, those used last first. Damaged metadata are left out; `verify` tells of them.
    pub fn images(&self) -> Result<Vec<CachedImage>> {
        let inventory = Inventory::read(self)?;
        let mut images: Vec<CachedImage> =
            inventory.images.iter().filter_map(|file| Some(self.describe(file, file.metadata.as_ref()?))).collect();
        images.sort_by(|a, b| (b.last_used_at, &a.reference, &a.key).cmp(&(a.last_used_at, &b.reference, &b.key)));
        Ok(images)
    }

    fn describe(&self, file: &ImageFile, metadata: &CachedImageMetadata) -> CachedImage {
        let once: std::collections::BTreeMap<_, _> =
            metadata.layers.iter().map(|layer| (&layer.digest, layer.size_bytes)).collect();
        CachedImage {
            reference: metadata.reference.clone(),
            key: file.key.clone(),
            platform: metadata.platform.clone(),
            manifest_digest: metadata.manifest_digest.clone(),
            layer_digests: metadata.layers.iter().map(|layer| layer.digest.clone()).collect(),
            compressed_bytes: once.into_values().sum(),
            pulled_at: metadata.pulled_at_ms,
            last_used_at: milliseconds(file.last_used),
            complete: self.trees_are_finished(metadata.trees()).unwrap_or(false),
        }
    }
}

/// Milliseconds since 1970; a time before is 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
