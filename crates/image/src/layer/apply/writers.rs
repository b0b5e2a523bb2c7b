//! Threads that make files: open, write, attribute, times, close. Files of one directory go to one thread, in order.

use std::{
    ffi::{CStr, OsStr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::Arc,
    thread::{Scope, ScopedJoinHandle},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, Timespec, Timestamps, XattrFlags, fsetxattr, ftruncate, futimens, openat},
    io::{Errno, pwrite},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::step,
    layer::{
        apply::{
            FILE, Handle,
            links::{Links, Name},
            symlink, twin, xattr,
        },
        batch::Batches,
        block::{Block, Pool, Slice},
        halt::Halt,
        limits::Limits,
        queue::{Receiver, Sender, bounded},
        report::Report,
        stages::timed,
        stat::{OVERRIDE_STAT, OverrideStat},
        tar::Timestamp,
    },
};

/// Everything about a file but its content.
pub(crate) struct FileMeta {
    pub(crate) directory: Arc<Handle>,
    /// The name, NUL-terminated.
    pub(crate) name: Box<CStr>,
    pub(crate) stat: OverrideStat,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length with holes; bytes that will be handed over.
    pub(crate) size: u64,
    pub(crate) stored: u64,
}

impl FileMeta {
    /// Memory that the attributes take while the file waits for its thread.
    fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

enum Job {
    File(Box<FileMeta>),
    Content { offset: u64, bytes: Slice },
    Stub { meta: Box<FileMeta>, content: Box<[u8]> },
    Link { from: Name, to: Name },
    Fence(Sender<()>),
}

/// The sending side: one queue for each thread.
pub(crate) struct Writers(Batches<Job>);

/// The threads, to wait for.
pub(crate) struct Threads<'scope>(Vec<ScopedJoinHandle<'scope, (Report, Duration)>>);

impl Writers {
    /// Starts `count` threads in `scope`.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        count: usize,
        limits: Limits,
        halt: &Halt,
    ) -> (Self, Threads<'scope>) {
        let (batches, receivers) = Batches::new(count, halt);
        let copied = Arc::default();
        let start = |receiver| {
            let halt = halt.clone();
            let links = Links::new(Arc::clone(&copied), limits, halt.clone());
            scope.spawn(move || run(&receiver, links, &halt))
        };
        let threads = receivers.into_iter().map(start).collect();
        (Self(batches), Threads(threads))
    }

    /// The thread that has had least to do: for the files of a new directory.
    pub(crate) fn least_loaded(&self) -> usize {
        self.0.least_loaded()
    }

    /// The same thread, or another one that has less than half as much waiting.
    pub(crate) fn relieved(&self, thread: usize) -> usize {
        // Asked between two batches, so that it is asked seldom.
        if !self.0.is_empty(thread) {
            return thread;
        }
        let most = self.0.waiting(thread) / 2;
        self.0.writers().find(|&other| self.0.waiting(other) < most).unwrap_or(thread)
    }

    /// Makes a file; its content follows by [`content`](Self::content) on the same thread.
    pub(crate) fn file(&mut self, thread: usize, meta: FileMeta) -> Result<()> {
        let (bytes, empty) = (meta.xattr_bytes(), meta.stored == 0);
        self.0.collect(thread, Job::File(Box::new(meta)), bytes);
        // A file is not parted from its first bytes.
        if empty { self.0.flush_if_full(thread) } else { Ok(()) }
    }

    /// Writes into the last file of this thread.
    pub(crate) fn content(&mut self, thread: usize, offset: u64, bytes: Slice) -> Result<()> {
        let length = bytes.len();
        self.push(thread, Job::Content { offset, bytes }, length)
    }

    /// Makes a file with content at hand: a link's target, or nothing.
    pub(crate) fn stub(&mut self, thread: usize, meta: FileMeta, content: Box<[u8]>) -> Result<()> {
        let bytes = meta.xattr_bytes() + content.len();
        self.push(thread, Job::Stub { meta: Box::new(meta), content }, bytes)
    }

    /// Gives a file another name.
    pub(crate) fn link(
        &mut self,
        thread: usize,
        from: (Arc<Handle>, Box<CStr>),
        to: (Arc<Handle>, Box<CStr>),
    ) -> Result<()> {
        self.push(thread, Job::Link { from, to }, 0)
    }

    /// Waits until all that was handed over is done.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let fences: Vec<_> = self.0.writers().filter_map(|thread| self.fence(thread).transpose()).collect();
        let halt = self.0.halt().clone();
        timed(self.0.waited(), || fences.into_iter().try_for_each(|fence| wait(&fence?, &halt)))
    }

    /// Puts a fence behind what a thread has to do; `None` if that is nothing.
    fn fence(&mut self, thread: usize) -> Result<Option<Receiver<()>>> {
        let (done, fence) = bounded(1);
        Ok(self.0.fence(thread, || Job::Fence(done))?.then_some(fence))
    }

    /// Hands over what has been collected.
    pub(crate) fn flush_all(&mut self) -> Result<()> {
        self.0.flush_all()
    }

    /// A block to fill, once the jobs that keep all of them are done. `waited` grows by the wait.
    pub(crate) fn block(&mut self, pool: &Arc<Pool>, waited: &mut Duration) -> Result<Block> {
        self.0.block(pool, waited)
    }

    fn push(&mut self, thread: usize, job: Job, bytes: usize) -> Result<()> {
        self.0.collect(thread, job, bytes);
        self.0.flush_if_full(thread)
    }

    /// How long the threads were waited for.
    pub(crate) fn waited(&mut self) -> Duration {
        *self.0.waited()
    }
}

/// A fence is reached when the thread lets its sender go.
fn wait(fence: &Receiver<()>, halt: &Halt) -> Result<()> {
    fence.receive_or_halt(halt)?;
    halt.check()
}

impl Threads<'_> {
    /// Waits for the threads (drop the [`Writers`] first) and returns what they could not keep, and how long they worked
    /// together.
    pub(crate) fn join(self) -> (Report, Duration) {
        let (mut report, mut worked) = (Report::default(), Duration::ZERO);
        for thread in self.0 {
            match thread.join() {
                Ok((theirs, working)) => {
                    report.merge(theirs);
                    worked += working;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (report, worked)
    }
}

fn run(receiver: &Receiver<Vec<Job>>, links: Links, halt: &Halt) -> (Report, Duration) {
    let (mut writer, mut working) = (Writer { current: None, links, report: Report::default() }, Duration::ZERO);
    while let Some(batch) = receiver.receive() {
        let done = timed(&mut working, || {
            batch.into_iter().try_for_each(|job| {
                halt.check()?;
                writer.work(job)
            })
        });
        if let Err(error) = done {
            halt.fail(error);
            break;
        }
    }
    (writer.report, working)
}

struct Writer {
    current: Option<Open>,
    links: Links,
    report: Report,
}

struct Open {
    file: OwnedFd,
    meta: Box<FileMeta>,
    left: u64,
    end: u64,
}

impl Writer {
    fn work(&mut self, job: Job) -> Result<()> {
        match job {
            Job::File(meta) => {
                let file = create(&meta)?;
                let left = meta.stored;
                let open = Open { file, meta, left, end: 0 };
                if left == 0 {
                    return self.close(&open);
                }
                self.current = Some(open);
                Ok(())
            }
            Job::Content { offset, bytes } => {
                let Some(open) = &mut self.current else {
                    return Err(ImageError::internal("content came without a file"));
                };
                write_at(&open.file, &bytes, offset).map_err(|errno| at(&open.meta, "write", errno))?;
                open.left = open.left.saturating_sub(bytes.len() as u64);
                open.end = offset + bytes.len() as u64;
                match self.current.take_if(|open| open.left == 0) {
                    Some(open) => self.close(&open),
                    None => Ok(()),
                }
            }
            Job::Stub { meta, content } => {
                if symlink::is_real(&meta.stat) {
                    step("create", FILE);
                    let link = symlink::make(&meta.directory, &meta.name, &content);
                    let file = link.map_err(|errno| at(&meta, "create", errno))?;
                    return self.close(&Open { file, left: 0, end: meta.size, meta });
                }
                let file = create(&meta)?;
                if !content.is_empty() {
                    write_at(&file, &content, 0).map_err(|errno| at(&meta, "write", errno))?;
                }
                let end = content.len() as u64;
                self.close(&Open { file, left: 0, end, meta })
            }
            Job::Link { from, to } => self.links.link(from, to, &mut self.report),
            Job::Fence(reached) => {
                drop(reached);
                Ok(())
            }
        }
    }

    fn close(&mut self, open: &Open) -> Result<()> {
        let Open { file, meta, end, .. } = open;
        if meta.size > *end {
            step("length", FILE);
            ftruncate(file, meta.size).map_err(|errno| at(meta, "set the length of", errno))?;
        }
        step("attribute", FILE);
        fsetxattr(file, OVERRIDE_STAT, &meta.stat.to_bytes(), XattrFlags::empty())
            .map_err(|errno| at(meta, "set the attribute of", errno))?;
        xattr::keep_all(file.as_fd(), meta.name.to_bytes(), &meta.xattrs, &mut self.report);
        step("time", FILE);
        futimens(file, &times(meta.mtime)).map_err(|errno| at(meta, "set the time of", errno))
    }
}

pub(super) const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn create(meta: &FileMeta) -> Result<OwnedFd> {
    step("create", FILE);
    openat(&*meta.directory, &*meta.name, CREATE, Mode::RUSR | Mode::WUSR).map_err(|errno| at(meta, "create", errno))
}

pub(super) fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        step("write", FILE);
        match pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Modification time as given, access time alike: nobody has read it yet.
pub(super) fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn at(meta: &FileMeta, action: &'static str, errno: Errno) -> ImageError {
    failed(&meta.directory, &meta.name, action, errno)
}

/// A host may have no hard links at all (FAT, some FUSE and network mounts).
pub(super) fn link_failed(directory: &Handle, name: &CStr, errno: Errno) -> ImageError {
    if !matches!(errno, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) {
        return failed(directory, name, "hard-link", errno);
    }
    let reason = "its file system makes no hard links, and the image has some; put the cache on one that does";
    let path = path_of(directory, name).display().to_string();
    ErrorKind::Cache { path, reason: reason.to_owned() }.caused_by(std::io::Error::from(errno))
}

/// Only the handle is at hand here; where it leads is known to the system, and only an error needs it.
fn path_of(directory: &Handle, name: &CStr) -> PathBuf {
    let directory = directory.as_fd();
    #[cfg(target_vendor = "apple")]
    let path = rustix::fs::getpath(directory).map(|path| PathBuf::from(OsStr::from_bytes(path.to_bytes()))).ok();
    #[cfg(not(target_vendor = "apple"))]
    let path = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory))).ok();
    path.unwrap_or_default().join(OsStr::from_bytes(name.to_bytes()))
}

pub(super) fn failed(directory: &Handle, name: &CStr, action: &'static str, errno: Errno) -> ImageError {
    let path = path_of(directory, name);
    twin::meets(directory.as_fd(), name.to_bytes(), name.to_bytes(), errno)
        .unwrap_or_else(|| ImageError::io(action, path, errno))
}

#[cfg(test)]
mod tests;
