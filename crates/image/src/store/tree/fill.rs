//! What a layer inherits, put into a tree of it that has no final name yet, and into the index of that tree.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, FileType, XattrFlags, fgetxattr, fsetxattr, fstat, statat, unlinkat};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::step,
    layer::{Halt, LayerIndex, OVERRIDE_STAT, OverrideStat, Patch, patch},
    store::{
        Holder, Inherited,
        tree::{
            file::{Copier, IN_A_TREE, is_file, set_times, unexpected},
            walker::{Walker, split},
        },
    },
};

/// What a file has whose tree says nothing of it.
const UNDESCRIBED: OverrideStat = OverrideStat { uid: 0, gid: 0, mode: 0o100_644, rdev: 0 };

/// Gives the tree at `tree` what it inherits: attributes of directories, copies of the files that hold its links.
/// `index` is the tree's index as it was made with it; the one to publish is answered, `None` for none.
///
/// `open_holder` opens the file that holds a link's bytes. The tree must have no final name: nothing here is atomic.
/// Fails with `ERR_CACHE` where the tree or a holder is not what the list says, `ERR_IO`, `ERR_NO_SPACE`, or
/// `ERR_ABORTED` once `halt` is thrown.
pub(crate) fn fill(
    tree: &Path,
    index: Option<&LayerIndex>,
    inherited: &Inherited,
    open_holder: impl FnMut(&Holder) -> Result<OwnedFd>,
    halt: &Halt,
) -> Result<Option<Vec<u8>>> {
    let mut filler = Filler { tree: Walker::new(tree)?, index, halt, patches: Vec::new() };
    filler.directories(inherited)?;
    filler.links(inherited, open_holder)?;
    let Some(index) = index else { return Ok(None) };
    let mut bytes = index.as_bytes().to_vec();
    patch(&mut bytes, filler.patches);
    Ok(Some(bytes))
}

struct Filler<'a> {
    tree: Walker,
    index: Option<&'a LayerIndex>,
    halt: &'a Halt,
    patches: Vec<(usize, Patch)>,
}

impl Filler<'_> {
    fn directories(&mut self, inherited: &Inherited) -> Result<()> {
        for (path, stat) in &inherited.directories {
            self.halt.check()?;
            let full = self.tree.full(path);
            let directory = self.tree.directory(path)?;
            step("attribute", IN_A_TREE);
            fsetxattr(directory, OVERRIDE_STAT, &stat.to_bytes(), XattrFlags::empty())
                .map_err(|errno| ImageError::io("set an attribute of", full, errno))?;
            self.note(path, *stat, None)?;
        }
        Ok(())
    }

    fn links(&mut self, inherited: &Inherited, mut open: impl FnMut(&Holder) -> Result<OwnedFd>) -> Result<()> {
        let mut copier = Copier::new(self.halt);
        for (path, holder) in &inherited.links {
            self.halt.check()?;
            let full = self.tree.full(path);
            let held = open(holder)?;
            let host = fstat(&held).map_err(|errno| ImageError::io("stat a file held for", &full, errno))?;
            if !is_file(&host) {
                return Err(unexpected(&full));
            }
            let (directory, name) = split(path);
            let directory = self.tree.directory(directory)?;
            let before = fstat(directory).map_err(|errno| ImageError::io("stat", &full, errno))?;
            remove_placeholder(directory, name, &full)?;
            let made = copier.copy((&held, &host), directory, name, &full)?;
            set_times(directory, &before, &full)?;
            let made_as = fstat(&made).map_err(|errno| ImageError::io("stat", &full, errno))?;
            let size = u64::try_from(made_as.st_size).unwrap_or(0);
            self.note(path, read_stat(&made), Some((made_as.st_ino, size)))?;
        }
        Ok(())
    }

    /// An index that lacks what the tree has would be a wrong one.
    fn note(&mut self, path: &[u8], stat: OverrideStat, file: Option<(u64, u64)>) -> Result<()> {
        let Some(index) = self.index else { return Ok(()) };
        let Some(at) = index.record_offset(path) else {
            let path = self.tree.full(path).display().to_string();
            return Err(ErrorKind::Index { path, reason: "the index has no entry for it".to_owned() }.into());
        };
        self.patches.push((at, Patch { stat, file }));
        Ok(())
    }
}

/// Removes the file in a link's place: extraction made it empty, or a copied tree has another image's. Its inode goes,
/// so that nothing is written to what has other names.
fn remove_placeholder(directory: std::os::fd::BorrowedFd<'_>, name: &[u8], full: &Path) -> Result<()> {
    let there =
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| ImageError::io("stat", full, errno))?;
    if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
        return Err(unexpected(full));
    }
    step("remove", IN_A_TREE);
    unlinkat(directory, name, AtFlags::empty()).map_err(|errno| ImageError::io("remove", full, errno))
}

fn read_stat(file: impl AsFd) -> OverrideStat {
    let mut bytes = [0; 24];
    let read = fgetxattr(file, OVERRIDE_STAT, &mut bytes[..]).ok();
    read.and_then(|length| OverrideStat::from_bytes(bytes.get(..length)?)).unwrap_or(UNDESCRIBED)
}
