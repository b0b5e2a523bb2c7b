//! A file appears whole or not at all: written beside, then renamed.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use crate::error::{ImageError, Result};

/// Writes `bytes` to `beside` and renames it to `path`.
pub(crate) fn publish_file(beside: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    remove_file_if_there(beside)?;
    let created = fs::OpenOptions::new().write(true).create_new(true).open(beside);
    let mut file = created.map_err(|error| ImageError::io("create", beside, error))?;
    let written = file.write_all(bytes).map_err(|error| ImageError::io("write", beside, error));
    let renamed = written
        .and_then(|()| fs::rename(beside, path).map_err(|error| ImageError::io("rename into place", path, error)));
    if renamed.is_err() {
        let _ = fs::remove_file(beside);
    }
    renamed
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
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("remove", path, error)),
    }
}
