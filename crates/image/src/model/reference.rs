//! Image references: the grammar of the distribution project (distribution/reference, "Grammar").
//!
//! The canonical text (`docker.io/library/alpine:latest`) is what the cache key is made of, so it must be the very text
//! that the original crate makes: it is written by `oci-client`, which both use. The parser is our own, since that one
//! takes tens of milliseconds to compile its expression, and knows no IPv6; a test holds the two together.

use std::{fmt, str::FromStr};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::Digest,
};

const DOCKER_HUB: &str = "docker.io";
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// A parsed image reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    inner: oci_client::Reference,
    canonical: String,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses `[registry/]repository[:tag][@digest]`; no registry means Docker Hub, neither tag nor digest means
    /// `latest`. Fails with `ERR_INVALID_REFERENCE`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason: &str| ErrorKind::InvalidReference {
            text: text.chars().take(300).collect(),
            reason: reason.to_owned(),
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let digest = digest.map(Digest::parse).transpose().map_err(|error| invalid(&error.kind().to_string()))?;
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = split_registry(name);
        let (registry, repository) = check_name(registry, repository).map_err(invalid)?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(invalid)?;
        }
        let tag = tag.or(digest.is_none().then_some("latest")).map(str::to_owned);
        let inner = match (tag, &digest) {
            (Some(tag), Some(digest)) => {
                oci_client::Reference::with_tag_and_digest(registry, repository, tag, digest.to_string())
            }
            (Some(tag), None) => oci_client::Reference::with_tag(registry, repository, tag),
            (None, Some(digest)) => oci_client::Reference::with_digest(registry, repository, digest.to_string()),
            (None, None) => return Err(invalid("it has neither a tag nor a digest").into()),
        };
        let canonical = inner.to_string();
        Ok(Self { inner, canonical, digest })
    }

    /// The registry's host, with a port where one is named (`docker.io`, `127.0.0.1:5000`).
    pub fn registry(&self) -> &str {
        self.inner.registry()
    }

    /// The repository (`library/alpine`).
    pub fn repository(&self) -> &str {
        self.inner.repository()
    }

    /// The tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag()
    }

    /// The manifest's digest, if it is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }
}

/// The first component is a registry if it looks like a host: it has a dot or a port, or is `localhost`.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
        _ => (None, name),
    }
}

fn check_name(registry: Option<&str>, repository: &str) -> Result<(String, String), &'static str> {
    if registry.is_some_and(|host| !is_host(host)) {
        return Err("the registry is no host[:port]");
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a repository's name is lower case");
    }
    if repository.is_empty() || !repository.split('/').all(is_component) {
        return Err("the repository's name is not made of lower-case words");
    }
    let registry = match registry {
        None | Some("index.docker.io") => DOCKER_HUB,
        Some(host) => host,
    };
    let official = registry == DOCKER_HUB && !repository.contains('/');
    let repository = if official { format!("library/{repository}") } else { repository.to_owned() };
    if repository.len() > LONGEST_REPOSITORY {
        return Err("the repository's name is too long");
    }
    Ok((registry.to_owned(), repository))
}

/// `name`, `name:port` or `[address]:port`.
fn is_host(text: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_fits && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inside && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    port.is_none_or(is_port) && host.split('.').all(is_label)
}

/// Words of lower-case letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(is_word) && bytes.last().is_some_and(is_word);
    ends && bytes
        .split(is_word)
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|&byte| byte == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = tag.bytes().next().is_some_and(is_word);
    let all = tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-');
    if first && all && tag.len() <= LONGEST_TAG { Ok(()) } else { Err("the tag is not made of word characters") }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical)
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_canonical() {
        let hex = "a".repeat(64);
        for (text, canonical) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
        ] {
            assert_eq!(Reference::parse(text).unwrap().as_str(), canonical, "{text}");
        }
        let pinned = Reference::parse(&format!("ghcr.io/o/r@sha256:{hex}")).unwrap();
        assert_eq!((pinned.tag(), pinned.digest().unwrap().hex()), (None, hex.as_str()));
    }

    #[test]
    fn it_reads_what_the_originals_parser_reads_and_writes_the_same() {
        let hex = "f".repeat(64);
        let long = "a/".repeat(126) + "a";
        for text in [
            "busybox",
            "test.com:tag",
            "test.com:5000",
            "test.com/repo:tag",
            "test:5000/repo",
            "test:5000/repo:tag",
            &format!("test:5000/repo@sha256:{hex}"),
            &format!("test:5000/repo:tag@sha256:{hex}"),
            "lowercase:Uppercase",
            "sub-dom1.foo.com/bar/baz/quux",
            "b.gcr.io/test.example.com/my-app:test.example.com",
            "a__b/c--d/e.f_g",
            "xn--n3h.com/myimage:xn--n3h.com",
            "index.docker.io/alpine",
            "docker.io/library/x",
            "localhost/x",
            "foo/bar",
            "foo_bar.com:8080",
            "HOST.com/x",
            "127.0.0.1:5000/a:b",
            "a..b",
            "a_.b",
            "a___b",
            "-a",
            "a-",
            "a:.x",
            "a:-x",
            "a//b",
            "/a",
            "a/",
            "x:",
            "x@",
            "x:y:z",
            "a b",
            "a:b/c",
            ".a",
            "-.com/x",
            "x.com:port/y",
            "x.com:/y",
            "",
            ":",
            "@",
            "a@sha256:1234",
            &format!("a@sha256:{hex}f"),
            &format!("x:{}", "t".repeat(129)),
            &long,
            &format!("x.com/{long}b"),
            "é/x",
        ] {
            let theirs = oci_client::Reference::from_str(text).map(|reference| reference.to_string());
            let ours = Reference::parse(text).map(|reference| reference.to_string());
            assert_eq!(ours.ok(), theirs.ok(), "{text:?}");
        }
    }

    #[test]
    fn addresses_of_version_6_are_hosts() {
        let reference = Reference::parse("[::1]:5000/a/b:c").unwrap();
        assert_eq!((reference.registry(), reference.repository()), ("[::1]:5000", "a/b"));
        assert!(Reference::parse("[::1/a").is_err() && Reference::parse("[x]:1/a").is_err());
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        for bad in ["x:é", "", "UPPER/case", "a b", "a:b:c/d", "x@sha256:short", "../etc", "a//b", "http://host/x"] {
            assert_eq!(Reference::parse(bad).unwrap_err().code(), "ERR_INVALID_REFERENCE", "{bad:?}");
        }
    }
}
