//! Progress of a pull: what happens, told as events (SPEC §6), without ever slowing the work.

mod queue;

use std::sync::Arc;

pub use queue::EventQueue;

/// Something that happened in a pull. Byte counts are of compressed bytes and never fall back: where a layer is begun anew,
/// since its first bytes were damaged, they stand still until they are overtaken. Nothing is told of a layer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are those of SPEC §6, named alike")]
pub enum Event {
    /// The reference is being looked up.
    Resolving { reference: Arc<str> },
    /// Manifest and config are known. `total_download_bytes` is what the counts of downloaded bytes will add up to.
    Resolved { reference: Arc<str>, manifest_digest: Arc<str>, layer_count: usize, total_download_bytes: Option<u64> },
    /// More of a layer has arrived.
    LayerDownloadProgress { layer_index: usize, digest: Arc<str>, downloaded_bytes: u64, total_bytes: Option<u64> },
    /// All bytes of a layer are here, and their digest was right.
    LayerDownloadComplete { layer_index: usize, digest: Arc<str>, downloaded_bytes: u64 },
    /// Extraction of a layer begins.
    LayerExtractStarted { layer_index: usize, diff_id: Arc<str> },
    /// More of a layer's blob has been extracted.
    LayerExtractProgress { layer_index: usize, bytes_read: u64, total_bytes: u64 },
    /// A layer's tree stands under its final name.
    LayerExtractComplete { layer_index: usize, diff_id: Arc<str> },
    /// An index was made for the layer; told after its tree was published. Not told where none was made.
    LayerIndexStarted { layer_index: usize },
    /// The layer's index stands under its final name.
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
