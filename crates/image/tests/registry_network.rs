//! Mirrors, proxies, TLS: the way to a registry.

mod support;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use microsandbox_image_core::registry::{
    Client, ClientOptions, Environment, Insecure, ProxySetting, RegistryAuth, Secret,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use support::{End, Reply, Server, Store, client, describe, noise, options, read_blob, resolve};

fn mirrored(registry: &str, mirrors: &[String]) -> ClientOptions {
    let mirrors = mirrors.iter().map(|host| format!("http://{host}")).collect();
    ClientOptions { mirrors: BTreeMap::from([(registry.to_owned(), mirrors)]), ..options() }
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_only_if_none_has_it() {
    let blob = noise(1000);
    let store = Store::with_image(&[&blob]);
    let lacking = Server::start(|request| Store::default().reply(request));
    let copy = store.clone();
    let good = Server::start(move |request| copy.reply(request));
    let origin = Server::start(move |request| store.reply(request));
    let client = client(mirrored(&origin.host, &[lacking.host.clone(), good.host.clone()]));
    resolve(&client, &origin.host).await.unwrap();
    assert!(read_blob(&client, &origin.host, &describe(&blob), 0).await.unwrap() == blob);
    assert!(lacking.asked("/manifests/latest").len() == 1 && good.asked("/blobs/").len() == 2);
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn a_mirrors_wrong_bytes_are_noticed_and_the_registry_is_asked() {
    let store = Store::with_image(&[&noise(1000)]);
    let copy = store.clone();
    let lying = Server::start(move |request| {
        let mut reply = copy.reply(request);
        if request.path.contains("/blobs/") {
            reply.body[3] ^= 1;
        }
        reply
    });
    let origin = Server::start(move |request| store.reply(request));
    let client = client(mirrored(&origin.host, std::slice::from_ref(&lying.host)));
    resolve(&client, &origin.host).await.unwrap();
    assert_eq!((lying.asked("/blobs/").len(), origin.asked("/blobs/").len()), (1, 1));
}

#[tokio::test]
async fn a_dead_mirror_costs_little_and_once() {
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = Store::with_image(&[&noise(1000)]);
    let origin = Server::start(move |request| store.reply(request));
    for mirror in [refusing, silent.local_addr().unwrap().to_string()] {
        let patient = ClientOptions { stall_timeout: Duration::from_secs(30), ..mirrored(&origin.host, &[mirror]) };
        let client = client(patient);
        let started = Instant::now();
        resolve(&client, &origin.host).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(2500), "{:?}", started.elapsed());
        let started = Instant::now();
        resolve(&client, &origin.host).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_left_where_it_stopped() {
    let blob = noise(10_000);
    let store = Store::with_image(&[&blob]);
    let copy = store.clone();
    let breaking = Server::start(move |request| match request.path.contains("/blobs/") {
        true => copy.reply(request).ending(End::Cut(4000)),
        false => copy.reply(request),
    });
    let origin = Server::start(move |request| store.reply(request));
    let client = client(mirrored(&origin.host, std::slice::from_ref(&breaking.host)));
    assert!(read_blob(&client, &origin.host, &describe(&blob), 0).await.unwrap() == blob);
    assert_eq!(origin.asked("/blobs/")[0].from(), Some(4000));
}

#[tokio::test]
async fn the_option_auth_is_not_shown_to_mirrors() {
    let asking = Server::start(|request| match request.path.as_str() {
        "/v2/" => Reply::new(200, ""),
        _ => Reply::new(401, "").with("www-authenticate", r#"Basic realm="x""#),
    });
    let store = Store::with_image(&[]);
    let origin = Server::start(move |request| store.reply(request));
    let auth = RegistryAuth::Basic { username: "me".into(), password: Secret::new("hunter2") };
    let options = ClientOptions { auth: Some(auth), ..mirrored(&origin.host, std::slice::from_ref(&asking.host)) };
    resolve(&client(options), &origin.host).await.unwrap();
    assert!(asking.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test]
async fn the_error_of_a_registry_says_which_mirrors_were_no_help() {
    let mirror = Server::start(|_| Reply::new(503, ""));
    let origin = Server::start(|_| Reply::new(500, ""));
    let options = ClientOptions { retries: 1, ..mirrored(&origin.host, std::slice::from_ref(&mirror.host)) };
    let error = resolve(&client(options), &origin.host).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&mirror.host) && text.contains("tried 2 times"), "{text}");
}

/// A proxy that answers in place of the servers it is asked for.
fn proxy(store: Store) -> Server {
    Server::start(move |request| {
        let path = request.path.trim_start_matches("http://registry.invalid:5000");
        store.reply(&support::Request { path: path.to_owned(), ..request.clone() })
    })
}

#[tokio::test]
async fn a_proxy_is_used_for_other_hosts_and_gets_its_own_login() {
    let insecure = Insecure::Hosts(vec!["registry.invalid:5000".to_owned()]);
    let proxy = proxy(Store::with_image(&[]));
    let url = format!("http://me:hunter2@{}", proxy.host);
    let variable = |name: &str| Environment::new([(name.to_owned(), url.clone())]);
    for options in [
        ClientOptions { proxy: ProxySetting::Url(url.clone()), ..options() },
        ClientOptions { environment: variable("http_proxy"), ..options() },
        ClientOptions { environment: variable("ALL_PROXY"), ..options() },
    ] {
        let before = proxy.requests().len();
        let options = ClientOptions { insecure: insecure.clone(), ..options };
        resolve(&client(options), "registry.invalid:5000").await.unwrap();
        let asked = proxy.requests().split_off(before);
        assert!(asked.iter().any(|request| request.path.starts_with("http://registry.invalid:5000/v2/team/app/")));
        let logins: Vec<_> = asked.iter().map(|request| request.header("proxy-authorization")).collect();
        assert!(logins.iter().all(|login| *login == Some("Basic bWU6aHVudGVyMg==")), "{logins:?}");
    }
}

#[tokio::test]
async fn a_proxy_in_tls_leads_to_a_server_in_plain_http_and_its_certificate_is_checked() {
    let store = Store::with_image(&[]);
    let Certificates { authority, server } = certificates("127.0.0.1", false);
    let proxy = Server::start_tls(server, move |request| {
        let path = request.path.trim_start_matches("http://registry.invalid:5000");
        store.reply(&support::Request { path: path.to_owned(), ..request.clone() })
    });
    let through = |options| ClientOptions {
        proxy: ProxySetting::Url(format!("https://{}", proxy.host)),
        insecure: Insecure::Hosts(vec!["registry.invalid:5000".to_owned()]),
        retries: 0,
        ..options
    };
    let error = resolve(&client(through(options())), "registry.invalid:5000").await.unwrap_err();
    assert_eq!(error.code(), "ERR_NETWORK");
    assert!(proxy.requests().is_empty());
    resolve(&client(through(trusting(&authority))), "registry.invalid:5000").await.unwrap();
    assert!(proxy.requests().iter().any(|request| request.path.starts_with("http://registry.invalid:5000/v2/team/")));
}

#[tokio::test]
async fn loopback_and_no_proxy_go_straight() {
    let store = Store::with_image(&[]);
    let proxy = Server::start(|_| Reply::new(500, ""));
    let origin = Server::start(move |request| store.reply(request));
    let environment = Environment::new([("HTTP_PROXY".to_owned(), format!("http://{}", proxy.host))]);
    let options = ClientOptions { environment, retries: 0, ..options() };
    resolve(&client(options.clone()), &origin.host).await.unwrap();
    assert!(proxy.requests().is_empty());
    let named = ClientOptions { proxy: ProxySetting::Url(format!("http://{}", proxy.host)), ..options };
    let auth = RegistryAuth::Basic { username: "me".into(), password: Secret::new("hunter2") };
    for host in [origin.host.clone(), origin.host.replace("127.0.0.1", "localhost")] {
        let options = ClientOptions { auth: Some(auth.clone()), ..named.clone() };
        resolve(&client(options), &host).await.unwrap();
    }
    assert!(proxy.requests().is_empty(), "loopback goes direct, whoever names the proxy");
}

/// A SOCKS5 proxy (RFC 1928) that leads every name to one server, and tells which names it was asked for.
fn socks(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (host, names) = (listener.local_addr().unwrap().to_string(), Arc::new(Mutex::new(Vec::new())));
    let asked = Arc::clone(&names);
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let (target, asked) = (target.clone(), Arc::clone(&asked));
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut take = |count: usize| {
                    let mut bytes = vec![0; count];
                    client.read_exact(&mut bytes).map(|()| bytes)
                };
                let methods = take(2)?[1];
                take(methods.into())?;
                client.write_all(&[5, 0])?;
                let mut take = |count: usize| {
                    let mut bytes = vec![0; count];
                    client.read_exact(&mut bytes).map(|()| bytes)
                };
                assert_eq!(take(4)?, [5, 1, 0, 3], "a connection by name");
                let length = take(1)?[0];
                let name = String::from_utf8(take(length.into())?).unwrap();
                take(2)?;
                asked.lock().unwrap().push(name);
                client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0])?;
                let server = TcpStream::connect(target)?;
                let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let _ = std::io::copy(&mut &server, &mut client);
                client.shutdown(std::net::Shutdown::Both)
            });
        }
    });
    (host, names)
}

#[tokio::test]
async fn a_socks5_proxy_is_told_the_name_and_leads_there_in_plain_http_and_in_tls() {
    let store = Store::with_image(&[]);
    let copy = store.clone();
    let plain = Server::start(move |request| store.reply(request));
    let Certificates { authority, server } = certificates("registry.invalid", false);
    let secure = Server::start_tls(server, move |request| copy.reply(request));
    for (target, insecure) in [(&plain, vec!["registry.invalid:5000".to_owned()]), (&secure, Vec::new())] {
        let (proxy, names) = socks(target.host.clone());
        let options = ClientOptions {
            proxy: ProxySetting::Url(format!("socks5h://{proxy}")),
            insecure: Insecure::Hosts(insecure),
            ..trusting(&authority)
        };
        resolve(&client(options), "registry.invalid:5000").await.unwrap();
        assert!(names.lock().unwrap().iter().all(|name| name == "registry.invalid"));
        assert!(!target.requests().is_empty());
    }
}

struct Certificates {
    authority: String,
    server: Arc<rustls::ServerConfig>,
}

/// A certificate for a server. Self-signed: it is its own authority.
fn certificates(name: &str, self_signed: bool) -> Certificates {
    certificates_until(name, self_signed, 4000)
}

fn certificates_until(name: &str, self_signed: bool, year: i32) -> Certificates {
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec![name.to_owned()]).unwrap();
    own.not_after = rcgen::date_time_ymd(year, 1, 1);
    let (authority, certificate) = if self_signed {
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = own.self_signed(&key).unwrap();
        (certificate.pem(), certificate)
    } else {
        let authority_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(params, authority_key);
        (authority.pem(), own.signed_by(&key, &issuer).unwrap())
    };
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    Certificates { authority, server: Arc::new(server) }
}

fn trusting(authority: &str) -> ClientOptions {
    ClientOptions { ca_certificates: vec![authority.as_bytes().to_vec()], ..options() }
}

#[tokio::test]
async fn tls_is_spoken_with_an_authority_that_was_added_or_a_certificate_of_its_own() {
    for self_signed in [false, true] {
        let blob = noise(100_000);
        let store = Store::with_image(&[&blob]);
        let Certificates { authority, server } = certificates("127.0.0.1", self_signed);
        let server = Server::start_tls(server, move |request| match request.path.contains("/blobs/") {
            true => store.reply(request).ending(End::Cut(30_000)),
            false => store.reply(request),
        });
        let client = client(trusting(&authority));
        resolve(&client, &server.host).await.unwrap();
        assert!(read_blob(&client, &server.host, &describe(&blob), 0).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn an_extra_authority_may_come_from_the_environment() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"] {
        let store = Store::with_image(&[]);
        let Certificates { authority, server } = certificates("127.0.0.1", false);
        let server = Server::start_tls(server, move |request| store.reply(request));
        let file = temp.path().join(name);
        std::fs::write(&file, authority).unwrap();
        let environment = Environment::new([(name.to_owned(), file.display().to_string())]);
        resolve(&client(ClientOptions { environment, ..options() }), &server.host).await.unwrap();
    }
}

#[tokio::test]
async fn certificates_that_are_not_trusted_end_it_at_once() {
    let right = certificates("127.0.0.1", false);
    let named = certificates("registry.example", true);
    let expired = [false, true].map(|self_signed| certificates_until("127.0.0.1", self_signed, 2020));
    for (config, options, words) in [
        (&expired[0], trusting(&expired[0].authority), "it has expired"),
        (&expired[1], trusting(&expired[1].authority), "it has expired"),
        (&right, options(), "nobody known has signed it"),
        (&right, trusting(&named.authority), "nobody known has signed it"),
        (&named, trusting(&named.authority), "another name"),
    ] {
        let server = Server::start_tls(Arc::clone(&config.server), |_| Reply::new(200, ""));
        let started = Instant::now();
        let error = resolve(&client(options), &server.host).await.unwrap_err();
        assert_eq!(error.code(), "ERR_NETWORK");
        assert!(error.to_string().contains(words) && error.to_string().contains("caCertificates"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1) && server.requests().is_empty());
    }
}

#[tokio::test]
async fn nobody_listening_is_told_with_host_and_number_of_tries() {
    let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = resolve(&client(options()), &host).await.unwrap_err();
    assert_eq!(error.code(), "ERR_NETWORK");
    assert!(error.to_string().contains(&host) && error.to_string().contains("tried 4 times"), "{error}");
}

#[test]
fn bad_options_are_told_when_the_client_is_made() {
    for bad in [
        ClientOptions { ca_certificates: vec![b"no pem".to_vec()], ..options() },
        ClientOptions { proxy: ProxySetting::Url("nonsense://x".into()), ..options() },
        ClientOptions { mirrors: BTreeMap::from([("docker.io".into(), vec!["nonsense".into()])]), ..options() },
    ] {
        assert_eq!(Client::new(bad).err().map(|error| error.code()), Some("ERR_INVALID_OPTION"));
    }
}
