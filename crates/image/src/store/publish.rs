//! Trees under their final names, and what belongs beside them. What has a final name is never written again: a tree that
//! is there and right stays, and ours is dropped; one that is damaged, and that nobody uses, is exchanged as a whole.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, Timestamps, renameat_with};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{make_directory, publish_file, publish_file_with, remove_file_if_there, rename, step},
    layer::{Halt, LayerIndex, Sidecar, Table, TableFacts, write_list},
    model::Digest,
    store::{
        COMPLETE_MARKER, GlobalCache, Holder, Inherited, LayerFile, TreeFile, TreeName, Walker,
        beside::{read_index, renumbered},
        copy_tree, fill, open_file,
        status::Judged,
        trash::throw_away,
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

    /// Gives the tree, one of the layer `digest`, what it inherits.
    fn fill(
        &mut self,
        digest: &Digest,
        inherited: &Inherited,
        open_holder: impl FnMut(&Holder) -> Result<OwnedFd>,
        halt: &Halt,
    ) -> Result<()> {
        self.index = fill_all(&self.path, digest, self.index.take(), inherited, open_holder, halt)?;
        Ok(())
    }
}

/// Gives a tree of the layer `digest` that is not published what it inherits, and answers its index. What its links find in
/// the layer itself is taken from the tree.
pub(super) fn fill_all(
    tree: &Path,
    digest: &Digest,
    index: Option<Sidecar>,
    inherited: &Inherited,
    mut open_holder: impl FnMut(&Holder) -> Result<OwnedFd>,
    halt: &Halt,
) -> Result<Option<Sidecar>> {
    if *inherited == Inherited::default() {
        return Ok(index);
    }
    let index = index.map(|index| read_index(&index, tree)).transpose()?;
    let mut own = Walker::new(tree)?;
    let open_holder = |holder: &Holder| {
        if holder.digest == *digest { open_file(&mut own, &holder.path) } else { open_holder(holder) }
    };
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
            scratch.fill(digest, inherited, &mut open_holder, halt)?;
        }
        let base = (!facts.has_cross_layer_links).then(|| TreeName::base(digest));
        let keyed = TreeName::keyed(digest, &inherited.key());
        for tree in base.into_iter().chain([keyed]) {
            let mut judged = self.judge(&tree, inherited, index, halt)?;
            if judged == Judged::Bare || (judged == Judged::Right && wants.comparison) {
                judged = match scratch {
                    Some(scratch) => self.judge_by(&tree, judged, scratch, inherited, wants, halt)?,
                    None if judged == Judged::Bare => return Ok(None),
                    None => judged,
                };
            }
            let is_base = tree.inherited.is_none();
            match judged {
                Judged::Right => return Ok(Some(tree)),
                Judged::Other => continue,
                // Whoever has it as it was gets it mended by those values alone.
                Judged::Damaged if is_base && self.is_made_for_another(&tree, inherited, halt)? => continue,
                Judged::Damaged if self.is_in_use(digest)? => {
                    if is_base {
                        continue;
                    }
                    let path = self.tree(&tree, TreeFile::Tree).display().to_string();
                    let reason = "it is damaged, and a lease keeps it from being exchanged".to_owned();
                    return Err(ErrorKind::Cache { path, reason }.into());
                }
                Judged::Absent | Judged::Bare | Judged::Damaged => {}
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
}

impl GlobalCache {
    /// Judges a tree by one that was just made: what stands beside it is mended where the tree is right.
    fn judge_by(
        &self,
        tree: &TreeName,
        judged: Judged,
        scratch: &Scratch,
        inherited: &Inherited,
        wants: Wants,
        halt: &Halt,
    ) -> Result<Judged> {
        if !self.is_same_tree(tree, scratch.path(), halt)? {
            return Ok(Judged::Damaged);
        }
        if judged == Judged::Bare {
            self.mend_beside(tree, scratch.index.as_ref().filter(|_| wants.index), inherited, halt)?;
        }
        Ok(Judged::Right)
    }
}

/// Publishes what the blob was verified to be, before any tree of it. A table is a function of the blob, so one that is there
/// and whole stays; with `doubted` only if it is the same to the byte.
pub(crate) fn publish_table(cache: &GlobalCache, digest: &Digest, table: &Sidecar, doubted: bool) -> Result<()> {
    let path = cache.layer(digest, LayerFile::Table);
    let stays = |there: &Table| !doubted || table.write_to(&mut Compared(there.as_bytes())).is_ok();
    if cache.table(digest).as_ref().is_some_and(stays) {
        return Ok(());
    }
    publish_file_with(&path, |file| table.write_to(file))
}

/// Takes what is written if it is the same as the bytes it has.
struct Compared<'a>(&'a [u8]);

impl io::Write for Compared<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    write_or_remove(&path(TreeFile::List), &list_bytes(name, inherited))?;
    write_marker(scratch)?;
    swap(scratch, &tree)?;
    if let Some(index) = index {
        publish_file_with(&index_path, |file| index.write_to(file))?;
    }
    Ok(())
}

/// The list beside a tree; a base that inherits nothing has none.
pub(super) fn list_bytes(name: &TreeName, inherited: &Inherited) -> Vec<u8> {
    if *inherited == Inherited::default() && name.inherited.is_none() { Vec::new() } else { inherited.to_bytes() }
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
