//! A file appears whole or not at all: written beside, then renamed.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use crate::{
    error::{ImageError, Result},
    fs::step,
};

/// Writes `bytes` to `beside` and renames it to `path`.
pub(crate) fn publish_file(beside: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    publish_file_with(beside, path, |file| file.write_all(bytes))
}

/// Lets `write` write to `beside` and renames it to `path`.
pub(crate) fn publish_file_with(
    beside: &Path,
    path: &Path,
    write: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> Result<()> {
    remove_file_if_there(beside)?;
    step("create", beside);
    let created = fs::OpenOptions::new().write(true).create_new(true).open(beside);
    let mut file = created.map_err(|error| ImageError::io("create", beside, error))?;
    step("write", beside);
    let written = write(&mut file).map_err(|error| ImageError::io("write", beside, error));
    let renamed = written.and_then(|()| rename(beside, path));
    if renamed.is_err() {
        let _ = fs::remove_file(beside);
    }
    renamed
}

/// Gives a file or tree its final name; what had that name before is gone.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step("rename", from);
    fs::rename(from, to).map_err(|error| ImageError::io("rename into place", to, error))
}

/// Makes a directory that is not there, for its owner alone.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    step("create", path);
    fs::DirBuilder::new().mode(0o700).create(path).map_err(|error| ImageError::io("create", path, error))
}

/// The file's bytes; `None` if it is not there.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("read", path, error)),
    }
}

/// Removes a file; says whether it was there.
pub(crate) fn remove_file_if_there(path: &Path) -> Result<bool> {
    step("remove", path);
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("remove", path, error)),
    }
}
