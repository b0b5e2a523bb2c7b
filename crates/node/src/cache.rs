//! The cache: paths and metadata.

use std::path::Path;

use microsandbox_image_core::{
    Digest, ErrorKind, GlobalCache, Platform, Reference, Result,
    store::{CachedImageMetadata, LayerFile},
};
use napi::{Env, bindgen_prelude::Object};
use napi_derive::napi;

use crate::{model::parse_json, outcome::guarded, runtime, types::MetadataText};

/// One cache directory.
#[napi]
pub struct NativeCache(GlobalCache);

#[napi]
impl NativeCache {
    /// Takes an absolute path, and the users whose files are believed.
    #[napi(constructor)]
    pub fn new(directory: String, trusted_owners: Vec<u32>) -> Self {
        Self(GlobalCache::new(Path::new(&directory)).with_trusted_owners(&trusted_owners))
    }

    /// The path of a file of a layer; `kind` is one of the names in the TypeScript face.
    #[napi]
    pub fn layer_path(&self, digest: String, kind: String) -> String {
        guarded(|| {
            let file = match kind.as_str() {
                "blob" => LayerFile::Blob,
                "part" => LayerFile::Part,
                "extracting" => LayerFile::Extracting,
                "index" => LayerFile::Index,
                "implicit-dirs" => LayerFile::ImplicitDirs,
                "lock" => LayerFile::Lock,
                "download-lock" => LayerFile::DownloadLock,
                _ => LayerFile::Tree,
            };
            Ok(self.0.layer(&Digest::parse(&digest)?, file).to_string_lossy().into_owned())
        })
    }

    /// The path of a reference's metadata, or of its lock.
    #[napi]
    pub fn image_path(&self, reference: String, platform: Option<String>, lock: bool) -> String {
        guarded(|| {
            let (reference, platform) = parse(&reference, platform)?;
            let path = if lock {
                self.0.image_lock_path(&reference, &platform)
            } else {
                self.0.image_metadata_path(&reference, &platform)
            };
            Ok(path.to_string_lossy().into_owned())
        })
    }

    /// Whether all these layers' trees are there and whole.
    #[napi]
    pub fn all_extracted(&self, digests: Vec<String>) -> String {
        guarded(|| {
            let digests = digests.iter().map(|digest| Digest::parse(digest)).collect::<Result<Vec<_>>>()?;
            Ok(self.0.all_layers_extracted(&digests))
        })
    }

    /// A reference's metadata.
    #[napi]
    pub fn read_metadata(&self, reference: String, platform: Option<String>) -> String {
        guarded(|| {
            let (reference, platform) = parse(&reference, platform)?;
            Ok(self.0.read_image_metadata(&reference, &platform)?.map(MetadataText::from))
        })
    }

    /// Writes a reference's metadata.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn write_metadata<'env>(
        &self,
        env: &'env Env,
        reference: String,
        platform: Option<String>,
        metadata: String,
    ) -> napi::Result<Object<'env>> {
        let cache = self.0.clone();
        runtime::promise_blocking(env, move || {
            let (reference, platform) = parse(&reference, platform)?;
            let metadata = parse_json::<MetadataText>("metadata", &metadata)?.into();
            check_readable(&metadata)?;
            cache.write_image_metadata(&reference, &platform, &metadata)
        })
    }

    /// Deletes a reference's metadata.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn delete_metadata<'env>(
        &self,
        env: &'env Env,
        reference: String,
        platform: Option<String>,
    ) -> napi::Result<Object<'env>> {
        let cache = self.0.clone();
        runtime::promise_blocking(env, move || {
            let (reference, platform) = parse(&reference, platform)?;
            cache.delete_image_metadata(&reference, &platform)
        })
    }
}

impl NativeCache {
    pub(crate) fn cache(&self) -> &GlobalCache {
        &self.0
    }
}

fn parse(reference: &str, platform: Option<String>) -> Result<(Reference, Platform)> {
    let platform = platform.map(|text| parse_json::<Platform>("platform", &text)).transpose()?;
    Ok((Reference::parse(reference)?, platform.unwrap_or_default()))
}

/// Refuses what could be written and would be damaged for whoever reads it: a key becomes part of a path.
fn check_readable(metadata: &CachedImageMetadata) -> Result<()> {
    match CachedImageMetadata::parse(&metadata.to_json()) {
        Some(_) => Ok(()),
        None => Err(ErrorKind::InvalidOption {
            option: "metadata.layers".to_owned(),
            reason: "`inherited` is 32 hexadecimal digits, in small letters".to_owned(),
        }
        .into()),
    }
}
