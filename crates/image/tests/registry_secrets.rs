//! What a registry says, in errors: nothing secret, nothing a terminal would obey; and logins that change under a client.

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use microsandbox_image_core::{
    ImageError,
    registry::{Client, ClientOptions, CredentialSource, Environment, Insecure, RegistryAuth, Secret},
};
use support::{
    Reply, Request, Server, Store, client,
    images::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, descriptor},
    options, resolve,
};

const PASSWORD: &str = "Hunter2-Hunter2";

fn basic(user: &str) -> RegistryAuth {
    RegistryAuth::Basic { username: user.into(), password: Secret::new(PASSWORD) }
}

fn impatient(auth: RegistryAuth) -> ClientOptions {
    ClientOptions { auth: Some(auth), retries: 0, ..options() }
}

/// The error with its causes, printed in every way.
fn all_texts(error: &ImageError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(&format!("{next} {next:?}"));
        cause = next.source();
    }
    text
}

/// Wants Basic, and answers whoever has it.
fn behind_login(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| match request.header("authorization") {
        _ if request.path == "/v2/" => Reply::new(200, ""),
        None => Reply::new(401, "").with("www-authenticate", r#"Basic realm="x""#),
        Some(_) => answer(request),
    })
}

fn manifest(media_type: &str, layer_type: &str) -> String {
    let (config, layer) = (descriptor(OCI_CONFIG, b"{}", ""), descriptor(layer_type, b"x", ""));
    format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{layer}]}}"#)
}

type Odd = Box<dyn Fn(&str) -> Reply + Send + Sync>;

/// All places where a text of the registry reaches an error.
fn echoes() -> Vec<(&'static str, Odd)> {
    let padding = "x".repeat(150);
    vec![
        (
            "a redirect's host",
            Box::new(|said| Reply::new(307, "").with("location", format!("http://{said}.example/x"))),
        ),
        (
            "the digest's header, where it would be cut",
            Box::new(move |said| Reply::new(200, "{}").with("docker-content-digest", format!("{padding}{said}"))),
        ),
        ("the media type", Box::new(|said| Reply::new(200, manifest(said, OCI_LAYER)))),
        ("a layer's media type", Box::new(|said| Reply::new(200, manifest(OCI_MANIFEST, said)))),
        ("a digest", Box::new(|said| Reply::new(200, manifest(OCI_MANIFEST, OCI_LAYER).replace("sha256:", said)))),
        ("a type of JSON", Box::new(|said| Reply::new(200, format!(r#"{{"schemaVersion":"{said}"}}"#)))),
        (
            "a platform",
            Box::new(|said| {
                let entry =
                    descriptor(OCI_MANIFEST, b"x", &format!(r#","platform":{{"os":"{said}","architecture":"y"}}"#));
                Reply::new(200, format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#))
            }),
        ),
        (
            "its own words, where they would be cut",
            Box::new(|said| {
                let message = format!("{}{said}", "x ".repeat(245));
                Reply::new(400, format!(r#"{{"errors":[{{"code":"X","message":"{message}"}}]}}"#))
            }),
        ),
    ]
}

#[tokio::test]
async fn a_secret_that_a_registry_echoes_is_in_no_error_wherever_it_stands() {
    for (place, reply) in echoes() {
        let server = behind_login(move |_| reply(PASSWORD));
        let error = resolve(&client(impatient(basic("me"))), &server.host).await.unwrap_err();
        let text = all_texts(&error).to_ascii_lowercase();
        for part in ["hunter2", "bwu6"] {
            assert!(!text.contains(part), "{place}: {text}");
        }
    }
}

#[tokio::test]
async fn what_a_terminal_would_obey_is_escaped_wherever_it_stands() {
    for (place, reply) in echoes().into_iter().skip(2) {
        // JSON's own escapes, as a registry would write them.
        let server = behind_login(move |_| reply("e\\u001b[31m\\u202e\\u009b2J\\u200b"));
        let error = resolve(&client(impatient(basic("me"))), &server.host).await.unwrap_err();
        let text = all_texts(&error);
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}', '\u{200b}']), "{place}: {text:?}");
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_is_masked_too() {
    let given = Mutex::new(0);
    let server = Server::start(move |request| {
        let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap());
        match request.header("authorization") {
            _ if request.path == "/v2/" => Reply::new(200, ""),
            _ if request.path.starts_with("/token") => {
                let mut number = given.lock().unwrap();
                *number += 1;
                Reply::new(200, format!(r#"{{"token":"secret-token-{number}"}}"#))
            }
            None => Reply::new(401, "").with("www-authenticate", realm),
            Some(sent) => Reply::new(401, format!(r#"{{"errors":[{{"message":"no: {sent}"}}]}}"#)),
        }
    });
    let error = resolve(&client(impatient(basic("me"))), &server.host).await.unwrap_err();
    assert!(!all_texts(&error).contains("secret-token"), "{error}");
}

#[tokio::test]
async fn an_empty_digest_header_is_as_good_as_none() {
    for empty in ["", "  "] {
        let store = Store::with_image(&[]);
        let server = Server::start(move |request| store.reply(request).with("docker-content-digest", empty));
        resolve(&client(options()), &server.host).await.unwrap();
    }
}

/// A registry that sends whoever asks to a token server; that one gives a token to anybody.
fn with_token_server() -> (Server, Server) {
    let tokens = Server::start(|_| Reply::new(200, r#"{"token":"given"}"#));
    let store = Store::with_image(&[]);
    let realm = format!(r#"Bearer realm="http://{}/token""#, tokens.host);
    let registry = Server::start(move |request| match request.header("authorization") {
        _ if request.path == "/v2/" => Reply::new(200, ""),
        Some("Bearer given") => store.reply(request),
        _ => Reply::new(401, "").with("www-authenticate", realm.clone()),
    });
    (registry, tokens)
}

#[tokio::test]
async fn a_plain_realm_on_another_port_gets_nothing_unless_it_is_named() {
    let (registry, tokens) = with_token_server();
    let error = resolve(&client(impatient(basic("me"))), &registry.host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_UNAUTHORIZED");
    assert!(error.to_string().contains(&format!("insecure: ['{}']", tokens.host)), "{error}");
    assert!(tokens.requests().is_empty());
    let named = ClientOptions { insecure: Insecure::Hosts(vec![tokens.host.clone()]), ..impatient(basic("me")) };
    resolve(&client(named), &registry.host).await.unwrap();
}

#[tokio::test]
async fn a_token_with_a_line_end_is_a_typed_error() {
    let made = Client::new(impatient(RegistryAuth::Token(Secret::new("own\ntoken"))));
    assert_eq!(made.err().map(|error| error.code()), Some("ERR_INVALID_OPTION"));
    let temp = tempfile::tempdir().unwrap();
    let server = behind_login(|_| Reply::new(500, ""));
    let json = format!(r#"{{"auths":{{"{}":{{"registrytoken":"own\ntoken"}}}}}}"#, server.host);
    let error = resolve(&client(with_file(temp.path(), &json)), &server.host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_UNAUTHORIZED", "{error}");
    let host = Server::start(|request| match request.path.split('?').next().unwrap() {
        "/v2/" => Reply::new(200, ""),
        "/token" => Reply::new(200, r#"{"token":"a\nb"}"#),
        _ => {
            let realm = format!(r#"Bearer realm="http://{}/token""#, request.header("host").unwrap());
            Reply::new(401, "").with("www-authenticate", realm)
        }
    });
    let error = resolve(&client(options()), &host.host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_UNAUTHORIZED", "{error}");
}

fn with_file(directory: &Path, json: &str) -> ClientOptions {
    let path = directory.join("config.json");
    fs::write(&path, json).unwrap();
    ClientOptions { credentials: CredentialSource::File(path), retries: 0, ..options() }
}

fn login_json(host: &str, user: &str) -> String {
    format!(r#"{{"auths":{{"{host}":{{"auth":"{}"}}}}}}"#, STANDARD.encode(format!("{user}:{PASSWORD}")))
}

/// Takes Basic of one user, who may change.
fn registry_of(user: &Arc<Mutex<&'static str>>) -> Server {
    let (store, user) = (Store::with_image(&[]), Arc::clone(user));
    Server::start(move |request| {
        let wanted = format!("Basic {}", STANDARD.encode(format!("{}:{PASSWORD}", user.lock().unwrap())));
        match request.header("authorization") {
            _ if request.path == "/v2/" => Reply::new(200, ""),
            Some(sent) if sent == wanted => store.reply(request),
            _ => Reply::new(401, "").with("www-authenticate", r#"Basic realm="x""#),
        }
    })
}

#[tokio::test]
async fn a_login_that_was_stored_meanwhile_is_seen_by_the_same_client() {
    let temp = tempfile::tempdir().unwrap();
    let server = registry_of(&Arc::new(Mutex::new("right")));
    let client = client(with_file(temp.path(), r#"{"auths":{}}"#));
    assert_eq!(resolve(&client, &server.host).await.unwrap_err().code(), "ERR_UNAUTHORIZED");
    with_file(temp.path(), &login_json(&server.host, "wrong"));
    assert_eq!(resolve(&client, &server.host).await.unwrap_err().code(), "ERR_UNAUTHORIZED");
    with_file(temp.path(), &login_json(&server.host, "right"));
    resolve(&client, &server.host).await.unwrap();
}

#[tokio::test]
async fn a_helper_is_asked_again_when_what_it_gave_has_run_out() {
    let temp = tempfile::tempdir().unwrap();
    let helper = temp.path().join("docker-credential-turns");
    let name = temp.path().join("name");
    let script = format!(
        "#!/bin/sh\nread server\necho \"{{\\\"Username\\\":\\\"$(cat {})\\\",\\\"Secret\\\":\\\"{PASSWORD}\\\"}}\"\n",
        name.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let user = Arc::new(Mutex::new("first"));
    let server = registry_of(&user);
    let path = format!("{}:/usr/bin:/bin", temp.path().display());
    let options = ClientOptions {
        environment: Environment::new([("PATH".to_owned(), path)]),
        ..with_file(temp.path(), &format!(r#"{{"credHelpers":{{"{}":"turns"}}}}"#, server.host))
    };
    let client = client(options);
    for now in ["first", "second"] {
        *user.lock().unwrap() = now;
        fs::write(&name, now).unwrap();
        resolve(&client, &server.host).await.unwrap_or_else(|error| panic!("{now}: {error}"));
    }
}
