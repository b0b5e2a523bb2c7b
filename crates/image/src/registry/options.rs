//! What a caller may set about the network. The core reads no environment: its values come in here.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use crate::registry::auth::{CredentialProvider, RegistryAuth};

/// Settings of a [`Client`](super::Client).
#[derive(Clone)]
pub struct ClientOptions {
    /// A credential for the registry of the reference, before all others.
    pub auth: Option<RegistryAuth>,
    /// Asked for a credential by host, after `auth`.
    pub credential_provider: Option<Arc<dyn CredentialProvider>>,
    /// Where stored logins are looked up, after those.
    pub credentials: CredentialSource,
    /// Hosts that may be spoken to in plain HTTP. Loopback needs no mention.
    pub insecure: Insecure,
    /// PEM texts of certificates that are trusted beside the system's.
    pub ca_certificates: Vec<Vec<u8>>,
    /// Base URLs tried in order before the registry, by its name (`docker.io`).
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Which proxy to go through.
    pub proxy: ProxySetting,
    /// Longest time for a connection to come up, TLS included.
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    pub stall_timeout: Duration,
    /// How often a request is tried again; progress resets the count.
    pub retries: u32,
    /// Values of environment variables.
    pub environment: Environment,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            auth: None,
            credential_provider: None,
            credentials: CredentialSource::Default,
            insecure: Insecure::Hosts(Vec::new()),
            ca_certificates: Vec::new(),
            mirrors: BTreeMap::new(),
            proxy: ProxySetting::Environment,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            retries: 5,
            environment: Environment::default(),
        }
    }
}

/// Where stored logins are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// Docker's `config.json`, then podman's `auth.json`, at their usual places.
    Default,
    /// Nowhere.
    None,
    /// One file in the form of Docker's `config.json`.
    File(PathBuf),
}

/// Hosts (`host:port`) that may be spoken to in plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insecure {
    /// These, and loopback.
    Hosts(Vec<String>),
    /// Any.
    Any,
}

/// Which proxy to go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxySetting {
    /// As HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say.
    Environment,
    /// None at all.
    None,
    /// This one, for all hosts (`http`, `https`, `socks5`, `socks5h` or `socks4`).
    Url(String),
}

/// Values of environment variables, as the caller saw them.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Variables this crate looks at; a caller need not hand over others.
    pub const NAMES: [&'static str; 18] = [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
        "SSL_CERT_FILE",
        "NODE_EXTRA_CA_CERTS",
        "DOCKER_CONFIG",
        "DOCKER_AUTH_CONFIG",
        "REGISTRY_AUTH_FILE",
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "HOME",
        "PATH",
        "SSL_CERT_DIR",
    ];

    /// Takes the variables over.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// A variable's value; an empty one is none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may hold secrets: a proxy's password, a login.
        f.debug_set().entries(self.0.keys()).finish()
    }
}
