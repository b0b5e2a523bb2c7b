//! Hard links. A host allows only so many of one file (ext4 65,000, some btrfs a few hundred in one directory); beyond that
//! a copy stands for the file, and takes the links that follow.

use std::{
    collections::VecDeque,
    ffi::CStr,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, SeekFrom, Timespec, Timestamps, XattrFlags, fgetxattr, flistxattr, fsetxattr, fstat,
        ftruncate, futimens, linkat, openat, seek, statat,
    },
    io::{Errno, pread},
};

use crate::{
    error::{ImageError, Result},
    fs::step,
    layer::{
        apply::{
            FILE, Handle,
            writers::{CREATE, failed, link_failed, write_at},
        },
        halt::Halt,
        limits::{Limits, entry_text},
        report::{Note, Report},
    },
};

/// A name in an open directory.
pub(super) type Name = (Arc<Handle>, Box<CStr>);

/// Copies that a writer keeps open the directories of.
const MAX_COPIES: usize = 4;
/// Bytes copied between two looks at the stop.
const PIECE: usize = 256 << 10;

/// The links of one writer.
pub(super) struct Links {
    /// The copies that take the links of files, with the files' inode numbers, the latest last. Of one that is not kept any
    /// more another copy is made.
    copies: VecDeque<(u64, Name)>,
    /// Bytes in the copies of all writers.
    copied: Arc<AtomicU64>,
    limits: Limits,
    halt: Halt,
}

impl Links {
    pub(super) fn new(copied: Arc<AtomicU64>, limits: Limits, halt: Halt) -> Self {
        Self { copies: VecDeque::new(), copied, limits, halt }
    }

    /// Gives a file another name.
    pub(super) fn link(&mut self, from: Name, to: Name, report: &mut Report) -> Result<()> {
        let file = if self.copies.is_empty() { None } else { Some(inode(&from)?) };
        let latest = self.copies.iter().find(|(of, _)| Some(*of) == file).map_or(&from, |(_, copy)| copy);
        step("link", FILE);
        match linkat(&*latest.0, &*latest.1, &*to.0, &*to.1, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::MLINK) => {
                let file = file.map_or_else(|| inode(&from), Ok)?;
                self.copy(&from, &to)?;
                report.note(Note::LinkCopied, to.1.to_bytes());
                self.keep(file, to)
            }
            Err(errno) => Err(link_failed(&to.0, &to.1, errno)),
        }
    }

    /// Keeps a copy for the links that follow. Its handle is one of its own: nobody waits until this one is closed.
    fn keep(&mut self, file: u64, (directory, name): Name) -> Result<()> {
        let own = directory.as_fd().try_clone_to_owned();
        let own = own.map_err(|error| ImageError::io("open the directory of", entry_text(name.to_bytes()), error))?;
        self.copies.retain(|(of, _)| *of != file);
        if self.copies.len() == MAX_COPIES {
            self.copies.pop_front();
        }
        self.copies.push_back((file, (Handle::uncounted(own), name)));
        Ok(())
    }

    /// Content, holes, attributes and times.
    fn copy(&self, from: &Name, to: &Name) -> Result<()> {
        let broke = |errno| failed(&to.0, &to.1, "copy a file with too many hard links to", errno);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let source = openat(&*from.0, &*from.1, flags, Mode::empty()).map_err(broke)?;
        let stat = fstat(&source).map_err(broke)?;
        step("create", FILE);
        let made = openat(&*to.0, &*to.1, CREATE, Mode::RUSR | Mode::WUSR).map_err(broke)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        step("length", FILE);
        ftruncate(&made, size).map_err(broke)?;
        let mut at = 0;
        while at < size {
            let from = match seek(&source, SeekFrom::Data(at)) {
                Ok(data) => data,
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                // All of it is data where holes are not told.
                Err(_) => at,
            };
            let end = seek(&source, SeekFrom::Hole(from)).unwrap_or(size).clamp(from, size);
            self.copy_bytes(&source, &made, from..end, to)?;
            at = end.max(at + 1);
        }
        copy_attributes(&source, &made).map_err(broke)?;
        #[allow(clippy::unnecessary_cast, reason = "the types differ between targets")]
        let time = Timespec { tv_sec: stat.st_mtime as i64, tv_nsec: stat.st_mtime_nsec as _ };
        step("time", FILE);
        futimens(&made, &Timestamps { last_access: time, last_modification: time }).map_err(broke)
    }

    fn copy_bytes(&self, source: &OwnedFd, made: &OwnedFd, range: Range<u64>, to: &Name) -> Result<()> {
        let broke = |errno| failed(&to.0, &to.1, "copy a file with too many hard links to", errno);
        let mut piece = vec![0; PIECE];
        let mut at = range.start;
        while at < range.end {
            self.halt.check()?;
            let wanted = (range.end - at).min(PIECE as u64) as usize;
            let read = pread(source, &mut piece[..wanted], at).map_err(broke)?;
            if read == 0 {
                break;
            }
            let copied = self.copied.fetch_add(read as u64, Ordering::Relaxed) + read as u64;
            self.limits.check_layer_bytes(copied, to.1.to_bytes())?;
            write_at(made, &piece[..read], at).map_err(broke)?;
            at += read as u64;
        }
        Ok(())
    }
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    // Both are the most that Linux has.
    let (mut names, mut value) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let length = flistxattr(from, &mut names[..])?;
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let length = fgetxattr(from, name, &mut value[..])?;
        step("attribute", FILE);
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn inode(name: &Name) -> Result<u64> {
    let stat = statat(&*name.0, &*name.1, AtFlags::SYMLINK_NOFOLLOW);
    stat.map(|stat| stat.st_ino).map_err(|errno| failed(&name.0, &name.1, "look at", errno))
}
