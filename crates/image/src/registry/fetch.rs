//! Manifests and configs: short bodies, fetched whole and checked before anybody looks into them.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Algorithm, Descriptor, Digest, Document, Reference},
    progress::Observer,
    registry::{
        blob::Sources, client::Client, endpoint::Endpoint, response::read_body, retry::Failure, transport::Ask,
        tries::Tries,
    },
};

const LONGEST_MANIFEST: usize = 4 << 20;
const LONGEST_CONFIG: u64 = 8 << 20;

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json, \
                      application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or index as it was served.
pub(super) struct Served {
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) document: Document,
    pub(super) media_type: String,
}

/// Fetches for one reference.
pub(super) struct Fetcher<'a> {
    pub(super) client: &'a Client,
    pub(super) reference: &'a Reference,
    pub(super) observer: &'a dyn Observer,
    sources: Sources,
    /// Mirrors whose answers were taken.
    mirrors: Mutex<Vec<String>>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        client: &'a Client,
        reference: &'a Reference,
        sources: Sources,
        observer: &'a dyn Observer,
    ) -> Self {
        Self { client, reference, observer, sources, mirrors: Mutex::default() }
    }

    /// The mirrors whose answers were taken.
    pub(super) fn into_mirrors(self) -> Vec<String> {
        self.mirrors.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_mirror(&self, server: &Endpoint) {
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_mirror && !mirrors.contains(&server.host) {
            mirrors.push(server.host.clone());
        }
    }

    /// What the reference names.
    pub(super) async fn named(&self) -> Result<Served> {
        match self.reference.digest() {
            Some(digest) => self.manifest(&digest.to_string(), Some(digest), None).await,
            None => self.manifest(self.reference.tag().unwrap_or("latest"), None, None).await,
        }
    }

    /// What an index points to.
    pub(super) async fn pointed_to(&self, entry: &Descriptor) -> Result<Served> {
        if let Some(data) = &entry.data {
            let bytes = Bytes::copy_from_slice(data);
            let (document, media_type) = Document::parse(&bytes, Some(&entry.media_type))?;
            return Ok(Served { digest: entry.digest.clone(), bytes, document, media_type });
        }
        self.manifest(&entry.digest.to_string(), Some(&entry.digest), Some(entry.size)).await
    }

    async fn manifest(&self, by: &str, expected: Option<&Digest>, size: Option<u64>) -> Result<Served> {
        let repository = self.reference.repository();
        let path = format!("manifests/{by}");
        let what = format!("manifest {repository}{}{by}", if expected.is_some() { '@' } else { ':' });
        let ask = Ask { repository, path: &path, accept: Some(ACCEPT), head: false, from: 0, to: None, what: &what };
        let check = |bytes: Bytes, headers: &HeaderMap| {
            let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
            let claimed = header("docker-content-digest").map(str::trim).filter(|text| !text.is_empty());
            let claimed = claimed.map(Digest::parse).transpose()?;
            let expected = expected.or(claimed.as_ref());
            let digest = Digest::of(expected.map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
            if let Some(expected) = expected.filter(|expected| **expected != digest) {
                return Err(mismatch(&what, expected.to_string(), digest.to_string()));
            }
            if let Some(size) = size.filter(|size| *size != bytes.len() as u64) {
                return Err(mismatch(&what, format!("{size} bytes"), format!("{} bytes", bytes.len())));
            }
            let (document, media_type) = Document::parse(&bytes, header(CONTENT_TYPE.as_str()))?;
            Ok(Served { digest, bytes, document, media_type })
        };
        self.fetch(&ask, (LONGEST_MANIFEST, size), check).await
    }

    /// The image config.
    pub(super) async fn config(&self, config: &Descriptor) -> Result<Bytes> {
        if config.size > LONGEST_CONFIG {
            return Err(ErrorKind::Limit {
                limit: "bytes in the image config",
                value: LONGEST_CONFIG,
                option: "none: no real one needs more",
                entry: None,
            }
            .into());
        }
        if let Some(data) = &config.data {
            return Ok(Bytes::copy_from_slice(data));
        }
        let (path, what) = (format!("blobs/{}", config.digest), format!("image config {}", config.digest));
        let ask = Ask {
            repository: self.reference.repository(),
            path: &path,
            accept: None,
            head: false,
            from: 0,
            to: None,
            what: &what,
        };
        let check = |bytes: Bytes, _: &HeaderMap| {
            let actual = Digest::of(config.digest.algorithm(), &bytes);
            if actual == config.digest {
                return Ok(bytes);
            }
            Err(mismatch(&what, config.digest.to_string(), actual.to_string()))
        };
        let fetched = self.fetch(&ask, (config.size as usize, Some(config.size)), check).await;
        fetched.map_err(|error| match error.kind() {
            ErrorKind::Limit { .. } => mismatch(&what, format!("{} bytes", config.size), "more".to_owned()),
            _ => error,
        })
    }

    /// Asks until somebody gives what passes the check. What a mirror gives wrong, the registry may give right.
    async fn fetch<T>(
        &self,
        ask: &Ask<'_>,
        cap: (usize, Option<u64>),
        check: impl Fn(Bytes, &HeaderMap) -> Result<T>,
    ) -> Result<T> {
        let mut attempts = 0;
        let mut tries = Tries::new(self.client, self.reference, self.sources, &mut attempts, self.observer);
        loop {
            let server = tries.server().await;
            let checked = match self.body(&server, ask, cap).await {
                Ok((bytes, headers)) => check(bytes, &headers).map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            match checked {
                Ok(it) => {
                    self.note_mirror(&server);
                    return Ok(it);
                }
                Err(failure) => tries.failed(failure).await?,
            }
        }
    }

    async fn body(
        &self,
        server: &Endpoint,
        ask: &Ask<'_>,
        cap: (usize, Option<u64>),
    ) -> std::result::Result<(Bytes, HeaderMap), Failure> {
        let transport = &self.client.transport;
        let mut answer = transport.ask(server, ask).await?;
        let headers = std::mem::take(answer.response.headers_mut());
        let stall = transport.options.stall_timeout;
        let bytes = read_body(answer.response, cap, stall, &answer.host, ask.what).await?;
        Ok((bytes, headers))
    }
}

fn mismatch(what: &str, expected: String, actual: String) -> ImageError {
    ErrorKind::DigestMismatch { what: what.to_owned(), expected, actual }.into()
}
