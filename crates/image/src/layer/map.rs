//! A file, mapped into memory to be read: the one place where Rust's guarantees are switched off.

use std::{fs::File, io, ops::Deref};

use memmap2::Mmap;

/// Maps a regular file that the caller opened.
pub(super) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is only read. Sidecar files are replaced by rename, never changed in place; should a foreign
    // program cut one short while it is mapped, reading raises SIGBUS, as in every program that maps its files.
    #[allow(unsafe_code, reason = "mapping a file has no safe interface")]
    let bytes = unsafe { Mmap::map(file) }?;
    Ok(bytes)
}

/// The bytes of a file, mapped or at hand.
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}
