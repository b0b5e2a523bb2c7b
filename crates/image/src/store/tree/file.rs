//! One file: opened safely, and copied with all that belongs to it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, XattrFlags, fgetxattr, flistxattr, fsetxattr,
        fstat, ftruncate, futimens, openat, seek,
    },
    io::{Errno, pread, pwrite},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::step,
    layer::Halt,
    store::tree::walker::{Walker, split},
};

/// A planted pipe would keep who opens it waiting; it is told by its type once it is open.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Any of the names below a tree that is not published.
pub(super) const IN_A_TREE: &str = "tree/*";

/// Bytes copied between two looks at the switch.
const PIECE: usize = 1 << 20;

/// The longest list of names and the longest value Linux has.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// Opens a file of a tree for reading. Fails with `ERR_CACHE` where it is no regular file.
pub(crate) fn open_file(tree: &mut Walker, path: &[u8]) -> Result<OwnedFd> {
    let (directory, name) = split(path);
    let full = tree.full(path);
    open_in(tree.directory(directory)?, name, &full).map(|(file, _)| file)
}

pub(super) fn open_in(directory: BorrowedFd<'_>, name: &[u8], full: &Path) -> Result<(OwnedFd, Stat)> {
    let file = openat(directory, name, READ, Mode::empty()).map_err(|errno| ImageError::io("open", full, errno))?;
    let stat = fstat(&file).map_err(|errno| ImageError::io("stat", full, errno))?;
    if !is_file(&stat) {
        return Err(unexpected(full));
    }
    Ok((file, stat))
}

pub(super) fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// A tree holds directories and regular files, whatever the image has.
pub(super) fn unexpected(full: &Path) -> ImageError {
    let reason = "a tree has something there that is neither a regular file nor a directory";
    ErrorKind::Cache { path: full.display().to_string(), reason: reason.to_owned() }.into()
}

/// Copies files. Remembers what the file system can't do.
pub(super) struct Copier<'a> {
    halt: &'a Halt,
    clones: bool,
    buffer: Vec<u8>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(halt: &'a Halt) -> Self {
        Self { halt, clones: true, buffer: Vec::new() }
    }

    /// Makes a file that is not there: content, attributes and times are those of `from`. Answers with the new file.
    pub(super) fn copy(
        &mut self,
        (from, stat): (&OwnedFd, &Stat),
        directory: BorrowedFd<'_>,
        name: &[u8],
        full: &Path,
    ) -> Result<OwnedFd> {
        step("create", IN_A_TREE);
        let to = openat(directory, name, CREATE, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| ImageError::io("create", full, errno))?;
        step("write", IN_A_TREE);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > 0 && !self.clone(from, &to, full)? {
            self.content(from, &to, size, full)?;
        }
        self.attributes(from.as_fd(), to.as_fd(), full)?;
        set_times(to.as_fd(), stat, full)?;
        Ok(to)
    }

    /// Shares the content's blocks, where the file system can: each file has its own from the first write on.
    #[cfg(target_os = "linux")]
    fn clone(&mut self, from: &OwnedFd, to: &OwnedFd, full: &Path) -> Result<bool> {
        if !self.clones {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(ImageError::io("write", full, errno)),
            Err(_) => {
                self.clones = false;
                Ok(false)
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn clone(&mut self, _from: &OwnedFd, _to: &OwnedFd, _full: &Path) -> Result<bool> {
        self.clones = false;
        Ok(self.clones)
    }

    /// Copies what is no hole.
    fn content(&mut self, from: &OwnedFd, to: &OwnedFd, size: u64, full: &Path) -> Result<()> {
        let failed = |errno| ImageError::io("copy", full, errno);
        let mut at = 0;
        while at < size {
            self.halt.check()?;
            let start = match seek(from, SeekFrom::Data(at)) {
                Ok(start) => start,
                // The rest is a hole.
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(errno) => return Err(failed(errno)),
            };
            let end = seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
            at = start;
            while at < end {
                self.halt.check()?;
                let copied = self.piece(from, to, at, end - at).map_err(failed)?;
                // Cut short while it was copied: the length below tells.
                if copied == 0 {
                    return Err(failed(Errno::IO));
                }
                at += copied;
            }
        }
        ftruncate(to, size).map_err(failed)
    }

    /// Copies some bytes and says how many.
    fn piece(&mut self, from: &OwnedFd, to: &OwnedFd, at: u64, left: u64) -> Result<u64, Errno> {
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        #[cfg(target_os = "linux")]
        match rustix::fs::copy_file_range(from, Some(&mut { at }), to, Some(&mut { at }), most) {
            Ok(copied) if copied > 0 => return Ok(copied as u64),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(errno),
            // Not between these two, or not by this kernel.
            _ => {}
        }
        self.buffer.resize(PIECE, 0);
        let read = pread(from, &mut self.buffer[..most], at)?;
        let mut written = 0;
        while written < read {
            written += pwrite(to, &self.buffer[written..read], at + written as u64)?;
        }
        Ok(read as u64)
    }

    /// Copies the attributes that extraction sets: what the host says of a file for itself is not among them.
    pub(super) fn attributes(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, full: &Path) -> Result<()> {
        let failed = |errno| ImageError::io("copy the attributes of", full, errno);
        let mut names = vec![0; MAX_ATTRIBUTE];
        let length = flistxattr(from, &mut names[..]).map_err(failed)?;
        let ours = |name: &&[u8]| name.starts_with(b"user.") || *name == b"security.capability";
        for name in names[..length].split(|&byte| byte == 0).filter(ours) {
            self.buffer.resize(PIECE, 0);
            let length = fgetxattr(from, name, &mut self.buffer[..MAX_ATTRIBUTE]).map_err(failed)?;
            step("attribute", IN_A_TREE);
            fsetxattr(to, name, &self.buffer[..length], XattrFlags::empty()).map_err(failed)?;
        }
        Ok(())
    }
}

/// Gives a file or directory the time of another.
pub(super) fn set_times(to: BorrowedFd<'_>, of: &Stat, full: &Path) -> Result<()> {
    let time = Timespec { tv_sec: of.st_mtime as _, tv_nsec: of.st_mtime_nsec as _ };
    step("time", IN_A_TREE);
    futimens(to, &Timestamps { last_access: time, last_modification: time })
        .map_err(|errno| ImageError::io("set the time of", full, errno))
}
