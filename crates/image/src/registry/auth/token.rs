//! Bearer tokens: asked for at the realm a registry names, kept for their life (distribution, "Token Authentication").

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use reqwest::Url;
use serde::Deserialize;

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        auth::{
            challenge::Challenge,
            lookup::Login,
            secret::{RegistryAuth, Secret},
        },
        endpoint::{authority, is_named_insecure, same_authority},
        redirect, response,
        retry::Failure,
        transport::Transport,
    },
};

const LONGEST_ANSWER: usize = 64 << 10;
/// Life of a token whose server names none (distribution spec: 60 seconds).
const DEFAULT_LIFE: f64 = 60.0;
/// A token that claims more is asked for again after a day.
const LONGEST_LIFE: f64 = 86_400.0;
/// A token is not used in its last seconds.
const MARGIN: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "microsandbox-image";

/// `Authorization` values by server and repository.
#[derive(Default)]
pub(in crate::registry) struct Tokens(Mutex<HashMap<(String, String), Kept>>);

struct Kept {
    header: Secret,
    until: Option<Instant>,
}

impl Tokens {
    pub(in crate::registry) fn get(&self, host: &str, repository: &str) -> Option<Secret> {
        let mut kept = self.0.lock().ok()?;
        let key = (host.to_owned(), repository.to_owned());
        match kept.get(&key) {
            Some(token) if token.until.is_none_or(|until| Instant::now() < until) => Some(token.header.clone()),
            Some(_) => {
                kept.remove(&key);
                None
            }
            None => None,
        }
    }

    pub(in crate::registry) fn keep(&self, host: &str, repository: &str, header: Secret, life: Option<Duration>) {
        let until = life.map(|life| Instant::now() + life.saturating_sub(MARGIN.min(life / 2)));
        if let Ok(mut kept) = self.0.lock() {
            kept.insert((host.to_owned(), repository.to_owned()), Kept { header, until });
        }
    }

    /// Drops a token that was not taken, unless another download has replaced it already.
    pub(in crate::registry) fn forget(&self, host: &str, repository: &str, header: &Secret) {
        let key = (host.to_owned(), repository.to_owned());
        if let Ok(mut kept) = self.0.lock()
            && kept.get(&key).is_some_and(|token| token.header == *header)
        {
            kept.remove(&key);
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl Answer {
    /// How long the token lives; whatever else than a number stands there means the default.
    fn life(&self) -> Duration {
        let seconds = self.expires_in.as_f64().filter(|seconds| *seconds >= 1.0).unwrap_or(DEFAULT_LIFE);
        Duration::from_secs(seconds.min(LONGEST_LIFE) as u64)
    }
}

/// Gets a token. `registry` is the server that named the realm, `plain` whether it was spoken to in plain HTTP.
pub(in crate::registry) async fn fetch_token(
    transport: &Transport,
    challenge: &Challenge,
    (auth, login): (&RegistryAuth, Login),
    registry: &str,
    plain: bool,
    repository: &str,
) -> std::result::Result<(Secret, Duration), Failure> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return Err(ImageError::internal("a token was asked for without a realm").into());
    };
    let mut url = trusted_realm(transport, realm, registry, plain)?;
    let host = authority(&url);
    let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
    let mut fields: Vec<(&str, &str)> = vec![("scope", &scope)];
    if let Some(service) = service {
        fields.push(("service", service));
    }
    let request = match auth {
        RegistryAuth::Identity(token) => {
            fields.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)]);
            fields.push(("refresh_token", token.reveal()));
            let mut form = Url::parse("x:").map_err(|_| ImageError::internal("a constant URL is one"))?;
            form.query_pairs_mut().extend_pairs(&fields);
            let body = form.query().unwrap_or_default().to_owned();
            let request = transport.client(&url)?.post(url);
            request.header("content-type", "application/x-www-form-urlencoded").body(body)
        }
        _ => {
            if let RegistryAuth::Basic { username, .. } = auth {
                fields.push(("account", username));
            }
            url.query_pairs_mut().extend_pairs(&fields);
            let request = transport.client(&url)?.get(url);
            match auth {
                RegistryAuth::Basic { username, password } => request.basic_auth(username, Some(password.reveal())),
                _ => request,
            }
        }
    };
    let response = transport.send(request, &host, "the token").await?;
    if !response.status().is_success() {
        let answer = redirect::Answer { response, host: host.clone(), foreign: false };
        let (stall, mask) = (transport.options.stall_timeout, transport.sent.mask());
        return Err(response::failure(answer, registry, "a token", stall, login, &mask).await);
    }
    let stall = transport.options.stall_timeout;
    let body = response::read_body(response, (LONGEST_ANSWER, None), stall, &host, "the token").await?;
    let no_token =
        || ErrorKind::Unauthorized { registry: host.clone(), reason: "its answer holds no token".to_owned() };
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| no_token())?;
    let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
    let life = answer.life();
    let token = filled(answer.token).or(filled(answer.access_token)).ok_or_else(no_token)?;
    Ok((Secret::new(format!("Bearer {token}")), life))
}

/// A realm may be in TLS. In plain HTTP it must be the very host and port of a registry that is itself spoken to so, or be
/// named in the option insecure: whoever else listens on the registry's machine is a stranger.
fn trusted_realm(transport: &Transport, realm: &str, registry: &str, plain: bool) -> Result<Url> {
    let refused = |reason: &str| ErrorKind::Unauthorized {
        registry: registry.to_owned(),
        reason: format!("it names a token server that is not trusted: {reason}"),
    };
    let url = Url::parse(realm).map_err(|_| refused("its address is no URL"))?;
    let host = authority(&url);
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("its address holds a credential").into());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if plain && same_authority(&url, registry) => Ok(url),
        "http" if is_named_insecure(&transport.options, &host, plain) => Ok(url),
        "http" => {
            let reason = format!("it speaks plain HTTP; if that is meant, name it: insecure: ['{host}']");
            Err(refused(&reason).into())
        }
        _ => Err(refused("its address is no web address").into()),
    }
}
