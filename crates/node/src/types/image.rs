//! Images: what a pull answers, what the cache remembers, what a registry offers.

use std::collections::BTreeMap;

use microsandbox_image_core::{
    ImageConfig, Platform, PullResult,
    layer::Report,
    registry::{Candidate, ResolvedImage},
    store::CachedImageMetadata,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct ConfigText {
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    exposed_ports: Vec<String>,
    volumes: Vec<String>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
}

impl From<ImageConfig> for ConfigText {
    fn from(config: ImageConfig) -> Self {
        let ImageConfig { env, cmd, entrypoint, working_dir, user, exposed_ports, volumes, labels, stop_signal } =
            config;
        Self { env, cmd, entrypoint, working_dir, user, exposed_ports, volumes, labels, stop_signal }
    }
}

impl From<ConfigText> for ImageConfig {
    fn from(config: ConfigText) -> Self {
        let ConfigText { env, cmd, entrypoint, working_dir, user, exposed_ports, volumes, labels, stop_signal } =
            config;
        Self { env, cmd, entrypoint, working_dir, user, exposed_ports, volumes, labels, stop_signal }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResultText {
    reference: String,
    platform: Platform,
    manifest_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_digest: Option<String>,
    config_digest: String,
    config: ConfigText,
    layers: Vec<String>,
    indexes: Vec<Option<String>>,
    layer_digests: Vec<String>,
    diff_ids: Vec<String>,
    cached: bool,
    report: BTreeMap<String, Report>,
}

impl From<PullResult> for ResultText {
    fn from(result: PullResult) -> Self {
        Self {
            reference: result.reference.to_string(),
            platform: result.platform,
            manifest_digest: result.manifest_digest.to_string(),
            index_digest: result.index_digest.map(|digest| digest.to_string()),
            config_digest: result.config_digest.to_string(),
            config: result.config.into(),
            layers: result.layers.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            indexes: result
                .indexes
                .iter()
                .map(|path| path.as_ref().map(|path| path.to_string_lossy().into_owned()))
                .collect(),
            layer_digests: result.layer_digests.iter().map(ToString::to_string).collect(),
            diff_ids: result.diff_ids,
            cached: result.cached,
            report: result.report,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResolvedText {
    reference: String,
    platform: Platform,
    manifest_digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index_digest: Option<String>,
    manifest_media_type: String,
    config_digest: String,
    config: ConfigText,
    layers: Vec<ResolvedLayer>,
    reason: String,
    candidates: Vec<CandidateText>,
    raw_manifest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_index: Option<String>,
    raw_config: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResolvedLayer {
    digest: String,
    diff_id: String,
    media_type: String,
    size: u64,
}

#[derive(Serialize)]
struct CandidateText {
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    digest: String,
    attestation: bool,
}

impl ResolvedText {
    pub(crate) fn new(reference: String, image: ResolvedImage) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let layers = image.layers.iter().zip(&image.config.diff_ids).map(|(blob, diff_id)| ResolvedLayer {
            digest: blob.digest.to_string(),
            diff_id: diff_id.to_string(),
            media_type: blob.media_type.clone(),
            size: blob.size,
        });
        let candidates = image.candidates.iter().map(|Candidate { platform, digest, attestation }| CandidateText {
            platform: platform.clone(),
            digest: digest.to_string(),
            attestation: *attestation,
        });
        Self {
            reference,
            manifest_digest: image.manifest_digest.to_string(),
            index_digest: image.index_digest.as_ref().map(ToString::to_string),
            config_digest: image.config_digest.to_string(),
            layers: layers.collect(),
            candidates: candidates.collect(),
            raw_manifest: text(&image.raw_manifest),
            raw_index: image.raw_index.as_deref().map(text),
            raw_config: text(&image.raw_config),
            platform: image.platform,
            manifest_media_type: image.manifest_media_type,
            config: image.config.image.into(),
            reason: image.reason,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetadataText {
    manifest_digest: microsandbox_image_core::Digest,
    config_digest: microsandbox_image_core::Digest,
    config: ConfigText,
    layers: Vec<LayerText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index_digest: Option<microsandbox_image_core::Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest_media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_manifest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_config: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pulled_at: Option<u64>,
    #[serde(default)]
    report: BTreeMap<String, Report>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayerText {
    digest: microsandbox_image_core::Digest,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    diff_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inherited: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_index: bool,
}

impl From<CachedImageMetadata> for MetadataText {
    fn from(metadata: CachedImageMetadata) -> Self {
        let layers = metadata.layers.into_iter().map(|layer| LayerText {
            digest: layer.digest,
            media_type: layer.media_type,
            size: layer.size_bytes,
            diff_id: layer.diff_id,
            inherited: layer.inherited,
            no_index: layer.no_index,
        });
        Self {
            layers: layers.collect(),
            manifest_digest: metadata.manifest_digest,
            config_digest: metadata.config_digest,
            config: metadata.config.into(),
            reference: metadata.reference,
            platform: metadata.platform,
            index_digest: metadata.index_digest,
            manifest_media_type: metadata.manifest_media_type,
            raw_manifest: metadata.raw_manifest,
            raw_config: metadata.raw_config,
            pulled_at: metadata.pulled_at_ms,
            report: metadata.report,
        }
    }
}

impl From<MetadataText> for CachedImageMetadata {
    fn from(text: MetadataText) -> Self {
        let layers = text.layers.into_iter().map(|layer| microsandbox_image_core::store::CachedLayerMetadata {
            digest: layer.digest,
            media_type: layer.media_type,
            size_bytes: layer.size,
            diff_id: layer.diff_id,
            inherited: layer.inherited,
            no_index: layer.no_index,
        });
        Self {
            layers: layers.collect(),
            manifest_digest: text.manifest_digest,
            config_digest: text.config_digest,
            config: text.config.into(),
            format_version: 2,
            reference: text.reference,
            platform: text.platform,
            index_digest: text.index_digest,
            manifest_media_type: text.manifest_media_type,
            raw_manifest: text.raw_manifest,
            raw_config: text.raw_config,
            pulled_at_ms: text.pulled_at,
            written: None,
            report: text.report,
        }
    }
}
