//! Whether a client's login may have a blob, found out without fetching it.

use std::result::Result;

use reqwest::StatusCode;

use crate::{
    error::{self, ErrorKind},
    model::{Descriptor, Reference},
    progress::Observer,
    registry::{
        blob::Sources,
        client::Client,
        endpoint::Endpoint,
        redirect::Answer,
        response,
        retry::{Failure, is_retryable_status},
        transport::Ask,
        tries::Tries,
    },
};

/// A way to ask, the cheapest first. The next one is taken where a server does not know one, or redirects it to an address
/// that was signed for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// `HEAD`.
    Head,
    /// `GET` of one byte.
    FirstByte,
    /// `GET` of all, of which nothing is read.
    Whole,
}

impl Client {
    /// Finds out whether the reference's repository gives this blob to this client's login. Fails as its download would.
    pub async fn check_access(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        observer: &dyn Observer,
    ) -> error::Result<()> {
        // The manifest brought the bytes.
        if blob.data.is_some() {
            return Ok(());
        }
        let mut attempts = 0;
        let mut tries = Tries::new(self, reference, Sources::All, &mut attempts, observer);
        loop {
            let server = tries.server().await;
            match self.probe(&server, reference, blob).await {
                Ok(()) => return Ok(()),
                Err(failure) => tries.failed(failure).await?,
            }
        }
    }

    async fn probe(&self, server: &Endpoint, reference: &Reference, blob: &Descriptor) -> Result<(), Failure> {
        let (path, what) = (format!("blobs/{}", blob.digest), format!("blob {}", blob.digest));
        let mut probe = Probe::Head;
        loop {
            let ask = Ask {
                repository: reference.repository(),
                path: &path,
                accept: None,
                head: probe == Probe::Head,
                from: 0,
                to: (probe == Probe::FirstByte).then_some(1),
                what: &what,
            };
            let taken = match self.transport.ask(server, &ask).await {
                Ok(answer) => take(answer, probe, blob).await,
                Err(failure) => Err(failure),
            };
            match taken {
                Ok(()) => return Ok(()),
                Err(failure) => probe = next(probe, &failure).ok_or(failure)?,
            }
        }
    }
}

/// Whether an answer says that the blob may be had.
async fn take(answer: Answer, probe: Probe, blob: &Descriptor) -> Result<(), Failure> {
    let Answer { response, host, .. } = answer;
    match response.status() {
        // All of the blob is on its way, perhaps; the connection is closed.
        StatusCode::OK if probe != Probe::Head => Ok(()),
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            response::discard(response, &host).await;
            Ok(())
        }
        // There is no first byte.
        StatusCode::RANGE_NOT_SATISFIABLE if blob.size == 0 && probe == Probe::FirstByte => Ok(()),
        status => {
            let message = format!("an unexpected answer to a request for blob {}", blob.digest);
            Err(ErrorKind::Registry { registry: host, status: status.as_u16(), message }.into())
        }
    }
}

/// How to ask after a failure that may be the way's fault. That of a login is final, and what may be gone in a moment is
/// tried again by others.
fn next(probe: Probe, failure: &Failure) -> Option<Probe> {
    let kind = failure.error.kind();
    match probe {
        Probe::Head => match kind {
            ErrorKind::NotFound { .. } => Some(Probe::FirstByte),
            ErrorKind::Registry { status, .. } if !is_retryable_status(*status) => Some(Probe::FirstByte),
            _ => None,
        },
        Probe::FirstByte => {
            let refuses_ranges = |status| matches!(status, 204 | 400 | 401 | 403 | 405 | 416 | 501);
            matches!(kind, ErrorKind::Registry { status, .. } if refuses_ranges(*status)).then_some(Probe::Whole)
        }
        Probe::Whole => None,
    }
}
