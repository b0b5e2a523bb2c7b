//! The names in an open directory with their inode numbers, as the host's own listing gives them.

use std::{mem::MaybeUninit, ops::ControlFlow, os::fd::AsFd};

use rustix::io::Errno;

/// Memory for listing.
pub(super) struct Listing(
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "the listing allocates by itself"))]
    Vec<MaybeUninit<u8>>,
);

impl Listing {
    /// `capacity` is in bytes; Linux fills it with one call.
    pub(super) fn new(capacity: usize) -> Self {
        Self(vec![MaybeUninit::uninit(); capacity])
    }

    /// Tells each name but `.` and `..`, until `tell` breaks off. The position of the handle may move.
    pub(super) fn each<T>(
        &mut self,
        directory: impl AsFd,
        mut tell: impl FnMut(&[u8], u64) -> ControlFlow<T>,
    ) -> Result<ControlFlow<T>, Errno> {
        #[cfg(target_os = "linux")]
        let mut listing = rustix::fs::RawDir::new(directory, &mut self.0);
        // It allocates by itself, and has a handle and so a position of its own.
        #[cfg(not(target_os = "linux"))]
        let mut listing = rustix::fs::Dir::read_from(directory)?;
        #[allow(clippy::while_let_on_iterator, reason = "the one of Linux is no iterator")]
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if let broken @ ControlFlow::Break(_) = tell(name, entry.ino()) {
                return Ok(broken);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
