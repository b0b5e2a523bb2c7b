//! The one error type of the crate: facts, not sentences.
//!
//! An [`ImageError`] says what went wrong ([`ErrorKind`]), for which image and layer, and links the cause. Its
//! [`code`](ImageError::code) never changes between versions; its text may. Nothing secret is ever put into a variant:
//! whoever builds an error from a request leaves headers, tokens and query strings out, and what a server echoes of them
//! is masked by `registry`. Text from outside is escaped here, when an error is made, and cut only when it is printed,
//! so that nothing is cut before it was masked.

use std::{error::Error as StdError, fmt, io, path::Path};

use crate::{
    model::Digest,
    text::{MAX_SHOWN, cut, escape},
};

/// Result of everything that can fail here.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, with the image and the layer it happened to.
pub struct ImageError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    reference: Option<String>,
    layer: Option<Digest>,
    source: Option<Source>,
}

/// The kinds of failure; each has one stable [`code`](ErrorKind::code).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are named by the message beside them")]
pub enum ErrorKind {
    #[error("invalid image reference \"{}\": {reason}", cut(.text, MAX_NAME))]
    InvalidReference { text: String, reason: String },
    #[error("invalid digest \"{}\": {reason}", cut(.text, MAX_NAME))]
    InvalidDigest { text: String, reason: String },
    #[error("invalid option {option}: {reason}")]
    InvalidOption { option: String, reason: String },
    /// The registry does not have it: `what` names the manifest or blob.
    #[error("{what} not found at {registry}")]
    NotFound { what: String, registry: String },
    /// The registry wants other credentials; `reason` ends with what to do next.
    #[error("{registry} refused access: {}", cut(.reason, MAX_TEXT))]
    Unauthorized { registry: String, reason: String },
    /// The registry answered with a status that is no success; `message` is its own text or ours.
    #[error("{registry} answered {status}: {}", cut(.message, MAX_TEXT))]
    Registry { registry: String, status: u16, message: String },
    /// The network below HTTP failed: DNS, connect, TLS, reset, a body that ended too soon.
    #[error("network error with {host}: {}", cut(.reason, MAX_TEXT))]
    Network { host: String, reason: String },
    #[error("timed out after {after_ms} ms: {what}")]
    Timeout { what: String, after_ms: u64 },
    /// `available` are some of the platforms there are; `more` is how many others.
    #[error("no image for platform {wanted}; available: {}{}", list(.available), and_more(*.more))]
    PlatformNotFound { wanted: String, available: Vec<String>, more: usize },
    #[error("bad manifest: {}", cut(.reason, MAX_TEXT))]
    Manifest { reason: String },
    #[error("bad image config: {}", cut(.reason, MAX_TEXT))]
    Config { reason: String },
    #[error("unsupported media type \"{}\" of {what}", cut(.media_type, MAX_NAME))]
    UnsupportedMediaType { media_type: String, what: String },
    #[error("digest mismatch of {what}: expected {}, got {actual}", cut(.expected, MAX_NAME))]
    DigestMismatch { what: String, expected: String, actual: String },
    /// The layer's bytes can't be extracted; `entry` is the path in the archive where known.
    #[error("cannot extract{}: {reason}", entry_text(.entry))]
    Extraction { entry: Option<String>, reason: String },
    /// A limit was reached; `option` is the name of the option that raises it.
    #[error("limit reached: {limit} is more than {value}{} (option {option})", entry_text(.entry))]
    Limit { limit: &'static str, value: u64, option: &'static str, entry: Option<String> },
    #[error("bad layer index {path}: {reason}")]
    Index { path: String, reason: String },
    /// The cache directory can't serve: wrong owner, planted link, unwritable, no locks, no attributes.
    #[error("cache problem at {path}: {reason}")]
    Cache { path: String, reason: String },
    #[error("image is not in the cache and the policy is \"never\"")]
    NotCached,
    #[error("waited {after_ms} ms for the lock {path}{}", holder_text(.holder))]
    LockTimeout { path: String, after_ms: u64, holder: Option<u32> },
    /// `need` is what is needed at least, where that is known; the others are what the file system has left, where it tells.
    #[error("no space left at {path}{}", space_text(*.need, *.free, *.free_inodes))]
    NoSpace { path: String, need: Option<u64>, free: Option<u64>, free_inodes: Option<u64> },
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: String },
    #[error("aborted")]
    Aborted,
    #[error("internal error: {message}")]
    Internal { message: String },
}

/// Letters of a name, and of a reason with our own words around it, that a message shows.
const MAX_NAME: usize = 160;
const MAX_TEXT: usize = 2 * MAX_SHOWN;

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { cut(&items.join(", "), MAX_TEXT).into_owned() }
}

/// ` and 329,990 more`, or nothing.
fn and_more(more: usize) -> String {
    let digits = more.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    if more == 0 { String::new() } else { format!(" and {} more", groups.join(",")) }
}

fn entry_text(entry: &Option<String>) -> String {
    entry.as_ref().map_or_else(String::new, |entry| format!(" {entry:?}"))
}

fn holder_text(holder: &Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(", held by process {pid}"))
}

fn space_text(need: Option<u64>, free: Option<u64>, free_inodes: Option<u64>) -> String {
    match (need, free, free_inodes) {
        (Some(need), Some(free), _) => {
            format!(": at least {need} bytes are needed, {free} are free (option checkSpace)")
        }
        (None, Some(free), Some(inodes)) if inodes < FEW_INODES => {
            format!(": only {inodes} inodes are free, whatever the bytes ({free})")
        }
        (None, Some(free), _) => format!(": {free} bytes are free"),
        _ => String::new(),
    }
}

/// Fewer free inodes than this are the likely reason why a disk is said to be full.
const FEW_INODES: u64 = 16;

impl ErrorKind {
    /// The stable code, as programs test it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidReference { .. } => "ERR_INVALID_REFERENCE",
            Self::InvalidDigest { .. } => "ERR_INVALID_DIGEST",
            Self::InvalidOption { .. } => "ERR_INVALID_OPTION",
            Self::NotFound { .. } => "ERR_NOT_FOUND",
            Self::Unauthorized { .. } => "ERR_UNAUTHORIZED",
            Self::Registry { .. } => "ERR_REGISTRY",
            Self::Network { .. } => "ERR_NETWORK",
            Self::Timeout { .. } => "ERR_TIMEOUT",
            Self::PlatformNotFound { .. } => "ERR_PLATFORM_NOT_FOUND",
            Self::Manifest { .. } => "ERR_MANIFEST",
            Self::Config { .. } => "ERR_CONFIG",
            Self::UnsupportedMediaType { .. } => "ERR_UNSUPPORTED_MEDIA_TYPE",
            Self::DigestMismatch { .. } => "ERR_DIGEST_MISMATCH",
            Self::Extraction { .. } => "ERR_EXTRACTION",
            Self::Limit { .. } => "ERR_LIMIT",
            Self::Index { .. } => "ERR_INDEX",
            Self::Cache { .. } => "ERR_CACHE",
            Self::NotCached => "ERR_NOT_CACHED",
            Self::LockTimeout { .. } => "ERR_LOCK_TIMEOUT",
            Self::NoSpace { .. } => "ERR_NO_SPACE",
            Self::Io { .. } => "ERR_IO",
            Self::Aborted => "ERR_ABORTED",
            Self::Internal { .. } => "ERR_INTERNAL",
        }
    }

    /// Makes the error and links what caused it.
    pub fn caused_by(self, source: impl Into<Source>) -> ImageError {
        let mut error = ImageError::from(self);
        error.0.source = Some(told(source.into(), &|text| escape(text).into_owned()));
        error
    }

    /// The same with every text changed.
    fn with_texts(mut self, change: &dyn Fn(&str) -> String) -> Self {
        let each = |texts: &mut [&mut String]| texts.iter_mut().for_each(|text| **text = change(text));
        match &mut self {
            Self::InvalidReference { text, reason } | Self::InvalidDigest { text, reason } => each(&mut [text, reason]),
            Self::InvalidOption { option, reason } => each(&mut [option, reason]),
            Self::NotFound { what, registry } => each(&mut [what, registry]),
            Self::Unauthorized { registry, reason } => each(&mut [registry, reason]),
            Self::Registry { registry, message, .. } => each(&mut [registry, message]),
            Self::Network { host, reason } => each(&mut [host, reason]),
            Self::Timeout { what, .. } => each(&mut [what]),
            Self::PlatformNotFound { wanted, available, .. } => {
                each(&mut [wanted]);
                available.iter_mut().for_each(|text| *text = change(text));
            }
            Self::Manifest { reason } | Self::Config { reason } => each(&mut [reason]),
            Self::UnsupportedMediaType { media_type, what } => each(&mut [media_type, what]),
            Self::DigestMismatch { what, expected, actual } => each(&mut [what, expected, actual]),
            Self::Extraction { entry, reason } => {
                each(&mut [reason]);
                entry.iter_mut().for_each(|text| *text = change(text));
            }
            Self::Limit { entry, .. } => entry.iter_mut().for_each(|text| *text = change(text)),
            Self::Index { path, reason } | Self::Cache { path, reason } => each(&mut [path, reason]),
            Self::LockTimeout { path, .. } | Self::NoSpace { path, .. } | Self::Io { path, .. } => each(&mut [path]),
            Self::Internal { message } => each(&mut [message]),
            Self::NotCached | Self::Aborted => {}
        }
        self
    }
}

/// A cause of which only the text is left.
#[derive(Debug)]
struct Told {
    text: String,
    below: Option<Source>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Told {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.below.as_deref().map(|below| below as &(dyn StdError + 'static))
    }
}

/// A chain of causes with its texts changed. One that needs no change stays what it is.
fn told(source: Source, change: &dyn Fn(&str) -> String) -> Source {
    let chain =
        std::iter::successors(Some(&*source as &(dyn StdError + 'static)), |&cause: &&(dyn StdError + 'static)| {
            cause.source()
        });
    let texts: Vec<(String, String)> = chain.map(ToString::to_string).map(|text| (change(&text), text)).collect();
    // The debug print shows what the text doesn't.
    if texts.iter().all(|(changed, text)| changed == text) && change(&format!("{source:?}")) == format!("{source:?}") {
        return source;
    }
    let rebuilt = texts.into_iter().rev().fold(None, |below, (text, _)| Some(Box::new(Told { text, below }) as Source));
    rebuilt.unwrap_or(source)
}

impl From<ErrorKind> for ImageError {
    fn from(kind: ErrorKind) -> Self {
        let kind = kind.with_texts(&|text| escape(text).into_owned());
        Self(Box::new(Inner { kind, reference: None, layer: None, source: None }))
    }
}

impl ImageError {
    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The same with every text changed, those of its causes included.
    #[must_use]
    pub(crate) fn with_texts(mut self, change: &dyn Fn(&str) -> String) -> Self {
        self.0.kind = self.0.kind.with_texts(change);
        self.0.source = self.0.source.map(|source| told(source, change));
        self
    }

    /// The stable code, such as `ERR_NOT_FOUND`.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// The image it happened to, in canonical text.
    pub fn reference(&self) -> Option<&str> {
        self.0.reference.as_deref()
    }

    /// The compressed digest of the layer it happened to.
    pub fn layer(&self) -> Option<&Digest> {
        self.0.layer.as_ref()
    }

    /// Names the image, unless one is named already.
    #[must_use]
    pub fn for_reference(mut self, reference: &str) -> Self {
        self.0.reference.get_or_insert_with(|| reference.to_owned());
        self
    }

    /// Names the layer, unless one is named already.
    #[must_use]
    pub fn for_layer(mut self, layer: &Digest) -> Self {
        self.0.layer.get_or_insert_with(|| layer.clone());
        self
    }

    /// An I/O failure with the path it happened at. A full disk or quota becomes [`ErrorKind::NoSpace`].
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.as_ref().display().to_string();
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ErrorKind::NoSpace { path, need: None, free: None, free_inodes: None }
            }
            _ => ErrorKind::Io { action, path },
        };
        kind.caused_by(source)
    }

    /// Says of a full disk how much room it had left.
    #[must_use]
    pub(crate) fn with_space(mut self, left: impl FnOnce() -> Option<(u64, Option<u64>)>) -> Self {
        if let ErrorKind::NoSpace { free: free @ None, free_inodes, .. } = &mut self.0.kind
            && let Some((bytes, inodes)) = left()
        {
            (*free, *free_inodes) = (Some(bytes), inodes);
        }
        self
    }

    /// Completes a path that was told relative to `directory`.
    #[must_use]
    pub(crate) fn within(mut self, directory: &Path) -> Self {
        if let ErrorKind::Io { path, .. } | ErrorKind::NoSpace { path, .. } = &mut self.0.kind
            && !Path::new(path.as_str()).is_absolute()
        {
            *path = directory.join(path.as_str()).display().to_string();
        }
        self
    }

    /// The pull was stopped by its caller.
    pub fn aborted() -> Self {
        ErrorKind::Aborted.into()
    }

    /// A fault of ours, such as a panic caught at a thread's edge.
    pub fn internal(message: impl Into<String>) -> Self {
        ErrorKind::Internal { message: message.into() }.into()
    }

    /// True when the caller's abort is the reason.
    pub fn is_aborted(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Aborted)
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reference) = &self.0.reference {
            write!(f, "{reference}: ")?;
        }
        if let Some(layer) = &self.0.layer {
            write!(f, "layer {layer}: ")?;
        }
        write!(f, "{}", self.0.kind)
    }
}

impl fmt::Debug for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageError")
            .field("kind", &self.0.kind)
            .field("reference", &self.0.reference)
            .field("layer", &self.0.layer)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for ImageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_other_io_errors() {
        let full = ImageError::io("write", "/x", io::Error::from(io::ErrorKind::StorageFull));
        let other = ImageError::io("write", "/x", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!((full.code(), other.code()), ("ERR_NO_SPACE", "ERR_IO"));
    }

    #[test]
    fn text_from_outside_is_escaped_when_an_error_is_made_its_causes_included() {
        let cause = ErrorKind::Internal { message: "deep\u{9b}2J".into() }.caused_by(io::Error::other("\u{1b}[31m"));
        let error = ErrorKind::PlatformNotFound {
            wanted: "a".into(),
            available: vec!["l\u{202e}x/\u{1b}[31m".into()],
            more: 0,
        };
        let error = error.caused_by(cause);
        let mut text = format!("{error} {error:?}");
        let mut cause = error.source();
        while let Some(next) = cause {
            text.push_str(&next.to_string());
            cause = next.source();
        }
        assert!(text.contains("l\\u{202e}x/\\u{1b}[31m") && text.contains("deep\\u{9b}2J"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{text}");
    }

    #[test]
    fn a_cause_that_needs_no_escape_keeps_its_type() {
        let error = ErrorKind::Aborted.caused_by(io::Error::from_raw_os_error(5));
        assert!(error.source().unwrap().downcast_ref::<io::Error>().is_some());
    }

    #[test]
    fn the_message_names_image_and_layer_and_the_cause_is_linked_not_printed() {
        let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
        let error = ErrorKind::Extraction { entry: Some("etc/x".into()), reason: "truncated".into() }
            .caused_by(io::Error::other("deep"))
            .for_layer(&digest)
            .for_reference("docker.io/library/a:b");
        let text = error.to_string();
        assert!(text.starts_with("docker.io/library/a:b: layer sha256:aaaa"), "{text}");
        assert!(text.ends_with("cannot extract \"etc/x\": truncated"), "{text}");
        assert_eq!(error.source().unwrap().to_string(), "deep");
    }
}
