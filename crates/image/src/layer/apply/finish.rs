//! The end of a tree: directories get their attributes and times, and the inode numbers the host gave are read from
//! the directories' own listings, which also proves that the disk holds just what the tree says.

use std::{
    ops::ControlFlow,
    os::fd::AsFd,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use rustix::fs::{AtFlags, Mode, XattrFlags, fsetxattr, futimens, openat, statat};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::step,
    layer::{
        apply::{
            DIRECTORY, Handle,
            directories::{Directories, OPEN, failed},
            listing::Listing,
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
/// Finishes all directories of the tree below `root`, on up to `threads` threads, with up to `most_open` of them open. Files
/// must be written by now. Answers whether the inode numbers in the tree are those that `stat` gives: a listing through
/// some FUSE mounts has others, and an index of those would be wrong. With `copies`, not all names of a file that the tree
/// has are one file on the host.
pub(crate) fn finish_directories(
    tree: &Tree,
    root: impl AsFd + Sync,
    threads: usize,
    most_open: usize,
    copies: bool,
    halt: &Halt,
) -> Result<bool> {
    let all: Vec<EntryId> = tree.entries().filter(|&id| tree.is_directory(id)).collect();
    let (shares, threads) = (Shares::new(&all), threads.min(all.len().div_ceil(SHARE)));
    let most_open = most_open / threads.max(1);
    let finish = || Finisher::new(tree, &root, most_open, copies, halt).and_then(|finisher| finisher.run(&shares));
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
    copies: bool,
    halt: &'a Halt,
    listing: Listing,
    /// Whether listings give the numbers that `stat` gives; one file system answers for a whole tree.
    agree: Option<bool>,
}

impl<'a> Finisher<'a> {
    fn new(tree: &'a Tree, root: impl AsFd, most_open: usize, copies: bool, halt: &'a Halt) -> Result<Self> {
        let root =
            openat(root, c".", OPEN, Mode::empty()).map_err(|errno| failed("open the directory", tree, ROOT, errno))?;
        let directories = Directories::new(root, most_open);
        Ok(Self { tree, directories, copies, halt, listing: Listing::new(64 << 10), agree: None })
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
    fn child_agrees(&self, child: EntryId, listed: u64, handle: &Handle) -> Result<bool> {
        let stat = statat(handle, self.tree.name(child), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at", self.tree, child, errno))?;
        Ok(stat.st_ino == listed)
    }

    fn read_inodes(&mut self, id: EntryId, handle: &Handle) -> Result<()> {
        let tree = self.tree;
        let (mut found, mut last, halt, copies) = (0usize, None, self.halt, self.copies);
        let listed = self.listing.each(handle, |name, host| {
            let Some(child) = tree.lookup(id, name) else {
                let what = format!("{:?} is there and was not made", entry_text(name));
                return ControlFlow::Break(disagrees(tree, id, what));
            };
            let checked = if found.is_multiple_of(1024) { halt.check() } else { Ok(()) };
            if let Err(error) = checked.and_then(|()| tree.set_host(child, host, copies)) {
                return ControlFlow::Break(error);
            }
            (found, last) = (found + 1, Some((child, host)));
            ControlFlow::Continue(())
        });
        if let ControlFlow::Break(error) = listed.map_err(|errno| failed("list", tree, id, errno))? {
            return Err(error);
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
