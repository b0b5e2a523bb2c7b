//! The image config: what a container of this image runs (OCI image-spec, config.md; Docker's twin is the same JSON).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    error::{ErrorKind, Result},
    model::{Digest, Platform},
};

/// What a container of the image runs by default. Field names are those of the cache's metadata (SPEC §3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Environment, `KEY=VALUE`.
    pub env: Vec<String>,
    /// Default arguments.
    pub cmd: Option<Vec<String>>,
    /// Program to run.
    pub entrypoint: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// User: `uid`, `uid:gid`, `name` or `name:group`.
    pub user: Option<String>,
    /// Ports the image listens on, `8080/tcp`; sorted.
    pub exposed_ports: Vec<String>,
    /// Mount points for volumes; sorted.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that stops the container.
    pub stop_signal: Option<String>,
}

/// A config blob, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedConfig {
    /// What a container runs.
    pub image: ImageConfig,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
    /// The platform that the config names; `None` where it names none.
    pub platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawConfig,
    #[serde(default, deserialize_with = "null_is_default")]
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "words")]
    cmd: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
}

/// Go writes empty lists and maps as `null`.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A command is a list of words; some old builders wrote one string.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(from)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

impl ParsedConfig {
    /// Parses a config blob. Fails with `ERR_CONFIG`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // serde would also fill a struct from a JSON array.
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(ErrorKind::Config { reason: "it is not a JSON object".to_owned() }.into());
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| {
            ErrorKind::Config { reason: "it is not the JSON of an image".to_owned() }.caused_by(error)
        })?;
        let diff_ids = raw.rootfs.diff_ids.iter().map(|text| Digest::parse(text)).collect::<Result<Vec<_>>>();
        let diff_ids = diff_ids
            .map_err(|error| ErrorKind::Config { reason: "a diff_id is no digest".to_owned() }.caused_by(error))?;
        let platform = match (filled(raw.os), filled(raw.architecture)) {
            (Some(os), Some(architecture)) => Some(Platform { os, architecture, variant: filled(raw.variant) }),
            _ => None,
        };
        let config = raw.config;
        let image = ImageConfig {
            env: config.env,
            cmd: config.cmd,
            entrypoint: config.entrypoint,
            working_dir: filled(config.working_dir),
            user: filled(config.user),
            exposed_ports: config.exposed_ports.into_keys().collect(),
            volumes: config.volumes.into_keys().collect(),
            labels: config.labels,
            stop_signal: filled(config.stop_signal),
        };
        Ok(Self { image, diff_ids, platform })
    }
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_config_with_nulls_and_maps_is_read() {
        let diff_id = format!("sha256:{}", "1".repeat(64));
        let json = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],
            "ExposedPorts":{{"80/tcp":{{}},"443/tcp":{{}}}},"Volumes":null,"Labels":null,"WorkingDir":"","User":"1:2"}},
            "rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},"history":[]}}"#
        );
        let parsed = ParsedConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(parsed.platform.unwrap().to_string(), "linux/amd64");
        assert_eq!(parsed.diff_ids[0].to_string(), diff_id);
        assert_eq!(parsed.image.exposed_ports, ["443/tcp", "80/tcp"]);
        assert_eq!((parsed.image.cmd, parsed.image.working_dir), (None, None));
        assert_eq!(parsed.image.user.as_deref(), Some("1:2"));
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for bad in ["", "[]", "{\"rootfs\":{\"diff_ids\":[\"x\"]}}", "{\"config\":3}"] {
            assert_eq!(ParsedConfig::parse(bad.as_bytes()).unwrap_err().code(), "ERR_CONFIG", "{bad}");
        }
        assert_eq!(ParsedConfig::parse(b"{\"config\":null,\"rootfs\":null}").unwrap().diff_ids, []);
    }
}
