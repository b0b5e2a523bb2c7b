//! Looking things up in trees of layers, component by component, following no link.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fgetxattr, openat, statat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    layer::OverrideStat,
};

pub(super) const ATTRIBUTE: &std::ffi::CStr = c"user.containers.override_stat";

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a layer says of a path.
pub(super) enum Found {
    /// It is there, opened.
    There(OwnedFd),
    /// The layer removes it, or has something else there: what is further down does not count.
    Hidden,
    /// The layer says nothing of it.
    Nothing,
}

/// What is wanted at the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Directory,
    /// Anything but a directory: on the host all of it is regular files.
    File,
}

/// Looks for `path` in one layer's tree.
pub(super) fn look_in(tree: &Path, path: &[u8], wanted: Wanted) -> Result<Found> {
    let Some(mut at) = open_directory(tree, b"")? else { return Ok(Found::Nothing) };
    let mut names = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        let flags = if last && wanted == Wanted::File { FILE } else { DIRECTORY };
        match openat(&at, name, flags, Mode::empty()) {
            Ok(found) => at = found,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
            Err(Errno::NOENT) => {
                let whiteout = [b".wh.", name].concat();
                let hidden = exists(&at, &whiteout) || exists(&at, b".wh..wh..opq");
                return Ok(if hidden { Found::Hidden } else { Found::Nothing });
            }
            Err(errno) => return Err(ImageError::io("open a file in", tree, errno)),
        }
    }
    Ok(Found::There(at))
}

/// Opens a directory of a tree. `None` if it is not there.
pub(super) fn open_directory(tree: &Path, path: &[u8]) -> Result<Option<OwnedFd>> {
    let root = openat(CWD, tree, DIRECTORY, Mode::empty());
    let mut at = root.map_err(|errno| ImageError::io("open the tree", tree, errno))?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        at = match openat(&at, name, DIRECTORY, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(ImageError::io("open a directory in", tree, errno)),
        };
    }
    Ok(Some(at))
}

/// The override attribute of an open file.
pub(super) fn read_stat(file: &OwnedFd) -> Option<OverrideStat> {
    let mut bytes = [0; 20];
    let length = fgetxattr(file, ATTRIBUTE, &mut bytes[..]).ok()?;
    OverrideStat::from_bytes(bytes.get(..length)?)
}

fn exists(directory: &OwnedFd, name: &[u8]) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
