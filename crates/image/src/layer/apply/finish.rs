//! The end of a tree: directories get their attributes and times, and the inode numbers the host gave are read from
//! the directories' own listings, which also proves that the disk holds just what the tree says.

use std::{mem::MaybeUninit, os::fd::OwnedFd};

use rustix::fs::{AtFlags, Mode, RawDir, XattrFlags, fsetxattr, futimens, openat, statat};

use crate::{
    error::{ErrorKind, Result},
    fs::step,
    layer::{
        apply::{
            DIRECTORY,
            directories::{Directories, OPEN, failed},
            writers::times,
        },
        halt::Halt,
        limits::entry_text,
        plan::{EntryId, ROOT, Tree},
        stat::OVERRIDE_STAT,
    },
};

/// Finishes all directories. Files must be written by now. Answers whether the inode numbers in the tree are those that
/// `stat` gives: a listing through some FUSE mounts has others, and an index of those would be wrong.
pub(crate) fn finish_directories(tree: &mut Tree, directories: &mut Directories, halt: &Halt) -> Result<bool> {
    let mut buffer = vec![MaybeUninit::uninit(); 64 << 10];
    let mut sure = None;
    let all: Vec<EntryId> = tree.entries().filter(|&id| tree.inode(id).is_directory()).collect();
    for id in all {
        halt.check()?;
        let handle = directories.handle(tree, id)?;
        read_inodes(tree, id, &handle, &mut buffer)?;
        if sure.is_none() {
            sure = first_child_agrees(tree, id, &handle)?;
        }
        let inode = tree.inode(id);
        let (stat, mtime, implicit) = (inode.stat, inode.mtime, inode.implicit);
        // The original leaves a root that no entry describes without an attribute.
        if id != ROOT || !implicit {
            step("attribute", DIRECTORY);
            fsetxattr(&*handle, OVERRIDE_STAT, &stat.to_bytes(), XattrFlags::empty())
                .map_err(|errno| failed("set the attribute of", tree, id, errno))?;
        }
        if !implicit {
            step("time", DIRECTORY);
            futimens(&*handle, &times(mtime)).map_err(|errno| failed("set the time of", tree, id, errno))?;
        }
    }
    Ok(sure.unwrap_or(true))
}

/// Whether the listing gave the number that `stat` gives; one file system answers for a whole tree.
fn first_child_agrees(tree: &Tree, id: EntryId, handle: &OwnedFd) -> Result<Option<bool>> {
    let Some(child) = tree.children(id).next() else { return Ok(None) };
    let stat = statat(handle, tree.name(child), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed("look at", tree, child, errno))?;
    Ok(Some(stat.st_ino == tree.inode(child).host))
}

fn read_inodes(tree: &mut Tree, id: EntryId, handle: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> Result<()> {
    // A handle of its own: btrfs lists no names that were made after a handle was opened.
    let handle =
        openat(handle, c".", OPEN, Mode::empty()).map_err(|errno| failed("open the directory", tree, id, errno))?;
    let mut listing = RawDir::new(handle, buffer);
    let mut found = 0;
    while let Some(entry) = listing.next() {
        let entry = entry.map_err(|errno| failed("list", tree, id, errno))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let Some(child) = tree.lookup(id, name) else {
            return Err(disagrees(tree, id, format!("{:?} is there and was not made", entry_text(name))));
        };
        tree.inode_mut(child).host = entry.ino();
        found += 1;
    }
    let made = tree.children(id).count();
    if found != made {
        return Err(disagrees(tree, id, format!("{made} names were made and {found} are there")));
    }
    Ok(())
}

fn disagrees(tree: &Tree, id: EntryId, what: String) -> crate::error::ImageError {
    let reason = format!("the directory on disk is not the one that was made: {what}");
    ErrorKind::Extraction { entry: Some(entry_text(&tree.path(id))), reason }.into()
}
