//! Progress events (SPEC §6), tagged by `type`.

use microsandbox_image_core::progress::Event;
use serde::Serialize;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum EventText {
    Resolving { reference: String },
    Resolved { reference: String, manifest_digest: String, layer_count: usize, total_download_bytes: Option<u64> },
    LayerDownloadProgress { layer_index: usize, digest: String, downloaded_bytes: u64, total_bytes: Option<u64> },
    LayerDownloadComplete { layer_index: usize, digest: String, downloaded_bytes: u64 },
    LayerExtractStarted { layer_index: usize, diff_id: String },
    LayerExtractProgress { layer_index: usize, bytes_read: u64, total_bytes: u64 },
    LayerExtractComplete { layer_index: usize, diff_id: String },
    LayerIndexStarted { layer_index: usize },
    LayerIndexComplete { layer_index: usize },
    LockWaiting { path: String, holder: Option<u32> },
    Retrying { host: String, attempt: u32, delay: u64, reason: String },
    Complete { reference: String, layer_count: usize },
}

impl EventText {
    /// `None` for an event that a newer core has and this binding does not know.
    pub(crate) fn new(event: Event) -> Option<Self> {
        Some(match event {
            Event::Resolving { reference } => Self::Resolving { reference: reference.to_string() },
            Event::Resolved { reference, manifest_digest, layer_count, total_download_bytes } => Self::Resolved {
                reference: reference.to_string(),
                manifest_digest: manifest_digest.to_string(),
                layer_count,
                total_download_bytes,
            },
            Event::LayerDownloadProgress { layer_index, digest, downloaded_bytes, total_bytes } => {
                Self::LayerDownloadProgress { layer_index, digest: digest.to_string(), downloaded_bytes, total_bytes }
            }
            Event::LayerDownloadComplete { layer_index, digest, downloaded_bytes } => {
                Self::LayerDownloadComplete { layer_index, digest: digest.to_string(), downloaded_bytes }
            }
            Event::LayerExtractStarted { layer_index, diff_id } => {
                Self::LayerExtractStarted { layer_index, diff_id: diff_id.to_string() }
            }
            Event::LayerExtractProgress { layer_index, bytes_read, total_bytes } => {
                Self::LayerExtractProgress { layer_index, bytes_read, total_bytes }
            }
            Event::LayerExtractComplete { layer_index, diff_id } => {
                Self::LayerExtractComplete { layer_index, diff_id: diff_id.to_string() }
            }
            Event::LayerIndexStarted { layer_index } => Self::LayerIndexStarted { layer_index },
            Event::LayerIndexComplete { layer_index } => Self::LayerIndexComplete { layer_index },
            Event::LockWaiting { path, holder } => Self::LockWaiting { path: path.to_string(), holder },
            Event::Retrying { host, attempt, delay_ms, reason } => {
                Self::Retrying { host: host.to_string(), attempt, delay: delay_ms, reason: reason.to_string() }
            }
            Event::Complete { reference, layer_count } => {
                Self::Complete { reference: reference.to_string(), layer_count }
            }
            _ => return None,
        })
    }
}
