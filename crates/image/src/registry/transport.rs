//! One question to one server and its answer, with the login that the server wants. What is tried again is decided
//! above.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header::WWW_AUTHENTICATE};

use crate::{
    error::{ErrorKind, Result},
    registry::{
        auth::{Challenge, Credentials, Login, RegistryAuth, Secret, Sent, Tokens, fetch_token},
        connections::Connections,
        endpoint::{Endpoint, check_insecure, check_mirrors},
        mirror::Mirrors,
        options::ClientOptions,
        redirect::Answer,
        response,
        retry::Failure,
        reuse::Servers,
    },
};

/// What is asked of a server.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) repository: &'a str,
    /// Below `/v2/<repository>/`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'a str>,
    /// Only the head of the answer.
    pub(super) head: bool,
    /// First byte wanted.
    pub(super) from: u64,
    /// The byte after the last one wanted, where that is not the end.
    pub(super) to: Option<u64>,
    /// What it is, for errors.
    pub(super) what: &'a str,
}

impl Ask<'_> {
    /// The `Range` to ask for (RFC 9110, 14.2). None for the whole: some registries refuse `bytes=0-`.
    pub(super) fn range(&self) -> Option<String> {
        match self.to {
            Some(to) => Some(format!("bytes={}-{}", self.from, to.saturating_sub(1))),
            None => (self.from > 0).then(|| format!("bytes={}-", self.from)),
        }
    }
}

pub(super) struct Transport {
    pub(super) options: Arc<ClientOptions>,
    pub(super) mirrors: Mirrors,
    pub(super) schemes: Mutex<HashMap<String, &'static str>>,
    /// All secrets that a server may echo.
    pub(super) sent: Sent,
    connections: Connections,
    servers: Servers,
    tokens: Tokens,
    credentials: Credentials,
}

impl Transport {
    pub(super) fn new(options: ClientOptions) -> Result<Self> {
        check_insecure(&options)?;
        check_mirrors(&options)?;
        options.auth.iter().try_for_each(RegistryAuth::check)?;
        let connections = Connections::new(&options)?;
        let sent = Sent::default();
        sent.note(connections.secrets());
        Ok(Self {
            sent,
            connections,
            options: Arc::new(options),
            servers: Servers::default(),
            mirrors: Mirrors::default(),
            schemes: Mutex::default(),
            tokens: Tokens::default(),
            credentials: Credentials::default(),
        })
    }

    /// The HTTP client for a URL.
    pub(super) fn client(&self, url: &Url) -> Result<Client> {
        self.connections.client(url, self.options.connect_timeout)
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        host: &str,
        what: &str,
    ) -> std::result::Result<Response, Failure> {
        let (connect, stall) = (self.options.connect_timeout, self.options.stall_timeout);
        match tokio::time::timeout(connect + stall, self.servers.ask(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(response::network(host, &error, connect)),
            Err(_) => Err(ErrorKind::Timeout {
                what: format!("{host} did not answer for {what} (option stallTimeout)"),
                after_ms: (connect + stall).as_millis() as u64,
            }
            .into()),
        }
    }

    /// Asks one server, logging in as it wants.
    pub(super) async fn ask(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> std::result::Result<Answer, Failure> {
        let mut url = self.base(endpoint).await?;
        let prefix = url.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/{}/{}", ask.repository, ask.path));
        let kept = self.tokens.get(&endpoint.host, ask.repository);
        let answer = self.follow(&url, ask, kept.as_ref()).await?;
        match answer.response.status() {
            _ if answer.is_taken() => Ok(answer),
            // What a storage server says about logins is not about the registry's.
            _ if answer.foreign => Err(self.failed(endpoint, ask, answer, Login::Unknown).await),
            StatusCode::UNAUTHORIZED => {
                // No login yet, or one that has run out.
                if let Some(kept) = &kept {
                    self.tokens.forget(&endpoint.host, ask.repository, kept);
                }
                self.ask_with_login(endpoint, &url, ask, answer).await
            }
            StatusCode::FORBIDDEN if kept.is_some() => {
                let (auth, login) = self.credential(endpoint, ask.repository).await?;
                let failure = self.failed(endpoint, ask, answer, login).await;
                self.ask_with_another_login(endpoint, &url, ask, (failure, auth, login), kept.as_ref()).await
            }
            _ => Err(self.failed(endpoint, ask, answer, Login::Unknown).await),
        }
    }

    /// Answers a challenge, once.
    async fn ask_with_login(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
        answer: Answer,
    ) -> std::result::Result<Answer, Failure> {
        let Some(challenge) = challenge_of(&answer.response) else {
            return Err(self.failed(endpoint, ask, answer, Login::Unknown).await);
        };
        let (auth, login) = self.credential(endpoint, ask.repository).await?;
        let failure = match self.log_in(endpoint, url, ask.repository, &challenge, (&auth, login)).await {
            Ok(None) => return Err(self.failed(endpoint, ask, answer, login).await),
            Ok(Some(header)) => {
                response::discard(answer.response, &endpoint.host).await;
                match self.ask_with(endpoint, url, ask, &header, login).await? {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                }
            }
            // The token server did not take the login.
            Err(failure) if failure.is_refusal() => failure,
            Err(failure) => return Err(failure),
        };
        self.ask_with_another_login(endpoint, url, ask, (failure, auth, login), None).await
    }

    /// Asks with this `Authorization`. The inner failure is the server's answer to it.
    async fn ask_with(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
        header: &Secret,
        login: Login,
    ) -> std::result::Result<std::result::Result<Answer, Failure>, Failure> {
        let answer = self.follow(url, ask, Some(header)).await?;
        if answer.is_taken() {
            return Ok(Ok(answer));
        }
        if answer.response.status() == StatusCode::UNAUTHORIZED && !answer.foreign {
            self.tokens.forget(&endpoint.host, ask.repository, header);
        }
        Ok(Err(self.failed(endpoint, ask, answer, login).await))
    }

    /// A stored login that is rejected may be stale: what is stored now is tried if it is another one, and then none,
    /// because the image may be public.
    async fn ask_with_another_login(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
        (failure, rejected, login): (Failure, RegistryAuth, Login),
        kept: Option<&Secret>,
    ) -> std::result::Result<Answer, Failure> {
        if login != Login::Stored || !failure.is_refusal() {
            return Err(failure);
        }
        self.credentials.forget(&endpoint.host, ask.repository, &rejected).await;
        let (auth, login) = self.credential(endpoint, ask.repository).await?;
        // A token that was kept may be of a login before the one that is stored now.
        if login == Login::Stored && (auth != rejected || kept.is_some()) {
            if let Some(kept) = kept {
                self.tokens.forget(&endpoint.host, ask.repository, kept);
            }
            let answer = self.follow(url, ask, None).await?;
            if answer.is_taken() {
                return Ok(answer);
            }
            let challenge = challenge_of(&answer.response).filter(|_| !answer.foreign);
            response::discard(answer.response, &endpoint.host).await;
            if let Some(challenge) = challenge
                && let Some(header) = self.log_in(endpoint, url, ask.repository, &challenge, (&auth, login)).await?
                && let Ok(answer) = self.ask_with(endpoint, url, ask, &header, login).await?
            {
                return Ok(answer);
            }
        }
        self.ask_anonymously(endpoint, url, ask).await.map_err(|_| failure.after_anonymous_try())
    }

    async fn ask_anonymously(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        ask: &Ask<'_>,
    ) -> std::result::Result<Answer, Failure> {
        let answer = self.follow(url, ask, None).await?;
        if answer.is_taken() {
            return Ok(answer);
        }
        let challenge = challenge_of(&answer.response).filter(|_| !answer.foreign);
        let Some(challenge @ Challenge::Bearer { .. }) = challenge else {
            return Err(self.failed(endpoint, ask, answer, Login::Unknown).await);
        };
        let header =
            self.log_in(endpoint, url, ask.repository, &challenge, (&RegistryAuth::Anonymous, Login::Unknown)).await?;
        let answer = self.follow(url, ask, header.as_ref()).await?;
        if answer.is_taken() { Ok(answer) } else { Err(self.failed(endpoint, ask, answer, Login::Unknown).await) }
    }

    async fn failed(&self, endpoint: &Endpoint, ask: &Ask<'_>, answer: Answer, login: Login) -> Failure {
        let (stall, mask) = (self.options.stall_timeout, self.sent.mask());
        response::failure(answer, &endpoint.host, ask.what, stall, login, &mask).await
    }

    /// The `Authorization` that answers a challenge; `None` if there is nothing to answer with.
    async fn log_in(
        &self,
        endpoint: &Endpoint,
        asked: &Url,
        repository: &str,
        challenge: &Challenge,
        (auth, login): (&RegistryAuth, Login),
    ) -> std::result::Result<Option<Secret>, Failure> {
        let (header, life) = match (challenge, auth) {
            (_, RegistryAuth::Token(token)) => (Secret::new(format!("Bearer {}", token.reveal())), None),
            (Challenge::Basic, RegistryAuth::Basic { username, password }) => (password.as_basic(username), None),
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { .. }, auth) => {
                let plain = asked.scheme() == "http";
                let (header, life) =
                    fetch_token(self, challenge, (auth, login), &endpoint.host, plain, repository).await?;
                (header, Some(life))
            }
        };
        header.to_header(&endpoint.host)?;
        self.sent.note([header.clone()]);
        self.tokens.keep(&endpoint.host, repository, header.clone(), life);
        Ok(Some(header))
    }

    async fn credential(&self, endpoint: &Endpoint, repository: &str) -> Result<(RegistryAuth, Login)> {
        let found = self.credentials.find(&self.options, &endpoint.host, repository, !endpoint.is_mirror).await?;
        self.sent.note(found.0.secrets());
        Ok(found)
    }
}

fn challenge_of(response: &Response) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    Challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()))
}
