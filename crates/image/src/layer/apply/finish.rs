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
/// must be written by now. Answers whether the inode numbers in the tree are those that `stat` gives: a listing through some FUSE mounts has others, and
/// an index of those would be wrong.
pub(crate) fn finish_directories(
    tree: &mut Tree,
    root: impl AsFd + Sync,
    threads: usize,
    most_open: usize,
    halt: &Halt,
) -> Result<bool> {
    let all: Vec<EntryId> = tree.entries().filter(|&id| tree.inode(id).is_directory()).collect();
    let (shares, threads) = (Shares::new(&all), threads.min(all.len().div_ceil(SHARE)));
    let most_open = most_open / threads.max(1);
    let finish = || Finisher::new(tree, &root, most_open).and_then(|finisher| finisher.run(&shares, halt));
    let finished: Vec<Result<Finished>> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(finish)).collect();
        let own = finish();
        let panicked = |_| Err(ImageError::internal("a thread that finishes directories panicked"));
        others.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).chain([own]).collect()
    });
    let mut known = true;
    for finished in finished {
        let finished = finished?;
        known &= finished.agree.unwrap_or(true);
        for (entry, inode) in finished.inodes {
            tree.inode_mut(entry).host = inode;
        }
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

/// What a thread learned.
#[derive(Default)]
struct Finished {
    inodes: Vec<(EntryId, u64)>,
    /// Whether listings give the numbers that `stat` gives; one file system answers for a whole tree.
    agree: Option<bool>,
}

/// One thread's work. Its handles are opened now: btrfs lists no names that were made after a handle was opened.
struct Finisher<'a> {
    tree: &'a Tree,
    directories: Directories,
    listing: Listing,
    finished: Finished,
}

impl<'a> Finisher<'a> {
    fn new(tree: &'a Tree, root: impl AsFd, most_open: usize) -> Result<Self> {
        let root =
            openat(root, c".", OPEN, Mode::empty()).map_err(|errno| failed("open the directory", tree, ROOT, errno))?;
        let directories = Directories::new(root, most_open);
        Ok(Self { tree, directories, listing: Listing::new(64 << 10), finished: Finished::default() })
    }

    fn run(mut self, shares: &Shares<'_>, halt: &Halt) -> Result<Finished> {
        while let Some(share) = shares.take() {
            for &id in share {
                halt.check()?;
                // The other threads need not go on after a failure.
                self.finish(id).map_err(|error| {
                    halt.fail(error);
                    ImageError::aborted()
                })?;
            }
        }
        Ok(self.finished)
    }

    fn finish(&mut self, id: EntryId) -> Result<()> {
        let tree = self.tree;
        let handle = self.directories.handle(tree, id)?;
        self.read_inodes(id, &handle)?;
        if self.finished.agree.is_none() {
            self.finished.agree = self.first_child_agrees(id, &handle)?;
        }
        let inode = tree.inode(id);
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

    /// Whether the listing, of which the first name of a directory is the last that was read, gave the number that
    /// `stat` gives.
    fn first_child_agrees(&self, id: EntryId, handle: &Handle) -> Result<Option<bool>> {
        let Some(&(child, listed)) = self.finished.inodes.last() else { return Ok(None) };
        let stat = statat(handle, self.tree.name(child), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at", self.tree, child, errno))?;
        debug_assert_eq!(self.tree.parent(child), id);
        Ok(Some(stat.st_ino == listed))
    }

    fn read_inodes(&mut self, id: EntryId, handle: &Handle) -> Result<()> {
        let tree = self.tree;
        let before = self.finished.inodes.len();
        let inodes = &mut self.finished.inodes;
        let listed = self.listing.each(handle, |name, inode| match tree.lookup(id, name) {
            Some(child) => {
                inodes.push((child, inode));
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(format!("{:?} is there and was not made", entry_text(name))),
        });
        if let ControlFlow::Break(what) = listed.map_err(|errno| failed("list", tree, id, errno))? {
            return Err(disagrees(tree, id, what));
        }
        let (found, made) = (self.finished.inodes.len() - before, tree.children(id).count());
        if found != made {
            return Err(disagrees(tree, id, format!("{made} names were made and {found} are there")));
        }
        Ok(())
    }
}

fn disagrees(tree: &Tree, id: EntryId, what: String) -> crate::error::ImageError {
    let reason = format!("the directory on disk is not the one that was made: {what}");
    ErrorKind::Extraction { entry: Some(entry_text(&tree.path(id))), reason }.into()
}
