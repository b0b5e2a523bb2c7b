//! How much room files take on the disk: allocated bytes, so that sparse files and small ones count as what they cost.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use crate::error::{ImageError, Result};

/// Bytes in a block of `st_blocks`, whatever the file system's own are.
const BLOCK: u64 = 512;

/// Sizes of files and trees, each measured once.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    known: HashMap<PathBuf, u64>,
    cancel: CancellationToken,
}

impl Sizes {
    /// Sizes that are measured until this is cancelled, with `ERR_ABORTED` from then on.
    pub(super) fn until(cancel: &CancellationToken) -> Self {
        Self { known: HashMap::new(), cancel: cancel.clone() }
    }

    /// `ERR_ABORTED` once it is cancelled.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(ImageError::aborted()) } else { Ok(()) }
    }

    /// Bytes that `path` and all below it occupy; 0 if it is not there.
    pub(super) fn of(&mut self, path: &Path) -> Result<u64> {
        self.check()?;
        if let Some(&bytes) = self.known.get(path) {
            return Ok(bytes);
        }
        let bytes = allocated(path, &self.cancel)?;
        self.known.insert(path.to_owned(), bytes);
        Ok(bytes)
    }
}

/// Counts a file with several names once; follows no link. What goes away meanwhile counts nothing.
fn allocated(path: &Path, cancel: &CancellationToken) -> Result<u64> {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if cancel.is_cancelled() {
            return Err(ImageError::aborted());
        }
        let Some(there) = unless_gone(fs::symlink_metadata(&path)).map_err(|e| ImageError::io("stat", &path, e))?
        else {
            continue;
        };
        if there.nlink() > 1 && !there.is_dir() && !seen.insert(there.ino()) {
            continue;
        }
        total += there.blocks() * BLOCK;
        if there.is_dir() {
            let list = unless_gone(fs::read_dir(&path)).map_err(|error| ImageError::io("list", &path, error))?;
            for entry in list.into_iter().flatten() {
                open.push(entry.map_err(|error| ImageError::io("list", &path, error))?.path());
            }
        }
    }
    Ok(total)
}

fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(path: &Path) -> u64 {
        Sizes::default().of(path).unwrap()
    }

    #[test]
    fn measuring_ends_once_it_is_cancelled() {
        let temp = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let mut sizes = Sizes::until(&cancel);
        cancel.cancel();
        assert!(sizes.of(temp.path()).unwrap_err().is_aborted());
    }

    #[test]
    fn a_file_with_two_names_counts_once_and_a_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let empty = measured(&tree);
        fs::write(tree.join("a"), vec![1; 100_000]).unwrap();
        let one = measured(&tree) - empty;
        assert!(one >= 100_000, "{one}");
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
        fs::write(temp.path().join("outside"), vec![1; 1_000_000]).unwrap();
        std::os::unix::fs::symlink("../outside", tree.join("link")).unwrap();
        let two = measured(&tree) - empty;
        assert!(two < one + 50_000, "{two} and {one}");
    }
}
