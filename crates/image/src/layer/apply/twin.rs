//! Two names of an image that the host takes for one: found when the second is made, and named in the error.

use std::{mem::MaybeUninit, os::fd::BorrowedFd};

use rustix::{fs::RawDir, io::Errno};

use crate::{
    error::{ErrorKind, ImageError},
    layer::limits::entry_text,
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

/// The name in the directory that is the same but for case, as far as that can be told.
fn find(directory: BorrowedFd<'_>, name: &[u8]) -> Option<Vec<u8>> {
    let fold = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let wanted = fold(name);
    // A handle of its own, since a listing moves the position.
    let handle = rustix::fs::openat(directory, c".", super::directories::OPEN, rustix::fs::Mode::empty()).ok()?;
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut listing = RawDir::new(handle, &mut buffer);
    while let Some(Ok(entry)) = listing.next() {
        if fold(entry.file_name().to_bytes()) == wanted {
            return Some(entry.file_name().to_bytes().to_vec());
        }
    }
    None
}
