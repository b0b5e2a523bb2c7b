//! References, digests and platforms: parsed by the core, so that there is one grammar.

use microsandbox_image_core::{
    Digest, ErrorKind, ImageError, Platform, Reference, Result,
    layer::{self, OverrideStat},
};
use napi_derive::napi;
use serde_json::json;

use crate::outcome::guarded;

/// Parses an image reference.
#[napi(ts_return_type = "string")]
pub fn parse_reference(text: String) -> String {
    guarded(|| {
        let reference = Reference::parse(&text)?;
        Ok(json!({
            "text": reference.as_str(),
            "registry": reference.registry(),
            "repository": reference.repository(),
            "tag": reference.tag(),
            "digest": reference.digest(),
        }))
    })
}

/// Parses a digest.
#[napi]
pub fn parse_digest(text: String) -> String {
    guarded(|| {
        let digest = Digest::parse(&text)?;
        Ok(json!({ "algorithm": digest.algorithm().name(), "hex": digest.hex() }))
    })
}

/// Parses a platform.
#[napi]
pub fn parse_platform(text: String) -> String {
    guarded(|| Platform::parse(&text))
}

/// The platform that is pulled by default.
#[napi]
pub fn host_platform() -> String {
    guarded(|| Ok(Platform::host_linux()))
}

/// Reads the override attribute of a file.
#[napi]
pub fn read_stat(path: String) -> String {
    guarded(|| {
        let stat = layer::read_stat(std::path::Path::new(&path))?;
        let fields =
            |stat: OverrideStat| json!({ "uid": stat.uid, "gid": stat.gid, "mode": stat.mode, "rdev": stat.rdev });
        Ok(stat.map(fields))
    })
}

pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| -> ImageError {
        ErrorKind::InvalidOption { option: what.to_owned(), reason: error.to_string() }.into()
    })
}
