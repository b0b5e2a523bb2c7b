//! The door: a client for registries, cheap to clone.

use std::sync::Arc;

use crate::{
    error::Result,
    model::{Descriptor, Platform, Reference},
    progress::Observer,
    registry::{
        blob::{BlobStream, Sources},
        endpoint::endpoints,
        options::ClientOptions,
        resolve::{self, ResolvedImage},
        transport::Transport,
    },
};

/// A client for registries. Making one opens no socket and reads no file.
#[derive(Clone)]
pub struct Client {
    pub(super) transport: Arc<Transport>,
}

impl Client {
    /// Takes the options. Fails with `ERR_INVALID_OPTION` on bad certificates, proxies or mirrors.
    pub fn new(options: ClientOptions) -> Result<Self> {
        Ok(Self { transport: Arc::new(Transport::new(options)?) })
    }

    /// Finds out what an image consists of: manifest and config for the platform. Fetches no layer.
    ///
    /// With `allow_mismatch` a single manifest whose config names another platform is taken all the same.
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        allow_mismatch: bool,
        observer: &dyn Observer,
    ) -> Result<ResolvedImage> {
        self.resolve_from(reference, platform, allow_mismatch, Sources::All, observer).await
    }

    /// The same, as these servers tell it.
    pub async fn resolve_from(
        &self,
        reference: &Reference,
        platform: &Platform,
        allow_mismatch: bool,
        sources: Sources,
        observer: &dyn Observer,
    ) -> Result<ResolvedImage> {
        let resolved = resolve::resolve(self, reference, platform, allow_mismatch, sources, observer).await;
        resolved.map_err(|error| self.transport.sent.mask().error(error))
    }

    /// True if other servers than the registry itself are asked for the reference.
    pub fn has_mirrors(&self, reference: &Reference) -> bool {
        endpoints(&self.transport.options, reference).iter().any(|endpoint| endpoint.is_mirror)
    }

    /// Opens a blob at an offset.
    pub fn open_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        offset: u64,
        sources: Sources,
        observer: Arc<dyn Observer>,
    ) -> BlobStream {
        BlobStream::new(self.clone(), reference.clone(), blob.clone(), offset, sources, observer)
    }
}
