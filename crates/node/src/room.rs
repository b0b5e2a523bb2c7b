//! What is in a cache, what may go, and whether it is whole.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use microsandbox_image_core::{
    Digest, ErrorKind, GlobalCache, ImageError, Reference, Result,
    progress::Observer,
    pull,
    store::{Depth, Lease, LockWait, PruneOptions, VerifyOptions},
};
use napi::{Env, bindgen_prelude::Object};
use napi_derive::napi;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::{
    cache::NativeCache,
    model::parse_json,
    outcome::guarded,
    runtime::{self, blocking},
    task::{NativeTask, Questions},
    types::present,
};

/// The options of a prune, as text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PruneText {
    keep: Option<usize>,
    keep_references: Vec<String>,
    older_than: Option<u64>,
    max_bytes: Option<u64>,
    partials: Option<bool>,
    blobs: bool,
    dry_run: bool,
    #[serde(flatten)]
    wait: WaitText,
}

/// How long to wait for locks, as text.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WaitText {
    /// Missing: the default; null: for ever.
    #[serde(deserialize_with = "present")]
    lock_timeout: Option<Option<u64>>,
}

impl WaitText {
    fn until(&self, cancel: CancellationToken, observer: Arc<dyn Observer>) -> LockWait {
        let defaults = LockWait::default();
        let timeout = self.lock_timeout.map_or(defaults.timeout, |limit| limit.map(Duration::from_millis));
        LockWait { timeout, cancel, observer }
    }
}

impl PruneText {
    fn parse(self) -> Result<PruneOptions> {
        let references = self.keep_references.iter().map(|text| Reference::parse(text));
        Ok(PruneOptions {
            keep: self.keep,
            keep_references: references.collect::<Result<_>>()?,
            older_than: self.older_than.map(Duration::from_millis),
            max_bytes: self.max_bytes,
            partials: self.partials,
            blobs: self.blobs,
            dry_run: self.dry_run,
        })
    }
}

/// The options of a verification, as text.
#[derive(Deserialize)]
struct VerifyText {
    depth: Depth,
    repair: bool,
}

#[napi]
impl NativeCache {
    /// The images.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn images<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let cache = self.cache().clone();
        runtime::promise_blocking(env, move || cache.images())
    }

    /// How much room the cache takes.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn usage<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let cache = self.cache().clone();
        runtime::promise_blocking(env, move || cache.usage())
    }

    /// Starts removing a reference and what only it needs.
    #[napi]
    pub fn remove(&self, env: &Env, reference: String, options: String) -> napi::Result<NativeTask> {
        let cache = self.cache().clone();
        NativeTask::start(env, Questions::new(), move |events, cancel| async move {
            let wait = parse_json::<WaitText>("options", &options)?.until(cancel.clone(), events);
            until(cancel, move || cache.remove_with(&Reference::parse(&reference)?, &wait)).await
        })
    }

    /// Starts removing what the options name.
    #[napi]
    pub fn prune(&self, env: &Env, options: String) -> napi::Result<NativeTask> {
        let cache = self.cache().clone();
        NativeTask::start(env, Questions::new(), move |events, cancel| async move {
            let options = parse_json::<PruneText>("options", &options)?;
            let wait = options.wait.until(cancel.clone(), events);
            let options = options.parse()?;
            until(cancel, move || cache.prune_with(&options, &wait)).await
        })
    }

    /// Starts looking for damage.
    #[napi]
    pub fn verify(&self, env: &Env, options: String) -> napi::Result<NativeTask> {
        let cache = self.cache().clone();
        NativeTask::start(env, Questions::new(), move |_, cancel| async move {
            let VerifyText { depth, repair } = parse_json("options", &options)?;
            pull::verify(&cache, VerifyOptions { depth, repair }, cancel).await
        })
    }

    /// A lease that is not taken yet.
    #[napi]
    pub fn lease(&self) -> NativeLease {
        NativeLease { cache: self.cache().clone(), lease: Arc::default() }
    }
}

/// Layers that stay as long as this is not released.
#[napi]
pub struct NativeLease {
    cache: GlobalCache,
    lease: Arc<Mutex<Option<Lease>>>,
}

#[napi]
impl NativeLease {
    /// Starts taking it.
    #[napi]
    pub fn take(&self, env: &Env, digests: Vec<String>, options: String) -> napi::Result<NativeTask> {
        let (cache, lease) = (self.cache.clone(), Arc::clone(&self.lease));
        NativeTask::start(env, Questions::new(), move |events, cancel| async move {
            let wait = parse_json::<WaitText>("options", &options)?.until(cancel, events);
            blocking(move || take(&cache, &digests, &wait, &lease)).await
        })
    }

    /// Gives it back.
    #[napi]
    pub fn release(&self) -> String {
        guarded(|| {
            drop(self.lease.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        })
    }
}

fn take(cache: &GlobalCache, digests: &[String], wait: &LockWait, lease: &Mutex<Option<Lease>>) -> Result<()> {
    let digests = digests.iter().map(|digest| Digest::parse(digest)).collect::<Result<Vec<_>>>()?;
    let taken = cache.lease_with(&digests, wait)?;
    // What is leased but not there would be missed only when it is needed.
    if let Some(missing) = digests.iter().find(|digest| !cache.is_extracted(digest)) {
        return Err(ImageError::from(ErrorKind::NotCached).for_layer(missing));
    }
    // Whoever was stopped does not know that it holds something.
    if wait.cancel.is_cancelled() {
        return Err(ImageError::aborted());
    }
    *lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
    Ok(())
}

/// Synchronous work that is not waited for once it is cancelled; it stops by itself as soon as it can.
async fn until<T: Send + 'static>(
    cancel: CancellationToken,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::select! {
        done = blocking(work) => done,
        () = cancel.cancelled() => Err(ImageError::aborted()),
    }
}
