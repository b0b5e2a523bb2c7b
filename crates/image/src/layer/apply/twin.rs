//! Two names of an image that the host takes for one: found when the second is made, and named in the error.

use std::{ops::ControlFlow, os::fd::BorrowedFd};

use rustix::{
    fs::{AtFlags, Mode, openat, statat},
    io::Errno,
};

use crate::{
    error::{ErrorKind, ImageError},
    layer::{
        apply::{directories::OPEN, listing::Listing},
        limits::entry_text,
    },
};

/// The error for a name that is new to the tree and yet there on disk; `None` if `errno` says something else.
pub(super) fn meets(directory: BorrowedFd<'_>, name: &[u8], path: &[u8], errno: Errno) -> Option<ImageError> {
    if errno != Errno::EXIST {
        return None;
    }
    let twin =
        find(directory, name).map_or_else(|| "another name".to_owned(), |twin| format!("{:?}", entry_text(&twin)));
    let reason = format!("the cache's file system takes it and {twin} for one name; use one that tells case apart");
    let kind = ErrorKind::Extraction { entry: Some(entry_text(path)), reason };
    Some(kind.caused_by(std::io::Error::from(errno)))
}

/// The name in the directory that stands for the same file, else the one that is the same but for case.
fn find(directory: BorrowedFd<'_>, name: &[u8]) -> Option<Vec<u8>> {
    let fold = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let wanted = fold(name);
    let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?.st_ino;
    // A handle of its own, since a listing moves the position.
    let handle = openat(directory, c".", OPEN, Mode::empty()).ok()?;
    let mut alike = None;
    let same = Listing::new(8192).each(handle, |found, inode| {
        if inode == there {
            return ControlFlow::Break(found.to_vec());
        }
        if fold(found) == wanted {
            alike = Some(found.to_vec());
        }
        ControlFlow::Continue(())
    });
    same.ok()?.break_value().or(alike)
}
