//! A bounded table of open directories: an entry of the tree → a handle to work relative to.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    fs::step,
    layer::{
        apply::{DIRECTORY, FILE, twin},
        halt::Halt,
        limits::entry_text,
        plan::{EntryId, ROOT, Tree},
    },
};

pub(super) const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Open directories of one tree; the least recently used is closed when there are too many.
pub(crate) struct Directories {
    root: Arc<OwnedFd>,
    open: HashMap<EntryId, (Arc<OwnedFd>, u64)>,
    most: usize,
    clock: u64,
}

impl Directories {
    /// At most `most` handles are kept open beside the root's.
    pub(crate) fn new(root: Arc<OwnedFd>, most: usize) -> Self {
        Self { root, open: HashMap::new(), most, clock: 0 }
    }

    /// A handle to a directory of the tree, opened from its parent's.
    pub(crate) fn handle(&mut self, tree: &Tree, directory: EntryId) -> Result<Arc<OwnedFd>> {
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
            handle = Arc::new(opened.map_err(|errno| failed("open the directory", tree, id, errno))?);
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
            crate::fs::remove_tree_at(&handle, name, || halt.is_thrown())
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

    fn keep(&mut self, id: EntryId, handle: Arc<OwnedFd>) {
        if self.open.len() >= self.most
            && let Some(oldest) = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.clock += 1;
        self.open.insert(id, (handle, self.clock));
    }
}

pub(super) fn failed(action: &'static str, tree: &Tree, id: EntryId, errno: Errno) -> ImageError {
    ImageError::io(action, entry_text(&tree.path(id)), errno)
}

/// Why an entry that the tree knows as new could not be made.
fn creation_failed(tree: &Tree, id: EntryId, parent: &OwnedFd, errno: Errno) -> ImageError {
    let path = tree.path(id);
    twin::meets(parent, tree.name(id), &path, errno)
        .unwrap_or_else(|| ImageError::io("create", entry_text(&path), errno))
}
