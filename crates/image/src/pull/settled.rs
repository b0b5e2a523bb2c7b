//! Images that outlive a power cut: looked through at the first use after a boot, synced before a pull resolves where its
//! caller wants that.

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    budget::Extraction,
    error::{ImageError, Result},
    fs::{Lock, LockWait},
    layer::Halt,
    model::{Platform, Reference},
    progress::Observer,
    pull::{PullOptions, PullPolicy, PullResult, Registry, lock_wait},
    store::{AccessScope, CachedImageMetadata, GlobalCache, Lookup, Rechecked},
};

/// The image that is asked for.
#[derive(Clone)]
struct Asked {
    cache: GlobalCache,
    reference: Reference,
    platform: Platform,
    /// Whether an image of another platform will do.
    any_platform: bool,
    path: PathBuf,
    scope: Option<AccessScope>,
}

impl Registry {
    /// Answers from an image that was written before the machine was started for the last time, once it is known to be
    /// whole. Without network: what is damaged is made anew from its blob, or `None`.
    pub(super) async fn answer_after_boot(
        &self,
        reference: &Reference,
        options: &PullOptions,
        observer: &Arc<dyn Observer>,
        cancel: &CancellationToken,
    ) -> Result<Option<PullResult>> {
        if options.force || options.policy == PullPolicy::Always {
            return Ok(None);
        }
        let asked = self.asked(reference, options);
        let found = tokio::select! {
            found = asked.look_up() => found?,
            () = cancel.cancelled() => return Err(ImageError::aborted()),
        };
        if !matches!(found, Lookup::Doubtful(_)) {
            return Ok(None);
        }
        let (halt, wait) = (Halt::default(), lock_wait(&self.settings, observer, cancel));
        let settled = tokio::select! {
            settled = asked.settle(&wait, &halt) => settled,
            () = cancel.cancelled() => {
                halt.abort();
                return Err(ImageError::aborted());
            }
        };
        match settled {
            Ok(settled) => {
                Ok(settled
                    .map(|metadata| PullResult::from_cache(&self.cache, reference, &asked.platform, metadata, true)))
            }
            Err(error) => {
                tracing::warn!(%error, "an image of another boot could not be mended from its blobs");
                Ok(None)
            }
        }
    }

    /// Syncs an image that was answered or pulled: before this returns, if it has to be durable.
    pub(super) async fn sync(
        &self,
        reference: &Reference,
        options: &PullOptions,
        cancel: &CancellationToken,
    ) -> Result<()> {
        if !options.durable {
            return Ok(());
        }
        let Asked { cache, path, .. } = self.asked(reference, options);
        tokio::select! {
            synced = off_thread(move || cache.sync(&path)) => synced,
            () = cancel.cancelled() => Err(ImageError::aborted()),
        }
    }

    fn asked(&self, reference: &Reference, options: &PullOptions) -> Asked {
        let platform = options.platform.clone().unwrap_or_else(|| self.platform.clone());
        let path = self.cache.image_metadata_path(reference, &platform);
        let any_platform = options.allow_platform_mismatch;
        let scope = self.access_scope(reference);
        Asked { cache: self.cache.clone(), reference: reference.clone(), platform, any_platform, path, scope }
    }
}

impl Asked {
    async fn look_up(&self) -> Result<Lookup> {
        let asked = self.clone();
        off_thread(move || {
            let Asked { cache, reference, platform, any_platform, scope, .. } = &asked;
            cache.cache_status_for(scope.as_ref(), reference, platform, *any_platform)
        })
        .await
    }

    /// The image's metadata, once it is whole; `None` if it is not and can't be mended from its blobs.
    async fn settle(&self, wait: &LockWait, halt: &Halt) -> Result<Option<CachedImageMetadata>> {
        let Lookup::Doubtful(metadata) = self.look_up().await? else { return Ok(None) };
        let whole = {
            let (asked, metadata, halt) = (self.clone(), metadata.clone(), halt.clone());
            off_thread(move || Ok(asked.cache.recheck(&asked.path, &metadata, &halt))).await?
        };
        if whole {
            return Ok(Some(metadata));
        }
        halt.check()?;
        let _lock = Lock::acquire(&self.cache.image_lock_path(&self.reference, &self.platform), wait).await?;
        // Whoever held the lock may have mended it.
        let metadata = match self.look_up().await? {
            Lookup::Hit(metadata) => return Ok(Some(metadata)),
            Lookup::Doubtful(metadata) => metadata,
            Lookup::Miss => return Ok(None),
        };
        let healed = {
            let _place = Extraction::outside_of_pulls().await;
            let (asked, metadata, halt) = (self.clone(), metadata.clone(), halt.clone());
            off_thread(move || asked.cache.heal(&asked.path, &metadata, &halt)).await?
        };
        match healed {
            Rechecked::Settled => Ok(Some(metadata)),
            Rechecked::Damaged => Ok(None),
            Rechecked::Mended => self.remember(metadata).await.map(Some),
        }
    }

    async fn remember(&self, metadata: CachedImageMetadata) -> Result<CachedImageMetadata> {
        let asked = self.clone();
        off_thread(move || {
            asked.cache.write_image_metadata(&asked.reference, &asked.platform, &metadata)?;
            asked.cache.sync_later(asked.path);
            Ok(metadata)
        })
        .await
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImageError::internal("looking an image through panicked"))?
}
