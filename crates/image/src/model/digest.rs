//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>` (OCI image-spec, descriptor.md, "Digests").
//!
//! A [`Digest`] exists only after its text was parsed, so it is safe to put into a path or a URL.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::Digest as _;

use crate::error::{ErrorKind, ImageError, Result};

/// The hash algorithms that the image-spec registers and this crate computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// Its name in a digest's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A parsed content digest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Parses `algorithm:hex`. Fails with `ERR_INVALID_DIGEST` on an unknown algorithm, another length than the
    /// algorithm's, or anything but lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason: &str| ErrorKind::InvalidDigest { text: text.to_owned(), reason: reason.to_owned() };
        let (name, hex) = text.split_once(':').ok_or_else(|| invalid("expected algorithm:hex"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(invalid("the algorithm is neither sha256 nor sha512").into()),
        };
        if hex.len() != algorithm.hex_length() {
            return Err(invalid("the hexadecimal part has the wrong length").into());
        }
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid("only the digits 0-9 and a-f are allowed").into());
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }

    /// The hash algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The form used in file names: `sha256_<hex>`.
    pub fn to_path_safe(&self) -> String {
        format!("{}_{}", self.algorithm.name(), self.hex)
    }

    /// The digest of bytes at hand.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// A hash that is being computed while bytes flow.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256, by the processor's own instructions where it has them.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// Starts a hash.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(sha2::Sha512::new())),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest { algorithm: Algorithm::Sha256, hex: hex::encode(hasher.finalize()) },
            Self::Sha512(hasher) => Digest { algorithm: Algorithm::Sha512, hex: hex::encode(hasher.finalize()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_parsed_strictly() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert_eq!(digest.to_path_safe(), format!("sha256_{hex}"));
        assert!(Digest::parse(&format!("sha512:{}", hex.repeat(2))).is_ok());
        for bad in [
            "".to_owned(),
            hex.clone(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{}", hex.to_uppercase()),
            format!("md5:{hex}"),
            format!("sha256:../{}", &hex[3..]),
            format!("SHA256:{hex}"),
        ] {
            assert_eq!(Digest::parse(&bad).unwrap_err().code(), "ERR_INVALID_DIGEST", "{bad}");
        }
    }

    #[test]
    fn hashing_in_pieces_is_hashing_the_whole() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"ab");
            hasher.update(b"c");
            assert_eq!(hasher.finish(), Digest::of(algorithm, b"abc"));
        }
        assert_eq!(
            Digest::of(Algorithm::Sha256, b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
