//! How much a layer may be: bounds on what is really written, so that no image can fill the host.

use crate::error::{ErrorKind, ImageError};

/// Bounds of one layer; `None` is no bound. The defaults are the original's (SPEC §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of file content written for a layer in all: 10 GiB.
    pub layer_bytes: Option<u64>,
    /// Bytes of one file, holes included: 5 GiB.
    pub file_bytes: Option<u64>,
    /// Entries of a layer, directories made on the way included: 1,000,000.
    pub entries: Option<u64>,
    /// Components of a path: 128.
    pub depth: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: Some(10 << 30), file_bytes: Some(5 << 30), entries: Some(1_000_000), depth: Some(128) }
    }
}

impl Limits {
    pub(crate) fn check_layer_bytes(&self, bytes: u64, entry: &[u8]) -> Result<(), ImageError> {
        check(bytes, self.layer_bytes, "bytes in the layer", "limits.layerBytes", entry)
    }

    pub(crate) fn check_file_bytes(&self, bytes: u64, entry: &[u8]) -> Result<(), ImageError> {
        check(bytes, self.file_bytes, "bytes in the file", "limits.fileBytes", entry)
    }

    pub(crate) fn check_entries(&self, entries: u64, entry: &[u8]) -> Result<(), ImageError> {
        check(entries, self.entries, "entries in the layer", "limits.entries", entry)
    }

    pub(crate) fn check_depth(&self, depth: u64, entry: &[u8]) -> Result<(), ImageError> {
        check(depth, self.depth, "components in the path", "limits.depth", entry)
    }
}

fn check(
    is: u64,
    may_be: Option<u64>,
    limit: &'static str,
    option: &'static str,
    entry: &[u8],
) -> Result<(), ImageError> {
    match may_be {
        Some(value) if is > value => {
            Err(ErrorKind::Limit { limit, value, option, entry: Some(entry_text(entry)) }.into())
        }
        _ => Ok(()),
    }
}

/// A path for people: lossy, and cut where a hostile one would flood a log.
pub(crate) fn entry_text(path: &[u8]) -> String {
    const LONGEST: usize = 256;
    let text = String::from_utf8_lossy(&path[..path.len().min(LONGEST)]);
    if path.len() > LONGEST { format!("{text}…") } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_reached_above_its_value_and_none_is_off() {
        let limits = Limits { entries: Some(2), depth: None, ..Limits::default() };
        assert!(limits.check_entries(2, b"x").is_ok());
        let error = limits.check_entries(3, b"x").unwrap_err();
        assert_eq!(error.code(), "ERR_LIMIT");
        let text = error.to_string();
        assert!(text.contains("2") && text.contains("limits.entries") && text.contains("\"x\""), "{text}");
        assert!(limits.check_depth(u64::MAX, b"x").is_ok());
    }
}
