//! Answers of a server: bodies of bounded length, and errors in the registry's own words.

use std::{
    error::Error as StdError,
    result::Result,
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use reqwest::{Response, header::RETRY_AFTER};

use crate::{
    error::ErrorKind,
    registry::{
        auth::{Login, Mask},
        endpoint::canonical_host,
        redirect::Answer,
        retry::{Failure, is_retryable_status, parse_retry_after},
        reuse,
    },
    text::{MAX_SHOWN, cut, escape},
};

/// Longest error body that is read.
const ERROR_BODY: usize = 64 << 10;

/// How long the end of a body whose bytes are all there is waited for.
pub(super) const LAST_LOOK: Duration = Duration::from_secs(1);

/// No byte for this long ends the reading of what nobody wants, and so does the end of the whole time for it.
const DISCARD_PAUSE: Duration = Duration::from_millis(100);
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The longest time that the words of an error are waited for.
const WORDS_TIME: Duration = Duration::from_secs(5);

/// Bytes a second, over as much waiting as the option stallTimeout says; what comes slower is no better than a stall.
const MIN_RATE: f64 = 1024.0;

/// Bytes that must come within `stall`, and between two failures for them not to add up.
pub(super) fn min_progress(stall: Duration) -> u64 {
    (MIN_RATE * stall.as_secs_f64()) as u64
}

/// Tells a stall that hides in a trickle of bytes. Only time spent on waiting counts: who reads slowly is not the server's
/// fault.
#[derive(Default)]
pub(super) struct Trickle {
    waited: Duration,
    bytes: u64,
}

impl Trickle {
    /// True if too little has come for too long.
    fn is_stall(&mut self, waited: Duration, bytes: usize, stall: Duration) -> bool {
        (self.waited, self.bytes) = (self.waited.saturating_add(waited), self.bytes.saturating_add(bytes as u64));
        if self.waited < stall {
            return false;
        }
        let too_little = self.bytes < min_progress(stall);
        *self = Self::default();
        too_little
    }
}

/// Reads a body of at most `cap` bytes. Where its `length` is known it is whole when they are there: what follows could
/// only be lies, and a connection that does not end is not waited for.
pub(super) async fn read_body(
    mut response: Response,
    (cap, length): (usize, Option<u64>),
    stall: Duration,
    host: &str,
    what: &str,
) -> Result<Bytes, Failure> {
    let too_long = || ErrorKind::Limit {
        limit: "bytes in an answer of the registry",
        value: cap as u64,
        option: "none: no real one needs more",
        entry: Some(what.to_owned()),
    };
    if response.content_length().is_some_and(|length| length > cap as u64) {
        return Err(too_long().into());
    }
    let (mut body, mut trickle) = (BytesMut::new(), Trickle::default());
    while let Some(chunk) = next_steady_chunk(&mut response, &mut trickle, stall, host, what).await? {
        if body.len() + chunk.len() > cap {
            return Err(too_long().into());
        }
        body.extend_from_slice(&chunk);
        if length == Some(body.len() as u64) {
            let rest = next_chunk(&mut response, LAST_LOOK.min(stall), host, what).await;
            if matches!(&rest, Ok(Some(more)) if !more.is_empty()) {
                return Err(too_long().into());
            }
            break;
        }
    }
    Ok(body.freeze())
}

/// The next bytes of a body; no byte within `stall` is an error.
pub(super) async fn next_chunk(
    response: &mut Response,
    stall: Duration,
    host: &str,
    what: &str,
) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(stall, response.chunk()).await {
        Ok(Ok(None)) => {
            reuse::read_to_end(response);
            Ok(None)
        }
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(network(host, &error, stall)),
        Err(_) => Err(ErrorKind::Timeout {
            what: format!("no byte of {what} came from {host} (option stallTimeout)"),
            after_ms: stall.as_millis() as u64,
        }
        .into()),
    }
}

/// The same; hardly any byte for as long as `stall` is an error, too, unless they are the last.
pub(super) async fn next_steady_chunk(
    response: &mut Response,
    trickle: &mut Trickle,
    stall: Duration,
    host: &str,
    what: &str,
) -> Result<Option<Bytes>, Failure> {
    let asked = Instant::now();
    let chunk = next_chunk(response, stall, host, what).await?;
    match &chunk {
        Some(bytes) if trickle.is_stall(asked.elapsed(), bytes.len(), stall) => Err(ErrorKind::Timeout {
            what: format!("hardly any byte of {what} came from {host} (option stallTimeout)"),
            after_ms: stall.as_millis() as u64,
        }
        .into()),
        _ => Ok(chunk),
    }
}

/// Reads an answer that nobody wants to its end, so that its connection can be used again: a new one costs more round
/// trips than a short body. A long or slow one is dropped.
pub(super) async fn discard(mut response: Response, host: &str) {
    let to_the_end = async {
        let mut left = ERROR_BODY;
        while let Ok(Some(chunk)) = next_chunk(&mut response, DISCARD_PAUSE, host, "an answer").await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, to_the_end).await;
}

/// A failure below HTTP, in words without the URL, which may hold a signature.
pub(super) fn network(host: &str, error: &reqwest::Error, connect_timeout: Duration) -> Failure {
    let host = host.to_owned();
    if error.is_timeout() && error.is_connect() {
        let what = format!("connecting to {host} (option connectTimeout)");
        return ErrorKind::Timeout { what, after_ms: connect_timeout.as_millis() as u64 }.into();
    }
    let (tls, deepest) = causes(error);
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let reason = format!(
                "its certificate is not trusted: {}; if it is yours, pass its authority in the option caCertificates",
                certificate_fault(why)
            );
            Failure::new(ErrorKind::Network { host, reason }, false)
        }
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            let reason = format!("it does not speak TLS; if plain HTTP is meant, name it: insecure: ['{host}']");
            Failure { not_tls: true, ..Failure::new(ErrorKind::Network { host, reason }, false) }
        }
        _ => ErrorKind::Network { host, reason: deepest }.into(),
    }
}

/// The TLS fault among the causes of an error, and the text of the deepest one.
fn causes(error: &reqwest::Error) -> (Option<&rustls::Error>, String) {
    let mut deepest: &(dyn StdError + 'static) = error;
    loop {
        if let Some(tls) = deepest.downcast_ref::<rustls::Error>() {
            return (Some(tls), tls.to_string());
        }
        // `source` of an I/O error passes its own content over.
        let inside = deepest.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inside.map(|inside| inside as &(dyn StdError + 'static)).or(deepest.source()) {
            Some(next) => deepest = next,
            // The outermost text holds the URL.
            None if std::ptr::eq(deepest, error as &(dyn StdError + 'static)) => {
                return (None, "the request failed".to_owned());
            }
            None => return (None, deepest.to_string()),
        }
    }
}

fn certificate_fault(fault: &rustls::CertificateError) -> String {
    use rustls::CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, UnknownIssuer,
    };
    match fault {
        UnknownIssuer | BadSignature => "nobody known has signed it".to_owned(),
        Expired | ExpiredContext { .. } => "it has expired".to_owned(),
        NotValidForName | NotValidForNameContext { .. } => "it is for another name".to_owned(),
        other => other.to_string(),
    }
}

/// An answer that is no success, as an error. `registry` is the server that was asked.
pub(super) async fn failure(
    answer: Answer,
    registry: &str,
    what: &str,
    stall: Duration,
    login: Login,
    mask: &Mask,
) -> Failure {
    let Answer { response, host, foreign } = answer;
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|value| parse_retry_after(value, SystemTime::now()));
    let body = read_body(response, (ERROR_BODY, None), stall, &host, "the error's text");
    let body = tokio::time::timeout(WORDS_TIME, body).await.ok().and_then(Result::ok).unwrap_or_default();
    let said = registry_words(&body, mask);
    let said = |otherwise: &str| said.clone().unwrap_or_else(|| otherwise.to_owned());
    let error = match status {
        404 => ErrorKind::NotFound { what: format!("{what} ({})", said("no such thing")), registry: host },
        // A storage server whose signed address ran out: the registry gives another.
        401 | 403 if foreign => {
            let message = said(&format!("it refused {what}, to which {registry} redirects"));
            return Failure::new(mask.error(ErrorKind::Registry { registry: host, status, message }.into()), true);
        }
        401 | 403 => {
            let said = said(if status == 401 { "a login is needed" } else { "forbidden" });
            let reason = format!("{said}; {}", what_to_do(login, registry, what));
            ErrorKind::Unauthorized { registry: registry.to_owned(), reason }
        }
        _ => ErrorKind::Registry { registry: host, status, message: said(&format!("no reason given for {what}")) },
    };
    Failure { retry_after, ..Failure::new(mask.error(error.into()), is_retryable_status(status)) }
}

/// The next step of somebody who was refused.
fn what_to_do(login: Login, registry: &str, what: &str) -> String {
    let name = canonical_host(registry);
    match login {
        Login::Unknown => {
            format!("if {what} exists, log in with `docker login {name}` or pass the option auth")
        }
        Login::Option => format!("the login in the option auth was not taken for {what}"),
        Login::Stored => {
            format!("the stored login was not taken for {what}; log in again with `docker login {name}`")
        }
    }
}

#[derive(serde::Deserialize)]
struct Envelope {
    errors: Vec<Words>,
}

#[derive(serde::Deserialize)]
struct Words {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

/// The registry's own codes and messages: masked, escaped, then cut where they flood.
fn registry_words(body: &[u8], mask: &Mask) -> Option<String> {
    // Not oci-client's envelope: that one knows a closed list of codes, and registries have their own.
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let words: Vec<String> = envelope
        .errors
        .into_iter()
        .map(|error| [error.code, error.message].into_iter().flatten().collect::<Vec<_>>().join(": "))
        .collect();
    let text = mask.text(&words.join("; "));
    (!text.is_empty()).then(|| cut(&escape(&text), MAX_SHOWN).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::auth::Sent;

    #[test]
    fn the_registrys_own_words_come_through() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        let mask = Sent::default().mask();
        assert_eq!(registry_words(body, &mask).as_deref(), Some("MANIFEST_UNKNOWN: manifest unknown"));
        assert_eq!(registry_words(b"<html>", &mask), None);
    }
}
