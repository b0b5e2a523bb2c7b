//! A bounded table of open directories: an entry of the tree → a handle to work relative to.
//!
//! Bounded is what is open, not what is in the table: jobs that wait keep their directories open too. Whoever makes such jobs
//! asks [`are_too_many_open`](Directories::are_too_many_open) before the next one, and if so hands the jobs over and waits.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    fs::step,
    layer::{
        apply::{
            DIRECTORY, FILE,
            handle::{Count, Handle},
            twin,
        },
        halt::Halt,
        limits::entry_text,
        plan::{EntryId, ROOT, Tree},
    },
};

pub(super) const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Handles that the way down to one more directory may open while those before it are still needed.
const ON_THE_WAY: usize = 4;

/// Open directories of one tree; the least recently used is closed when there are too many.
pub(crate) struct Directories {
    root: Arc<Handle>,
    open: HashMap<EntryId, (Arc<Handle>, u64)>,
    count: Arc<Count>,
    most: usize,
    clock: u64,
}

impl Directories {
    /// At most `most` handles are kept open beside the root's.
    pub(crate) fn new(root: OwnedFd, most: usize) -> Self {
        let (root, most) = (Handle::uncounted(root), most.max(2 * ON_THE_WAY));
        Self { root, open: HashMap::new(), count: Arc::default(), most, clock: 0 }
    }

    /// Closes all but the root.
    pub(crate) fn close_all(self) -> Arc<Handle> {
        self.root
    }

    /// Closes what nobody uses if that is needed for one more directory; true if it is not enough.
    pub(crate) fn are_too_many_open(&mut self) -> bool {
        self.close_unused();
        !self.has_capacity()
    }

    /// Waits until half of what may be open is closed. Jobs that keep directories open must have been handed over.
    pub(crate) fn wait(&mut self, halt: &Halt) -> Result<()> {
        self.open.clear();
        self.count.wait(self.most / 2, halt)
    }

    /// A handle to a directory of the tree, opened from its parent's.
    pub(crate) fn handle(&mut self, tree: &Tree, directory: EntryId) -> Result<Arc<Handle>> {
        let mut to_open = Vec::new();
        let mut at = directory;
        let mut handle = loop {
            if at == ROOT {
                break Arc::clone(&self.root);
            }
            self.clock += 1;
            if let Some((handle, used)) = self.open.get_mut(&at) {
                *used = self.clock;
                break Arc::clone(handle);
            }
            to_open.push(at);
            at = tree.parent(at);
        };
        while let Some(id) = to_open.pop() {
            let opened = openat(&*handle, tree.name(id), OPEN, Mode::empty());
            handle = self.count.handle(opened.map_err(|errno| failed("open the directory", tree, id, errno))?);
            self.keep(id, Arc::clone(&handle));
        }
        Ok(handle)
    }

    /// Makes a directory that is not there, for its owner alone.
    pub(crate) fn make(&mut self, tree: &Tree, directory: EntryId) -> Result<()> {
        let parent = self.handle(tree, tree.parent(directory))?;
        step("create", DIRECTORY);
        mkdirat(&*parent, tree.name(directory), Mode::RWXU)
            .map_err(|errno| creation_failed(tree, directory, &parent, errno))
    }

    /// Removes a name; for a directory all that is below it. Its handles are forgotten.
    pub(crate) fn remove(
        &mut self,
        tree: &Tree,
        parent: EntryId,
        name: &[u8],
        directory: bool,
        halt: &Halt,
    ) -> Result<()> {
        let handle = self.handle(tree, parent)?;
        let removed = if directory {
            self.open.clear();
            crate::fs::remove_tree_at(&*handle, name, || halt.is_thrown())
        } else {
            step("remove", FILE);
            unlinkat(&*handle, name, AtFlags::empty())
        };
        halt.check()?;
        removed.map_err(|errno| {
            let path = [tree.path(parent).as_slice(), name].join(&b'/');
            ImageError::io("remove", entry_text(&path), errno)
        })
    }

    fn keep(&mut self, id: EntryId, handle: Arc<Handle>) {
        self.close_unused();
        self.clock += 1;
        self.open.insert(id, (handle, self.clock));
    }

    fn has_capacity(&self) -> bool {
        self.count.open() + ON_THE_WAY <= self.most
    }

    /// Closes those that are longest unused, as long as there are too many and one of them is used by nobody.
    fn close_unused(&mut self) {
        while !self.has_capacity() {
            let unused = self.open.iter().filter(|(_, (handle, _))| Arc::strong_count(handle) == 1);
            let Some(oldest) = unused.min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id) else { return };
            self.open.remove(&oldest);
        }
    }
}

pub(super) fn failed(action: &'static str, tree: &Tree, id: EntryId, errno: Errno) -> ImageError {
    ImageError::io(action, entry_text(&tree.path(id)), errno)
}

/// Why an entry that the tree knows as new could not be made.
fn creation_failed(tree: &Tree, id: EntryId, parent: &Handle, errno: Errno) -> ImageError {
    let path = tree.path(id);
    twin::meets(parent.as_fd(), tree.name(id), &path, errno)
        .unwrap_or_else(|| ImageError::io("create", entry_text(&path), errno))
}
