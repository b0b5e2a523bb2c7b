//! HTTP clients, which own the connections: one for plain HTTP, and ones for TLS that are made when first wanted.

use std::{
    collections::HashMap,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use reqwest::{Client, Url, redirect::Policy};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;

use crate::{
    error::{ImageError, Result},
    registry::{
        auth::Secret,
        loopback::Resolver,
        options::{ClientOptions, Environment},
        proxy::Proxies,
        reuse::Patience,
        tls,
    },
};

/// A connection nobody uses is closed after this long, also where a forgotten client still holds it.
const IDLE: Duration = Duration::from_secs(15);

/// The clients of one [`Transport`](super::transport::Transport), by how long a connection may take to come up.
pub(super) struct Connections {
    proxies: Proxies,
    added: Vec<CertificateDer<'static>>,
    environment: Environment,
    tls: OnceLock<ClientConfig>,
    clients: Mutex<HashMap<(bool, Duration), Client>>,
}

impl Connections {
    /// Checks the options. Opens nothing and reads no file.
    pub(super) fn new(options: &ClientOptions) -> Result<Self> {
        Ok(Self {
            proxies: Proxies::new(options)?,
            added: tls::parse_added(options)?,
            environment: options.environment.clone(),
            tls: OnceLock::new(),
            clients: Mutex::default(),
        })
    }

    /// The client for a URL. The system's roots are read when the first one in TLS is wanted.
    pub(super) fn client(&self, url: &Url, connect_timeout: Duration) -> Result<Client> {
        // A proxy may be spoken to in TLS where the server behind it is not.
        let secure = url.scheme() != "http" || self.proxies.choose(url).is_some_and(|proxy| proxy.scheme() == "https");
        let mut clients =
            self.clients.lock().map_err(|_| ImageError::internal("a thread panicked over the clients"))?;
        if let Some(client) = clients.get(&(secure, connect_timeout)) {
            return Ok(client.clone());
        }
        let config = if secure { self.tls_config()? } else { tls::no_config()? };
        let client = self.build(config, connect_timeout)?;
        clients.insert((secure, connect_timeout), client.clone());
        Ok(client)
    }

    /// What a proxy is told in secret.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        self.proxies.secrets()
    }

    fn tls_config(&self) -> Result<ClientConfig> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let config = tls::config(&self.added, &self.environment)?;
        Ok(self.tls.get_or_init(|| config).clone())
    }

    fn build(&self, tls: ClientConfig, connect_timeout: Duration) -> Result<Client> {
        let proxies = self.proxies.clone();
        Client::builder()
            .tls_backend_preconfigured(tls)
            // One connection a blob is faster than the flow control of HTTP/2.
            .http1_only()
            .redirect(Policy::none())
            .no_proxy()
            .proxy(reqwest::Proxy::custom(move |url| proxies.choose(url)))
            .connect_timeout(connect_timeout)
            .dns_resolver(Resolver)
            .connector_layer(Patience)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("microsandbox-image/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ImageError::internal(format!("the HTTP client can't be made: {error}")))
    }
}
