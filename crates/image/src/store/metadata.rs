//! What the cache remembers of a pulled image: one JSON object (SPEC §3). The first fields are the original's; it
//! ignores the others, and files that lack them are read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fs::is_random_name,
    layer::Report,
    model::{Digest, ImageConfig, Platform},
    store::{TreeName, Written},
};

/// Version of the fields that the original does not know.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// Metadata of a pulled reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedImageMetadata {
    /// Digest of the platform's manifest, as served.
    pub manifest_digest: Digest,
    /// Digest of the config.
    pub config_digest: Digest,
    /// The config, parsed.
    pub config: ImageConfig,
    /// Layers, bottom first.
    pub layers: Vec<CachedLayerMetadata>,

    /// Version of the fields from here on; 0 when the original wrote the file.
    #[serde(default)]
    pub format_version: u32,
    /// Canonical reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Platform of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Digest of the index the manifest was chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_digest: Option<Digest>,
    /// Media type of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_media_type: Option<String>,
    /// The manifest as served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_manifest: Option<String>,
    /// The config as served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw_config: Option<String>,
    /// When it was pulled, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_at_ms: Option<u64>,
    /// In which boot this was written; the cache fills it in. `None` where the system does not tell, or the original wrote
    /// the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Written>,
    /// What could not be kept as it came, by layer digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub report: BTreeMap<String, Report>,
}

/// Metadata of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedLayerMetadata {
    /// Digest of the blob.
    pub digest: Digest,
    /// Media type from the manifest.
    pub media_type: Option<String>,
    /// Length of the blob in bytes.
    pub size_bytes: Option<u64>,
    /// Digest of the uncompressed layer; the original writes an empty text where the config has none.
    pub diff_id: String,
    /// Key of the tree that this image has of the layer at this place; `None` for the base. The original ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited: Option<String>,
    /// True if that tree has no index.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_index: bool,
}

impl CachedLayerMetadata {
    /// The tree that the image has.
    pub fn tree(&self) -> TreeName {
        TreeName { digest: self.digest.clone(), inherited: self.inherited.clone() }
    }
}

impl CachedImageMetadata {
    /// Reads the JSON; `None` if it is damaged.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let metadata: Self = serde_json::from_slice(bytes).ok()?;
        // A key becomes part of a path.
        let mut keys = metadata.layers.iter().filter_map(|layer| layer.inherited.as_deref());
        keys.all(is_random_name).then_some(metadata)
    }

    /// The trees of the image, bottom layer first.
    pub fn trees(&self) -> impl ExactSizeIterator<Item = TreeName> {
        self.layers.iter().map(CachedLayerMetadata::tree)
    }

    /// The JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("metadata are made of strings, numbers, lists and maps of strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_original_wrote_is_read() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let json = format!(
            r#"{{"manifest_digest":"{digest}","config_digest":"{digest}","config":{{"env":["A=b"],"cmd":null,
            "entrypoint":null,"working_dir":null,"user":null,"exposed_ports":[],"volumes":[],"labels":{{}},
            "stop_signal":null}},"layers":[{{"digest":"{digest}","media_type":null,"size_bytes":3,"diff_id":""}}]}}"#
        );
        let metadata = CachedImageMetadata::parse(json.as_bytes()).unwrap();
        assert_eq!((metadata.format_version, metadata.layers.len()), (0, 1));
        assert_eq!(CachedImageMetadata::parse(&metadata.to_json()).unwrap(), metadata);
    }

    #[test]
    fn damaged_metadata_are_no_metadata() {
        assert_eq!(CachedImageMetadata::parse(b"{"), None);
        assert_eq!(CachedImageMetadata::parse(br#"{"manifest_digest":"../x"}"#), None);
    }
}
