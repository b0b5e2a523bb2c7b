//! Platforms: `os/architecture[/variant]` in the words of the image-spec (GOOS and GOARCH).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};

/// The platform an image is made for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, as Go names it (`linux`).
    pub os: String,
    /// CPU architecture, as Go names it (`amd64`, `arm64`, `arm`).
    pub architecture: String,
    /// Variant of the architecture (`v7`), where it has variants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// `linux` on this machine's architecture, whatever system the machine runs: sandboxes run Linux.
    pub fn host_linux() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// Parses `os/architecture[/variant]`, with the usual aliases (`x86_64`, `aarch64`, `armhf`, …).
    /// Fails with `ERR_INVALID_OPTION`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || ErrorKind::InvalidOption {
            option: "platform".to_owned(),
            reason: format!("{:?} is not os/architecture[/variant]", text.chars().take(80).collect::<String>()),
        };
        let parts: Vec<&str> = text.split('/').collect();
        let well_formed = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(well_formed) {
            return Err(invalid().into());
        }
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|&variant| variant.to_owned()),
        }
        .normalised())
    }

    /// The same platform in Go's words, which are lower case and know `amd64`, not `x86_64`.
    pub fn normalised(&self) -> Self {
        let architecture = self.architecture.to_ascii_lowercase();
        let (architecture, implied) = match architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i686" | "x86" => ("386", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        let named = self.variant.as_deref().filter(|variant| !variant.is_empty()).map(|variant| {
            let variant = variant.to_ascii_lowercase();
            // Some builders write `8` for `v8`.
            if variant.bytes().all(|byte| byte.is_ascii_digit()) { format!("v{variant}") } else { variant }
        });
        Self {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: named.or(implied.map(str::to_owned)),
        }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::host_linux()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
