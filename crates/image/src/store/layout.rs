//! Names of files in the cache. The one place that knows them.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorKind, ImageError},
    model::{Algorithm, Digest, Platform, Reference},
};

/// Name of the file that makes a tree valid, at its root.
pub const COMPLETE_MARKER: &str = ".complete";

/// What a layer has in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerFile {
    /// The compressed blob.
    Blob,
    /// An unfinished download.
    Part,
    /// The finished tree.
    Tree,
    /// A tree being made.
    Extracting,
    /// The sidecar index.
    Index,
    /// What the verified blob says of every entry (SPEC §8). The original does not know this file.
    Table,
    /// Directories no entry described.
    ImplicitDirs,
    /// Hard links to files of lower layers, as this package listed them before there were tables. Only read.
    LowerLinks,
    /// Held while extracting.
    Lock,
    /// Held while downloading.
    DownloadLock,
}

impl LayerFile {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Blob,
        Self::Part,
        Self::Tree,
        Self::Extracting,
        Self::Index,
        Self::Table,
        Self::ImplicitDirs,
        Self::LowerLinks,
        Self::Lock,
        Self::DownloadLock,
    ];

    /// What stands behind the digest in the file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Blob => ".tar.gz",
            Self::Part => ".tar.gz.part",
            Self::Tree => ".extracted",
            Self::Extracting => ".extracting",
            Self::Index => ".index",
            Self::Table => ".table",
            Self::ImplicitDirs => ".implicit_dirs",
            Self::LowerLinks => ".lower_links",
            Self::Lock => ".lock",
            Self::DownloadLock => ".download.lock",
        }
    }
}

/// What a layer inherits from the layers below it in an image, as a name (SPEC §8): 32 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InheritedKey(String);

impl InheritedKey {
    const LENGTH: usize = 32;

    /// Fails with `ERR_CACHE` on anything but 32 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let is_key = text.len() == Self::LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_key {
            return Ok(Self(text.to_owned()));
        }
        let reason = "an inherited key is 32 lower-case hex digits".to_owned();
        Err(ErrorKind::Cache { path: String::new(), reason }.into())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for InheritedKey {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        Self::parse(&text)
    }
}

impl From<InheritedKey> for String {
    fn from(key: InheritedKey) -> Self {
        key.0
    }
}

impl fmt::Display for InheritedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of the trees of a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerTree {
    /// The layer's digest.
    pub digest: Digest,
    /// What the tree inherits from lower layers; `None` for the base tree, which has the name that the original uses.
    pub inherited: Option<InheritedKey>,
}

impl LayerTree {
    /// The tree that has the name that the original uses.
    pub fn base(digest: &Digest) -> Self {
        Self { digest: digest.clone(), inherited: None }
    }
}

/// What belongs to one tree of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeFile {
    /// The tree itself.
    Tree,
    /// Its sidecar index.
    Index,
    /// The list of what it inherits; a base tree has none.
    Inherited,
}

impl TreeFile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tree, Self::Index, Self::Inherited];

    /// What stands behind digest and key in the file's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Tree => ".extracted",
            Self::Index => ".index",
            Self::Inherited => ".inherited",
        }
    }
}

/// The paths below one cache directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    pub(super) layers: PathBuf,
    pub(super) images: PathBuf,
    /// Users whose files are believed beside root's and one's own.
    pub(super) trusted_owners: Arc<[u32]>,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            layers: root.join("layers"),
            images: root.join("images"),
            trusted_owners: Arc::default(),
        }
    }

    pub(super) fn layer(&self, digest: &Digest, file: LayerFile) -> PathBuf {
        self.layers.join(digest.to_path_safe() + file.suffix())
    }

    pub(super) fn tree(&self, tree: &LayerTree, file: TreeFile) -> PathBuf {
        let key = tree.inherited.as_ref().map(|key| format!(".{key}")).unwrap_or_default();
        self.layers.join(tree.digest.to_path_safe() + &key + file.suffix())
    }

    /// Where a tree is made. The name is new each time, so that nobody waits for anybody to make one.
    pub(super) fn extracting(&self, digest: &Digest, random: &str) -> PathBuf {
        self.layers.join(format!("{}.{random}{}", digest.to_path_safe(), LayerFile::Extracting.suffix()))
    }

    pub(super) fn image(&self, reference: &Reference, platform: &Platform, suffix: &str) -> PathBuf {
        self.images.join(image_key(reference, platform) + suffix)
    }
}

/// The original's key is the hash of the reference alone, whatever the platform. It stays so for the default platform;
/// any other is another image and has another key.
fn image_key(reference: &Reference, platform: &Platform) -> String {
    let text = if *platform == Platform::host_linux() {
        reference.as_str().to_owned()
    } else {
        format!("{}\n{platform}", reference.as_str())
    };
    Digest::of(Algorithm::Sha256, text.as_bytes()).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_default_platform_is_the_originals() {
        let reference = Reference::parse("alpine").unwrap();
        let host = Platform::host_linux();
        let key = image_key(&reference, &host);
        assert_eq!(key, Digest::of(Algorithm::Sha256, b"docker.io/library/alpine:latest").hex());
        let other = Platform { architecture: "riscv64".into(), ..host };
        assert_ne!(image_key(&reference, &other), key);
    }
}
