//! What a pull would do.

use microsandbox_image_core::{
    Platform,
    pull::{LayerState, PlannedLayer, PullPlan},
};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanText {
    reference: String,
    platform: Platform,
    manifest_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_digest: Option<String>,
    config_digest: String,
    cached: bool,
    layers: Vec<LayerText>,
    download_bytes: u64,
    disk_bytes: u64,
    least_disk_bytes: u64,
    free_bytes: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LayerText {
    digest: String,
    diff_id: String,
    media_type: Option<String>,
    size: Option<u64>,
    state: &'static str,
    download_bytes: u64,
}

impl From<PullPlan> for PlanText {
    fn from(plan: PullPlan) -> Self {
        Self {
            reference: plan.reference.to_string(),
            platform: plan.platform,
            manifest_digest: plan.manifest_digest.to_string(),
            index_digest: plan.index_digest.map(|digest| digest.to_string()),
            config_digest: plan.config_digest.to_string(),
            cached: plan.cached,
            layers: plan.layers.into_iter().map(LayerText::from).collect(),
            download_bytes: plan.download_bytes,
            disk_bytes: plan.disk_bytes,
            least_disk_bytes: plan.least_disk_bytes,
            free_bytes: plan.free_bytes,
        }
    }
}

impl From<PlannedLayer> for LayerText {
    fn from(layer: PlannedLayer) -> Self {
        Self {
            digest: layer.digest.to_string(),
            diff_id: layer.diff_id,
            media_type: layer.media_type,
            size: layer.size,
            state: match layer.state {
                LayerState::Cached => "cached",
                LayerState::Downloaded => "downloaded",
                LayerState::Partial => "partial",
                LayerState::Missing => "missing",
            },
            download_bytes: layer.download_bytes,
        }
    }
}
