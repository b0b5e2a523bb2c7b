//! What a cache believes of what lies in it: its directories, metadata and trees have to be those of a trusted owner, and
//! nothing that everybody may write.

use std::{os::unix::fs::MetadataExt, path::Path};

use crate::{
    error::Result,
    fs::{Content, Trust, directory_is_there, no_directory, read_trusted, stat_if_there},
    store::{COMPLETE_MARKER, GlobalCache, TreeFile, TreeName},
};

/// Longer metadata are damaged: a manifest and a config of the largest size there may be, and reports.
pub(crate) const MAX_METADATA: u64 = 64 << 20;
/// Longer lists of what depends on lower layers are damaged.
pub(crate) const MAX_LIST: u64 = 256 << 20;

impl GlobalCache {
    /// Whose files are believed in this cache.
    pub(crate) fn trust(&self) -> Result<Trust> {
        let trust = Trust::new(self.trusted_owners());
        let root = stat_if_there(self.directory())?;
        Ok(match root {
            Some(root) => trust.in_cache_of(root.uid()),
            None => trust,
        })
    }

    /// Refuses directories that others could have prepared. Those that are not there yet are none; false if one is missing.
    pub(super) fn check_directories(&self) -> Result<bool> {
        let root = self.directory();
        let Some(there) = stat_if_there(root)? else { return Ok(false) };
        if !there.is_dir() {
            return Err(no_directory(root));
        }
        let trust = Trust::new(self.trusted_owners()).in_cache_of(there.uid());
        trust.check(root, &there)?;
        let mut complete = true;
        for directory in [self.layers_dir(), self.images_dir()] {
            complete &= directory_is_there(directory, &trust)?;
        }
        Ok(complete)
    }

    /// Refuses directories that others could have prepared. Those that are not there yet are none.
    ///
    /// Fails with `ERR_CACHE` that names the directory, its owner and mode, and what to do.
    pub fn check(&self) -> Result<()> {
        self.check_directories().map(drop)
    }

    /// The bytes of metadata, or of another small file of the cache. What is no regular file or too long is an empty text,
    /// which is damaged; `None` if nothing is there. `ERR_CACHE` if somebody else wrote it.
    pub(super) fn read_metadata_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.read_at_most(path, MAX_METADATA)
    }

    /// The bytes of a list beside a tree, likewise.
    pub(crate) fn read_list_file(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        self.read_at_most(path, MAX_LIST)
    }

    fn read_at_most(&self, path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
        let content = read_trusted(path, &self.trust()?, max)?;
        if let Content::Damaged(why) = content {
            tracing::warn!(path = %path.display(), "a file of the cache is damaged: {why}");
        }
        Ok(content.or_empty())
    }

    /// Whether a tree is there and finished. `ERR_CACHE` if it is somebody else's, or writable by everybody.
    pub(super) fn tree_is_finished(&self, tree: &Path, trust: &Trust) -> Result<bool> {
        let Some(there) = stat_if_there(tree)? else { return Ok(false) };
        if !there.is_dir() {
            return Ok(false);
        }
        trust.check(tree, &there)?;
        // The marker is asked for by name, so that a planted link's target is not taken for it.
        Ok(stat_if_there(&tree.join(COMPLETE_MARKER))?.is_some())
    }

    /// True if all these trees are there and whole. `ERR_CACHE` as in [`check`](Self::check).
    pub(super) fn trees_are_finished(&self, trees: impl IntoIterator<Item = TreeName>) -> Result<bool> {
        let trust = self.trust()?;
        for tree in trees {
            if !self.tree_is_finished(&self.tree(&tree, TreeFile::Tree), &trust)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
