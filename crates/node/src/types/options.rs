//! Options, as the TypeScript face checked and completed them.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use microsandbox_image_core::{
    Platform, PullOptions, PullPolicy, Settings,
    layer::Limits,
    registry::{ClientOptions, CredentialSource, Environment, Insecure, ProxySetting, RegistryAuth, Secret},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistryText {
    pub(crate) cache: String,
    #[serde(default)]
    pub(crate) trusted_owners: Vec<u32>,
    access_scope: Option<String>,
    pub(crate) platform: Option<Platform>,
    auth: Option<AuthText>,
    #[serde(default)]
    pub(crate) asks_for_credentials: bool,
    credentials: Option<String>,
    #[serde(default)]
    insecure: Vec<String>,
    #[serde(default)]
    insecure_any: bool,
    #[serde(default)]
    ca_certificates: Vec<String>,
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    /// Missing: the environment's; null: none.
    #[serde(default, deserialize_with = "present")]
    proxy: Option<Option<String>>,
    connect_timeout: Option<u64>,
    stall_timeout: Option<u64>,
    /// Missing: the default; null: for ever.
    #[serde(default, deserialize_with = "present")]
    lock_timeout: Option<Option<u64>>,
    retries: Option<u32>,
    concurrency: Option<usize>,
    threads: Option<usize>,
    #[serde(default)]
    limits: LimitsText,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LimitsText {
    #[serde(deserialize_with = "present")]
    layer_bytes: Option<Option<u64>>,
    #[serde(deserialize_with = "present")]
    file_bytes: Option<Option<u64>>,
    #[serde(deserialize_with = "present")]
    entries: Option<Option<u64>>,
    #[serde(deserialize_with = "present")]
    depth: Option<Option<u64>>,
}

/// Tells a null from a missing field.
pub(crate) fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(from).map(Some)
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum AuthText {
    Basic { username: String, password: String },
    Token { token: String },
    Anonymous(Anonymous),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Anonymous {
    Anonymous,
}

impl From<AuthText> for RegistryAuth {
    fn from(auth: AuthText) -> Self {
        match auth {
            AuthText::Basic { username, password } => Self::Basic { username, password: Secret::new(password) },
            AuthText::Token { token } => Self::Token(Secret::new(token)),
            AuthText::Anonymous(Anonymous::Anonymous) => Self::Anonymous,
        }
    }
}

impl RegistryText {
    pub(crate) fn settings(&self) -> Settings {
        let defaults = Settings::default();
        let limits = Limits::default();
        Settings {
            limits: Limits {
                layer_bytes: self.limits.layer_bytes.unwrap_or(limits.layer_bytes),
                file_bytes: self.limits.file_bytes.unwrap_or(limits.file_bytes),
                entries: self.limits.entries.unwrap_or(limits.entries),
                depth: self.limits.depth.unwrap_or(limits.depth),
            },
            concurrency: self.concurrency.unwrap_or(defaults.concurrency),
            extractions: self.threads.unwrap_or(defaults.extractions),
            writers: self.threads.unwrap_or(defaults.writers).min(4),
            lock_timeout: self.lock_timeout.map_or(defaults.lock_timeout, |limit| limit.map(Duration::from_millis)),
            access_scope: self.access_scope.clone(),
        }
    }

    pub(crate) fn into_client(self) -> ClientOptions {
        let defaults = ClientOptions::default();
        let time = |given: Option<u64>, default| given.map_or(default, Duration::from_millis);
        ClientOptions {
            auth: self.auth.map(Into::into),
            credential_provider: None,
            credentials: match self.credentials.as_deref() {
                None | Some("default") => CredentialSource::Default,
                Some("none") => CredentialSource::None,
                Some(path) => CredentialSource::File(PathBuf::from(path)),
            },
            insecure: if self.insecure_any { Insecure::Any } else { Insecure::Hosts(self.insecure) },
            ca_certificates: self.ca_certificates.into_iter().map(String::into_bytes).collect(),
            mirrors: self.mirrors,
            proxy: match self.proxy {
                None => ProxySetting::Environment,
                Some(None) => ProxySetting::None,
                Some(Some(url)) => ProxySetting::Url(url),
            },
            connect_timeout: time(self.connect_timeout, defaults.connect_timeout),
            stall_timeout: time(self.stall_timeout, defaults.stall_timeout),
            retries: self.retries.unwrap_or(defaults.retries),
            environment: Environment::new(self.environment),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PullText {
    policy: String,
    force: bool,
    index: bool,
    pub(crate) platform: Option<Platform>,
    allow_platform_mismatch: bool,
    verify_before_extract: bool,
    keep_blobs: bool,
    check_space: bool,
    durable: bool,
}

impl Default for PullText {
    fn default() -> Self {
        Self {
            policy: "if-missing".to_owned(),
            force: false,
            index: true,
            platform: None,
            allow_platform_mismatch: false,
            verify_before_extract: false,
            keep_blobs: true,
            check_space: true,
            durable: false,
        }
    }
}

impl From<PullText> for PullOptions {
    fn from(text: PullText) -> Self {
        Self {
            policy: match text.policy.as_str() {
                "always" => PullPolicy::Always,
                "never" => PullPolicy::Never,
                _ => PullPolicy::IfMissing,
            },
            force: text.force,
            index: text.index,
            platform: text.platform,
            allow_platform_mismatch: text.allow_platform_mismatch,
            verify_before_extract: text.verify_before_extract,
            keep_blobs: text.keep_blobs,
            check_space: text.check_space,
            durable: text.durable,
        }
    }
}
