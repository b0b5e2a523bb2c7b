//! Trees under their final names, and what belongs beside them. What has a final name is never written again: a tree that
//! is there and right stays, and ours is dropped; one that is damaged, and that nobody uses, is exchanged as a whole.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, Timestamps, renameat_with};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{make_directory, publish_file, publish_file_with, remove_file_if_there, rename, step},
    layer::{Halt, LayerIndex, Sidecar, TableFacts, renumber, write_list},
    model::Digest,
    store::{
        COMPLETE_MARKER, GlobalCache, Holder, Inherited, LayerFile, TreeFile, TreeName, copy_tree, fill,
        status::Judged, trash::throw_away,
    },
};

/// A tree that has no final name yet, gone when it is dropped. It is kept from being swept by a lease.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// The index of this very tree, if there is one.
    pub(crate) index: Option<Sidecar>,
}

impl Scratch {
    /// Copies a tree whose content was just verified, for the holder of the lease of this name.
    pub(crate) fn copy_of(cache: &GlobalCache, tree: &TreeName, lease: &str, halt: &Halt) -> Result<Self> {
        let mut scratch = Self { path: cache.scratch(&tree.digest, lease), index: None };
        throw_away(&scratch.path)?;
        copy_tree(&cache.tree(tree, TreeFile::Tree), &scratch.path, halt)?;
        if let Ok(index) = LayerIndex::open_trusted(&cache.tree(tree, TreeFile::Index), &cache.trust()?) {
            scratch.index = Some(Sidecar::from(renumbered(&index, &scratch.path, halt)?));
        }
        Ok(scratch)
    }

    /// Makes the directory, for the holder of the lease of this name.
    pub(crate) fn new(cache: &GlobalCache, digest: &Digest, lease: &str) -> Result<Self> {
        let scratch = Self { path: cache.scratch(digest, lease), index: None };
        throw_away(&scratch.path)?;
        make_directory(&scratch.path)?;
        Ok(scratch)
    }

    /// Where the tree is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the tree what it inherits.
    fn fill(
        &mut self,
        inherited: &Inherited,
        open_holder: impl FnMut(&Holder) -> Result<OwnedFd>,
        halt: &Halt,
    ) -> Result<()> {
        self.index = fill_all(&self.path, self.index.take(), inherited, open_holder, halt)?;
        Ok(())
    }
}

/// Gives a tree that is not published what it inherits, and answers its index.
pub(super) fn fill_all(
    tree: &Path,
    index: Option<Sidecar>,
    inherited: &Inherited,
    open_holder: impl FnMut(&Holder) -> Result<OwnedFd>,
    halt: &Halt,
) -> Result<Option<Sidecar>> {
    if *inherited == Inherited::default() {
        return Ok(index);
    }
    let index = index.map(|index| read_index(&index, tree)).transpose()?;
    Ok(fill(tree, index.as_ref(), inherited, open_holder, halt)?.map(Sidecar::from))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = throw_away(&self.path) {
            tracing::warn!(%error, "an unfinished tree could not be removed");
        }
    }
}

/// What an image wants of a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    /// An index.
    pub(crate) index: bool,
    /// What is there is compared, byte by byte, before it is taken: nobody did so before, or somebody doubts it.
    pub(crate) comparison: bool,
}

impl GlobalCache {
    /// The tree of a layer that has these values: one that is there, else the one in `scratch`, published. `None` if
    /// there is neither. The layer's lock is held.
    ///
    /// `open_holder` opens the file that holds a link's bytes. Fails with `ERR_CACHE` where a damaged tree is in use.
    pub(crate) fn place(
        &self,
        facts: &TableFacts,
        inherited: &Inherited,
        scratch: &mut Option<Scratch>,
        wants: Wants,
        mut open_holder: impl FnMut(&Holder) -> Result<OwnedFd>,
        halt: &Halt,
    ) -> Result<Option<TreeName>> {
        let digest = &facts.verified.digest;
        let has_index = scratch.as_ref().is_none_or(|scratch| scratch.index.is_some());
        // Where none can be made, one can't be missing.
        let index = wants.index && has_index;
        if let Some(scratch) = scratch {
            scratch.fill(inherited, &mut open_holder, halt)?;
        }
        let base = (!facts.has_cross_layer_links).then(|| TreeName::base(digest));
        let keyed = TreeName::keyed(digest, &inherited.key());
        for tree in base.into_iter().chain([keyed]) {
            let mut judged = self.judge(&tree, inherited, index, halt)?;
            let compares = judged == Judged::NoIndex || judged == Judged::Right && wants.comparison;
            if compares
                && let Some(scratch) = scratch
                && !self.is_same_tree(&tree, scratch.path(), halt)?
            {
                judged = Judged::Damaged;
            }
            let is_base = tree.inherited.is_none();
            match judged {
                Judged::Right => return Ok(Some(tree)),
                Judged::NoIndex => {
                    // A healthy tree stays where it is; its index is made from that of an equal one.
                    let Some(scratch) = scratch else { return Ok(None) };
                    self.publish_missing_index(&tree, scratch, halt)?;
                    return Ok(Some(tree));
                }
                Judged::Other => continue,
                Judged::Damaged if self.is_in_use(digest)? => {
                    if is_base {
                        continue;
                    }
                    let path = self.tree(&tree, TreeFile::Tree).display().to_string();
                    let reason = "it is damaged, and a lease keeps it from being exchanged".to_owned();
                    return Err(ErrorKind::Cache { path, reason }.into());
                }
                Judged::Absent | Judged::Damaged => {}
            }
            let Some(scratch) = scratch.take() else { return Ok(None) };
            halt.check()?;
            if is_base {
                let implied: Vec<Vec<u8>> = inherited.directories.iter().map(|(path, _)| path.clone()).collect();
                write_or_remove(&self.layer(digest, LayerFile::ImplicitDirs), &write_list(&implied))?;
            }
            publish_tree(self, &tree, scratch.path(), scratch.index.as_ref(), inherited)?;
            return Ok(Some(tree));
        }
        Err(ImageError::internal("a tree with a key of its own has other values"))
    }

    fn publish_missing_index(&self, tree: &TreeName, equal: &Scratch, halt: &Halt) -> Result<()> {
        let Some(index) = &equal.index else { return Ok(()) };
        let index = read_index(index, equal.path())?;
        let bytes = renumbered(&index, &self.tree(tree, TreeFile::Tree), halt)?;
        publish_file(&self.tree(tree, TreeFile::Index), &bytes)
    }
}

fn read_index(index: &Sidecar, of: &Path) -> Result<LayerIndex> {
    let bytes = index.to_vec().map_err(|error| ImageError::io("read back the index of", of, error))?;
    LayerIndex::from_bytes(bytes)
}

/// The index of `tree`, from that of a tree that is equal but for its inodes.
fn renumbered(index: &LayerIndex, tree: &Path, halt: &Halt) -> Result<Vec<u8>> {
    renumber(index, |path| {
        halt.check()?;
        let path = tree.join(OsStr::from_bytes(path));
        let there = fs::symlink_metadata(&path).map_err(|error| ImageError::io("stat", &path, error))?;
        Ok(there.ino())
    })
}

/// Publishes what the blob was verified to be, before any tree of it.
pub(crate) fn publish_table(cache: &GlobalCache, digest: &Digest, table: &Sidecar) -> Result<()> {
    let path = cache.layer(digest, LayerFile::Table);
    // It is a function of the blob: one that is there and whole is the same.
    if cache.table(digest).is_some() {
        return Ok(());
    }
    publish_file_with(&path, |file| table.write_to(file))
}

/// Publishes a tree that was verified and has all it inherits. The layer's lock is held.
///
/// The index goes first and comes last, since one without its tree must never be there; the list comes before the tree.
pub(crate) fn publish_tree(
    cache: &GlobalCache,
    name: &TreeName,
    scratch: &Path,
    index: Option<&Sidecar>,
    inherited: &Inherited,
) -> Result<()> {
    let path = |file| cache.tree(name, file);
    let (tree, index_path) = (path(TreeFile::Tree), path(TreeFile::Index));
    remove_file_if_there(&index_path)?;
    let list =
        if *inherited == Inherited::default() && name.inherited.is_none() { Vec::new() } else { inherited.to_bytes() };
    write_or_remove(&path(TreeFile::List), &list)?;
    write_marker(scratch)?;
    swap(scratch, &tree)?;
    if let Some(index) = index {
        publish_file_with(&index_path, |file| index.write_to(file))?;
    }
    Ok(())
}

/// A list that is empty has no file.
pub(super) fn write_or_remove(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() { remove_file_if_there(path).map(drop) } else { publish_file(path, bytes) }
}

/// The empty file that makes a tree valid. An image's own file of that name serves as well, and keeps its content.
fn write_marker(tree: &Path) -> Result<()> {
    let marker = tree.join(COMPLETE_MARKER);
    if marker.symlink_metadata().is_ok() {
        return Ok(());
    }
    let before = rustix::fs::stat(tree).map_err(|errno| ImageError::io("stat", tree, errno))?;
    step("create", &marker);
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&marker);
    made.map_err(|error| ImageError::io("create", &marker, error))?;
    // Making the marker touched the root's time, which is the image's.
    let times = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: before.st_atime as i64, tv_nsec: before.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: before.st_mtime as i64, tv_nsec: before.st_mtime_nsec as _ },
    };
    step("time", tree);
    rustix::fs::utimensat(CWD, tree, &times, rustix::fs::AtFlags::empty())
        .map_err(|errno| ImageError::io("set the time of", tree, errno))
}

/// Puts the new tree in place of an old one, which is gone afterwards.
fn swap(new: &Path, place: &Path) -> Result<()> {
    if place.symlink_metadata().is_err() {
        return rename(new, place);
    }
    step("exchange", new);
    match renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => throw_away(new),
        // Not every file system can exchange.
        Err(_) => {
            throw_away(place)?;
            rename(new, place)
        }
    }
}
