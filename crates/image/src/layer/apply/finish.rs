//! The end of a tree: directories get their attributes and times, and the inode numbers the host gave are read from
//! the directories' own listings, which also proves that the disk holds just what the tree says.

use std::{
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustix::fs::{AtFlags, Mode, RawDir, XattrFlags, fsetxattr, futimens, openat, statat};

use crate::{
    error::{ErrorKind, ImageError, Result},
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

/// Directories a thread takes at a time: neighbours, so that most have the same parents. Fewer are not worth a thread.
const SHARE: usize = 64;
/// Handles a thread keeps open: those of the directories above the one at hand.
const MOST_OPEN: usize = 32;

/// Finishes all directories of the tree below `root`, on up to `threads` threads. Files must be written by now. Answers
/// whether the inode numbers in the tree are those that `stat` gives: a listing through some FUSE mounts has others, and
/// an index of those would be wrong.
pub(crate) fn finish_directories(tree: &Tree, root: &OwnedFd, threads: usize, halt: &Halt) -> Result<bool> {
    let all: Vec<EntryId> = tree.entries().filter(|&id| tree.is_directory(id)).collect();
    let (shares, threads) = (Shares::new(&all), threads.min(all.len().div_ceil(SHARE)));
    let finish = || Finisher::new(tree, root, halt).and_then(|finisher| finisher.run(&shares));
    let finished: Vec<Result<Option<bool>>> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(finish)).collect();
        let own = finish();
        let panicked = |_| Err(ImageError::internal("a thread that finishes directories panicked"));
        others.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).chain([own]).collect()
    });
    let mut known = true;
    for finished in finished {
        known &= finished?.unwrap_or(true);
    }
    Ok(known)
}

/// Hands the directories out.
struct Shares<'a> {
    all: &'a [EntryId],
    next: AtomicUsize,
}

impl<'a> Shares<'a> {
    fn new(all: &'a [EntryId]) -> Self {
        Self { all, next: AtomicUsize::new(0) }
    }

    fn take(&self) -> Option<&'a [EntryId]> {
        let share = self.next.fetch_add(1, Ordering::Relaxed);
        self.all.chunks(SHARE).nth(share)
    }
}

/// One thread's work. Its handles are opened now: btrfs lists no names that were made after a handle was opened.
struct Finisher<'a> {
    tree: &'a Tree,
    directories: Directories,
    halt: &'a Halt,
    buffer: Vec<MaybeUninit<u8>>,
    /// Whether listings give the numbers that `stat` gives; one file system answers for a whole tree.
    agree: Option<bool>,
}

impl<'a> Finisher<'a> {
    fn new(tree: &'a Tree, root: &OwnedFd, halt: &'a Halt) -> Result<Self> {
        let root =
            openat(root, c".", OPEN, Mode::empty()).map_err(|errno| failed("open the directory", tree, ROOT, errno))?;
        let directories = Directories::new(Arc::new(root), MOST_OPEN);
        Ok(Self { tree, directories, halt, buffer: vec![MaybeUninit::uninit(); 64 << 10], agree: None })
    }

    fn run(mut self, shares: &Shares<'_>) -> Result<Option<bool>> {
        while let Some(share) = shares.take() {
            for &id in share {
                self.halt.check()?;
                // The other threads need not go on after a failure.
                self.finish(id).map_err(|error| {
                    self.halt.fail(error);
                    ImageError::aborted()
                })?;
            }
        }
        Ok(self.agree)
    }

    fn finish(&mut self, id: EntryId) -> Result<()> {
        let tree = self.tree;
        let handle = self.directories.handle(tree, id)?;
        self.read_inodes(id, &handle)?;
        let inode = tree.inode(id)?;
        // The original leaves a root that no entry describes without an attribute.
        if id != ROOT || !inode.implicit {
            step("attribute", DIRECTORY);
            fsetxattr(&*handle, OVERRIDE_STAT, &inode.stat.to_bytes(), XattrFlags::empty())
                .map_err(|errno| failed("set the attribute of", tree, id, errno))?;
        }
        if !inode.implicit {
            step("time", DIRECTORY);
            futimens(&*handle, &times(inode.mtime)).map_err(|errno| failed("set the time of", tree, id, errno))?;
        }
        Ok(())
    }

    /// Whether the listing gave the number that `stat` gives.
    fn child_agrees(&self, child: EntryId, listed: u64, handle: &OwnedFd) -> Result<bool> {
        let stat = statat(handle, self.tree.name(child), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at", self.tree, child, errno))?;
        Ok(stat.st_ino == listed)
    }

    fn read_inodes(&mut self, id: EntryId, handle: &OwnedFd) -> Result<()> {
        let tree = self.tree;
        let (mut found, mut last) = (0usize, None);
        let mut listing = RawDir::new(handle, &mut self.buffer);
        while let Some(entry) = listing.next() {
            let entry = entry.map_err(|errno| failed("list", tree, id, errno))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let Some(child) = tree.lookup(id, name) else {
                return Err(disagrees(tree, id, format!("{:?} is there and was not made", entry_text(name))));
            };
            if found % 1024 == 0 {
                self.halt.check()?;
            }
            tree.update(child, |inode| inode.host = entry.ino())?;
            last = Some((child, entry.ino()));
            found += 1;
        }
        let made = tree.children(id).count();
        if found != made {
            return Err(disagrees(tree, id, format!("{made} names were made and {found} are there")));
        }
        if let (None, Some((child, listed))) = (self.agree, last) {
            self.agree = Some(self.child_agrees(child, listed, handle)?);
        }
        Ok(())
    }
}

fn disagrees(tree: &Tree, id: EntryId, what: String) -> crate::error::ImageError {
    let reason = format!("the directory on disk is not the one that was made: {what}");
    ErrorKind::Extraction { entry: Some(entry_text(&tree.path(id))), reason }.into()
}
