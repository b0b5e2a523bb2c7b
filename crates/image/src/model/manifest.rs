//! Manifests and indexes: what an image consists of (OCI image-spec, manifest.md and image-index.md; Docker's image
//! manifest version 2, schema 2 has the same fields).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::{Digest, Platform},
};

/// A pointer to a blob: what it is, how long it is, and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type, as the manifest says it.
    pub media_type: String,
    /// Digest of the blob as stored (compressed).
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// The content itself, where the manifest carries it; checked against digest and size.
    pub data: Option<Vec<u8>>,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The manifest or index it points to.
    pub descriptor: Descriptor,
    /// The platform it is for.
    pub platform: Option<Platform>,
    /// True for what describes an image and is none.
    pub attestation: bool,
    /// True for what this crate knows to be no image: an artifact, or an entry of a media type it doesn't know, which the
    /// image-spec says to ignore.
    pub ignored: bool,
}

/// What a registry serves under a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image.
    Manifest(Manifest),
    /// A list of images.
    Index(Vec<IndexEntry>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    data: Option<String>,
    platform: Option<RawPlatform>,
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

/// Sizes are safe integers in JavaScript, and a sum of all that fit in a manifest fits in 64 bits.
const LARGEST: u64 = 1 << 46;

const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

impl Document {
    /// Parses what was served, and says its media type. `content_type` is the header, where there was one.
    ///
    /// Fails with `ERR_MANIFEST` on what is neither or both, contradicts itself or is Docker's schema 1, and with
    /// `ERR_UNSUPPORTED_MEDIA_TYPE` on an artifact or a layer of an unknown kind.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<(Self, String)> {
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(bad("it is not a JSON object"));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| {
            ErrorKind::Manifest { reason: "it is not the JSON of a manifest or index".to_owned() }.caused_by(error)
        })?;
        let content_type = content_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        let stated = raw.media_type.clone().filter(|text| !text.is_empty());
        check_schema(&raw, content_type.as_deref(), stated.as_deref())?;
        let media_type = stated.or(content_type.filter(|text| is_known(text)));
        match (raw.manifests, raw.layers) {
            (Some(_), Some(_)) => Err(bad("it is a manifest and an index at once")),
            (Some(entries), None) => {
                let media_type = agreed(media_type, INDEX_TYPES, "an index")?;
                let entries = entries.into_iter().map(RawDescriptor::into_entry).collect::<Result<_>>()?;
                Ok((Self::Index(entries), media_type))
            }
            (None, layers) => {
                let media_type = agreed(media_type, MANIFEST_TYPES, "a manifest")?;
                let config = raw.config.ok_or_else(|| bad("it has neither a config nor manifests"))?;
                let layers = layers.unwrap_or_default();
                Ok((Self::Manifest(Manifest::build(config, layers)?), media_type))
            }
        }
    }
}

fn check_schema(raw: &Raw, content_type: Option<&str>, stated: Option<&str>) -> Result<()> {
    let schema_1 = |text: &str| text.contains("manifest.v1+");
    if raw.schema_version == Some(1)
        || raw.fs_layers.is_some()
        || content_type.is_some_and(|text| schema_1(text) && text.contains("docker"))
    {
        return Err(bad("it is of Docker's schema 1, which is long gone; push the image again with a newer tool"));
    }
    match (stated, content_type) {
        (Some(stated), Some(served)) if is_known(served) && is_known(stated) && stated != served => {
            Err(bad(&format!("it says it is {stated} and was served as {served}")))
        }
        _ => Ok(()),
    }
}

fn is_known(media_type: &str) -> bool {
    INDEX_TYPES.contains(&media_type) || MANIFEST_TYPES.contains(&media_type)
}

fn agreed(media_type: Option<String>, allowed: [&str; 2], what: &str) -> Result<String> {
    match media_type {
        None => Ok(allowed[0].to_owned()),
        Some(media_type) if allowed.contains(&media_type.as_str()) => Ok(media_type),
        Some(media_type) => Err(bad(&format!("it has the fields of {what} and the media type {media_type}"))),
    }
}

impl Manifest {
    fn build(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Self> {
        let config = config.into_descriptor()?;
        if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
            let what = "the config: this is an artifact, not a container image".to_owned();
            return Err(ErrorKind::UnsupportedMediaType { media_type: config.media_type, what }.into());
        }
        let layers = layers.into_iter().map(|layer| {
            let layer = layer.into_descriptor()?;
            if is_layer_type(&layer.media_type) {
                return Ok(layer);
            }
            let what = format!("layer {}", layer.digest);
            Err(ErrorKind::UnsupportedMediaType { media_type: layer.media_type, what }.into())
        });
        Ok(Self { config, layers: layers.collect::<Result<_>>()? })
    }
}

/// Layers that are tar archives, compressed or not. How they are compressed is told by their bytes.
fn is_layer_type(media_type: &str) -> bool {
    let oci = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar"];
    let docker =
        ["application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar"];
    let suffixed = |names: [&str; 2], suffixes: [&str; 3]| {
        names.iter().filter_map(|name| media_type.strip_prefix(name)).any(|rest| suffixes.contains(&rest))
    };
    suffixed(oci, ["", "+gzip", "+zstd"]) || suffixed(docker, ["", ".gzip", ".zstd"])
}

impl RawDescriptor {
    fn into_descriptor(self) -> Result<Descriptor> {
        let digest = Digest::parse(&self.digest)?;
        if self.size > LARGEST {
            return Err(bad(&format!("{digest} is said to have {} bytes", self.size)));
        }
        // Content that does not match its digest is fetched instead.
        let data = self.data.and_then(|text| STANDARD.decode(text).ok());
        let data = data.filter(|data| data.len() as u64 == self.size && Digest::of(digest.algorithm(), data) == digest);
        Ok(Descriptor { media_type: self.media_type, digest, size: self.size, data })
    }

    fn into_entry(mut self) -> Result<IndexEntry> {
        let unknown = |text: &str| text.is_empty() || text == "unknown";
        let marked = self.annotations.as_ref().is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"));
        let nowhere =
            self.platform.as_ref().is_some_and(|platform| unknown(&platform.os) && unknown(&platform.architecture));
        let platform = self.platform.take().filter(|_| !nowhere).map(|platform| Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant.filter(|variant| !variant.is_empty()),
        });
        let attestation = marked || nowhere || self.media_type.contains("attestation");
        let artifact = |text: &String| !text.is_empty() && !CONFIG_TYPES.contains(&text.as_str());
        // Some old tools name no media type.
        let unknown = !self.media_type.is_empty() && !is_known(&self.media_type);
        let ignored = unknown || self.artifact_type.as_ref().is_some_and(artifact);
        Ok(IndexEntry { descriptor: self.into_descriptor()?, platform, attestation, ignored })
    }
}

fn bad(reason: &str) -> ImageError {
    ErrorKind::Manifest { reason: reason.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":3}}"#, "a".repeat(64))
    }

    fn manifest(config: &str, layer: &str, more: &str) -> String {
        format!(r#"{{"schemaVersion":2,{more}"config":{},"layers":[{}]}}"#, descriptor(config), descriptor(layer))
    }

    const CONFIG: &str = CONFIG_TYPES[0];
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn code(json: &str, content_type: Option<&str>) -> &'static str {
        Document::parse(json.as_bytes(), content_type).err().map_or("ok", |error| error.code())
    }

    #[test]
    fn manifests_of_both_makers_are_read() {
        assert_eq!(code(&manifest(CONFIG, LAYER, ""), Some(MANIFEST_TYPES[0])), "ok");
        let docker = manifest(CONFIG_TYPES[1], "application/vnd.docker.image.rootfs.diff.tar.gzip", "");
        assert_eq!(code(&docker, Some(MANIFEST_TYPES[1])), "ok");
        assert_eq!(code(&docker, Some("text/plain; charset=utf-8")), "ok");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let both = manifest(CONFIG, LAYER, r#""manifests":[],"#);
        let says_index = manifest(CONFIG, LAYER, &format!(r#""mediaType":"{}","#, INDEX_TYPES[0]));
        for (json, content_type) in [
            (both.as_str(), None),
            (says_index.as_str(), None),
            (&manifest(CONFIG, LAYER, &format!(r#""mediaType":"{}","#, MANIFEST_TYPES[0])), Some(MANIFEST_TYPES[1])),
            (&manifest(CONFIG, LAYER, ""), Some(INDEX_TYPES[0])),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None),
            ("{}", None),
            ("[]", None),
            ("<html>", Some("text/html")),
        ] {
            assert_eq!(code(json, content_type), "ERR_MANIFEST", "{json}");
        }
    }

    #[test]
    fn artifacts_and_unknown_layers_are_named_and_refused() {
        for (config, layer) in [
            ("application/vnd.cncf.helm.config.v1+json", LAYER),
            ("application/vnd.oci.empty.v1+json", LAYER),
            (CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            (CONFIG, "application/vnd.wasm.content.layer.v1+wasm"),
            (CONFIG, ""),
        ] {
            assert_eq!(code(&manifest(config, layer, ""), None), "ERR_UNSUPPORTED_MEDIA_TYPE", "{config} {layer}");
        }
    }

    #[test]
    fn attestations_are_told_from_images() {
        let entry = |more: &str| format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":1{more}}}"#, "b".repeat(64));
        let json = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{}]}}"#,
            entry(r#","platform":{"os":"linux","architecture":"arm","variant":"v7","os.version":"1"}"#),
            entry(r#","platform":{"os":"unknown","architecture":"unknown"}"#),
            entry(r#","platform":{"os":"linux","architecture":"arm"},"annotations":{"vnd.docker.reference.type":"a"}"#),
        );
        let Document::Index(entries) = Document::parse(json.as_bytes(), None).unwrap().0 else { panic!("an index") };
        assert_eq!(entries.iter().map(|entry| entry.attestation).collect::<Vec<_>>(), [false, true, true]);
        assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/arm/v7");
    }

    #[test]
    fn carried_data_counts_only_if_it_matches() {
        let of = |data: &str, size: u64| {
            let digest = Digest::of(crate::model::Algorithm::Sha256, b"abc");
            let raw: RawDescriptor =
                serde_json::from_str(&format!(r#"{{"digest":"{digest}","size":{size},"data":"{data}"}}"#)).unwrap();
            raw.into_descriptor().unwrap().data
        };
        assert_eq!(of("YWJj", 3).as_deref(), Some(&b"abc"[..]));
        assert_eq!((of("YWJk", 3), of("YWJj", 4), of("%", 3)), (None, None, None));
    }
}
