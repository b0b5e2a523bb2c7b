//! Names of files in the cache. The one place that knows them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::model::{Algorithm, Digest, Platform, Reference};

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
    /// Directories no entry described.
    ImplicitDirs,
    /// What the verified blob says of every entry. The original does not know this file.
    Table,
    /// Held while extracting.
    Lock,
    /// Held while downloading.
    DownloadLock,
}

impl LayerFile {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Blob,
        Self::Part,
        Self::Tree,
        Self::Extracting,
        Self::Index,
        Self::ImplicitDirs,
        Self::Table,
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
            Self::ImplicitDirs => ".implicit_dirs",
            Self::Table => ".table",
            Self::Lock => ".lock",
            Self::DownloadLock => ".download.lock",
        }
    }
}

/// A tree of a layer: the base, which all images share to whom it is right, or one that some images inherit for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeName {
    /// The layer.
    pub digest: Digest,
    /// Key of what it inherits from lower layers; `None` for the base.
    pub inherited: Option<String>,
}

impl TreeName {
    /// The base tree.
    pub fn base(digest: &Digest) -> Self {
        Self { digest: digest.clone(), inherited: None }
    }

    /// The tree of these inherited values.
    pub fn keyed(digest: &Digest, key: &str) -> Self {
        Self { digest: digest.clone(), inherited: Some(key.to_owned()) }
    }
}

/// What belongs to one tree of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TreeFile {
    /// The tree itself.
    Tree,
    /// Its sidecar index.
    Index,
    /// What it inherits; a base that inherits nothing has none.
    List,
}

impl TreeFile {
    /// All kinds.
    pub(super) const ALL: [Self; 3] = [Self::Tree, Self::Index, Self::List];

    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Tree => ".extracted",
            Self::Index => ".index",
            Self::List => ".inherited",
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

    pub(super) fn tree(&self, name: &TreeName, file: TreeFile) -> PathBuf {
        let key = name.inherited.iter().map(|key| format!(".{key}")).collect::<String>();
        self.layers.join(name.digest.to_path_safe() + &key + file.suffix())
    }

    /// A tree being made by the holder of the lease of this name.
    pub(super) fn scratch(&self, digest: &Digest, lease: &str) -> PathBuf {
        self.layers.join(format!("{}.{lease}{}", digest.to_path_safe(), LayerFile::Extracting.suffix()))
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
