//! Logins: who sees a credential, and what happens when it is not taken.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use microsandbox_image_core::{
    Result,
    registry::{ClientOptions, CredentialProvider, CredentialSource, Environment, RegistryAuth, Secret},
};
use support::{Reply, Request, Server, Store, client, describe, noise, options, read_blob, resolve};

const PASSWORD: &str = "hunter2-hunter2";

fn basic(user: &str) -> RegistryAuth {
    RegistryAuth::Basic { username: user.into(), password: Secret::new(PASSWORD) }
}

fn header_of(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{PASSWORD}")))
}

fn with_auth(auth: RegistryAuth) -> ClientOptions {
    ClientOptions { auth: Some(auth), ..options() }
}

/// A registry that wants a token, and gives one for `me` and, if it is public, for anybody.
fn token_registry(public: bool, token_life: usize) -> Server {
    let store = Store::with_image(&[&noise(100)]);
    let (given, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Server::start(move |request| {
        let host = request.header("host").unwrap();
        if request.path.starts_with("/token") {
            let known = request.header("authorization") == Some(&header_of("me"))
                || request.body.contains("refresh_token=identity-secret");
            if !known && (!public || request.header("authorization").is_some()) {
                return Reply::new(401, r#"{"errors":[{"code":"DENIED","message":"who are you"}]}"#);
            }
            used.store(0, Ordering::Relaxed);
            let number = given.fetch_add(1, Ordering::Relaxed) + 1;
            return Reply::new(200, format!(r#"{{"token":"token-{number}","expires_in":300}}"#));
        }
        let wanted = format!("Bearer token-{}", given.load(Ordering::Relaxed));
        let right = request.header("authorization") == Some(&wanted);
        if request.path == "/v2/" || (right && used.fetch_add(1, Ordering::Relaxed) < token_life) {
            return store.reply(request);
        }
        let challenge =
            format!(r#"Bearer realm="http://{host}/token",service="{host}",scope="repository:team/app:pull""#);
        Reply::new(401, "").with("www-authenticate", challenge)
    })
}

/// Authorization headers of requests whose path begins so.
fn shown(server: &Server, path: &str) -> Vec<Option<String>> {
    let requests = server.requests().into_iter().filter(|request| request.path.starts_with(path));
    requests.map(|request| request.header("authorization").map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_used_on() {
    let server = token_registry(false, 100);
    let client = client(with_auth(basic("me")));
    resolve(&client, &server.host).await.unwrap();
    read_blob(&client, &server.host, &describe(&noise(100)), 0).await.unwrap();
    assert_eq!(shown(&server, "/token"), [Some(header_of("me"))]);
    let asked = &server.asked("/token")[0].path;
    assert!(asked.contains("scope=repository%3Ateam%2Fapp%3Apull") && asked.contains("account=me"), "{asked}");
    assert!(shown(&server, "/v2/").iter().flatten().all(|header| header == "Bearer token-1"));
}

#[tokio::test]
async fn a_token_that_runs_out_in_the_middle_is_replaced_once() {
    let server = token_registry(false, 2);
    let client = client(with_auth(basic("me")));
    resolve(&client, &server.host).await.unwrap();
    read_blob(&client, &server.host, &describe(&noise(100)), 0).await.unwrap();
    assert_eq!(server.asked("/token").len(), 2);
}

#[tokio::test]
async fn public_images_need_no_login() {
    let server = token_registry(true, 100);
    resolve(&client(options()), &server.host).await.unwrap();
    assert_eq!(shown(&server, "/token"), [None]);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_in_a_post() {
    let server = token_registry(false, 100);
    resolve(&client(with_auth(RegistryAuth::Identity(Secret::new("identity-secret")))), &server.host).await.unwrap();
    let asked = &server.asked("/token")[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/token"));
    assert!(asked.body.contains("grant_type=refresh_token"), "{}", asked.body);
}

#[tokio::test]
async fn basic_and_bearer_work_in_one_header_and_alone() {
    for (challenge, auth, expected) in [
        (r#"Basic realm="x""#, basic("me"), header_of("me")),
        (r#"  BASIC   Realm = "x" , charset="UTF-8""#, basic("me"), header_of("me")),
        (r#"Negotiate, Basic realm="a, b""#, basic("me"), header_of("me")),
        (r#"Basic realm="x""#, RegistryAuth::Token(Secret::new("own-token")), "Bearer own-token".to_owned()),
    ] {
        let store = Store::with_image(&[]);
        let wanted = expected.clone();
        let server = Server::start(move |request| match request.header("authorization") == Some(&wanted) {
            true => store.reply(request),
            false => Reply::new(401, "").with("www-authenticate", challenge),
        });
        resolve(&client(with_auth(auth)), &server.host).await.unwrap_or_else(|error| panic!("{challenge}: {error}"));
    }
}

#[tokio::test]
async fn a_refusal_names_registry_repository_and_the_next_step() {
    let server = token_registry(false, 100);
    let host = &server.host;
    for (options, hint) in
        [(options(), format!("`docker login {host}`")), (with_auth(basic("other")), "option auth".to_owned())]
    {
        let error = resolve(&client(options), host).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.code(), "ERR_UNAUTHORIZED");
        assert!(text.contains(&hint) && text.contains("who are you"), "{text}");
    }
}

struct Provider(Option<RegistryAuth>);

impl CredentialProvider for Provider {
    fn credential(&self, _: &str) -> Pin<Box<dyn Future<Output = Result<Option<RegistryAuth>>> + Send>> {
        let auth = self.0.clone();
        Box::pin(async move { Ok(auth) })
    }
}

fn with_file(directory: &Path, json: &str) -> ClientOptions {
    let path = directory.join("config.json");
    fs::write(&path, json).unwrap();
    ClientOptions { credentials: CredentialSource::File(path), ..options() }
}

fn auths(host: &str, user: &str) -> String {
    format!(r#"{{"auths":{{"{host}":{{"auth":"{}"}}}}}}"#, STANDARD.encode(format!("{user}:{PASSWORD}")))
}

#[tokio::test]
async fn a_stale_stored_login_is_followed_by_one_anonymous_try() {
    let temp = tempfile::tempdir().unwrap();
    let public = token_registry(true, 100);
    let options = with_file(temp.path(), &auths(&public.host, "stale"));
    resolve(&client(options), &public.host).await.unwrap();
    assert_eq!(shown(&public, "/token"), [Some(header_of("stale")), None]);

    let private = token_registry(false, 100);
    let options = with_file(temp.path(), &auths(&private.host, "stale"));
    let error = resolve(&client(options), &private.host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_UNAUTHORIZED");
    assert!(error.to_string().contains("stored login was rejected"), "{error}");
    assert_eq!(private.asked("/token").len(), 2);
}

#[tokio::test]
async fn a_stored_login_without_the_right_is_followed_by_one_anonymous_try() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::with_image(&[]);
    let server = Server::start(move |request| match request.header("authorization") {
        _ if request.path == "/v2/" => Reply::new(200, ""),
        Some("Bearer of-nobody") => store.reply(request),
        Some("Bearer of-somebody") => Reply::new(403, ""),
        Some(_) => Reply::new(200, r#"{"token":"of-somebody"}"#),
        None if request.path.starts_with("/token") => Reply::new(200, r#"{"token":"of-nobody"}"#),
        None => {
            let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap());
            Reply::new(401, "").with("www-authenticate", realm)
        }
    });
    let options = with_file(temp.path(), &auths(&server.host, "me"));
    resolve(&client(options), &server.host).await.unwrap();
}

#[tokio::test]
async fn credentials_are_looked_for_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::new(200, ""),
        _ => Reply::new(401, "").with("www-authenticate", r#"Basic realm="x""#),
    });
    let file = with_file(temp.path(), &auths(&server.host, "file"));
    let provided =
        ClientOptions { credential_provider: Some(Arc::new(Provider(Some(basic("provided"))))), ..file.clone() };
    let passing = ClientOptions { credential_provider: Some(Arc::new(Provider(None))), ..file.clone() };
    let explicit = ClientOptions { auth: Some(basic("explicit")), ..provided.clone() };
    let environment = BTreeMap::from([("DOCKER_CONFIG".to_owned(), temp.path().display().to_string())]);
    let default = ClientOptions {
        credentials: CredentialSource::Default,
        environment: Environment::new(environment),
        ..options()
    };
    let inline = BTreeMap::from([("DOCKER_AUTH_CONFIG".to_owned(), auths(&server.host, "inline"))]);
    let inline =
        ClientOptions { credentials: CredentialSource::Default, environment: Environment::new(inline), ..options() };
    let podman = temp.path().join("podman.json");
    fs::write(&podman, auths(&server.host, "podman")).unwrap();
    let podman = BTreeMap::from([("REGISTRY_AUTH_FILE".to_owned(), podman.display().to_string())]);
    let podman =
        ClientOptions { credentials: CredentialSource::Default, environment: Environment::new(podman), ..options() };
    for (options, expected) in [
        (explicit, Some("explicit")),
        (provided, Some("provided")),
        (passing, Some("file")),
        (file, Some("file")),
        (default, Some("file")),
        (inline, Some("inline")),
        (podman, Some("podman")),
        (with_auth(RegistryAuth::Anonymous), None),
        (options(), None),
    ] {
        let before = server.requests().len();
        let error = resolve(&client(options), &server.host).await.unwrap_err();
        assert_eq!(error.code(), "ERR_UNAUTHORIZED");
        let shown =
            server.requests()[before..].iter().find_map(|request| request.header("authorization").map(str::to_owned));
        assert_eq!(shown, expected.map(header_of), "{expected:?}");
    }
}

#[tokio::test]
async fn helpers_serve_their_own_host_and_trouble_nobody_else() {
    let temp = tempfile::tempdir().unwrap();
    let helper = temp.path().join("docker-credential-good");
    fs::write(
        &helper,
        format!("#!/bin/sh\nread server\necho \"{{\\\"Username\\\":\\\"me\\\",\\\"Secret\\\":\\\"{PASSWORD}\\\"}}\"\n"),
    )
    .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let server = token_registry(false, 100);
    let open = token_registry(true, 100);
    let with_helper = |name: &str| {
        let path = format!("{}:/usr/bin:/bin", temp.path().display());
        let environment = BTreeMap::from([("PATH".to_owned(), path)]);
        let json = format!(r#"{{"credHelpers":{{"{}":"{name}"}}}}"#, server.host);
        ClientOptions { environment: Environment::new(environment), ..with_file(temp.path(), &json) }
    };
    resolve(&client(with_helper("good")), &server.host).await.unwrap();
    for bad in ["missing", "../good", ""] {
        let client = client(with_helper(bad));
        resolve(&client, &open.host).await.unwrap();
        let error = resolve(&client, &server.host).await.unwrap_err();
        assert_eq!(error.code(), "ERR_UNAUTHORIZED", "{bad}");
        assert!(error.to_string().contains(&format!("docker-credential-{bad}")), "{error}");
    }
}

#[tokio::test]
async fn realms_of_another_trust_get_nothing() {
    let stranger = Server::start(|_| Reply::new(200, r#"{"token":"t"}"#));
    for realm in [
        "http://registry.example/token".to_owned(),
        "ftp://registry.example/token".to_owned(),
        format!("http://user:pw@{}/token", stranger.host),
        "file:///etc/passwd".to_owned(),
        "nonsense".to_owned(),
    ] {
        let challenge = format!(r#"Bearer realm="{realm}""#);
        let server = Server::start(move |request| match request.path.as_str() {
            "/v2/" => Reply::new(200, ""),
            _ => Reply::new(401, "").with("www-authenticate", &*challenge),
        });
        let error = resolve(&client(with_auth(basic("me"))), &server.host).await.unwrap_err();
        assert_eq!(error.code(), "ERR_UNAUTHORIZED", "{realm}: {error}");
        assert!(error.to_string().contains("not trusted"), "{realm}: {error}");
    }
    assert!(stranger.requests().is_empty());
}

#[tokio::test]
async fn no_credential_follows_a_redirect_and_no_stranger_may_ask_for_one() {
    let blob = noise(100);
    let content = Store::with_image(&[&blob]);
    let storage = Server::start(move |request| content.reply(request));
    let target = storage.host.clone();
    let store = Store::with_image(&[&blob]);
    let server = Server::start(move |request| redirecting(request, &store, &target));
    let client_ = client(with_auth(basic("me")));
    assert!(read_blob(&client_, &server.host, &describe(&blob), 7).await.unwrap() == blob[7..]);
    assert_eq!(shown(&storage, "/"), [None]);
    assert_eq!(storage.requests()[0].from(), Some(7));

    let thief = Server::start(|request| match request.path.starts_with("/token") {
        true => Reply::new(200, r#"{"token":"t"}"#),
        false => {
            let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap());
            Reply::new(401, "").with("www-authenticate", realm)
        }
    });
    let (target, store) = (thief.host.clone(), Store::with_image(&[&blob]));
    let server = Server::start(move |request| redirecting(request, &store, &target));
    let impatient = ClientOptions { retries: 1, ..with_auth(basic("me")) };
    let error = read_blob(&client(impatient), &server.host, &describe(&blob), 0).await.unwrap_err();
    assert_eq!(error.code(), "ERR_REGISTRY", "{error}");
    assert!(thief.asked("/token").is_empty());
    assert!(shown(&thief, "/").iter().all(Option::is_none));
}

/// Wants Basic, and sends blobs to another server.
fn redirecting(request: &Request, store: &Store, target: &str) -> Reply {
    match request.header("authorization") {
        _ if request.path == "/v2/" => Reply::new(200, ""),
        None => Reply::new(401, "").with("www-authenticate", r#"Basic realm="x""#),
        Some(_) if request.path.contains("/blobs/") => {
            Reply::new(307, "").with("location", format!("http://{target}{}?signature=secret-signature", request.path))
        }
        Some(_) => store.reply(request),
    }
}

#[tokio::test]
async fn redirects_in_a_ring_end() {
    let server = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::new(200, ""),
        path => Reply::new(302, "").with("location", path),
    });
    let error = resolve(&client(options()), &server.host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_REGISTRY");
    assert!(error.to_string().contains("ten times"), "{error}");
}

#[tokio::test]
async fn nothing_secret_is_in_any_error_or_debug_print() {
    let echo = |request: &Request| {
        let sent = request.header("authorization").unwrap_or_default().to_owned();
        let pair = sent.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text).ok());
        let pair = String::from_utf8(pair.unwrap_or_default()).unwrap();
        format!(r#"{{"errors":[{{"code":"X","message":"you sent {sent} which is {pair}"}}]}}"#)
    };
    for status in [400, 403, 404, 500] {
        let server = Server::start(move |request| match request.header("authorization") {
            _ if request.path == "/v2/" => Reply::new(200, ""),
            None => Reply::new(401, "").with("www-authenticate", r#"Basic realm="x""#),
            Some(_) => Reply::new(status, echo(request)),
        });
        let options = ClientOptions { retries: 0, ..with_auth(basic("me")) };
        let error = resolve(&client(options.clone()), &server.host).await.unwrap_err();
        let mut text = format!("{error} {error:?} {:?}", options.auth);
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text.push_str(&format!("{next} {next:?}"));
            cause = next.source();
        }
        let encoded = header_of("me");
        for secret in [PASSWORD, encoded.trim_start_matches("Basic ")] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("you sent"), "{text}");
    }
}

#[tokio::test]
async fn tokens_of_any_odd_life_are_taken_and_answers_without_one_are_refused() {
    for (answer, good) in [
        (r#"{"token":"t","expires_in":18446744073709551615}"#, true),
        (r#"{"token":"t","expires_in":-5}"#, true),
        (r#"{"access_token":"t","expires_in":"soon"}"#, true),
        (r#"{"token":"","access_token":"t","expires_in":1.5}"#, true),
        (r#"{"token":""}"#, false),
        ("{}", false),
        ("<html>", false),
    ] {
        let store = Store::with_image(&[]);
        let server = Server::start(move |request| match request.header("authorization") {
            _ if request.path.starts_with("/token") => Reply::new(200, answer),
            Some("Bearer t") => store.reply(request),
            _ if request.path == "/v2/" => Reply::new(200, ""),
            _ => {
                let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap());
                Reply::new(401, "").with("www-authenticate", realm)
            }
        });
        let resolved = resolve(&client(options()), &server.host).await;
        assert_eq!(
            resolved.map_err(|error| error.code().to_owned()).err(),
            (!good).then(|| "ERR_UNAUTHORIZED".to_owned()),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_blob_is_replaced_and_the_rest_is_asked_for() {
    let blob = noise(100_000);
    let store = Store::with_image(&[&blob]);
    let given = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let host = request.header("host").unwrap();
        if request.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::Relaxed) + 1;
            return Reply::new(200, format!(r#"{{"token":"token-{number}"}}"#));
        }
        match (request.header("authorization"), request.from()) {
            _ if request.path == "/v2/" => Reply::new(200, ""),
            // The first token ends while its download does.
            (Some("Bearer token-1"), None) => store.reply(request).ending(support::End::Cut(40_000)),
            (Some("Bearer token-2"), _) => store.reply(request),
            _ => Reply::new(401, "").with("www-authenticate", format!(r#"Bearer realm="http://{host}/token""#)),
        }
    });
    let client = client(with_auth(basic("me")));
    assert!(read_blob(&client, &server.host, &describe(&blob), 0).await.unwrap() == blob);
    assert_eq!(server.asked("/token").len(), 2);
    let asked: Vec<_> = server.asked("/blobs/").iter().map(Request::from).collect();
    assert_eq!(asked, [None, None, Some(40_000), Some(40_000)]);
}
