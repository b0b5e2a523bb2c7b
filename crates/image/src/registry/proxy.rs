//! Which proxy a request goes through: the usual variables, or the caller's choice.

use reqwest::Url;

use crate::{
    error::{ErrorKind, Result},
    registry::{
        auth::Secret,
        endpoint::is_loopback,
        options::{ClientOptions, Environment, ProxySetting},
    },
};

const SCHEMES: [&str; 5] = ["http", "https", "socks5", "socks5h", "socks4"];

/// The decision, made once per request.
#[derive(Clone)]
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    except: Vec<String>,
}

impl Proxies {
    pub(super) fn new(options: &ClientOptions) -> Result<Self> {
        match &options.proxy {
            ProxySetting::None => Ok(Self { http: None, https: None, except: Vec::new() }),
            ProxySetting::Url(url) => {
                let url = parse("proxy", url)?;
                Ok(Self { http: Some(url.clone()), https: Some(url), except: Vec::new() })
            }
            ProxySetting::Environment => Self::from_environment(&options.environment),
        }
    }

    fn from_environment(environment: &Environment) -> Result<Self> {
        let first = |names: &[&'static str]| {
            let found = names.iter().find_map(|name| environment.get(name).map(|value| (*name, value)));
            found.map(|(name, value)| parse(name, value)).transpose()
        };
        let except = environment.get("no_proxy").or(environment.get("NO_PROXY")).unwrap_or_default();
        Ok(Self {
            http: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            except: except.split([',', ' ']).filter(|rule| !rule.is_empty()).map(str::to_ascii_lowercase).collect(),
        })
    }

    /// The passwords of proxies, which a proxy could echo.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let urls = self.http.iter().chain(&self.https);
        let logins = urls.filter_map(|url| Some((url.username(), url.password()?)));
        // What is sent is decoded, and a proxy may echo either.
        let logins = logins.flat_map(|(name, password)| {
            let sent = Secret::new(decoded(password));
            [sent.as_basic(&decoded(name)), sent, Secret::new(password)]
        });
        logins.collect()
    }

    /// The proxy for a URL. Loopback needs none: a login would go there in the clear.
    pub(super) fn choose(&self, url: &Url) -> Option<Url> {
        let host = url.host_str()?;
        if is_loopback(host) || self.except.iter().any(|rule| matches(rule, host, url.port_or_known_default())) {
            return None;
        }
        if url.scheme() == "https" { self.https.clone() } else { self.http.clone() }
    }
}

/// A text of a URL without its `%XX`, as the HTTP client sends it.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse(name: &str, value: &str) -> Result<Url> {
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    Url::parse(&with_scheme).ok().filter(|url| url.has_host() && SCHEMES.contains(&url.scheme())).ok_or_else(
        // The value may hold a password, so it is not shown.
        || {
            ErrorKind::InvalidOption {
                option: name.to_owned(),
                reason: format!("it is no proxy's URL ({})", SCHEMES.join(", ")),
            }
            .into()
        },
    )
}

/// One rule of NO_PROXY: `*`, a name with all below it, an address, a network in CIDR form, each with an optional port.
fn matches(rule: &str, host: &str, port: Option<u16>) -> bool {
    if rule == "*" {
        return true;
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    if let Some((network, bits)) = rule.split_once('/') {
        let network = network.trim_start_matches('[').trim_end_matches(']');
        return match (network.parse(), bits.parse(), host.parse()) {
            (Ok(network), Ok(bits), Ok(address)) => in_network(address, network, bits),
            _ => false,
        };
    }
    let (rule, wanted) = match rule.rsplit_once(':') {
        // The colons of an address without brackets are its own.
        Some((name, text)) if !name.contains(':') || name.ends_with(']') => match text.parse::<u16>() {
            Ok(wanted) => (name, Some(wanted)),
            Err(_) => (rule, None),
        },
        _ => (rule, None),
    };
    if wanted.is_some() && wanted != port {
        return false;
    }
    let rule = rule.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    if let (Ok(rule), Ok(host)) = (rule.parse::<std::net::IpAddr>(), host.parse::<std::net::IpAddr>()) {
        return rule == host;
    }
    let name = rule.trim_start_matches("*.").trim_start_matches('.');
    if name.is_empty() {
        return false;
    }
    host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn in_network(address: std::net::IpAddr, network: std::net::IpAddr, bits: u32) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (address, network) {
        (V4(address), V4(network)) if bits <= 32 => {
            let shift = 32 - bits;
            shift == 32 || u32::from(address) >> shift == u32::from(network) >> shift
        }
        (V6(address), V6(network)) if bits <= 128 => {
            let shift = 128 - bits;
            shift == 128 || u128::from(address) >> shift == u128::from(network) >> shift
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_no_proxy_are_matched_as_usual() {
        for (rule, host, port, expected) in [
            ("*", "a.b", 443, true),
            ("example.com", "example.com", 443, true),
            ("example.com", "x.example.com", 443, true),
            (".example.com", "x.example.com", 443, true),
            ("*.example.com", "x.example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            ("example.com:5000", "example.com", 5000, true),
            ("example.com:5000", "example.com", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 80, true),
            ("10.0.0.0/8", "11.1.2.3", 80, false),
            ("0.0.0.0/0", "11.1.2.3", 80, true),
            ("fd00::/8", "[fd12::1]", 80, true),
            ("fd00::1", "[fd00::1]", 80, true),
            ("[fd00::1]", "[fd00::1]", 80, true),
            ("[fd00::1]:5000", "[fd00::1]", 5000, true),
            ("[fd00::1]:5000", "[fd00::1]", 80, false),
            ("fd00:0::1", "[fd00::1]", 80, true),
            ("[fd00::]/8", "[fd12::1]", 80, true),
            ("example.com.", "x.example.com", 443, true),
            ("example.com", "example.com.", 443, true),
            (".", "example.com", 443, false),
            ("10.0.0.0/99", "10.0.0.1", 80, false),
        ] {
            assert_eq!(matches(rule, host, Some(port)), expected, "{rule} {host}:{port}");
        }
    }

    #[test]
    fn the_password_of_a_proxy_is_secret_as_it_is_written_and_as_it_is_sent() {
        let proxy = ProxySetting::Url("http://m%65:hunter%402@p:1".into());
        let proxies = Proxies::new(&ClientOptions { proxy, ..ClientOptions::default() }).unwrap();
        let secrets = proxies.secrets();
        for sent in [Secret::new("hunter@2"), Secret::new("hunter%402"), Secret::new("hunter@2").as_basic("me")] {
            assert!(secrets.contains(&sent), "{}", sent.reveal());
        }
    }

    #[test]
    fn a_named_proxy_is_for_all_hosts_but_loopback_and_what_is_none_is_refused() {
        let proxies = |url: &str| {
            Proxies::new(&ClientOptions { proxy: ProxySetting::Url(url.into()), ..ClientOptions::default() })
        };
        let named = proxies("http://p:1").unwrap();
        let chosen = |url: &str| named.choose(&Url::parse(url).unwrap());
        assert_eq!(chosen("http://lan.example:5000/").unwrap().as_str(), "http://p:1/");
        for direct in ["http://127.0.0.1:5000/", "http://localhost:5000/", "https://[::1]/"] {
            assert_eq!(chosen(direct), None, "{direct}");
        }
        assert!(proxies("socks5://p:1").is_ok());
        for bad in ["ftp://user:hunter2@p", "http://", ""] {
            let error = proxies(bad).err().unwrap();
            assert_eq!(error.code(), "ERR_INVALID_OPTION", "{bad}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn https_and_http_have_their_own_proxies_and_loopback_none() {
        let environment = Environment::new([
            ("HTTPS_PROXY".to_owned(), "proxy:8443".to_owned()),
            ("http_proxy".to_owned(), "http://user:secret@plain:8080".to_owned()),
            ("NO_PROXY".to_owned(), "internal, 10.0.0.0/8".to_owned()),
        ]);
        let proxies = Proxies::new(&ClientOptions { environment, ..ClientOptions::default() }).unwrap();
        let chosen =
            |url: &str| proxies.choose(&Url::parse(url).unwrap()).map(|url| url.host_str().unwrap().to_owned());
        assert_eq!(chosen("https://ghcr.io/v2/").as_deref(), Some("proxy"));
        assert_eq!(chosen("http://ghcr.io/v2/").as_deref(), Some("plain"));
        for direct in ["https://a.internal/", "https://10.1.1.1/", "http://127.0.0.1:5000/", "http://[::1]:5000/"] {
            assert_eq!(chosen(direct), None, "{direct}");
        }
    }
}
