//! One request and its answer: TLS or plain, credentials, redirects. What is tried again is decided above.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, WWW_AUTHENTICATE},
    redirect::Policy,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::OnceCell;

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        auth::{Challenge, RegistryAuth, Secret, Tokens, fetch_token, find_credential},
        endpoint::{Endpoint, authority, check_mirrors, may_be_plain},
        options::ClientOptions,
        proxy::Proxies,
        response,
        retry::Failure,
        tls,
    },
};

const MOST_REDIRECTS: usize = 10;
/// A mirror that can't be reached costs this once, and is passed over for a while.
const MIRROR_CONNECT: Duration = Duration::from_secs(2);
const MIRROR_REST: Duration = Duration::from_secs(60);

/// What is asked of a server.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) repository: &'a str,
    /// Below `/v2/<repository>/`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// First byte wanted.
    pub(super) from: u64,
    /// What it is, for errors.
    pub(super) what: &'a str,
}

type ServerAndRepository = (String, String);

pub(super) struct Transport {
    pub(super) options: Arc<ClientOptions>,
    proxies: Proxies,
    added: Vec<CertificateDer<'static>>,
    plain: Client,
    secure: Mutex<HashMap<Duration, Client>>,
    tokens: Tokens,
    schemes: Mutex<HashMap<String, &'static str>>,
    credentials: Mutex<HashMap<ServerAndRepository, Arc<OnceCell<RegistryAuth>>>>,
    resting: Mutex<HashMap<String, Instant>>,
}

impl Transport {
    pub(super) fn new(options: ClientOptions) -> Result<Self> {
        check_mirrors(&options)?;
        let proxies = Proxies::new(&options)?;
        let added = tls::parse_added(&options)?;
        let plain = build(&options, &proxies, tls::no_config(), options.connect_timeout)?;
        Ok(Self {
            options: Arc::new(options),
            proxies,
            added,
            plain,
            secure: Mutex::default(),
            tokens: Tokens::default(),
            schemes: Mutex::default(),
            credentials: Mutex::default(),
            resting: Mutex::default(),
        })
    }

    /// A client that can speak TLS. The system's roots are read when the first one is wanted.
    pub(super) fn client(&self, _host: &str) -> Result<Client> {
        self.secure_client(self.options.connect_timeout)
    }

    fn secure_client(&self, connect_timeout: Duration) -> Result<Client> {
        let mut clients = self.secure.lock().map_err(|_| ImageError::internal("a thread panicked over the clients"))?;
        if let Some(client) = clients.get(&connect_timeout) {
            return Ok(client.clone());
        }
        let config = tls::config(&self.added, &self.options.environment)?;
        let client = build(&self.options, &self.proxies, config, connect_timeout)?;
        clients.insert(connect_timeout, client.clone());
        Ok(client)
    }

    fn client_for(&self, url: &Url, is_mirror: bool) -> Result<Client> {
        if url.scheme() == "http" {
            return Ok(self.plain.clone());
        }
        let timeout = self.options.connect_timeout;
        self.secure_client(if is_mirror { timeout.min(MIRROR_CONNECT) } else { timeout })
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(&self, request: RequestBuilder, host: &str, what: &str) -> Result<Response> {
        let patience = self.options.connect_timeout + self.options.stall_timeout;
        match tokio::time::timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(response::network(host, &error)),
            Err(_) => Err(ErrorKind::Timeout {
                what: format!("{host} did not answer for {what} (options connectTimeout, stallTimeout)"),
                after_ms: patience.as_millis() as u64,
            }
            .into()),
        }
    }

    /// True while a mirror that could not be reached is passed over.
    pub(super) fn is_resting(&self, endpoint: &Endpoint) -> bool {
        let resting = self.resting.lock();
        resting.is_ok_and(|resting| resting.get(&endpoint.host).is_some_and(|since| since.elapsed() < MIRROR_REST))
    }

    pub(super) fn rest(&self, endpoint: &Endpoint) {
        if let Ok(mut resting) = self.resting.lock() {
            resting.insert(endpoint.host.clone(), Instant::now());
        }
    }

    /// Asks one server: finds its scheme, logs in as it wants, follows its redirects.
    pub(super) async fn ask(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> std::result::Result<Response, Failure> {
        let base = self.base(endpoint).await?;
        let path = format!("{}/v2/{}/{}", base.path().trim_end_matches('/'), ask.repository, ask.path);
        let mut url = base.clone();
        url.set_path(&path);
        let kept = self.tokens.get(&endpoint.host, ask.repository);
        let response = self.follow(endpoint, &url, ask, kept.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.settle(endpoint, &url, ask, response, kept.is_some()).await;
        }
        // No login yet, or one that has run out: log in once.
        self.tokens.forget(&endpoint.host, ask.repository);
        let Some(challenge) = challenge_of(&response) else {
            return Err(self.failed(endpoint, ask, response).await);
        };
        let auth = self.credential(endpoint, ask.repository).await?;
        let Some(header) = self.log_in(endpoint, &base, ask.repository, &challenge, &auth).await? else {
            return Err(self.failed(endpoint, ask, response).await);
        };
        drop(response);
        let response = self.follow(endpoint, &url, ask, Some(&header)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.forget(&endpoint.host, ask.repository);
        }
        self.settle(endpoint, &url, ask, response, auth != RegistryAuth::Anonymous).await
    }

    /// A success as it is; a rejected login gets one try without it.
    async fn settle(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
        response: Response,
        logged_in: bool,
    ) -> std::result::Result<Response, Failure> {
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let rejected = matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED);
        let auth = self.credential(endpoint, ask.repository).await?;
        let stored = self.options.auth.is_none() && auth != RegistryAuth::Anonymous;
        if !rejected || !logged_in || !stored {
            return Err(self.failed(endpoint, ask, response).await);
        }
        let mut failure = self.failed(endpoint, ask, response).await;
        if let Ok(response) = self.ask_anonymously(endpoint, url, ask).await {
            return Ok(response);
        }
        if let ErrorKind::Unauthorized { registry, reason } = failure.error.kind() {
            let reason = format!("the stored login was rejected, and so was a try without it: {reason}");
            failure.error = ErrorKind::Unauthorized { registry: registry.clone(), reason }.into();
        }
        Err(failure)
    }

    async fn ask_anonymously(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
    ) -> std::result::Result<Response, Failure> {
        let response = self.follow(endpoint, url, ask, None).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let Some(challenge @ Challenge::Bearer { .. }) = challenge_of(&response) else {
            return Err(self.failed(endpoint, ask, response).await);
        };
        let base = self.base(endpoint).await?;
        let anonymous = RegistryAuth::Anonymous;
        let header = self.log_in(endpoint, &base, ask.repository, &challenge, &anonymous).await?;
        let response = self.follow(endpoint, url, ask, header.as_ref()).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.failed(endpoint, ask, response).await) }
    }

    async fn failed(&self, endpoint: &Endpoint, ask: &Ask<'_>, response: Response) -> Failure {
        response::failure(response, &endpoint.host, ask.what, self.options.stall_timeout).await
    }

    /// The `Authorization` that answers a challenge; `None` if there is nothing to answer with.
    async fn log_in(
        &self,
        endpoint: &Endpoint,
        base: &Url,
        repository: &str,
        challenge: &Challenge,
        auth: &RegistryAuth,
    ) -> std::result::Result<Option<Secret>, Failure> {
        let (header, life) = match (challenge, auth) {
            (_, RegistryAuth::Token(token)) => (Secret::new(format!("Bearer {}", token.reveal())), None),
            (Challenge::Basic, RegistryAuth::Basic { username, password }) => {
                use base64::{Engine, engine::general_purpose::STANDARD};
                let pair = STANDARD.encode(format!("{username}:{}", password.reveal()));
                (Secret::new(format!("Basic {pair}")), None)
            }
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { .. }, auth) => {
                let plain = base.scheme() == "http";
                let (header, life) = fetch_token(self, challenge, auth, &endpoint.host, plain, repository).await?;
                (header, Some(life))
            }
        };
        self.tokens.keep(&endpoint.host, repository, header.clone(), life);
        Ok(Some(header))
    }

    /// The credential for a server, looked up once.
    async fn credential(&self, endpoint: &Endpoint, repository: &str) -> Result<RegistryAuth> {
        let cell = {
            let mut known = self.credentials.lock().map_err(|_| ImageError::internal("a thread panicked"))?;
            Arc::clone(known.entry((endpoint.host.clone(), repository.to_owned())).or_default())
        };
        let find = || find_credential(&self.options, &endpoint.host, repository, !endpoint.is_mirror);
        cell.get_or_try_init(find).await.cloned()
    }

    /// Sends and follows redirects: never from TLS to plain, and no credential to another server.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
        header: Option<&Secret>,
    ) -> std::result::Result<Response, Failure> {
        let origin = authority(url);
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let host = authority(&url);
            let mut request = self.client_for(&url, endpoint.is_mirror)?.get(url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if let Some(header) = header.filter(|_| host == origin) {
                request = request.header(AUTHORIZATION, header.reveal());
            }
            let response = self.send(request, &host, ask.what).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            url = self.next_url(&url, &response, &endpoint.host)?;
        }
        Err(wrong_redirect(&endpoint.host, "it redirects more than ten times").into())
    }

    fn next_url(&self, from: &Url, response: &Response, registry: &str) -> Result<Url> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| wrong_redirect(registry, "it redirects to nowhere"))?;
        let to = from.join(location).map_err(|_| wrong_redirect(registry, "it redirects to what is no URL"))?;
        match to.scheme() {
            "https" => Ok(to),
            "http" if from.scheme() == "https" => {
                Err(wrong_redirect(registry, "it redirects from https to plain http, which is refused"))
            }
            "http" if may_be_plain(&self.options, &authority(&to)) => Ok(to),
            "http" => Err(wrong_redirect(registry, "it redirects to a plain http server that is not in insecure")),
            _ => Err(wrong_redirect(registry, "it redirects to what is no web address")),
        }
    }

    /// Scheme and host of a server. Where plain HTTP is allowed it is found out by asking, once, without a credential.
    async fn base(&self, endpoint: &Endpoint) -> std::result::Result<Url, Failure> {
        if let Some(base) = &endpoint.base {
            return Ok(base.clone());
        }
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{}", endpoint.host)).map_err(|_| {
                let reason = "the registry's name is no host".to_owned();
                ImageError::from(ErrorKind::InvalidReference { text: endpoint.host.clone(), reason })
            })
        };
        if !may_be_plain(&self.options, &endpoint.host) {
            return Ok(url("https")?);
        }
        let known = self.schemes.lock().ok().and_then(|known| known.get(&endpoint.host).copied());
        if let Some(scheme) = known {
            return Ok(url(scheme)?);
        }
        let mut ping = url("http")?;
        ping.set_path("/v2/");
        let answer = self.send(self.plain.get(ping), &endpoint.host, "its API").await;
        let scheme = match answer {
            // What a TLS server says to plain HTTP.
            Ok(response) if response.status() == StatusCode::BAD_REQUEST => "https",
            Ok(_) => "http",
            Err(error) if !matches!(error.kind(), ErrorKind::Network { .. }) => return Err(error.into()),
            Err(plain_error) => {
                let mut ping = url("https")?;
                ping.set_path("/v2/");
                let request = self.secure_client(self.options.connect_timeout)?.get(ping);
                match self.send(request, &endpoint.host, "its API").await {
                    Ok(_) => "https",
                    Err(error) if error.to_string().contains("certificate") => return Err(error.into()),
                    Err(_) => return Err(plain_error.into()),
                }
            }
        };
        if let Ok(mut known) = self.schemes.lock() {
            known.insert(endpoint.host.clone(), scheme);
        }
        Ok(url(scheme)?)
    }
}

fn build(options: &ClientOptions, proxies: &Proxies, tls: rustls::ClientConfig, connect: Duration) -> Result<Client> {
    let proxies = proxies.clone();
    let _ = options;
    Client::builder()
        .tls_backend_preconfigured(tls)
        // One connection a blob is faster than the flow control of HTTP/2.
        .http1_only()
        .redirect(Policy::none())
        .no_proxy()
        .proxy(reqwest::Proxy::custom(move |url| proxies.choose(url)))
        .connect_timeout(connect)
        .tcp_nodelay(true)
        .user_agent(concat!("microsandbox-image/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| ImageError::internal(format!("the HTTP client can't be made: {error}")))
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    Challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()))
}

fn wrong_redirect(host: &str, reason: &str) -> ImageError {
    ErrorKind::Registry { registry: host.to_owned(), status: 302, message: reason.to_owned() }.into()
}
