//! What is in a cache, what may go, and whether it is whole.

use std::time::Duration;

use microsandbox_image_core::{
    Digest, ErrorKind, Reference, Result, pull,
    store::{Depth, Lease, PruneOptions, VerifyOptions},
};
use napi::{Env, bindgen_prelude::Object};
use napi_derive::napi;
use serde::Deserialize;

use crate::{
    cache::NativeCache,
    model::parse_json,
    outcome::guarded,
    runtime,
    task::{NativeTask, Questions},
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

    /// Removes a reference and what only it needs.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn remove<'env>(&self, env: &'env Env, reference: String) -> napi::Result<Object<'env>> {
        let cache = self.cache().clone();
        runtime::promise_blocking(env, move || cache.remove(&Reference::parse(&reference)?))
    }

    /// Removes what the options name.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn prune<'env>(&self, env: &'env Env, options: String) -> napi::Result<Object<'env>> {
        let cache = self.cache().clone();
        runtime::promise_blocking(env, move || cache.prune(&parse_json::<PruneText>("options", &options)?.parse()?))
    }

    /// Starts looking for damage.
    #[napi]
    pub fn verify(&self, options: String) -> napi::Result<NativeTask> {
        let cache = self.cache().clone();
        NativeTask::start(Questions::new(), move |_, cancel| async move {
            let VerifyText { depth, repair } = parse_json("options", &options)?;
            pull::verify(&cache, VerifyOptions { depth, repair }, cancel).await
        })
    }

    /// A lease that is not taken yet.
    #[napi]
    pub fn lease(&self) -> NativeLease {
        NativeLease { cache: self.cache().clone(), lease: std::sync::Arc::default() }
    }
}

/// Layers that stay as long as this is not released.
#[napi]
pub struct NativeLease {
    cache: microsandbox_image_core::GlobalCache,
    lease: std::sync::Arc<std::sync::Mutex<Option<Lease>>>,
}

#[napi]
impl NativeLease {
    /// Takes it.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn take<'env>(&self, env: &'env Env, digests: Vec<String>) -> napi::Result<Object<'env>> {
        let (cache, lease) = (self.cache.clone(), std::sync::Arc::clone(&self.lease));
        runtime::promise_blocking(env, move || {
            let digests = digests.iter().map(|digest| Digest::parse(digest)).collect::<Result<Vec<_>>>()?;
            let taken = cache.lease(&digests)?;
            // What is leased but not there would be missed only when it is needed.
            if let Some(missing) = digests.iter().find(|digest| !cache.is_extracted(digest)) {
                return Err(microsandbox_image_core::ImageError::from(ErrorKind::NotCached).for_layer(missing));
            }
            *lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(taken);
            Ok(())
        })
    }

    /// Gives it back.
    #[napi]
    pub fn release(&self) -> String {
        guarded(|| {
            drop(self.lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
            Ok(())
        })
    }
}
