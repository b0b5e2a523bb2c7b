//! Extended attributes of an image: kept under their own name where the host takes it, else written down.

use std::os::fd::BorrowedFd;

use rustix::fs::{XattrFlags, fsetxattr};

use crate::{
    fs::step,
    layer::{
        apply::FILE,
        report::{Note, Report},
    },
};

/// Under this prefix a refused attribute is written down, its own name behind it.
const WRITTEN_DOWN: &[u8] = b"user.containers.xattr.";

/// Attributes that belong to this cache; an image can't set them.
const OURS: &[u8] = b"user.containers.";

/// Keeps the attributes of an entry.
pub(crate) fn keep_all(file: BorrowedFd<'_>, path: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)], report: &mut Report) {
    for (name, value) in xattrs {
        keep(file, path, name, value, report);
    }
}

/// Keeps one attribute, or notes that it could not be kept.
fn keep(file: BorrowedFd<'_>, path: &[u8], name: &[u8], value: &[u8], report: &mut Report) {
    if name.starts_with(OURS) {
        report.note(Note::XattrDropped, path);
        return;
    }
    step("attribute", FILE);
    let taken_as_is = name.starts_with(b"user.") || name == b"security.capability";
    if taken_as_is && fsetxattr(file, name, value, XattrFlags::empty()).is_ok() {
        return;
    }
    let note = match fsetxattr(file, [WRITTEN_DOWN, name].concat(), value, XattrFlags::empty()) {
        Ok(()) => Note::XattrWrittenDown,
        Err(_) => Note::XattrDropped,
    };
    report.note(note, path);
}
