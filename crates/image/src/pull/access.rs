//! What a pull may take from the cache where tenants share it: only what its own login was shown to have access to, in the
//! repository that it pulls from. Without a scope, all of it.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    budget::Share,
    error::{ErrorKind, ImageError, Result},
    model::{Descriptor, Digest, Reference},
    progress::Observer,
    pull::{Registry, Settings},
    registry::Client,
    store::{AccessScope, GlobalCache},
};

/// The access of one pull.
#[derive(Clone)]
pub(super) struct Access {
    cache: GlobalCache,
    client: Client,
    reference: Reference,
    share: Share,
    /// Requests at a time.
    requests: usize,
    scope: Option<AccessScope>,
}

/// What is asked about a layer that is not proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Only if the cache holds something of it: a download proves it as well.
    Held,
    /// Always, and nothing is remembered.
    All,
}

/// Refuses a scope that names nobody.
pub(super) fn check_scope(settings: &Settings) -> Result<()> {
    if settings.access_scope.as_deref() != Some("") {
        return Ok(());
    }
    let (option, reason) = ("accessScope".to_owned(), "it is empty; it names a tenant".to_owned());
    Err(ErrorKind::InvalidOption { option, reason }.into())
}

impl Registry {
    /// The scope of a pull; `None` where all share.
    pub(super) fn access_scope(&self, reference: &Reference) -> Option<AccessScope> {
        self.settings.access_scope.as_deref().map(|scope| AccessScope::new(scope, reference))
    }

    pub(super) fn access(&self, reference: &Reference, share: &Share) -> Access {
        Access {
            cache: self.cache.clone(),
            client: self.client.clone(),
            reference: reference.clone(),
            share: share.clone(),
            requests: self.settings.concurrency.max(1),
            scope: self.access_scope(reference),
        }
    }
}

impl Access {
    /// Proves access to a layer before anything of it is taken from the cache, and remembers it. Fails as the download of
    /// the layer would.
    pub(super) async fn ensure(&self, blob: &Descriptor, observer: &dyn Observer) -> Result<()> {
        self.prove(blob, Which::Held, observer).await
    }

    /// [`ensure`](Self::ensure) for all layers.
    pub(super) async fn ensure_all(&self, blobs: &[Descriptor], observer: &dyn Observer) -> Result<()> {
        self.prove_all(blobs, Which::Held, observer).await
    }

    /// Fails where a pull would fail for want of access. Writes nothing, and what it asks does not depend on what the cache
    /// holds.
    pub(super) async fn check_all(&self, blobs: &[Descriptor], observer: &dyn Observer) -> Result<()> {
        self.prove_all(blobs, Which::All, observer).await
    }

    /// Remembers that the login had access to this digest.
    pub(super) async fn record(&self, digest: &Digest) -> Result<()> {
        let Some(scope) = self.scope.clone() else { return Ok(()) };
        let (cache, digest) = (self.cache.clone(), digest.clone());
        off_thread(move || cache.record_access(&scope, &digest)).await
    }

    async fn prove_all(&self, blobs: &[Descriptor], which: Which, observer: &dyn Observer) -> Result<()> {
        if self.scope.is_none() {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        let mut proofs = Vec::new();
        for blob in blobs.iter().filter(|blob| seen.insert(&blob.digest)) {
            proofs.push(async move {
                let proven = self.prove(blob, which, observer).await;
                proven.map_err(|error| error.for_layer(&blob.digest))
            });
        }
        stream::iter(proofs).buffer_unordered(self.requests).try_collect().await
    }

    async fn prove(&self, blob: &Descriptor, which: Which, observer: &dyn Observer) -> Result<()> {
        let Some(scope) = self.scope.clone() else { return Ok(()) };
        let (cache, digest) = (self.cache.clone(), blob.digest.clone());
        let is_open = off_thread(move || {
            Ok(!cache.is_proven(&scope, &digest)? && (which == Which::All || cache.has_any_of(&digest)?))
        });
        if !is_open.await? {
            return Ok(());
        }
        let permit = self.share.download().await;
        self.client.check_access(&self.reference, blob, observer).await?;
        drop(permit);
        match which {
            Which::Held => self.record(&blob.digest).await,
            Which::All => Ok(()),
        }
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImageError::internal("looking for a proof of access panicked"))?
}
