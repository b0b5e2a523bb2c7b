//! What a caller may set about a pull, and what a pull answers.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    layer::{Limits, Report},
    model::{Digest, ImageConfig, Platform, Reference},
    store::{CachedImageMetadata, GlobalCache, TreeFile},
};

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Only if the image is not in the cache whole.
    #[default]
    IfMissing,
    /// For the manifest, every time; layers are reused by digest.
    Always,
    /// Never.
    Never,
}

/// Options of one pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// When the registry is asked.
    pub policy: PullPolicy,
    /// Fetch and extract again, whatever the cache holds.
    pub force: bool,
    /// Write sidecar indexes. On by default.
    pub index: bool,
    /// Another platform than the registry's.
    pub platform: Option<Platform>,
    /// Take a single manifest whose config names another platform.
    pub allow_platform_mismatch: bool,
    /// Parse no byte of a layer before all of it was verified.
    pub verify_before_extract: bool,
    /// Keep blobs after their layers were extracted. On by default.
    pub keep_blobs: bool,
    /// Refuse a pull that can't fit on the disk, before its first byte. On by default.
    pub check_space: bool,
    /// Wait until the image is on the disk, so that it outlives a power cut as it is.
    pub durable: bool,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            policy: PullPolicy::IfMissing,
            force: false,
            index: true,
            platform: None,
            allow_platform_mismatch: false,
            verify_before_extract: false,
            keep_blobs: true,
            check_space: true,
            durable: false,
        }
    }
}

/// Options of a [`Registry`](super::Registry) that hold for all its pulls.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds of a layer.
    pub limits: Limits,
    /// Downloads at a time, of all pulls together.
    pub concurrency: usize,
    /// Layers extracted at a time, of all pulls together.
    pub extractions: usize,
    /// Threads that write files, for each layer.
    pub writers: usize,
    /// How long to wait for a lock; `None` is for ever.
    pub lock_timeout: Option<Duration>,
    /// Name of the tenant that pulls. What the cache holds then counts only where this tenant's login was shown to have
    /// access to it, in the same repository of the same registry. `None`: all share what the cache holds.
    pub access_scope: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            limits: Limits::default(),
            concurrency: 3,
            extractions: cores.min(4),
            writers: cores.clamp(1, 2),
            lock_timeout: Some(Duration::from_secs(600)),
            access_scope: None,
        }
    }
}

/// A pulled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullResult {
    /// The reference.
    pub reference: Reference,
    /// The platform of the manifest.
    pub platform: Platform,
    /// Digest of the platform's manifest, as served.
    pub manifest_digest: Digest,
    /// Digest of the index it was chosen from.
    pub index_digest: Option<Digest>,
    /// Digest of the config.
    pub config_digest: Digest,
    /// What a container runs.
    pub config: ImageConfig,
    /// Extracted directories, bottom layer first.
    pub layers: Vec<PathBuf>,
    /// The sidecar index of each of `layers`; `None` where none was asked for, or none could be made.
    pub indexes: Vec<Option<PathBuf>>,
    /// Digests of the blobs, bottom layer first.
    pub layer_digests: Vec<Digest>,
    /// Digests of the uncompressed layers; empty texts where the original did not write them.
    pub diff_ids: Vec<String>,
    /// What could not be kept as it came, by layer digest.
    pub report: BTreeMap<String, Report>,
    /// True if nothing was downloaded.
    pub cached: bool,
}

impl PullResult {
    pub(super) fn from_cache(
        cache: &GlobalCache,
        reference: &Reference,
        platform: &Platform,
        metadata: CachedImageMetadata,
        cached: bool,
    ) -> Self {
        let layers = &metadata.layers;
        Self {
            reference: reference.clone(),
            platform: metadata.platform.unwrap_or_else(|| platform.clone()),
            manifest_digest: metadata.manifest_digest,
            index_digest: metadata.index_digest,
            config_digest: metadata.config_digest,
            config: metadata.config,
            layers: layers.iter().map(|layer| cache.tree(&layer.tree(), TreeFile::Tree)).collect(),
            indexes: layers
                .iter()
                .map(|layer| (!layer.no_index).then(|| cache.tree(&layer.tree(), TreeFile::Index)))
                .collect(),
            layer_digests: layers.iter().map(|layer| layer.digest.clone()).collect(),
            diff_ids: layers.iter().map(|layer| layer.diff_id.clone()).collect(),
            report: metadata.report,
            cached,
        }
    }
}
