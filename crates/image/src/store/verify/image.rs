//! An image's metadata against themselves: the manifest and config they hold are what their digests say, and the layers
//! are those of the manifest.

use crate::{
    model::{Algorithm, Digest},
    store::CachedImageMetadata,
};

/// What is contradictory in the metadata; `None` if nothing is. Metadata without manifest (the original's) contradict
/// nothing.
pub(super) fn contradiction(metadata: &CachedImageMetadata) -> Option<String> {
    let hashes_to = |text: &str, digest: &Digest| is_digest_of(text.as_bytes(), digest);
    if let Some(config) = &metadata.raw_config
        && !hashes_to(config, &metadata.config_digest)
    {
        return Some("its config is not the one of its digest".to_owned());
    }
    let manifest = metadata.raw_manifest.as_ref()?;
    if !hashes_to(manifest, &metadata.manifest_digest) {
        return Some("its manifest is not the one of its digest".to_owned());
    }
    let parsed: serde_json::Value = match serde_json::from_str(manifest) {
        Ok(parsed) => parsed,
        Err(_) => return Some("its manifest is no JSON".to_owned()),
    };
    let layers = parsed["layers"].as_array()?;
    let named: Vec<&str> = layers.iter().filter_map(|layer| layer["digest"].as_str()).collect();
    let kept: Vec<String> = metadata.layers.iter().map(|layer| layer.digest.to_string()).collect();
    (named != kept).then(|| "it names other layers than its manifest".to_owned())
}

fn is_digest_of(bytes: &[u8], digest: &Digest) -> bool {
    let algorithm: Algorithm = digest.algorithm();
    Digest::of(algorithm, bytes) == *digest
}
