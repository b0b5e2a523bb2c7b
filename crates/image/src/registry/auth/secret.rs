//! Values that are never printed.

use std::fmt;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let auth = RegistryAuth::Basic { username: "me".into(), password: Secret::new("hunter2") };
        assert_eq!(format!("{auth:?}"), r#"Basic { username: "me", password: *** }"#);
    }
}
