//! The story of a pull: lock the reference, answer from the cache, else resolve, bring every layer in, give
//! each what it inherits, remember.
//!
//! This is where `registry`, `store` and `layer` meet; none of them knows the others.

mod access;
mod feed;
mod inherit;
mod job;
mod need;
mod options;
mod plan;
mod preflight;
mod receive;
mod settled;
mod told;
mod verify;
mod waiting;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    budget::{Budget, Share},
    error::{ErrorKind, ImageError, Result},
    fs::{Lock, LockWait},
    layer::Report,
    model::{Digest, Platform, Reference},
    progress::{Event, Observer},
    registry::{Client, ClientOptions, ResolvedImage, Sources},
    store::{CachedImageMetadata, CachedLayerMetadata, GlobalCache, Lease, Lookup, TreeFile, TreeName},
};

pub use verify::verify;

pub use options::{PullOptions, PullPolicy, PullResult, Settings};
pub use plan::{LayerState, PlannedLayer, PullPlan};

use job::{LayerJob, Shared};
use waiting::Layers;

/// Pulls images into one cache, for one platform.
#[derive(Clone)]
pub struct Registry {
    cache: GlobalCache,
    platform: Platform,
    client: Client,
    settings: Settings,
    budget: Budget,
}

impl Registry {
    /// A registry client. Opens no socket and touches no file. Fails with `ERR_INVALID_OPTION`.
    pub fn new(cache: GlobalCache, platform: Platform, client: ClientOptions, settings: Settings) -> Result<Self> {
        access::check_scope(&settings)?;
        let budget = Budget::new(settings.concurrency, settings.extractions);
        Ok(Self { cache, platform, client: Client::new(client)?, settings, budget })
    }

    /// The cache.
    pub fn cache(&self) -> &GlobalCache {
        &self.cache
    }

    /// The platform that is pulled where a call names none.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Answers from the cache alone: no network, no lock; the time of last use is the only thing
    /// written, at most once an hour. `None` if the image is not there whole.
    pub fn pull_cached(&self, reference: &Reference, platform: Option<&Platform>) -> Result<Option<PullResult>> {
        let options = PullOptions { platform: platform.cloned(), ..PullOptions::default() };
        self.pull_cached_with(reference, &options)
    }

    /// [`pull_cached`](Self::pull_cached) for a pull with these options, of which `platform` and `allow_platform_mismatch`
    /// count: an image of another platform is answered only where that is allowed.
    pub fn pull_cached_with(&self, reference: &Reference, options: &PullOptions) -> Result<Option<PullResult>> {
        let platform = options.platform.as_ref().unwrap_or(&self.platform);
        let (scope, any_platform) = (self.access_scope(reference), options.allow_platform_mismatch);
        let Lookup::Hit(metadata) = self.cache.cache_status_for(scope.as_ref(), reference, platform, any_platform)?
        else {
            return Ok(None);
        };
        self.cache.record_use(reference, platform);
        Ok(Some(PullResult::from_cache(&self.cache, reference, platform, metadata, true)))
    }

    /// What [`pull`](Self::pull) would answer from the cache, on this thread, with its events. `None` where that takes
    /// more than a look: the image is not there whole, or the options ask for more.
    pub fn pull_at_once(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &dyn Observer,
    ) -> Result<Option<PullResult>> {
        if options.force || options.policy == PullPolicy::Always || options.durable {
            return Ok(None);
        }
        let hit = self.pull_cached_with(reference, options);
        let hit = hit.map_err(|error| error.for_reference(reference.as_str()))?;
        Ok(hit.inspect(|hit| tell_hit(hit, observer)))
    }

    /// Finds out what an image consists of. Fetches no layer and writes nothing.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        observer: &dyn Observer,
    ) -> Result<ResolvedImage> {
        let platform = platform.unwrap_or(&self.platform);
        let resolved = self.client.resolve(reference, platform, false, observer).await;
        resolved.map_err(|error| error.for_reference(reference.as_str()))
    }

    /// Pulls an image. Cancelling stops all of it within moments, frees its locks and keeps partial downloads; the
    /// error is then `ERR_ABORTED`.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: Arc<dyn Observer>,
        cancel: CancellationToken,
    ) -> Result<PullResult> {
        let pulled = self.pull_unnamed(reference, options, &observer, &cancel).await;
        pulled.map_err(|error| error.for_reference(reference.as_str()))
    }

    async fn pull_unnamed(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
        cancel: &CancellationToken,
    ) -> Result<PullResult> {
        let hit = tokio::select! {
            biased;
            hit = self.answer_from_cache(reference, options) => hit?,
            () = cancel.cancelled() => return Err(ImageError::aborted()),
        };
        if let Some(hit) = hit {
            self.sync(reference, options, cancel).await?;
            tell_hit(&hit, &**observer);
            return Ok(hit);
        }
        if let Some(hit) = self.answer_after_boot(reference, options, observer, cancel).await? {
            self.sync(reference, options, cancel).await?;
            tell_hit(&hit, &**observer);
            return Ok(hit);
        }
        self.pull_missing(reference, options, observer, cancel).await
    }

    async fn answer_from_cache(&self, reference: &Reference, options: &PullOptions) -> Result<Option<PullResult>> {
        if options.force || options.policy == PullPolicy::Always {
            return Ok(None);
        }
        let permit = self.budget.share().read().await;
        let (registry, reference, options) = (self.clone(), reference.clone(), options.clone());
        let found = tokio::task::spawn_blocking(move || {
            // Given back by the thread: whoever asked may be gone before it ends.
            let _permit = permit;
            registry.pull_cached_with(&reference, &options)
        });
        found.await.map_err(|_| ImageError::internal("reading the cache panicked"))?
    }

    async fn pull_missing(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
        cancel: &CancellationToken,
    ) -> Result<PullResult> {
        if options.policy == PullPolicy::Never {
            return Err(ErrorKind::NotCached.into());
        }
        let platform = options.platform.clone().unwrap_or_else(|| self.platform.clone());
        let until_cancelled = |error| if cancel.is_cancelled() { ImageError::aborted() } else { error };
        let (share, wait) = (self.budget.share(), lock_wait(&self.settings, observer, cancel));
        let access = self.access(reference, &share);
        let prepared = async {
            let permit = share.pull().await;
            self.prepare().await?;
            let path = self.cache.image_lock_path(reference, &platform);
            let lock = Lock::acquire_with(&path, &wait, Some(permit), || share.pull()).await?;
            // Whoever held the lock may have pulled just this.
            if let Some(hit) = self.answer_from_cache(reference, options).await? {
                return Ok((lock, Err(hit)));
            }
            observer.notify(Event::Resolving { reference: reference.as_str().into() });
            let resolved =
                self.client.resolve(reference, &platform, options.allow_platform_mismatch, &**observer).await?;
            access.ensure_all(&resolved.layers, &**observer).await?;
            Ok::<_, ImageError>((lock, Ok(resolved)))
        };
        let (lock, resolved) = tokio::select! {
            prepared = prepared => prepared.map_err(until_cancelled)?,
            () = cancel.cancelled() => return Err(ImageError::aborted()),
        };
        let resolved = match resolved {
            Ok(resolved) => resolved,
            Err(hit) => {
                drop(lock);
                self.sync(reference, options, cancel).await?;
                tell_hit(&hit, &**observer);
                return Ok(hit);
            }
        };
        let mut resolved = resolved;
        let (lease, outcome) = loop {
            self.tell_resolved(reference, &resolved, options, observer, cancel).await?;
            let lease = self.lease(reference, &platform, &resolved, &wait).await?;
            if options.check_space {
                tokio::select! {
                    checked = self.check_space(&resolved, options) => checked?,
                    () = cancel.cancelled() => return Err(ImageError::aborted()),
                }
            }
            let place = (share.clone(), lease.name());
            match self.bring_layers(reference, &resolved, options, observer, cancel, place).await {
                Ok(outcome) => break (lease, outcome),
                Err(error) => {
                    resolved = self.resolve_anew(reference, &resolved, options, observer, cancel, error).await?;
                }
            }
        };
        let result = self.remember(reference, &platform, &resolved, outcome).await?;
        drop((lock, lease));
        self.sync(reference, options, cancel).await?;
        // The image is there, and the next pull is a hit; who cancelled is told so all the same.
        if cancel.is_cancelled() {
            return Err(ImageError::aborted());
        }
        observer.notify(Event::Complete { reference: reference.as_str().into(), layer_count: result.layers.len() });
        Ok(result)
    }

    async fn tell_resolved(
        &self,
        reference: &Reference,
        resolved: &ResolvedImage,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        observer.notify(Event::Resolved {
            reference: reference.as_str().into(),
            manifest_digest: resolved.manifest_digest.to_string().into(),
            layer_count: resolved.layers.len(),
            total_download_bytes: Some(self.bytes_to_download(resolved, options, cancel).await?),
        });
        Ok(())
    }

    /// What the registry says of an image of which a mirror said something else, and of which nobody has a layer: its `error`
    /// is given back unless that leads on.
    async fn resolve_anew(
        &self,
        reference: &Reference,
        resolved: &ResolvedImage,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
        cancel: &CancellationToken,
        error: ImageError,
    ) -> Result<ResolvedImage> {
        let is_missing = error.layer().is_some() && matches!(error.kind(), ErrorKind::NotFound { .. });
        if resolved.mirrors.is_empty() || !is_missing {
            return Err(error);
        }
        let platform = options.platform.as_ref().unwrap_or(&self.platform);
        let allow = options.allow_platform_mismatch;
        let again = tokio::select! {
            again = self.client.resolve_from(reference, platform, allow, Sources::Origin, &**observer) => again,
            () = cancel.cancelled() => return Err(ImageError::aborted()),
        };
        again.ok().filter(|again| again.manifest_digest != resolved.manifest_digest).ok_or(error)
    }

    /// The directories, and whether their file system can hold what a layer needs.
    async fn prepare(&self) -> Result<()> {
        let cache = self.cache.clone();
        let prepared = tokio::task::spawn_blocking(move || {
            cache.prepare()?;
            cache.sweep_later();
            crate::layer::probe_host(cache.layers_dir())
        });
        prepared.await.map_err(|_| ImageError::internal("preparing the cache panicked"))?
    }

    /// Keeps the image's layers, also those that are there already, from being pruned until its metadata name them.
    async fn lease(
        &self,
        reference: &Reference,
        platform: &Platform,
        resolved: &ResolvedImage,
        wait: &LockWait,
    ) -> Result<Lease> {
        let wait = wait.clone();
        let (cache, lock_path) = (self.cache.clone(), self.cache.image_lock_path(reference, platform));
        let layers: Vec<Digest> = resolved.layers.iter().map(|layer| layer.digest.clone()).collect();
        let leased = tokio::task::spawn_blocking(move || {
            let key = lock_path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cache.lease_pull(&key, &layers, &wait)
        });
        leased.await.map_err(|_| ImageError::internal("leasing the layers panicked"))?
    }

    /// All layers, each once, the largest first. The first failure stops the others.
    async fn bring_layers(
        &self,
        reference: &Reference,
        resolved: &ResolvedImage,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
        cancel: &CancellationToken,
        (share, lease): (Share, String),
    ) -> Result<Outcome> {
        let shared = Arc::new(Shared {
            cache: self.cache.clone(),
            client: self.client.clone(),
            access: self.access(reference, &share),
            reference: reference.clone(),
            settings: self.settings.clone(),
            options: options.clone(),
            observer: Arc::clone(observer),
            cancel: cancel.child_token(),
            share,
            lease,
        });
        let mut by_digest: BTreeMap<&Digest, LayerJob> = BTreeMap::new();
        for (index, (blob, diff_id)) in resolved.layers.iter().zip(&resolved.config.diff_ids).enumerate() {
            let job = by_digest.entry(&blob.digest).or_insert_with(|| LayerJob::new(blob, diff_id));
            if job.diff_id != *diff_id {
                let reason = format!("layer {} is listed with two diff_ids", blob.digest);
                return Err(ErrorKind::Config { reason }.into());
            }
            job.indices.push(index);
        }
        let mut jobs: Vec<LayerJob> = by_digest.into_values().collect();
        jobs.sort_by_key(|job| (std::cmp::Reverse(job.blob.size), job.indices[0]));
        let (mut running, mut jobs) = (JoinSet::new(), jobs.into_iter().peekable());
        let mut layers = Layers::default();
        let mut failure: Option<ImageError> = None;
        let mut place = Box::pin(shared.share.layer());
        loop {
            // A layer is not begun before it has a place: what waits is a line in a list.
            let done = tokio::select! {
                biased;
                Some(done) = running.join_next() => done,
                () = shared.cancel.cancelled(), if jobs.peek().is_some() => {
                    jobs.by_ref().for_each(drop);
                    continue;
                }
                permit = &mut place, if jobs.peek().is_some() => {
                    place.set(shared.share.layer());
                    running.extend(jobs.next().map(|job| job.run(Arc::clone(&shared), permit)));
                    continue;
                }
                else => break,
            };
            match done.unwrap_or_else(|panic| Err(ImageError::internal(panic_text(panic)))) {
                Ok(done) => {
                    layers.add(done);
                }
                Err(error) => {
                    shared.cancel.cancel();
                    // Jobs that were stopped because of the first failure only say that they were.
                    if failure.as_ref().is_none_or(ImageError::is_aborted) {
                        failure = Some(error);
                    }
                }
            }
        }
        if cancel.is_cancelled() {
            return Err(ImageError::aborted());
        }
        match failure {
            Some(error) => Err(error),
            None => {
                let trees = layers.publish(&shared, resolved).await?;
                Ok(Outcome { downloaded: layers.downloaded, report: layers.reports(), trees })
            }
        }
    }

    /// Writes the metadata.
    async fn remember(
        &self,
        reference: &Reference,
        platform: &Platform,
        resolved: &ResolvedImage,
        outcome: Outcome,
    ) -> Result<PullResult> {
        let metadata = metadata_of(reference, resolved, outcome.report, &outcome.trees);
        let (cache, scope) = (self.cache.clone(), self.access_scope(reference));
        let (reference, platform) = (reference.clone(), platform.clone());
        let cached = !outcome.downloaded;
        let written = tokio::task::spawn_blocking(move || {
            let mut metadata = metadata;
            for layer in &mut metadata.layers {
                layer.no_index = cache.tree(&layer.tree(), TreeFile::Index).symlink_metadata().is_err();
            }
            cache.write_image_metadata(&reference, &platform, &metadata)?;
            if let Some(scope) = scope {
                cache.record_access(&scope, &metadata.manifest_digest)?;
            }
            cache.sync_later(cache.image_metadata_path(&reference, &platform));
            Ok(PullResult::from_cache(&cache, &reference, &platform, metadata, cached))
        });
        written.await.map_err(|_| ImageError::internal("writing the metadata panicked"))?
    }
}

/// What came of the layers.
struct Outcome {
    downloaded: bool,
    report: BTreeMap<String, Report>,
    /// The image's tree at each position.
    trees: Vec<TreeName>,
}

fn metadata_of(
    reference: &Reference,
    resolved: &ResolvedImage,
    report: BTreeMap<String, Report>,
    trees: &[TreeName],
) -> CachedImageMetadata {
    let layers = resolved.layers.iter().zip(&resolved.config.diff_ids).zip(trees);
    let layers = layers.map(|((blob, diff_id), tree)| CachedLayerMetadata {
        digest: blob.digest.clone(),
        media_type: Some(blob.media_type.clone()),
        size_bytes: Some(blob.size),
        diff_id: diff_id.to_string(),
        inherited: tree.inherited.clone(),
        no_index: false,
    });
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    CachedImageMetadata {
        manifest_digest: resolved.manifest_digest.clone(),
        config_digest: resolved.config_digest.clone(),
        config: resolved.config.image.clone(),
        layers: layers.collect(),
        format_version: crate::store::FORMAT_VERSION,
        reference: Some(reference.as_str().to_owned()),
        platform: Some(resolved.platform.clone()),
        index_digest: resolved.index_digest.clone(),
        manifest_media_type: Some(resolved.manifest_media_type.clone()),
        raw_manifest: text(&resolved.raw_manifest),
        raw_config: text(&resolved.raw_config),
        pulled_at_ms: Some(now.as_millis() as u64),
        written: None,
        report,
    }
}

/// A hit is told in exactly three events.
fn tell_hit(hit: &PullResult, observer: &dyn Observer) {
    let reference: Arc<str> = hit.reference.as_str().into();
    observer.notify(Event::Resolving { reference: Arc::clone(&reference) });
    observer.notify(Event::Resolved {
        reference: Arc::clone(&reference),
        manifest_digest: hit.manifest_digest.to_string().into(),
        layer_count: hit.layers.len(),
        total_download_bytes: Some(0),
    });
    observer.notify(Event::Complete { reference, layer_count: hit.layers.len() });
}

/// How a pull waits for each of its locks.
fn lock_wait(settings: &Settings, observer: &Arc<dyn Observer>, cancel: &CancellationToken) -> LockWait {
    LockWait { timeout: settings.lock_timeout, cancel: cancel.clone(), observer: Arc::clone(observer) }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "a task was cancelled".to_owned() };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a task panicked".to_owned())
}
