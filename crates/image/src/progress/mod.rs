//! Progress of a pull: what happens, told as events (SPEC §6), without ever slowing the work.

mod queue;

use std::sync::Arc;

pub use queue::EventQueue;

/// Something that happened in a pull. Byte counts are of compressed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are those of SPEC §6, named alike")]
pub enum Event {
    /// The reference is being looked up.
    Resolving { reference: Arc<str> },
    /// Manifest and config are known.
    Resolved { reference: Arc<str>, manifest_digest: Arc<str>, layer_count: usize, total_download_bytes: Option<u64> },
    /// More of a layer has arrived.
    LayerDownloadProgress { layer_index: usize, digest: Arc<str>, downloaded_bytes: u64, total_bytes: Option<u64> },
    /// A layer has arrived whole.
    LayerDownloadComplete { layer_index: usize, digest: Arc<str>, downloaded_bytes: u64 },
    /// Extraction of a layer begins.
    LayerExtractStarted { layer_index: usize, diff_id: Arc<str> },
    /// More of a layer's blob has been extracted.
    LayerExtractProgress { layer_index: usize, bytes_read: u64, total_bytes: u64 },
    /// A layer's tree is whole.
    LayerExtractComplete { layer_index: usize, diff_id: Arc<str> },
    /// The layer's index is being made.
    LayerIndexStarted { layer_index: usize },
    /// The layer is ready.
    LayerIndexComplete { layer_index: usize },
    /// Another process or pull holds a lock; `holder` is its process where the system tells.
    LockWaiting { path: Arc<str>, holder: Option<u32> },
    /// A request failed and will be tried again after `delay_ms`.
    Retrying { host: Arc<str>, attempt: u32, delay_ms: u64, reason: Arc<str> },
    /// The pull is done.
    Complete { reference: Arc<str>, layer_count: usize },
}

/// Takes events. Must return at once: it is called in the middle of the work.
pub trait Observer: Send + Sync {
    /// Called for each event, from any thread.
    fn notify(&self, event: Event);
}

/// The observer for whoever does not watch.
pub struct Unobserved;

impl Observer for Unobserved {
    fn notify(&self, _: Event) {}
}
