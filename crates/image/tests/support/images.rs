//! Small images and a store that serves them as a registry does.

use std::collections::HashMap;

use microsandbox_image_core::{Digest, model::Algorithm};

use super::server::{Reply, Request};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A descriptor's JSON.
pub fn descriptor(media_type: &str, bytes: &[u8], more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}{more}}}"#, sha256(bytes), bytes.len())
}

/// The `platform` field of an index entry.
pub fn platform_field(text: &str) -> String {
    let parts: Vec<_> = text.split('/').collect();
    let variant = parts.get(2).map(|variant| format!(r#","variant":"{variant}""#)).unwrap_or_default();
    format!(r#","platform":{{"os":"{}","architecture":"{}"{variant}}}"#, parts[0], parts[1])
}

/// The content of a registry: bodies by path below `/v2/<any repository>/`.
#[derive(Default, Clone)]
pub struct Store {
    bodies: HashMap<String, (String, Vec<u8>)>,
}

impl Store {
    /// A store with one image of these layers under `latest`.
    pub fn with_image(layers: &[&[u8]]) -> Self {
        let mut store = Self::default();
        let manifest = store.image("linux/amd64", layers);
        store.tag("latest", OCI_MANIFEST, &manifest);
        store
    }

    /// Adds an image and gives its manifest, which is served by its digest.
    pub fn image(&mut self, platform: &str, layers: &[&[u8]]) -> Vec<u8> {
        let parts: Vec<_> = platform.split('/').collect();
        let variant = parts.get(2).map(|variant| format!(r#","variant":"{variant}""#)).unwrap_or_default();
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!(r#""{}""#, sha256(layer))).collect();
        let config = format!(
            r#"{{"os":"{}","architecture":"{}"{variant},"config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            parts[0],
            parts[1],
            diff_ids.join(",")
        );
        self.blob(config.as_bytes());
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                self.blob(layer);
                descriptor(OCI_LAYER, layer, "")
            })
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(OCI_CONFIG, config.as_bytes(), ""),
            layers.join(",")
        );
        self.manifest(OCI_MANIFEST, manifest.as_bytes());
        manifest.into_bytes()
    }

    /// Adds an index of entries and gives it.
    pub fn index(&mut self, entries: &[String]) -> Vec<u8> {
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
        self.manifest(OCI_INDEX, index.as_bytes());
        index.into_bytes()
    }

    pub fn blob(&mut self, bytes: &[u8]) {
        self.put(&format!("blobs/{}", sha256(bytes)), "application/octet-stream", bytes);
    }

    pub fn manifest(&mut self, media_type: &str, bytes: &[u8]) {
        self.put(&format!("manifests/{}", sha256(bytes)), media_type, bytes);
    }

    pub fn tag(&mut self, tag: &str, media_type: &str, bytes: &[u8]) {
        self.put(&format!("manifests/{tag}"), media_type, bytes);
    }

    pub fn put(&mut self, path: &str, media_type: &str, bytes: &[u8]) {
        self.bodies.insert(path.to_owned(), (media_type.to_owned(), bytes.to_vec()));
    }

    pub fn remove(&mut self, path: &str) {
        self.bodies.remove(path);
    }

    /// Answers as a registry does: the whole, a part, or its own error.
    pub fn reply(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return Reply::new(200, "{}");
        }
        let found = ["manifests/", "blobs/"]
            .iter()
            .find_map(|kind| path.find(kind))
            .and_then(|at| self.bodies.get(&path[at..]));
        let Some((media_type, bytes)) = found else {
            let words = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return Reply::new(404, words);
        };
        let total = bytes.len();
        match request.range() {
            Some((from, last)) if from < total => {
                let last = last.unwrap_or(total).min(total - 1);
                Reply::new(206, &bytes[from..=last])
                    .with("content-range", format!("bytes {from}-{last}/{total}"))
                    .with("content-type", media_type)
            }
            Some(_) => Reply::new(416, "").with("content-range", format!("bytes */{total}")),
            None => Reply::new(200, bytes.clone()).with("content-type", media_type),
        }
    }
}
