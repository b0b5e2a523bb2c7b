//! Directories of a tree by path, opened name by name. Neighbours share what is open.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{ImageError, Result};

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Directories kept open on the way to the last one asked for, whatever its depth.
const MAX_OPEN: usize = 16;

/// Opens directories of one tree.
pub(crate) struct Walker {
    path: PathBuf,
    root: OwnedFd,
    /// The upper directories of the path asked for last.
    open: Vec<(Vec<u8>, OwnedFd)>,
    /// The last one, where it lies deeper.
    deep: Option<OwnedFd>,
}

impl Walker {
    /// Opens the tree at `path`, which must be a directory itself.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let root =
            openat(CWD, path, OPEN, Mode::empty()).map_err(|errno| ImageError::io("open the tree", path, errno))?;
        Ok(Self { path: path.to_owned(), root, open: Vec::new(), deep: None })
    }

    /// The directory at a path relative to the root.
    pub(crate) fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>> {
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        let common = self.open.iter().zip(&names).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(common);
        self.deep = None;
        for name in &names[common..] {
            if matches!(*name, b"." | b"..") {
                return Err(ImageError::internal("a path that leads out of its tree"));
            }
            let above = self.deep.as_ref().or(self.open.last().map(|(_, open)| open)).unwrap_or(&self.root);
            let opened = openat(above, *name, OPEN, Mode::empty())
                .map_err(|errno| ImageError::io("open the directory", self.full(path), errno))?;
            if self.open.len() < MAX_OPEN {
                self.open.push((name.to_vec(), opened));
            } else {
                self.deep = Some(opened);
            }
        }
        let last = self.deep.as_ref().or(self.open.last().map(|(_, open)| open));
        Ok(last.unwrap_or(&self.root).as_fd())
    }

    /// The path as the host has it, for messages.
    pub(crate) fn full(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }
}

/// A path's directory and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|&byte| byte == b'/').map_or((b"", path), |slash| (&path[..slash], &path[slash + 1..]))
}

/// A name below a path.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}
