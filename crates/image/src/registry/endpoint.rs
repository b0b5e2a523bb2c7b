//! Hosts: which server a registry's name stands for, and how it may be spoken to.

use reqwest::Url;

use crate::{
    error::{ErrorKind, Result},
    model::Reference,
    registry::options::{ClientOptions, Insecure},
};

/// A server that can answer for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `host` or `host:port`, as credentials and errors name it.
    pub(super) host: String,
    /// Scheme and path prefix are fixed for a mirror; for a registry the scheme is found out.
    pub(super) base: Option<Url>,
    pub(super) is_mirror: bool,
}

/// The servers for a reference: its mirrors in order, then the registry itself.
pub(super) fn endpoints(options: &ClientOptions, reference: &Reference) -> Vec<Endpoint> {
    let registry = reference.registry();
    let mirrors = options.mirrors.iter().filter(|(name, _)| canonical_host(name) == canonical_host(registry));
    let mirrors = mirrors.flat_map(|(_, urls)| urls).filter_map(|text| {
        let base = Url::parse(text).ok()?;
        Some(Endpoint { host: authority(&base), base: Some(base), is_mirror: true })
    });
    mirrors.chain([Endpoint { host: server_of(registry).to_owned(), base: None, is_mirror: false }]).collect()
}

/// Checks the mirrors' URLs when the options are taken.
pub(super) fn check_mirrors(options: &ClientOptions) -> Result<()> {
    for (registry, url) in options.mirrors.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (name, url))) {
        let invalid = |reason: &str| ErrorKind::InvalidOption {
            option: format!("mirrors[{registry:?}]"),
            reason: format!("{reason} (expected http://host[:port] or https://host[:port])"),
        };
        let parsed = Url::parse(url).map_err(|_| invalid("it is no URL"))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(invalid("it is no web address").into());
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(invalid("credentials do not belong in a URL").into());
        }
        if parsed.scheme() == "http" && !may_be_plain(options, &authority(&parsed)) {
            return Err(invalid("plain HTTP is for loopback and for hosts named in the option insecure").into());
        }
    }
    Ok(())
}

/// Checks the hosts of the option insecure: one that can't match is a mistake that would show only as a failing pull.
pub(super) fn check_insecure(options: &ClientOptions) -> Result<()> {
    let Insecure::Hosts(hosts) = &options.insecure else { return Ok(()) };
    let is_host =
        |text: &str| !text.contains(['/', '@', '?', '#', '\\']) && Url::parse(&format!("http://{text}")).is_ok();
    match hosts.iter().find(|host| host.trim() != host.as_str() || !is_host(host)) {
        None => Ok(()),
        Some(host) => Err(ErrorKind::InvalidOption {
            option: "insecure".to_owned(),
            reason: format!("{host:?} is no host (expected host or host:port, without http://)"),
        }
        .into()),
    }
}

/// Docker Hub is asked under another name than it has in references.
pub(super) fn server_of(registry: &str) -> &str {
    if canonical_host(registry) == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// The names of Docker Hub are one.
pub(super) fn canonical_host(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        other => other,
    }
}

/// `host` or `host:port` of a URL.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// True if the host may be spoken to without TLS.
pub(super) fn may_be_plain(options: &ClientOptions, host: &str) -> bool {
    is_loopback(host) || is_named_insecure(options, host, true)
}

/// True if a plain URL is the very host and port of a server that is spoken to in plain HTTP.
pub(super) fn same_authority(url: &Url, server: &str) -> bool {
    let place = |url: &Url| url.host_str().map(|host| (host.to_ascii_lowercase(), url.port_or_known_default()));
    Url::parse(&format!("http://{server}")).is_ok_and(|server| place(&server).is_some() && place(&server) == place(url))
}

/// True if the option insecure names a host. `true` there names those that a plain registry names.
pub(super) fn is_named_insecure(options: &ClientOptions, host: &str, by_plain: bool) -> bool {
    match &options.insecure {
        Insecure::Any => by_plain,
        Insecure::Hosts(hosts) => {
            hosts.iter().any(|known| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(without_port(host)))
        }
    }
}

/// True for 127.0.0.0/8, ::1, and `localhost` with all below it: for those names no other address is ever connected to
/// (see [`loopback`](super::loopback)).
pub(super) fn is_loopback(host: &str) -> bool {
    let name = without_port(host).trim_start_matches('[').trim_end_matches(']');
    is_localhost(name) || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// True for `localhost` and all names below it (RFC 6761, 6.3).
pub(super) fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

pub(super) fn without_port(host: &str) -> &str {
    if let Some(end) = host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        return &host[..end + 2];
    }
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_by_address_not_by_looks() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]", "x.localhost"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com", "localhost.example.com:80", "10.0.0.1", "[::2]:1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn mirrors_come_first_and_hub_has_its_own_server() {
        let mut options = ClientOptions::default();
        options.mirrors.insert("docker.io".into(), vec!["http://127.0.0.1:5000".into(), "https://m.example".into()]);
        check_mirrors(&options).unwrap();
        let reference = Reference::parse("alpine").unwrap();
        let hosts: Vec<_> = endpoints(&options, &reference).into_iter().map(|endpoint| endpoint.host).collect();
        assert_eq!(hosts, ["127.0.0.1:5000", "m.example", "registry-1.docker.io"]);
        for bad in ["x", "ftp://h", "http://user:pw@h", "http://example.com"] {
            options.mirrors.insert("q".into(), vec![bad.into()]);
            assert_eq!(check_mirrors(&options).unwrap_err().code(), "ERR_INVALID_OPTION", "{bad}");
        }
    }
    #[test]
    fn what_can_be_no_host_is_not_taken_for_one() {
        let check = |host: &str| {
            let insecure = Insecure::Hosts(vec!["lan.example".into(), host.into()]);
            check_insecure(&ClientOptions { insecure, ..ClientOptions::default() })
        };
        for good in ["lan.example:5000", "10.0.0.1", "[fd00::1]:5000", "REGISTRY.lan"] {
            check(good).unwrap();
        }
        for bad in
            ["", " ", " lan.example", "http://lan.example", "lan.example/v2", "me@lan.example", "lan.example:port"]
        {
            assert_eq!(check(bad).unwrap_err().code(), "ERR_INVALID_OPTION", "{bad:?}");
        }
    }
}
