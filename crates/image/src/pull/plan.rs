//! What a pull would do, found out without doing it: nothing is written, nothing is locked, no layer is fetched.
//!
//! A plan is a moment's view: other processes pull and prune meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::free_space,
    layer::Halt,
    model::{Digest, Platform, Reference},
    progress::Observer,
    pull::{
        Registry,
        need::{self, Wanted},
        options::{PullOptions, PullPolicy},
        receive::{Held, held},
    },
    registry::ResolvedImage,
    store::{CachedImageMetadata, GlobalCache, LayerFile, Lookup, TreeName},
};

/// What a pull would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullPlan {
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
    /// True if the pull would be answered from the cache, without asking the registry.
    pub cached: bool,
    /// The layers, bottom first, as often as the manifest lists them.
    pub layers: Vec<PlannedLayer>,
    /// Compressed bytes to download, each layer once.
    pub download_bytes: u64,
    /// Bytes on the disk that will be needed, as far as can be guessed: see `need::estimate`.
    pub disk_bytes: u64,
    /// Bytes on the disk that are needed at least: see `need::least`.
    pub least_disk_bytes: u64,
    /// Bytes that are free where the cache is, if that is told.
    pub free_bytes: Option<u64>,
}

/// A layer of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the uncompressed layer; an empty text where it is not known.
    pub diff_id: String,
    /// Media type from the manifest, where it is known.
    pub media_type: Option<String>,
    /// Compressed length in bytes, where it is known.
    pub size: Option<u64>,
    /// What the cache has of it.
    pub state: LayerState,
    /// Compressed bytes that would be downloaded.
    pub download_bytes: u64,
}

/// What the cache has of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Its tree: nothing has to be done.
    Cached,
    /// Its blob, which would be extracted.
    Downloaded,
    /// The first bytes of its blob.
    Partial,
    /// Nothing that would be used.
    Missing,
}

impl Registry {
    /// Finds out what [`pull`](Self::pull) would do with these options. Asks the registry only where the pull would, and
    /// fails as the pull would, with `ERR_NOT_CACHED` where the policy is `Never`.
    pub async fn plan(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &dyn Observer,
    ) -> Result<PullPlan> {
        let planned = self.plan_unnamed(reference, options, observer).await;
        planned.map_err(|error| error.for_reference(reference.as_str()))
    }

    async fn plan_unnamed(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &dyn Observer,
    ) -> Result<PullPlan> {
        let platform = options.platform.clone().unwrap_or_else(|| self.platform().clone());
        let plan = match self.plan_of_hit(reference, &platform, options).await? {
            Some(plan) => plan,
            None if options.policy == PullPolicy::Never => return Err(ErrorKind::NotCached.into()),
            None => {
                let allow = options.allow_platform_mismatch;
                let resolved = self.client.resolve(reference, &platform, allow, observer).await?;
                self.access(reference, &self.budget.share()).check_all(&resolved.layers, observer).await?;
                outline(reference, resolved)
            }
        };
        let (cache, options) = (self.cache().clone(), options.clone());
        off_thread(move || {
            if !plan.cached {
                cache.check()?;
            }
            Ok(complete(plan, &cache, &options))
        })
        .await
    }

    async fn plan_of_hit(
        &self,
        reference: &Reference,
        platform: &Platform,
        options: &PullOptions,
    ) -> Result<Option<PullPlan>> {
        if options.force || options.policy == PullPolicy::Always {
            return Ok(None);
        }
        let (cache, reference, platform) = (self.cache().clone(), reference.clone(), platform.clone());
        let (scope, any_platform) = (self.access_scope(&reference), options.allow_platform_mismatch);
        off_thread(move || {
            let trees = |metadata: &CachedImageMetadata| {
                metadata.layers.iter().map(|layer| layer.tree()).collect::<BTreeSet<_>>()
            };
            let hit = match cache.cache_status_for(scope.as_ref(), &reference, &platform, any_platform)? {
                Lookup::Hit(metadata) => Some(metadata),
                // The pull looks it through, and so does its plan.
                Lookup::Doubtful(metadata) => {
                    let halt = Halt::default();
                    let is_sound = |tree: &TreeName| cache.tree_is_sound(tree, true, &halt);
                    Some(metadata).filter(|metadata| trees(metadata).iter().all(is_sound))
                }
                Lookup::Miss => None,
            };
            Ok(hit.map(|metadata| outline_of_hit(&reference, &platform, metadata)))
        })
        .await
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImageError::internal("looking at the cache panicked"))?
}

/// The plan before the cache was looked at.
fn outline(reference: &Reference, image: ResolvedImage) -> PullPlan {
    let layers = image.layers.into_iter().zip(&image.config.diff_ids);
    let layers = layers.map(|(blob, diff_id)| PlannedLayer {
        digest: blob.digest,
        diff_id: diff_id.to_string(),
        media_type: Some(blob.media_type),
        size: Some(blob.size),
        state: LayerState::Missing,
        download_bytes: 0,
    });
    PullPlan {
        reference: reference.clone(),
        platform: image.platform,
        manifest_digest: image.manifest_digest,
        index_digest: image.index_digest,
        config_digest: image.config_digest,
        cached: false,
        layers: layers.collect(),
        download_bytes: 0,
        disk_bytes: 0,
        least_disk_bytes: 0,
        free_bytes: None,
    }
}

/// The plan of a pull that the cache answers.
fn outline_of_hit(reference: &Reference, platform: &Platform, metadata: CachedImageMetadata) -> PullPlan {
    let layers = metadata.layers.into_iter().map(|layer| PlannedLayer {
        digest: layer.digest,
        diff_id: layer.diff_id,
        media_type: layer.media_type,
        size: layer.size_bytes,
        state: LayerState::Cached,
        download_bytes: 0,
    });
    PullPlan {
        reference: reference.clone(),
        platform: metadata.platform.unwrap_or_else(|| platform.clone()),
        manifest_digest: metadata.manifest_digest,
        index_digest: metadata.index_digest,
        config_digest: metadata.config_digest,
        cached: true,
        layers: layers.collect(),
        download_bytes: 0,
        disk_bytes: 0,
        least_disk_bytes: 0,
        free_bytes: None,
    }
}

/// Completes a plan by what the cache has, judged as a pull would judge it.
fn complete(mut plan: PullPlan, cache: &GlobalCache, options: &PullOptions) -> PullPlan {
    let mut seen: BTreeMap<Digest, (LayerState, u64)> = BTreeMap::new();
    let mut wanted = Vec::new();
    for layer in &mut plan.layers {
        let found = match seen.get(&layer.digest) {
            Some(&found) => found,
            None => {
                let found = if plan.cached { (LayerState::Cached, 0) } else { look_at(cache, layer, options) };
                if found.0 != LayerState::Cached {
                    wanted.push(Wanted::new(layer.size.unwrap_or(0), found.1, layer.media_type.as_deref()));
                }
                seen.insert(layer.digest.clone(), found);
                found
            }
        };
        (layer.state, layer.download_bytes) = found;
    }
    plan.download_bytes = seen.values().fold(0, |sum, (_, to_come)| sum.saturating_add(*to_come));
    plan.disk_bytes = need::estimate(&wanted, options.keep_blobs);
    plan.least_disk_bytes = need::least(&wanted, options.keep_blobs);
    plan.free_bytes = free_space(cache.directory()).map(|space| space.bytes);
    plan
}

fn look_at(cache: &GlobalCache, layer: &PlannedLayer, options: &PullOptions) -> (LayerState, u64) {
    let size = layer.size.unwrap_or(0);
    if options.force {
        return (LayerState::Missing, size);
    }
    if cache.has_content(&layer.digest, options.index, &Halt::default()).unwrap_or(false) {
        return (LayerState::Cached, 0);
    }
    let path = |file| cache.layer(&layer.digest, file);
    let Ok(trust) = cache.trust() else { return (LayerState::Missing, size) };
    match held(&path(LayerFile::Blob), &path(LayerFile::Part), size, &trust) {
        Held::Blob => (LayerState::Downloaded, 0),
        Held::Part(length) => (LayerState::Partial, size - length),
        Held::Nothing => (LayerState::Missing, size),
    }
}
