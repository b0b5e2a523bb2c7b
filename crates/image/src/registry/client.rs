//! The door: a client for registries, cheap to clone.

use std::sync::Arc;

use reqwest::Response;

use crate::{
    error::Result,
    model::{Descriptor, Platform, Reference},
    progress::{Event, Observer},
    registry::{
        blob::{BlobStream, Sources},
        endpoint::{Endpoint, endpoints},
        options::ClientOptions,
        resolve::{self, ResolvedImage},
        retry::{self, Failure},
        transport::{Ask, Transport},
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
        resolve::resolve(self, reference, platform, allow_mismatch, observer).await
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

    /// Asks the reference's servers in order, each as often as the options allow, and says who answered.
    pub(super) async fn ask(
        &self,
        reference: &Reference,
        ask: &Ask<'_>,
        sources: Sources,
        attempts: &mut u32,
        observer: &dyn Observer,
    ) -> Result<(Response, Endpoint)> {
        let mut first_of_mirrors = None;
        for endpoint in endpoints(&self.transport.options, reference) {
            if endpoint.is_mirror {
                if sources == Sources::Origin || self.transport.is_resting(&endpoint) {
                    continue;
                }
                match self.transport.ask(&endpoint, ask).await {
                    Ok(response) => return Ok((response, endpoint)),
                    Err(failure) => {
                        if failure.retryable {
                            self.transport.rest(&endpoint);
                        }
                        first_of_mirrors.get_or_insert(failure.error);
                        continue;
                    }
                }
            }
            loop {
                match self.transport.ask(&endpoint, ask).await {
                    Ok(response) => return Ok((response, endpoint)),
                    Err(failure) => self.wait_to_retry(failure, &endpoint.host, attempts, observer).await?,
                }
            }
        }
        Err(first_of_mirrors.unwrap_or_else(|| crate::error::ImageError::internal("a reference has no server")))
    }

    /// Sleeps before another attempt, or gives the failure back when it is no use.
    pub(super) async fn wait_to_retry(
        &self,
        failure: Failure,
        host: &str,
        attempts: &mut u32,
        observer: &dyn Observer,
    ) -> Result<()> {
        if !failure.retryable || *attempts >= self.transport.options.retries {
            return Err(retry::with_attempts(failure.error, *attempts + 1));
        }
        *attempts += 1;
        let Some(pause) = retry::pause(*attempts, failure.retry_after) else {
            return Err(retry::with_attempts(failure.error, *attempts));
        };
        observer.notify(Event::Retrying {
            host: host.into(),
            attempt: *attempts,
            delay_ms: pause.as_millis() as u64,
            reason: failure.error.kind().to_string().into(),
        });
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
