//! What stands beside a tree, made anew where it is missing or damaged while the tree itself is right: healthy trees never
//! move.

use std::path::Path;

use rustix::fs::{AtFlags, statat};

use crate::{
    error::{ImageError, Result},
    fs::{publish_file, remove_file_if_there},
    layer::{Halt, LayerIndex, Sidecar, renumber},
    store::{
        GlobalCache, Inherited, TreeFile, TreeName, Walker,
        publish::{list_bytes, write_or_remove},
        tree::split,
    },
};

impl GlobalCache {
    /// Gives a tree that is right its list and its index: `index` is that of another tree of the same names and bytes.
    /// `None`, or one that can't be had, leaves it without. The layer's lock is held.
    pub(super) fn mend_beside(
        &self,
        tree: &TreeName,
        index: Option<&Sidecar>,
        inherited: &Inherited,
        halt: &Halt,
    ) -> Result<()> {
        let path = |file| self.tree(tree, file);
        let list = list_bytes(tree, inherited);
        if self.read_list_file(&path(TreeFile::List))?.unwrap_or_default() != list {
            write_or_remove(&path(TreeFile::List), &list)?;
        }
        let made = index.map(|index| index_of(&path(TreeFile::Tree), index, halt)).transpose();
        halt.check()?;
        match made {
            Ok(Some(bytes)) => publish_file(&path(TreeFile::Index), &bytes),
            Ok(None) => remove_file_if_there(&path(TreeFile::Index)).map(drop),
            Err(error) => {
                tracing::warn!(tree = %path(TreeFile::Tree).display(), %error, "the tree stays without an index");
                remove_file_if_there(&path(TreeFile::Index)).map(drop)
            }
        }
    }
}

/// The index of `tree`, by that of a tree that has the same.
fn index_of(tree: &Path, of_another: &Sidecar, halt: &Halt) -> Result<Vec<u8>> {
    renumbered(&read_index(of_another, tree)?, tree, halt)
}

/// The index that was made with a tree, `of`, opened.
pub(super) fn read_index(index: &Sidecar, of: &Path) -> Result<LayerIndex> {
    let bytes = index.to_vec().map_err(|error| ImageError::io("read back the index of", of, error))?;
    LayerIndex::from_bytes(bytes)
}

/// The bytes of an index with the inode numbers of `tree`, which has the same names.
pub(super) fn renumbered(index: &LayerIndex, tree: &Path, halt: &Halt) -> Result<Vec<u8>> {
    let mut walker = Walker::new(tree)?;
    let number = |path: &[u8]| {
        let full = walker.full(path);
        let (directory, name) = split(path);
        let there = statat(walker.directory(directory)?, name, AtFlags::SYMLINK_NOFOLLOW);
        there.map(|there| there.st_ino).map_err(|errno| ImageError::io("stat", full, errno))
    };
    renumber(index, number, halt)
}
