//! A range of a blob as a stream that does not break: what the network loses is fetched again from where it stopped.

use std::{
    mem,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Descriptor, Reference},
    progress::Observer,
    registry::{
        blob::Sources,
        client::Client,
        endpoint::Endpoint,
        redirect::Answer,
        response::{self, Trickle, min_progress},
        retry::Failure,
        transport::Ask,
        tries::Tries,
    },
};

/// Longest time that one of several connections may take for its next byte.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// The status of an answer that does not fit the part that was asked for, whatever it said.
const RANGE_FAULT: u16 = 416;

/// The bytes of a blob from one offset to another; just as many, or an error.
///
/// Dropping the stream closes its connection.
pub(super) struct RangeStream {
    client: Client,
    reference: Reference,
    blob: Descriptor,
    position: u64,
    /// Shared with whoever may end it sooner, or let it go on.
    end: Arc<AtomicU64>,
    /// It is a part: whoever asked for it goes on in another way where it fails, so it is tried once.
    once: bool,
    /// Longest time without a byte, where that is shorter than the option says.
    patience: Option<Duration>,
    sources: Sources,
    observer: Arc<dyn Observer>,
    state: State,
    attempts: u32,
    /// Bytes since the last failure.
    progress: u64,
    /// A storage server has refused a range; the next refusal is the range's fault.
    refused: bool,
    /// The server can't or won't send parts.
    whole_only: bool,
}

enum State {
    Closed,
    Open(Box<Open>),
}

/// An answer that is being read.
struct Open {
    response: Response,
    /// The server that answered.
    host: String,
    /// The server that was asked, if it is a mirror.
    mirror: Option<String>,
    trickle: Trickle,
    /// Bytes to pass over: the server sent the whole where a part was wanted.
    skip: u64,
    /// Where the answer ends.
    end: u64,
}

impl RangeStream {
    /// From an offset to the end of the blob.
    pub(super) fn new(
        client: Client,
        reference: Reference,
        blob: Descriptor,
        offset: u64,
        sources: Sources,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let end = Arc::new(AtomicU64::new(blob.size));
        Self {
            client,
            reference,
            blob,
            position: offset,
            end,
            once: false,
            patience: None,
            sources,
            observer,
            state: State::Closed,
            attempts: 0,
            progress: 0,
            refused: false,
            whole_only: false,
        }
    }

    /// Another range of the same blob, tried as often as the options say.
    pub(super) fn another(&self, range: Range<u64>) -> Self {
        Self {
            client: self.client.clone(),
            reference: self.reference.clone(),
            blob: self.blob.clone(),
            position: range.start,
            end: Arc::new(AtomicU64::new(range.end)),
            once: false,
            patience: None,
            sources: self.sources,
            observer: Arc::clone(&self.observer),
            state: State::Closed,
            attempts: 0,
            progress: 0,
            refused: false,
            whole_only: false,
        }
    }

    /// Another range, tried once: a failure, or a pause longer than `patience`, ends it.
    pub(super) fn part(&self, range: Range<u64>, patience: Duration) -> Self {
        Self { once: true, patience: Some(patience), ..self.another(range) }
    }

    /// What is still to come.
    pub(super) fn left(&self) -> Range<u64> {
        self.position..self.until()
    }

    fn until(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Ends it sooner, and gives the end to whoever may let it go on. What the server has sent beyond that is thrown away,
    /// with the connection.
    pub(super) fn end_at(&mut self, end: u64) -> Arc<AtomicU64> {
        self.once = true;
        self.end.fetch_min(end, Ordering::Relaxed);
        Arc::clone(&self.end)
    }

    /// True if the servers send parts, as far as is known.
    pub(super) fn may_be_parted(&self) -> bool {
        !self.whole_only && self.blob.data.is_none()
    }

    /// The next bytes; `None` at the end.
    ///
    /// Where the range ends before the blob, a server that sends something else than the range is an error.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = self.next_unmasked().await;
        next.map_err(|error| self.client.transport.sent.mask().error(error))
    }

    async fn next_unmasked(&mut self) -> Result<Option<Bytes>> {
        loop {
            let end = self.until();
            if self.position >= end {
                return self.end(end).await;
            }
            if let Some(data) = self.blob.data.as_ref() {
                let bytes = Bytes::copy_from_slice(&data[self.position as usize..end as usize]);
                self.position = end;
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
            let until = self.until();
            let to = (until < self.blob.size).then_some(until);
            let ask = Ask {
                repository: reference.repository(),
                path: &path,
                accept: None,
                head: false,
                from,
                to,
                what: &what,
            };
            let asked = client.transport.ask(&server, &ask);
            let asked = match self.patience {
                Some(patience) => tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(too_slow(&what))),
                None => asked.await,
            };
            let taken = match asked {
                Ok(answer) => self.take(&server, answer, from, until),
                Err(failure) => Err(failure),
            };
            match taken {
                Ok(open) => {
                    self.state = State::Open(Box::new(open));
                    break;
                }
                Err(failure) if self.once => return Err(failure.error),
                // A storage server's address ran out: the registry gives another, once.
                Err(failure) if from > 0 && failure.retryable && is_refused_range(&failure) && !self.refused => {
                    self.refused = true;
                    tries.failed(failure).await?;
                }
                // A part of something else, or none, or a refusal of parts: only the whole can be trusted now, and shows
                // whether it was the login.
                Err(failure) if from > 0 && is_refused_range(&failure) => self.whole_only = true,
                Err(failure) => tries.failed(failure).await?,
            }
        }
        self.attempts = attempts;
        Ok(())
    }

    /// What an answer to a request for bytes from `from` until `until` means.
    fn take(&self, server: &Endpoint, answer: Answer, from: u64, until: u64) -> std::result::Result<Open, Failure> {
        let Answer { response, host, .. } = answer;
        let (skip, end) = match response.status() {
            StatusCode::PARTIAL_CONTENT if from > 0 && self.is_range(&response, until) => (0, until),
            StatusCode::OK if until == self.blob.size => match response.content_length() {
                Some(length) if length != self.blob.size => {
                    return Err(self.wrong_length(&format!("{length} bytes")).into());
                }
                _ => (self.position, self.blob.size),
            },
            status => {
                let message = format!("an unexpected answer to a request for blob {}", self.blob.digest);
                let status = if from > 0 { RANGE_FAULT } else { status.as_u16() };
                return Err(ErrorKind::Registry { registry: host, status, message }.into());
            }
        };
        let mirror = server.is_mirror.then(|| server.host.clone());
        Ok(Open { response, host, mirror, trickle: Trickle::default(), skip, end })
    }

    /// True if an answer says that it is what is left of this range.
    fn is_range(&self, response: &Response, until: u64) -> bool {
        let value = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        value.and_then(parse_range).is_some_and(|(range, total)| {
            range == (self.position..until) && total.is_none_or(|total| total == self.blob.size)
        })
    }

    /// Reads on; `None` when it has to be opened again.
    async fn read(&mut self, mut open: Box<Open>) -> Result<Option<Bytes>> {
        let most = self.client.transport.options.stall_timeout;
        let stall = self.patience.map_or(most, |patience| patience.min(most));
        let what = format!("blob {}", self.blob.digest);
        let failure = loop {
            let Open { response, trickle, host, .. } = &mut *open;
            match response::next_steady_chunk(response, trickle, stall, host, &what).await {
                Ok(Some(mut bytes)) => {
                    let passed = open.skip.min(bytes.len() as u64);
                    open.skip -= passed;
                    let _ = bytes.split_to(passed as usize);
                    if bytes.is_empty() {
                        continue;
                    }
                    if bytes.len() as u64 > open.end - self.position {
                        // A page of a mirror, say: whatever came of it, the digest of the whole will tell.
                        let failure = Failure::from(self.wrong_length("more"));
                        if open.mirror.is_some() && !self.once {
                            break failure;
                        }
                        return Err(failure.error);
                    }
                    let until = self.until();
                    bytes.truncate(usize::try_from(until.saturating_sub(self.position)).unwrap_or(usize::MAX));
                    self.position += bytes.len() as u64;
                    self.progress += bytes.len() as u64;
                    if self.progress >= min_progress(most) {
                        self.attempts = 0;
                    }
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
        if self.once {
            return Err(failure.error);
        }
        if let Some(mirror) = &open.mirror {
            // The next server goes on where this one stopped.
            self.client.transport.mirrors.rest(mirror);
            return Ok(None);
        }
        self.progress = 0;
        let observer = Arc::clone(&self.observer);
        self.client.wait_to_retry(failure, &open.host, &mut self.attempts, &*observer).await?;
        Ok(None)
    }

    /// At the end of an answer there must be no more bytes. Where a mirror sends more, the digest tells what the others are.
    async fn end(&mut self, end: u64) -> Result<Option<Bytes>> {
        if let State::Open(mut open) = mem::replace(&mut self.state, State::Closed)
            && open.end == end
            && let Ok(Some(bytes)) =
                response::next_chunk(&mut open.response, response::LAST_LOOK, &open.host, "a blob").await
            && !bytes.is_empty()
        {
            match open.mirror.filter(|_| !self.once) {
                Some(mirror) => self.client.transport.mirrors.rest(&mirror),
                None => return Err(self.wrong_length("more")),
            }
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

/// True if the request for a part may be what went wrong. Some registries refuse it as a bad request, some as forbidden.
fn is_refused_range(failure: &Failure) -> bool {
    match failure.error.kind() {
        ErrorKind::Registry { status, .. } => matches!(*status, 400 | 401 | 403 | 405 | 501 | RANGE_FAULT),
        ErrorKind::Unauthorized { .. } => true,
        _ => false,
    }
}

/// A part that takes longer than others would.
fn too_slow(what: &str) -> Failure {
    ErrorKind::Timeout { what: format!("a part of {what}"), after_ms: PATIENCE.as_millis() as u64 }.into()
}

/// The range and the total of `Content-Range: bytes first-last/total`; a total of `*` is none (RFC 9110, 14.4).
fn parse_range(value: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<u64>().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let end = last.checked_add(1)?;
    (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        for (value, expected) in [
            ("bytes 5-9/10", Some((5..10, Some(10)))),
            ("bytes 5-9/*", Some((5..10, None))),
            ("bytes 5-8/10", Some((5..9, Some(10)))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes 5-18446744073709551615/*", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(parse_range(value), expected, "{value}");
        }
    }
}
