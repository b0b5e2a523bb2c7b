//! What is tried again, and when.

use std::time::{Duration, SystemTime};

use crate::error::{ErrorKind, ImageError};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A server that asks for more patience than this is taken for down.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// A failure of one request, with what the server said about trying again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ImageError,
    pub(super) retryable: bool,
    pub(super) retry_after: Option<Duration>,
    /// The server answered to TLS in plain HTTP.
    pub(super) not_tls: bool,
}

impl Failure {
    pub(super) fn new(error: impl Into<ImageError>, retryable: bool) -> Self {
        Self { error: error.into(), retryable, retry_after: None, not_tls: false }
    }

    /// True if nobody answered, or not in time.
    pub(super) fn is_silence(error: &ImageError) -> bool {
        matches!(error.kind(), ErrorKind::Network { .. } | ErrorKind::Timeout { .. })
    }

    /// True if the server wants another login, or any.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.error.kind(), ErrorKind::Unauthorized { .. })
    }

    /// Says that a stored login was rejected and that it was tried without.
    pub(super) fn after_anonymous_try(mut self) -> Self {
        if let ErrorKind::Unauthorized { registry, reason } = self.error.kind() {
            let reason = format!("the stored login was rejected, and so was a try without it: {reason}");
            self.error = ErrorKind::Unauthorized { registry: registry.clone(), reason }.into();
        }
        self
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let retryable = Self::is_silence(&error);
        Self::new(error, retryable)
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        ImageError::from(kind).into()
    }
}

/// Statuses that may be gone in a moment.
pub(super) fn is_retryable_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..=524)
}

/// The pause before attempt `attempt` (from 1): exponential with jitter, unless the server named its own.
/// `None`: the server wants more patience than makes sense.
pub(super) fn pause(attempt: u32, retry_after: Option<Duration>) -> Option<Duration> {
    match retry_after {
        Some(wanted) if wanted > LONGEST_RETRY_AFTER => None,
        Some(wanted) => Some(wanted),
        None => {
            let full = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
            Some(full.mul_f64(0.5 + jitter() / 2.0))
        }
    }
}

/// Says how often it was tried, where it was more than once.
pub(super) fn with_attempts(error: ImageError, attempts: u32) -> ImageError {
    if attempts < 2 { error } else { with_note(error, &format!("tried {attempts} times")) }
}

/// Says which mirrors were no help.
pub(super) fn with_mirrors(error: ImageError, mirrors: &[String]) -> ImageError {
    if mirrors.is_empty() {
        error
    } else {
        with_note(error, &format!("no help from the mirrors {}", mirrors.join(", ")))
    }
}

fn with_note(error: ImageError, note: &str) -> ImageError {
    let tried = |text: &str| format!("{text} ({note})");
    let kind = match error.kind().clone() {
        ErrorKind::Network { host, reason } => ErrorKind::Network { host, reason: tried(&reason) },
        ErrorKind::Timeout { what, after_ms } => ErrorKind::Timeout { what: tried(&what), after_ms },
        ErrorKind::Registry { registry, status, message } => {
            ErrorKind::Registry { registry, status, message: tried(&message) }
        }
        ErrorKind::Unauthorized { registry, reason } => ErrorKind::Unauthorized { registry, reason: tried(&reason) },
        ErrorKind::NotFound { what, registry } => ErrorKind::NotFound { what: tried(&what), registry },
        ErrorKind::Manifest { reason } => ErrorKind::Manifest { reason: tried(&reason) },
        ErrorKind::Config { reason } => ErrorKind::Config { reason: tried(&reason) },
        _ => return error,
    };
    kind.caused_by(error)
}

/// A number from 0 to 1 that differs between processes and calls; nothing depends on its quality.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) % 1000) as f64 / 1000.0
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (value, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:40 GMT", Some(3)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(parse_retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_the_server_may_name_its_own() {
        for attempt in 1..40 {
            let pause = pause(attempt, None).unwrap();
            let full = Duration::from_millis(100 << (attempt - 1).min(10)).min(LONGEST_PAUSE);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
        assert_eq!(pause(1, Some(Duration::from_secs(2))), Some(Duration::from_secs(2)));
        assert_eq!(pause(1, Some(Duration::from_secs(3600))), None);
    }
}
