//! What crosses the boundary: `{"ok": …}` or `{"failure": …}`, as text.

use std::{
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use microsandbox_image_core::{ErrorKind, ImageError, Result};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome<T> {
    Ok(T),
    Failure(Failure),
}

/// An error as data: code, message, what it happened to, and the chain of causes.
#[derive(Serialize)]
struct Failure {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
    causes: Vec<String>,
}

impl Failure {
    fn new(error: &ImageError) -> Self {
        let causes = std::iter::successors(error.source(), |&cause: &&(dyn Error + 'static)| cause.source());
        Self {
            code: error.code(),
            message: error.to_string(),
            reference: error.reference().map(str::to_owned),
            layer: error.layer().map(ToString::to_string),
            details: details(error.kind()),
            causes: causes.map(ToString::to_string).collect(),
        }
    }
}

/// Facts that a program may want without parsing the message.
fn details(kind: &ErrorKind) -> Option<serde_json::Value> {
    use serde_json::json;
    match kind {
        ErrorKind::Registry { registry, status, .. } => Some(json!({ "registry": registry, "status": status })),
        ErrorKind::NotFound { registry, .. } | ErrorKind::Unauthorized { registry, .. } => {
            Some(json!({ "registry": registry }))
        }
        ErrorKind::PlatformNotFound { available, .. } => Some(json!({ "available": available })),
        ErrorKind::DigestMismatch { expected, actual, .. } => Some(json!({ "expected": expected, "actual": actual })),
        ErrorKind::Limit { limit, value, option, .. } => {
            Some(json!({ "limit": limit, "value": value, "option": option }))
        }
        ErrorKind::LockTimeout { path, holder, .. } => Some(json!({ "path": path, "holder": holder })),
        ErrorKind::NoSpace { path, need, free, free_inodes } => {
            Some(json!({ "path": path, "need": need, "free": free, "freeInodes": free_inodes }))
        }
        ErrorKind::Cache { path, .. } | ErrorKind::Io { path, .. } | ErrorKind::Index { path, .. } => {
            Some(json!({ "path": path }))
        }
        _ => None,
    }
}

/// The text of a result.
pub(crate) fn to_text<T: Serialize>(result: Result<T>) -> String {
    let outcome = match result {
        Ok(value) => Outcome::Ok(value),
        Err(error) => Outcome::Failure(Failure::new(&error)),
    };
    serde_json::to_string(&outcome).expect("outcomes are made of strings, numbers, lists and maps of strings")
}

/// Runs synchronous work; a panic becomes an error.
pub(crate) fn without_panic<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// The text of what synchronous work answers; a panic becomes an error of the call.
pub(crate) fn guarded<T: Serialize>(work: impl FnOnce() -> Result<T>) -> String {
    to_text(without_panic(work))
}

/// A panic as an error, numbered so that it can be found in the process's error output.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> ImageError {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words");
    ImageError::internal(format!("{text} (panic {} of this process)", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> serde_json::Value {
        serde_json::from_str(text).expect("outcomes are JSON")
    }

    #[test]
    fn a_value_crosses_as_ok() {
        assert_eq!(parsed(&guarded(|| Ok(7))), serde_json::json!({ "ok": 7 }));
    }

    #[test]
    fn a_panic_becomes_an_internal_error_with_its_words_and_a_number() {
        let text = guarded::<()>(|| panic!("index {} is out of bounds", 3));
        let failure = &parsed(&text)["failure"];
        assert_eq!(failure["code"], "ERR_INTERNAL");
        let message = failure["message"].as_str().unwrap_or_default();
        assert!(message.contains("index 3 is out of bounds (panic "), "{message}");
    }

    #[test]
    fn a_panic_without_words_becomes_an_internal_error_too() {
        let text = guarded::<()>(|| std::panic::panic_any(5_u8));
        assert_eq!(parsed(&text)["failure"]["code"], "ERR_INTERNAL");
    }

    #[test]
    fn an_error_crosses_with_code_details_and_causes() {
        let error = ErrorKind::InvalidOption { option: "proxy".to_owned(), reason: "no URL".to_owned() };
        let failure = parsed(&to_text::<()>(Err(error.into())))["failure"].clone();
        assert_eq!(failure["code"], "ERR_INVALID_OPTION");
        assert!(failure["message"].as_str().is_some_and(|message| message.contains("proxy")), "{failure}");
        assert!(failure["causes"].is_array());
    }
}
