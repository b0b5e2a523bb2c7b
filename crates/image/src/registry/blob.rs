//! A blob as a stream that does not break: what the network loses is fetched again from where it stopped.

use std::{mem, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Descriptor, Reference},
    progress::Observer,
    registry::{
        client::Client, endpoint::Endpoint, redirect::Answer, response, retry::Failure, transport::Ask, tries::Tries,
    },
};

/// How long the end of a body without a length is waited for: its bytes are all there, only lies could follow.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// The status of an answer that does not fit the part that was asked for, whatever it said.
const RANGE_FAULT: u16 = 416;

/// Which servers may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sources {
    /// Mirrors first, then the registry.
    All,
    /// The registry alone: a mirror's bytes were wrong.
    Origin,
}

/// The bytes of a blob from an offset to its end; just as many as the descriptor says, or an error.
///
/// Dropping the stream closes its connection.
pub struct BlobStream {
    client: Client,
    reference: Reference,
    blob: Descriptor,
    position: u64,
    sources: Sources,
    observer: Arc<dyn Observer>,
    state: State,
    attempts: u32,
    /// The server can't or won't send parts.
    whole_only: bool,
}

enum State {
    Closed,
    Open(Open),
}

/// An answer that is being read.
struct Open {
    response: Response,
    /// The server that answered.
    host: String,
    /// The server that was asked, if it is a mirror.
    mirror: Option<String>,
    /// Bytes to pass over: the server sent the whole where a part was wanted.
    skip: u64,
}

impl BlobStream {
    pub(super) fn new(
        client: Client,
        reference: Reference,
        blob: Descriptor,
        offset: u64,
        sources: Sources,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let (state, attempts, whole_only) = (State::Closed, 0, false);
        Self { client, reference, blob, position: offset, sources, observer, state, attempts, whole_only }
    }

    /// The next bytes; `None` when the blob is complete.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.position >= self.blob.size {
                return self.end().await;
            }
            if let Some(data) = self.blob.data.as_ref() {
                let bytes = Bytes::copy_from_slice(&data[self.position as usize..]);
                self.position = self.blob.size;
                return Ok(Some(bytes));
            }
            match mem::replace(&mut self.state, State::Closed) {
                State::Closed => self.open().await?,
                State::Open(open) => {
                    if let Some(bytes) = self.read(open).await? {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        let path = format!("blobs/{}", self.blob.digest);
        let what = format!("blob {}", self.blob.digest);
        let observer = Arc::clone(&self.observer);
        let (client, reference) = (self.client.clone(), self.reference.clone());
        let mut attempts = self.attempts;
        let mut tries = Tries::new(&client, &reference, self.sources, &mut attempts, &*observer);
        loop {
            let server = tries.server().await;
            let from = if self.whole_only { 0 } else { self.position };
            let ask = Ask { repository: reference.repository(), path: &path, accept: None, from, what: &what };
            let taken = match client.transport.ask(&server, &ask).await {
                Ok(answer) => self.take(&server, answer, from),
                Err(failure) => Err(failure),
            };
            match taken {
                Ok(open) => {
                    self.state = State::Open(open);
                    break;
                }
                // A part of something else, or none: only the whole can be trusted now.
                Err(failure) if from > 0 && is_range_fault(&failure) => self.whole_only = true,
                Err(failure) => tries.failed(failure).await?,
            }
        }
        self.attempts = attempts;
        Ok(())
    }

    /// What an answer to a request for bytes from `from` means.
    fn take(&self, server: &Endpoint, answer: Answer, from: u64) -> std::result::Result<Open, Failure> {
        let Answer { response, host, .. } = answer;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if from > 0 && range_start(&response) == Some((from, self.blob.size)) => 0,
            StatusCode::OK => match response.content_length() {
                Some(length) if length != self.blob.size => {
                    return Err(self.wrong_length(&format!("{length} bytes")).into());
                }
                _ => self.position,
            },
            status => {
                let message = format!("an unexpected answer to a request for blob {}", self.blob.digest);
                let status = if from > 0 { RANGE_FAULT } else { status.as_u16() };
                return Err(ErrorKind::Registry { registry: host, status, message }.into());
            }
        };
        let mirror = server.is_mirror.then(|| server.host.clone());
        Ok(Open { response, host, mirror, skip })
    }

    /// Reads on; `None` when it has to be opened again.
    async fn read(&mut self, mut open: Open) -> Result<Option<Bytes>> {
        let stall = self.client.transport.options.stall_timeout;
        let what = format!("blob {}", self.blob.digest);
        let failure = loop {
            match response::next_chunk(&mut open.response, stall, &open.host, &what).await {
                Ok(Some(mut bytes)) => {
                    let passed = open.skip.min(bytes.len() as u64);
                    open.skip -= passed;
                    let _ = bytes.split_to(passed as usize);
                    if bytes.is_empty() {
                        continue;
                    }
                    if bytes.len() as u64 > self.blob.size - self.position {
                        return Err(self.wrong_length("more"));
                    }
                    self.position += bytes.len() as u64;
                    self.attempts = 0;
                    self.state = State::Open(open);
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    let reason = format!("{what} ended after {} of {} bytes", self.position, self.blob.size);
                    break Failure::from(ErrorKind::Network { host: open.host.clone(), reason });
                }
                Err(failure) => break failure,
            }
        };
        if let Some(mirror) = &open.mirror {
            // The next server goes on where this one stopped.
            self.client.transport.mirrors.rest(mirror);
            return Ok(None);
        }
        let observer = Arc::clone(&self.observer);
        self.client.wait_to_retry(failure, &open.host, &mut self.attempts, &*observer).await?;
        Ok(None)
    }

    /// At the end there must be no more bytes.
    async fn end(&mut self) -> Result<Option<Bytes>> {
        if let State::Open(mut open) = mem::replace(&mut self.state, State::Closed)
            && let Ok(Some(bytes)) = response::next_chunk(&mut open.response, LAST_LOOK, &open.host, "a blob").await
            && !bytes.is_empty()
        {
            return Err(self.wrong_length("more"));
        }
        Ok(None)
    }

    fn wrong_length(&self, actual: &str) -> ImageError {
        ErrorKind::DigestMismatch {
            what: format!("the length of blob {}", self.blob.digest),
            expected: format!("{} bytes", self.blob.size),
            actual: actual.to_owned(),
        }
        .into()
    }
}

/// True if the request for a part is what went wrong. Some registries refuse it as a bad request.
fn is_range_fault(failure: &Failure) -> bool {
    matches!(failure.error.kind(), ErrorKind::Registry { status: 400 | 501 | RANGE_FAULT, .. })
}

/// Start and total of `Content-Range: bytes start-end/total`; a total of `*` counts as right.
fn range_start(response: &Response) -> Option<(u64, u64)> {
    parse_range(response.headers().get(CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_range(value: &str) -> Option<(u64, u64)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.trim().parse().ok()?, end.trim().parse::<u64>().ok()?);
    let total = match total.trim() {
        "*" => end.checked_add(1)?,
        total => total.parse().ok()?,
    };
    (start <= end && end + 1 == total).then_some((start, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        for (value, expected) in [
            ("bytes 5-9/10", Some((5, 10))),
            ("bytes 5-9/*", Some((5, 10))),
            ("bytes 5-8/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(parse_range(value), expected, "{value}");
        }
    }
}
