//! A blob into the cache: hashed while it is written, from what is there already and from the network.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Opened, Trust, no_file, open_with, remove_tree, step},
    layer::Halt,
    model::{Descriptor, Hasher},
    pull::feed::Feed,
};

/// What a wrong digest is said to be of.
pub(super) const WHAT: &str = "the layer's blob";

const READ: usize = 256 << 10;

/// What of a blob the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The whole blob under its final name.
    Blob,
    /// The first bytes, in the unfinished download.
    Part(u64),
    /// Nothing.
    Nothing,
}

/// What is held, judged by lengths: a blob of another length is none, a part that is too long neither. What somebody else
/// may still write into counts as nothing, since its bytes may be read twice.
pub(super) fn held(blob: &Path, part: &Path, size: u64, trust: &Trust) -> Held {
    let is_ours = |path: &Path, file: &fs::Metadata| file.is_file() && trust.check(path, file).is_ok();
    let length =
        |path: &Path| fs::symlink_metadata(path).ok().filter(|file| is_ours(path, file)).map(|file| file.len());
    match (length(blob), length(part)) {
        (Some(length), _) if length == size => Held::Blob,
        (_, Some(length)) if length > 0 && length <= size => Held::Part(length),
        _ => Held::Nothing,
    }
}

/// Makes place for an unfinished download, whatever was planted there.
fn remove_part(path: &Path) -> Result<()> {
    crate::fs::remove_file_if_there(path).map(drop).or_else(|_| remove_tree(path))
}

/// The file that holds, or will hold, a blob's bytes.
pub(super) struct Receiver {
    pub(super) file: File,
    pub(super) path: PathBuf,
    held: u64,
    blob: Descriptor,
}

impl Receiver {
    /// Opens it. Planted links are not followed.
    pub(super) fn open(held: Held, blob_path: &Path, part_path: &Path, blob: &Descriptor) -> Result<Self> {
        let opened = |options: &mut OpenOptions, path: &Path| match open_with(options, path)? {
            Opened::File(file, _) => Ok(file),
            Opened::Nothing | Opened::Other => Err(no_file(path)),
        };
        let (path, file, held) = match held {
            Held::Blob => (blob_path, opened(OpenOptions::new().read(true), blob_path)?, blob.size),
            Held::Part(length) => (part_path, opened(OpenOptions::new().read(true).append(true), part_path)?, length),
            Held::Nothing => {
                remove_part(part_path)?;
                step("create", part_path);
                let opened = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(part_path);
                (part_path, opened.map_err(|error| ImageError::io("open", part_path, error))?, 0)
            }
        };
        Ok(Self { file, path: path.to_owned(), held, blob: blob.clone() })
    }

    /// Hashes what is held, then takes in what comes, and checks the digest at the end. Blocks.
    ///
    /// The feed gets every byte; it is completed only when the digest is right.
    pub(super) fn run(
        mut self,
        mut incoming: mpsc::Receiver<Bytes>,
        feed: &Feed,
        halt: &Halt,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        let mut hasher = Hasher::new(self.blob.digest.algorithm());
        let mut position = 0;
        while position < self.held {
            halt.check()?;
            let mut bytes = vec![0; READ.min((self.held - position) as usize)];
            self.file.read_exact(&mut bytes).map_err(|error| ImageError::io("read", &self.path, error))?;
            hasher.update(&bytes);
            let length = bytes.len() as u64;
            feed.push(position, bytes.into());
            position += length;
        }
        progress(position);
        while let Some(bytes) = incoming.blocking_recv() {
            halt.check()?;
            hasher.update(&bytes);
            step("write", &self.path);
            self.file.write_all(&bytes).map_err(|error| ImageError::io("write", &self.path, error))?;
            let length = bytes.len() as u64;
            feed.push(position, bytes);
            position += length;
            progress(position);
        }
        halt.check()?;
        if position != self.blob.size {
            // Whoever sends the bytes stopped, and says why.
            return Err(ImageError::aborted());
        }
        let actual = hasher.finish();
        if actual != self.blob.digest {
            return Err(ErrorKind::DigestMismatch {
                what: WHAT.to_owned(),
                expected: self.blob.digest.to_string(),
                actual: actual.to_string(),
            }
            .into());
        }
        feed.complete();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_judged_by_length() {
        let temp = tempfile::tempdir().unwrap();
        let (blob, part) = (temp.path().join("blob"), temp.path().join("part"));
        let held = |blob: &Path, part: &Path, size| held(blob, part, size, &Trust::new(&[]));
        assert_eq!(held(&blob, &part, 5), Held::Nothing);
        fs::write(&part, b"abc").unwrap();
        assert_eq!(held(&blob, &part, 5), Held::Part(3));
        assert_eq!(held(&blob, &part, 3), Held::Part(3));
        assert_eq!(held(&blob, &part, 2), Held::Nothing);
        fs::write(&blob, b"abcd").unwrap();
        assert_eq!(held(&blob, &part, 5), Held::Part(3));
        assert_eq!(held(&blob, &part, 4), Held::Blob);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&blob, mode).unwrap();
        assert_eq!(held(&blob, &temp.path().join("none"), 4), Held::Nothing, "everybody may write it");
        fs::remove_file(&blob).unwrap();
        std::os::unix::fs::symlink(&part, &blob).unwrap();
        assert_eq!(held(&blob, &part, 3), Held::Part(3));
    }
}
