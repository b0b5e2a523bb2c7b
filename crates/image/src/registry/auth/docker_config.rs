//! Stored logins as Docker and podman write them: `auths`, `credHelpers`, `credsStore` (docker/cli, config file).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer};

use crate::registry::{
    auth::secret::{RegistryAuth, Secret},
    endpoint::canonical_host,
};

/// One file of logins.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Logins {
    #[serde(deserialize_with = "null_is_none")]
    auths: BTreeMap<String, Login>,
    #[serde(rename = "credHelpers", deserialize_with = "null_is_none")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken", alias = "identityToken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken", alias = "registryToken")]
    registry_token: Option<String>,
}

/// Go writes an empty map as `null`.
fn null_is_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<BTreeMap<String, T>, D::Error> {
    Ok(Option::<BTreeMap<String, T>>::deserialize(from)?.unwrap_or_default())
}

/// Where a login is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In the file.
    Here(RegistryAuth),
    /// With the program `docker-credential-<name>`, under a server's address.
    Helper { name: String, server: String },
}

impl Logins {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The login for `host/repository`: a helper for that host, else the longest prefix among the stored ones, else
    /// the store for all hosts.
    pub(super) fn find(&self, host: &str, repository: &str) -> Option<Found> {
        let host = canonical_host(host);
        let helper = self.helpers.iter().find(|(key, _)| canonical_host(&normalise(key)) == host);
        if let Some((key, name)) = helper {
            return Some(Found::Helper { name: name.clone(), server: server_for_helper(key, host) });
        }
        let wanted = format!("{host}/{repository}");
        let fitting = self.auths.iter().filter_map(|(key, login)| {
            let key = normalise(key);
            let (key_host, path) = key.split_once('/').map_or((key.as_str(), ""), |(host, path)| (host, path));
            let key = if path.is_empty() {
                canonical_host(key_host).to_owned()
            } else {
                format!("{}/{path}", canonical_host(key_host))
            };
            let fits = wanted == key || wanted.strip_prefix(&key).is_some_and(|rest| rest.starts_with('/'));
            fits.then_some((key.len(), login))
        });
        let best =
            fitting.filter_map(|(length, login)| Some((length, login.to_auth()?))).max_by_key(|(length, _)| *length);
        if let Some((_, auth)) = best {
            return Some(Found::Here(auth));
        }
        self.store.as_ref().map(|name| Found::Helper { name: name.clone(), server: server_for_helper(host, host) })
    }
}

/// Docker Hub's logins are stored under its oldest address.
fn server_for_helper(key: &str, host: &str) -> String {
    if host == "docker.io" { "https://index.docker.io/v1/".to_owned() } else { key.to_owned() }
}

/// Strips what old versions of Docker put around a host: scheme, API version, slashes.
fn normalise(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let key = key.strip_suffix("/v1").or(key.strip_suffix("/v2")).unwrap_or(key);
    key.trim_end_matches('/').to_ascii_lowercase()
}

impl Login {
    fn to_auth(&self) -> Option<RegistryAuth> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identity_token) {
            return Some(RegistryAuth::Identity(Secret::new(token)));
        }
        if let Some(token) = filled(&self.registry_token) {
            return Some(RegistryAuth::Token(Secret::new(token)));
        }
        if let Some(auth) = filled(&self.auth) {
            let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (username, password) = text.split_once(':')?;
            let password = Secret::new(password.trim_end_matches('\0'));
            return Some(RegistryAuth::Basic { username: username.to_owned(), password });
        }
        let (username, password) = (filled(&self.username)?, filled(&self.password)?);
        Some(RegistryAuth::Basic { username, password: Secret::new(password) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(found: Option<Found>) -> Option<String> {
        match found? {
            Found::Here(RegistryAuth::Basic { username, .. }) => Some(username),
            Found::Here(other) => Some(format!("{other:?}")),
            Found::Helper { name, server } => Some(format!("{name}@{server}")),
        }
    }

    #[test]
    fn keys_are_matched_as_docker_and_podman_do() {
        let login = |name: &str| format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(format!("{name}:pw:with:colons")));
        let file = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{},"ghcr.io":{},"ghcr.io/org":{},"ghcr.io/org/deep":{},
            "http://h.example:5000/v2/":{},"id.example":{{"identitytoken":"t"}},"empty.example":{{}},"bad.example":{{"auth":"%"}}}},
            "credHelpers":{{"gcr.io":"gcloud"}}}}"#,
            login("hub"),
            login("all"),
            login("org"),
            login("deep"),
            login("port")
        );
        let logins = Logins::parse(file.as_bytes()).unwrap();
        for (host, repository, expected) in [
            ("docker.io", "library/alpine", Some("hub")),
            ("registry-1.docker.io", "x", Some("hub")),
            ("ghcr.io", "other/x", Some("all")),
            ("ghcr.io", "org/x", Some("org")),
            ("ghcr.io", "org/deep", Some("deep")),
            ("ghcr.io", "org/deeper", Some("org")),
            ("ghcr.io", "organisation/x", Some("all")),
            ("h.example:5000", "x", Some("port")),
            ("h.example", "x", None),
            ("id.example", "x", Some("Identity(***)")),
            ("empty.example", "x", None),
            ("bad.example", "x", None),
            ("gcr.io", "x", Some("gcloud@gcr.io")),
            ("notghcr.io", "x", None),
        ] {
            assert_eq!(user(logins.find(host, repository)).as_deref(), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn the_store_serves_all_other_hosts() {
        let logins = Logins::parse(br#"{"auths":null,"credHelpers":null,"credsStore":"pass"}"#).unwrap();
        assert_eq!(user(logins.find("docker.io", "x")).as_deref(), Some("pass@https://index.docker.io/v1/"));
        assert_eq!(user(logins.find("q.example", "x")).as_deref(), Some("pass@q.example"));
    }
}
