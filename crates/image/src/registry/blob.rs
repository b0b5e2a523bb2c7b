//! A blob as a stream that does not break: what the network loses is fetched again from where it stopped.

use std::{mem, sync::Arc};

use bytes::Bytes;
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Descriptor, Reference},
    progress::Observer,
    registry::{client::Client, response, retry::Failure, transport::Ask},
};

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
    Open {
        response: Response,
        host: String,
        /// Bytes to pass over: the server sent the whole where a part was wanted.
        skip: u64,
    },
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
                State::Open { response, host, skip } => {
                    if let Some(bytes) = self.read(response, host, skip).await? {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    async fn open(&mut self) -> Result<()> {
        let path = format!("blobs/{}", self.blob.digest);
        let what = format!("blob {}", self.blob.digest);
        let from = if self.whole_only { 0 } else { self.position };
        let ask = Ask { repository: self.reference.repository(), path: &path, accept: None, from, what: &what };
        let observer = Arc::clone(&self.observer);
        let asked = self.client.ask(&self.reference, &ask, self.sources, &mut self.attempts, &*observer).await;
        let (response, endpoint) = match asked {
            Ok(answered) => answered,
            // Some registries refuse a range as a bad request.
            Err(error) if from > 0 && matches!(error.kind(), ErrorKind::Registry { status: 400 | 501, .. }) => {
                self.whole_only = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let length = response.content_length();
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if from > 0 && range_start(&response) == Some((from, self.blob.size)) => 0,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                // A part of something else, or none: only the whole can be trusted now.
                self.whole_only = true;
                return Ok(());
            }
            StatusCode::OK => {
                if length.is_some_and(|length| length != self.blob.size) {
                    return Err(self.wrong_length(&format!("{} bytes", length.unwrap_or_default())));
                }
                self.position
            }
            status => {
                let message = format!("an unexpected answer to a request for {what}");
                return Err(ErrorKind::Registry { registry: endpoint.host, status: status.as_u16(), message }.into());
            }
        };
        self.state = State::Open { response, host: endpoint.host, skip };
        Ok(())
    }

    /// Reads on; `None` when it has to be opened again.
    async fn read(&mut self, mut response: Response, host: String, mut skip: u64) -> Result<Option<Bytes>> {
        let stall = self.client.transport.options.stall_timeout;
        let what = format!("blob {}", self.blob.digest);
        loop {
            let failure = match response::next_chunk(&mut response, stall, &host, &what).await {
                Ok(Some(mut bytes)) => {
                    let passed = skip.min(bytes.len() as u64);
                    skip -= passed;
                    let _ = bytes.split_to(passed as usize);
                    if bytes.is_empty() {
                        continue;
                    }
                    if bytes.len() as u64 > self.blob.size - self.position {
                        return Err(self.wrong_length("more"));
                    }
                    self.position += bytes.len() as u64;
                    self.attempts = 0;
                    self.state = State::Open { response, host, skip };
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    let reason = format!("{what} ended after {} of {} bytes", self.position, self.blob.size);
                    Failure::from(ErrorKind::Network { host: host.clone(), reason })
                }
                Err(error) => Failure::from(error),
            };
            let observer = Arc::clone(&self.observer);
            self.client.wait_to_retry(failure, &host, &mut self.attempts, &*observer).await?;
            return Ok(None);
        }
    }

    /// At the end there must be no more bytes; a body without a length is looked at once more.
    async fn end(&mut self) -> Result<Option<Bytes>> {
        if let State::Open { mut response, .. } = mem::replace(&mut self.state, State::Closed)
            && response.content_length().is_none()
            && let Ok(Ok(Some(bytes))) =
                tokio::time::timeout(self.client.transport.options.stall_timeout, response.chunk()).await
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
