//! Hard links to files of lower layers: their stand-ins become copies of those files.
//!
//! Inodes are not shared between layers' trees, since each tree must be whole by itself; a copy has the same content,
//! attributes and times.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};

use rustix::fs::{CWD, XattrFlags, fgetxattr, flistxattr, fsetxattr, renameat};

use crate::{
    error::{ImageError, Result},
    fs::{remove_file_if_there, step},
    layer::OverrideStat,
    pull::lower::{open_directory, read_stat},
};

/// A file of a lower layer, and what tells whether a copy of it is up to date.
pub(super) struct LowerFile {
    file: File,
    pub(super) stat: OverrideStat,
    pub(super) size: u64,
    modified: (i64, i64),
}

impl LowerFile {
    pub(super) fn read(file: OwnedFd, tree: &Path) -> Result<Self> {
        let stat = read_stat(&file).unwrap_or(OverrideStat { uid: 0, gid: 0, mode: 0o100_644, rdev: 0 });
        let file = File::from(file);
        let host = file.metadata().map_err(|error| ImageError::io("stat a file of a layer below", tree, error))?;
        Ok(Self { file, stat, size: host.size(), modified: (host.mtime(), host.mtime_nsec()) })
    }

    /// True if the stand-in was filled from a file like this one.
    pub(super) fn is_same(&self, stand_in: &OwnedFd, tree: &Path) -> Result<bool> {
        let host = rustix::fs::fstat(stand_in).map_err(|errno| ImageError::io("stat a file in", tree, errno))?;
        #[allow(clippy::unnecessary_cast, reason = "the fields' types differ between targets")]
        let (size, modified) = (host.st_size as u64, (host.st_mtime as i64, host.st_mtime_nsec as i64));
        Ok((read_stat(stand_in), size, modified) == (Some(self.stat), self.size, self.modified))
    }
}

/// Puts a copy in place of the stand-in at `path` and answers with its inode number. The layer's lock is held.
pub(super) fn fill(file: &LowerFile, tree: &Path, path: &[u8]) -> Result<u64> {
    let beside = tree.with_extension("link.part");
    remove_file_if_there(&beside)?;
    let copied = copy(file, &beside).and_then(|inode| {
        let split = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = split.map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        let Some(directory) = open_directory(tree, parent)? else {
            return Err(ImageError::internal("the directory of a hard link is gone"));
        };
        step("rename", &beside);
        renameat(CWD, &beside, &directory, name).map_err(|errno| ImageError::io("rename into", tree, errno))?;
        Ok(inode)
    });
    if copied.is_err() {
        step("remove", &beside);
        let _ = fs::remove_file(&beside);
    }
    copied
}

fn copy(from: &LowerFile, to: &Path) -> Result<u64> {
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |action| move |error: std::io::Error| ImageError::io(action, to, error);
    step("create", to);
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut made = made.map_err(failed("create"))?;
    let mut source = from.file.try_clone().map_err(failed("copy to"))?;
    std::io::Seek::rewind(&mut source).map_err(failed("copy to"))?;
    step("write", to);
    std::io::copy(&mut source, &mut made).map_err(failed("write"))?;
    step("attribute", to);
    copy_attributes(&from.file, &made).map_err(|errno| ImageError::io("set the attributes of", to, errno))?;
    let (seconds, nanoseconds) = from.modified;
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    step("time", to);
    rustix::fs::futimens(&made, &rustix::fs::Timestamps { last_access: time, last_modification: time })
        .map_err(|errno| ImageError::io("set the time of", to, errno))?;
    Ok(made.metadata().map_err(failed("stat"))?.ino())
}

fn copy_attributes(from: &File, to: &File) -> Result<(), rustix::io::Errno> {
    let mut names = vec![0u8; 64 << 10];
    let length = flistxattr(from, &mut names[..])?;
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 64 << 10];
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}
