//! A file, mapped into memory to be read: the one place where Rust's guarantees are switched off.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::Path,
};

use memmap2::Mmap;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// Maps a regular file. What is no regular file is refused and never waited for.
pub(super) fn map(path: &Path) -> io::Result<Mmap> {
    // A pipe or a device put in the place of the file would keep `open` waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    // SAFETY: the map is only read. Sidecar files are replaced by rename, never changed in place; should a foreign
    // program cut one short while it is mapped, reading raises SIGBUS, as in every program that maps its files.
    #[allow(unsafe_code, reason = "mapping a file has no safe interface")]
    let bytes = unsafe { Mmap::map(&file) }?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(map(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(map(folder.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
