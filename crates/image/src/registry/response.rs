//! Answers of a server: bodies of bounded length, and errors in the registry's own words.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::{Response, header::RETRY_AFTER};

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::retry::{Failure, is_retryable_status, parse_retry_after},
};

/// Longest error body that is read.
const ERROR_BODY: usize = 64 << 10;

/// Reads a body of at most `cap` bytes.
pub(super) async fn read_body(
    mut response: Response,
    cap: usize,
    stall: Duration,
    host: &str,
    what: &str,
) -> Result<Bytes> {
    let too_long = || ErrorKind::Limit {
        limit: "bytes in an answer of the registry",
        value: cap as u64,
        option: "none: no real one needs more",
        entry: Some(what.to_owned()),
    };
    if response.content_length().is_some_and(|length| length > cap as u64) {
        return Err(too_long().into());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut response, stall, host, what).await? {
        if body.len() + chunk.len() > cap {
            return Err(too_long().into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next bytes of a body; no byte within `stall` is an error.
pub(super) async fn next_chunk(
    response: &mut Response,
    stall: Duration,
    host: &str,
    what: &str,
) -> Result<Option<Bytes>> {
    match tokio::time::timeout(stall, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(network(host, &error)),
        Err(_) => Err(ErrorKind::Timeout {
            what: format!("no byte of {what} came from {host} (option stallTimeout)"),
            after_ms: stall.as_millis() as u64,
        }
        .into()),
    }
}

/// A failure below HTTP, in words without the URL, which may hold a signature.
pub(super) fn network(host: &str, error: &reqwest::Error) -> ImageError {
    let mut deepest: &dyn std::error::Error = error;
    let mut texts = Vec::new();
    while let Some(source) = deepest.source() {
        deepest = source;
        texts.push(source.to_string());
    }
    let last = texts.pop().unwrap_or_else(|| "the request failed".to_owned());
    let kind = if error.is_timeout() && error.is_connect() { "connecting took too long" } else { "" };
    let reason = if kind.is_empty() { last } else { format!("{kind}: {last}") };
    ErrorKind::Network { host: host.to_owned(), reason }.into()
}

/// An answer that is no success, as an error.
pub(super) async fn failure(response: Response, host: &str, what: &str, stall: Duration) -> Failure {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|value| parse_retry_after(value, SystemTime::now()));
    let body = read_body(response, ERROR_BODY, stall, host, "the error's text").await.unwrap_or_default();
    let said = registry_words(&body);
    let said = |otherwise: &str| said.clone().unwrap_or_else(|| otherwise.to_owned());
    let host = host.to_owned();
    let error = match status {
        404 => ErrorKind::NotFound { what: format!("{what} ({})", said("no such thing")), registry: host },
        401 => {
            let reason = format!("{}; log in with `docker login {host}` or pass the option auth", said("log in first"));
            ErrorKind::Unauthorized { registry: host, reason }
        }
        403 => {
            let reason = format!("{}; the login may lack the right to pull {what}", said("forbidden"));
            ErrorKind::Unauthorized { registry: host, reason }
        }
        _ => ErrorKind::Registry { registry: host, status, message: said(&format!("no reason given for {what}")) },
    };
    Failure { error: error.into(), retryable: is_retryable_status(status), retry_after }
}

#[derive(serde::Deserialize)]
struct Envelope {
    errors: Vec<Words>,
}

#[derive(serde::Deserialize)]
struct Words {
    code: Option<String>,
    message: Option<String>,
}

/// The registry's own codes and messages, cut where they flood.
fn registry_words(body: &[u8]) -> Option<String> {
    // Not oci-client's envelope: that one knows a closed list of codes, and registries have their own.
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let words: Vec<String> = envelope
        .errors
        .into_iter()
        .map(|error| [error.code, error.message].into_iter().flatten().collect::<Vec<_>>().join(": "))
        .collect();
    let text: String = words.join("; ").chars().filter(|letter| !letter.is_control()).take(500).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words_come_through() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(registry_words(body).as_deref(), Some("MANIFEST_UNKNOWN: manifest unknown"));
        assert_eq!(registry_words(b"<html>"), None);
    }
}
