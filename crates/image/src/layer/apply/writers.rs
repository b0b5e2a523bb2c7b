//! Threads that make files: open, write, attribute, times, close. Files of one directory go to one thread, in order.

use std::{
    ffi::{CStr, OsStr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
    sync::Arc,
    thread::{Scope, ScopedJoinHandle},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags, fsetxattr, ftruncate, futimens, linkat, openat},
    io::{Errno, pwrite},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::step,
    layer::{
        apply::{FILE, twin, xattr},
        block::Slice,
        halt::Halt,
        queue::{Receiver, Sender, bounded},
        report::Report,
        stages::timed,
        stat::{OVERRIDE_STAT, OverrideStat},
        tar::Timestamp,
    },
};

/// Jobs handed over at once: waking a thread costs more than a small file.
const BATCH_JOBS: usize = 64;
/// Bytes after which a batch is handed over.
const BATCH_BYTES: usize = 256 << 10;
/// Batches that may wait for a thread.
const QUEUE: usize = 8;

/// Everything about a file but its content.
pub(crate) struct FileMeta {
    pub(crate) directory: Arc<OwnedFd>,
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
    Link { from: (Arc<OwnedFd>, Box<CStr>), to: (Arc<OwnedFd>, Box<CStr>) },
    Fence(Sender<()>),
}

/// The sending side: one queue for each thread.
pub(crate) struct Writers {
    queues: Vec<Queue>,
    halt: Halt,
    /// How long the threads were waited for.
    waited: Duration,
}

struct Queue {
    sender: Sender<Vec<Job>>,
    batch: Vec<Job>,
    bytes: usize,
    /// True when something was handed over since the last fence.
    busy: bool,
    /// How many bytes and files went this way: new directories go where least did.
    load: u64,
}

impl Queue {
    fn collect(&mut self, job: Job, bytes: usize) {
        self.batch.push(job);
        self.bytes += bytes;
        // A file costs about as much as writing 16 KiB.
        self.load += bytes as u64 + (16 << 10);
    }
}

/// The threads, to wait for.
pub(crate) struct Threads<'scope>(Vec<ScopedJoinHandle<'scope, (Report, Duration)>>);

impl Writers {
    /// Starts `count` threads in `scope`.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        count: usize,
        halt: &Halt,
    ) -> (Self, Threads<'scope>) {
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for _ in 0..count {
            let (sender, receiver) = bounded(QUEUE);
            queues.push(Queue { sender, batch: Vec::new(), bytes: 0, busy: false, load: 0 });
            let halt = halt.clone();
            threads.push(scope.spawn(move || run(&receiver, &halt)));
        }
        (Self { queues, halt: halt.clone(), waited: Duration::ZERO }, Threads(threads))
    }

    /// The thread that has had least to do: for the files of a new directory.
    pub(crate) fn least_loaded(&self) -> usize {
        let loads = self.queues.iter().enumerate();
        loads.min_by_key(|(_, queue)| queue.load).map_or(0, |(at, _)| at)
    }

    /// The same thread, or another one that has less than half as much waiting.
    pub(crate) fn relieved(&self, thread: usize) -> usize {
        // Asked between two batches, so that it is asked seldom.
        if !self.queues[thread].batch.is_empty() {
            return thread;
        }
        let waiting = |other: usize| self.queues[other].sender.length();
        let most = waiting(thread) / 2;
        (0..self.queues.len()).find(|&other| waiting(other) < most).unwrap_or(thread)
    }

    /// Makes a file; its content follows by [`content`](Self::content) on the same thread.
    pub(crate) fn file(&mut self, thread: usize, meta: FileMeta) -> Result<()> {
        let (bytes, empty) = (meta.xattr_bytes(), meta.stored == 0);
        self.queues[thread].collect(Job::File(Box::new(meta)), bytes);
        // A file is not parted from its first bytes.
        if empty { self.flush_if_full(thread) } else { Ok(()) }
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
        from: (Arc<OwnedFd>, Box<CStr>),
        to: (Arc<OwnedFd>, Box<CStr>),
    ) -> Result<()> {
        self.push(thread, Job::Link { from, to }, 0)
    }

    /// Waits until all that was handed over is done.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let fences: Vec<_> = (0..self.queues.len()).filter_map(|thread| self.fence(thread).transpose()).collect();
        let halt = &self.halt;
        timed(&mut self.waited, || fences.into_iter().try_for_each(|fence| wait(&fence?, halt)))
    }

    /// Puts a fence behind what a thread has to do; `None` if that is nothing.
    fn fence(&mut self, thread: usize) -> Result<Option<Receiver<()>>> {
        if !self.queues[thread].busy && self.queues[thread].batch.is_empty() {
            return Ok(None);
        }
        let (done, fence) = bounded(1);
        self.queues[thread].batch.push(Job::Fence(done));
        self.flush(thread)?;
        self.queues[thread].busy = false;
        Ok(Some(fence))
    }

    /// Hands over what has been collected.
    pub(crate) fn flush_all(&mut self) -> Result<()> {
        (0..self.queues.len()).try_for_each(|thread| self.flush(thread))
    }

    fn push(&mut self, thread: usize, job: Job, bytes: usize) -> Result<()> {
        self.queues[thread].collect(job, bytes);
        self.flush_if_full(thread)
    }

    fn flush_if_full(&mut self, thread: usize) -> Result<()> {
        let queue = &self.queues[thread];
        if queue.batch.len() >= BATCH_JOBS || queue.bytes >= BATCH_BYTES { self.flush(thread) } else { Ok(()) }
    }

    fn flush(&mut self, thread: usize) -> Result<()> {
        let queue = &mut self.queues[thread];
        if queue.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut queue.batch, Vec::with_capacity(BATCH_JOBS));
        (queue.bytes, queue.busy) = (0, true);
        timed(&mut self.waited, || queue.sender.send(batch, &self.halt))
    }

    /// How long the threads were waited for.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
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

fn run(receiver: &Receiver<Vec<Job>>, halt: &Halt) -> (Report, Duration) {
    let (mut writer, mut working) = (Writer { current: None, report: Report::default() }, Duration::ZERO);
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
                let file = create(&meta)?;
                if !content.is_empty() {
                    write_at(&file, &content, 0).map_err(|errno| at(&meta, "write", errno))?;
                }
                let end = content.len() as u64;
                self.close(&Open { file, left: 0, end, meta })
            }
            Job::Link { from, to } => {
                step("link", FILE);
                linkat(&*from.0, &*from.1, &*to.0, &*to.1, AtFlags::empty())
                    .map_err(|errno| link_failed(&to.0, &to.1, errno))
            }
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
        xattr::keep_all(file, meta.name.to_bytes(), &meta.xattrs, &mut self.report);
        step("time", FILE);
        futimens(file, &times(meta.mtime)).map_err(|errno| at(meta, "set the time of", errno))
    }
}

fn create(meta: &FileMeta) -> Result<OwnedFd> {
    const CREATE: OFlags =
        OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    step("create", FILE);
    openat(&*meta.directory, &*meta.name, CREATE, Mode::RUSR | Mode::WUSR).map_err(|errno| at(meta, "create", errno))
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
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
fn link_failed(directory: &OwnedFd, name: &CStr, errno: Errno) -> ImageError {
    if !matches!(errno, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) {
        return failed(directory, name, "hard-link", errno);
    }
    let reason = "its file system makes no hard links, and the image has some; put the cache on one that does";
    let path = path_of(directory, name).display().to_string();
    ErrorKind::Cache { path, reason: reason.to_owned() }.caused_by(std::io::Error::from(errno))
}

/// Only the handle is at hand here; where it leads is known to Linux, and only an error needs it.
fn path_of(directory: &OwnedFd, name: &CStr) -> PathBuf {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    std::fs::read_link(link).unwrap_or_default().join(OsStr::from_bytes(name.to_bytes()))
}

fn failed(directory: &OwnedFd, name: &CStr, action: &'static str, errno: Errno) -> ImageError {
    let path = path_of(directory, name);
    twin::meets(directory, name.to_bytes(), name.to_bytes(), errno)
        .unwrap_or_else(|| ImageError::io(action, path, errno))
}

#[cfg(test)]
mod tests;
