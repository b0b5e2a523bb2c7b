//! Image references: the grammar of the distribution project, by `oci-client`.
//!
//! The canonical text (`docker.io/library/alpine:latest`) is what the cache key is made of, so it must be the very
//! text that the original crate makes; that is why its own parser is used.

use std::{fmt, str::FromStr};

use crate::{
    error::{ErrorKind, ImageError, Result},
    model::Digest,
};

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
        let invalid = |reason: String| ErrorKind::InvalidReference { text: text.chars().take(300).collect(), reason };
        let inner = oci_client::Reference::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if inner.repository().bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(invalid("a repository's name is lower case".to_owned()).into());
        }
        let digest = match inner.digest() {
            None => None,
            Some(digest) => Some(Digest::parse(digest).map_err(|error| invalid(error.kind().to_string()))?),
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
    fn what_the_grammar_forbids_is_refused() {
        for bad in ["", "UPPER/case", "a b", "a:b:c/d", "x@sha256:short", "../etc", "a//b", "http://host/x"] {
            assert_eq!(Reference::parse(bad).unwrap_err().code(), "ERR_INVALID_REFERENCE", "{bad:?}");
        }
    }
}
