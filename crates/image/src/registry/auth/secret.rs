//! Values that are never printed.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::header::HeaderValue;

use crate::error::{ErrorKind, Result};

const NO_HEADER: &str = "can't be sent: it holds a line end or another control character";

/// A password or token. `Debug` shows nothing of it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one header it belongs in.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// The value of a header for a host, marked so that nobody prints it. Fails with `ERR_UNAUTHORIZED` on what can't be
    /// in a header: the login of a file, a helper, a callback or a token server.
    pub(in crate::registry) fn to_header(&self, host: &str) -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(&self.0).map_err(|_| ErrorKind::Unauthorized {
            registry: host.to_owned(),
            reason: format!("the login for it {NO_HEADER}"),
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// This password with its name, as a header has them.
    pub(in crate::registry) fn as_basic(&self, username: &str) -> Self {
        Self::new(format!("Basic {}", STANDARD.encode(format!("{username}:{}", self.0))))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A credential for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryAuth {
    /// None: public images.
    Anonymous,
    /// Name and password.
    Basic {
        /// The name.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// A bearer token that the registry itself takes.
    Token(Secret),
    /// An identity token, to be exchanged for bearer tokens at the registry's token server.
    Identity(Secret),
}

impl RegistryAuth {
    /// Refuses, in the option `auth`, a token that can't be in a header.
    pub(in crate::registry) fn check(&self) -> Result<()> {
        match self {
            Self::Token(token) if HeaderValue::from_str(&token.0).is_err() => {
                let reason = format!("the token {NO_HEADER}");
                Err(ErrorKind::InvalidOption { option: "auth".to_owned(), reason }.into())
            }
            _ => Ok(()),
        }
    }

    /// True if there is something to log in with.
    pub(in crate::registry) fn is_some(&self) -> bool {
        *self != Self::Anonymous
    }

    /// All that must never be shown: the secret, and the forms it is sent in.
    pub(in crate::registry) fn secrets(&self) -> Vec<Secret> {
        match self {
            Self::Anonymous => Vec::new(),
            Self::Basic { username, password } => vec![password.clone(), password.as_basic(username)],
            Self::Token(token) | Self::Identity(token) => vec![token.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_marked_as_secret() {
        let header = Secret::new("hunter2").as_basic("me").to_header("r").unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic bWU6aHVudGVyMg==");
        assert!(header.is_sensitive());
        assert_eq!(Secret::new("a\nb").to_header("r").unwrap_err().code(), "ERR_UNAUTHORIZED");
    }

    #[test]
    fn debug_shows_no_secret() {
        let auth = RegistryAuth::Basic { username: "me".into(), password: Secret::new("hunter2") };
        assert_eq!(format!("{auth:?}"), r#"Basic { username: "me", password: *** }"#);
    }
}
