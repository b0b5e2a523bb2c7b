//! Locks between processes: BSD `flock` on a file of its own (SPEC §2), by `fs2`.
//!
//! The original unlinks a lock's file after unlocking it, so whoever waited may hold a lock on a file that nobody else
//! will open. After locking we look whether the path still names our file, and start again if not. We never unlink.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use fs2::FileExt;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{
        in_process::{InProcessLock, in_process_lock},
        open::{Opened, no_file, open_regular, open_with},
        step,
    },
    progress::{Event, Observer, Unobserved},
};

/// How often a waiting lock is tried. flock can't be waited for with a time-out or an abort.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// How long a lock is waited for unless the caller says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// How a lock is waited for: for how long, who may stop it, and who is told.
#[derive(Clone)]
pub struct LockWait {
    /// The time after which the wait fails with `ERR_LOCK_TIMEOUT`; `None` is for ever. 600 s by default.
    pub timeout: Option<Duration>,
    /// Ends the wait with `ERR_ABORTED`.
    pub cancel: CancellationToken,
    /// Is told [`Event::LockWaiting`], once for each lock that is not free at once.
    pub observer: Arc<dyn Observer>,
}

impl Default for LockWait {
    fn default() -> Self {
        Self { timeout: Some(DEFAULT_TIMEOUT), cancel: CancellationToken::new(), observer: Arc::new(Unobserved) }
    }
}

impl LockWait {
    /// `ERR_ABORTED` once the work is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(ImageError::aborted()) } else { Ok(()) }
    }
}

/// Whether others may hold the lock as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nobody else.
    Alone,
    /// All who also hold it so.
    Shared,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    // The file is unlocked before the next in this process tries it.
    file: File,
    _in_process: Option<InProcessLock>,
}

/// One wait for one lock: what all waits have in common, on a thread of its own or not.
struct Waiting<'a> {
    path: &'a Path,
    wait: &'a LockWait,
    started: Instant,
    pause: Duration,
    told: bool,
}

impl<'a> Waiting<'a> {
    fn new(path: &'a Path, wait: &'a LockWait) -> Self {
        Self { path, wait, started: Instant::now(), pause: FIRST_PAUSE, told: false }
    }

    /// The lock is not free: tells so once, and answers how long to sleep before the next try.
    fn next_pause(&mut self) -> Result<Duration> {
        self.tell();
        self.wait.check()?;
        let left = self.left()?;
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(pause)
    }

    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            let path: Arc<str> = self.path.display().to_string().into();
            self.wait.observer.notify(Event::LockWaiting { path, holder: holder(self.path) });
        }
    }

    /// What is left of the time, `ERR_LOCK_TIMEOUT` if nothing is.
    fn left(&self) -> Result<Duration> {
        let Some(timeout) = self.wait.timeout else { return Ok(Duration::MAX) };
        match timeout.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero()) {
            Some(left) => Ok(left),
            None => Err(ErrorKind::LockTimeout {
                path: self.path.display().to_string(),
                after_ms: timeout.as_millis() as u64,
                holder: holder(self.path),
            }
            .into()),
        }
    }
}

impl Lock {
    /// Takes the lock alone, trying again until it is free, as `wait` says. No thread is parked meanwhile; dropping the
    /// future ends the wait.
    pub(crate) async fn acquire(path: &Path, wait: &LockWait) -> Result<Self> {
        let nothing = || std::future::ready(());
        let (lock, ()) = Self::acquire_with(path, wait, None, nothing).await?;
        Ok(lock)
    }

    /// [`acquire`](Self::acquire) while holding a permit, which is given back for as long as the lock is waited for and then
    /// asked for again. `held` is one that is held already. Waiting for the permit counts for no time-out.
    pub(crate) async fn acquire_with<P, F: Future<Output = P>>(
        path: &Path,
        wait: &LockWait,
        mut held: Option<P>,
        permit: impl Fn() -> F,
    ) -> Result<(Self, P)> {
        wait.check()?;
        let mut waiting = Waiting::new(path, wait);
        let in_process = match in_process_lock(path).try_lock_owned() {
            Ok(in_process) => in_process,
            Err(_) => {
                held = None;
                waiting.tell();
                tokio::select! {
                    held = in_process_lock(path).lock_owned() => held,
                    () = wait.cancel.cancelled() => return Err(ImageError::aborted()),
                    error = timed_out(&waiting) => return Err(error),
                }
            }
        };
        loop {
            let permit = match held.take() {
                Some(permit) => permit,
                None => {
                    let asked = Instant::now();
                    let permit = tokio::select! {
                        permit = permit() => permit,
                        () = wait.cancel.cancelled() => return Err(ImageError::aborted()),
                    };
                    waiting.started += asked.elapsed();
                    permit
                }
            };
            if let Some(lock) = try_off_thread(path).await? {
                return Ok((Self { _in_process: Some(in_process), ..lock }, permit));
            }
            drop(permit);
            let pause = waiting.next_pause()?;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wait.cancel.cancelled() => return Err(ImageError::aborted()),
            }
        }
    }

    /// Takes the lock on this thread, which sleeps meanwhile, as `wait` says.
    pub(crate) fn wait(path: &Path, hold: Hold, wait: &LockWait) -> Result<Self> {
        wait.check()?;
        let mut waiting = Waiting::new(path, wait);
        loop {
            if let Some(lock) = Self::try_hold(path, hold)? {
                return Ok(lock);
            }
            std::thread::sleep(waiting.next_pause()?);
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>> {
        Self::try_hold(path, Hold::Alone)
    }

    /// Makes a file that nobody else has, and locks it before anything is in it. `None` if there is a file of this name, or
    /// somebody took the new one for a leftover.
    pub(crate) fn create(path: &Path, mode: u32) -> Result<Option<Self>> {
        step("create", path);
        let file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            made => made.map_err(|error| ImageError::io("create", path, error))?,
        };
        step("lock", path);
        match file.try_lock_exclusive() {
            Ok(()) => Ok(names_this_file(path, &file)?.then_some(Self { file, _in_process: None })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(not_locked(path, error)),
        }
    }

    /// The locked file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// True if somebody holds the lock. Makes no file where there is none.
    pub(crate) fn is_held(path: &Path) -> Result<bool> {
        // Being a file is enough: who may write here may hold a lock as well. Reading it works where nothing can be written;
        // what can't be read may be held.
        let opened = match open_regular(path) {
            Err(error) if is_denied(&error) => return Ok(true),
            opened => opened?,
        };
        let Opened::File(file, _) = opened else { return Ok(false) };
        Ok(!try_lock(path, &file, Hold::Shared)?)
    }

    fn try_hold(path: &Path, hold: Hold) -> Result<Option<Self>> {
        loop {
            step("open", path);
            let mut options = OpenOptions::new();
            let file = match open_with(options.write(true).create(true).truncate(false).mode(0o600), path)? {
                Opened::File(file, _) => file,
                Opened::Nothing => {
                    return Err(ImageError::io("open the lock", path, io::Error::from(io::ErrorKind::NotFound)));
                }
                Opened::Other => return Err(no_file(path)),
            };
            if !try_lock(path, &file, hold)? {
                return Ok(None);
            }
            if names_this_file(path, &file)? {
                step("keep locked", path);
                return Ok(Some(Self { file, _in_process: None }));
            }
        }
    }
}

fn try_lock(path: &Path, file: &File, hold: Hold) -> Result<bool> {
    loop {
        step("lock", path);
        let tried = match hold {
            Hold::Alone => file.try_lock_exclusive(),
            Hold::Shared => FileExt::try_lock_shared(file),
        };
        match tried {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(not_locked(path, error)),
        }
    }
}

/// Ends when the time of a wait has passed, never where it has none.
async fn timed_out(waiting: &Waiting<'_>) -> ImageError {
    loop {
        match waiting.left() {
            Ok(Duration::MAX) => std::future::pending().await,
            Ok(left) => tokio::time::sleep(left).await,
            Err(error) => return error,
        }
    }
}

async fn try_off_thread(path: &Path) -> Result<Option<Lock>> {
    let path = path.to_owned();
    let tried = tokio::task::spawn_blocking(move || Lock::try_acquire(&path)).await;
    tried.map_err(|_| ImageError::internal("a lock's thread panicked"))?
}

/// True if something can't be opened since it is somebody else's.
fn is_denied(error: &ImageError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn names_this_file(path: &Path, file: &File) -> Result<bool> {
    let held = file.metadata().map_err(|error| ImageError::io("stat the lock", path, error))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("stat the lock", path, error)),
    }
}

fn not_locked(path: &Path, error: io::Error) -> ImageError {
    use rustix::io::Errno;
    let lacks = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS].map(Errno::raw_os_error);
    if !error.raw_os_error().is_some_and(|code| lacks.contains(&code)) {
        return ImageError::io("lock", path, error);
    }
    let directory = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let reason = "its file system has no locks (flock); put the cache on a local one".to_owned();
    ErrorKind::Cache { path: directory.display().to_string(), reason }.caused_by(error)
}

/// The process that holds the lock, from `/proc/locks`: lines of `1: FLOCK ADVISORY WRITE pid major:minor:inode …`.
fn holder(path: &Path) -> Option<u32> {
    let file = std::fs::symlink_metadata(path).ok()?;
    // Where many locks come and go, a reading of the list may lack one that was there all the time.
    (0..3).find_map(|_| holder_of(&file, &std::fs::read_to_string("/proc/locks").ok()?))
}

/// Several file systems may have a file of this number. The device says which, but that of an overlay is not the one that
/// the kernel lists, so the number alone has to do where no device fits.
fn holder_of(file: &std::fs::Metadata, locks: &str) -> Option<u32> {
    #[allow(clippy::unnecessary_cast, reason = "the type differs between targets")]
    let device = file.dev() as rustix::fs::Dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let (inode, exact) = (format!(":{}", file.ino()), format!("{major:02x}:{minor:02x}:{}", file.ino()));
    let holders = |fits: &dyn Fn(&str) -> bool| {
        locks.lines().find_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let ours = words.get(1) == Some(&"FLOCK") && fits(words.get(5)?);
            ours.then(|| words[4].parse().ok()).flatten()
        })
    };
    holders(&|place| place == exact).or_else(|| holders(&|place| place.ends_with(&inode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Told(std::sync::Mutex<Vec<Event>>);

    impl Observer for Told {
        fn notify(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    #[test]
    fn an_abort_ends_each_kind_of_wait_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        let behind = in_process_lock(&path).try_lock_owned().unwrap();
        for kind in 0..3 {
            // The second waits behind another task of this process, the third for the file.
            let cancel = CancellationToken::new();
            let wait = LockWait { timeout: None, cancel: cancel.clone(), ..LockWait::default() };
            let other = temp.path().join("y.lock");
            let other_held = Lock::try_acquire(&other).unwrap().unwrap();
            let stopper = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(80));
                cancel.cancel();
                Instant::now()
            });
            let waited = match kind {
                0 => Lock::wait(&path, Hold::Alone, &wait),
                1 => block_on(Lock::acquire(&path, &wait)),
                _ => block_on(Lock::acquire(&other, &wait)),
            };
            assert!(waited.unwrap_err().is_aborted());
            assert!(stopper.join().unwrap().elapsed() < Duration::from_millis(250), "kind {kind}");
            assert!(block_on(Lock::acquire(&path, &wait)).unwrap_err().is_aborted(), "before it began");
            drop(other_held);
        }
        drop((held, behind));
    }

    #[test]
    fn a_pipe_or_directory_in_place_of_a_lock_is_refused_and_never_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(Lock::try_acquire(&path).unwrap_err().code(), "ERR_CACHE");
        assert!(!Lock::is_held(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(Lock::try_acquire(&path).unwrap_err().code(), "ERR_CACHE");
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_held_lock_times_out_and_names_its_holder() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        let told = Arc::new(Told::default());
        let wait = LockWait { timeout: Some(Duration::from_millis(30)), observer: told.clone(), ..LockWait::default() };
        for hold in [None, Some(Hold::Alone), Some(Hold::Shared)] {
            let waited = match hold {
                None => block_on(Lock::acquire(&path, &wait)),
                Some(hold) => Lock::wait(&path, hold, &wait),
            };
            assert_eq!(waited.unwrap_err().code(), "ERR_LOCK_TIMEOUT");
            let event = Event::LockWaiting { path: path.to_str().unwrap().into(), holder: Some(std::process::id()) };
            assert_eq!(std::mem::take(&mut *told.0.lock().unwrap()), [event]);
        }
        drop(held);
        block_on(Lock::acquire(&path, &wait)).unwrap();
        Lock::wait(&path, Hold::Shared, &wait).unwrap();
        assert_eq!(*told.0.lock().unwrap(), []);
    }

    #[test]
    fn the_holder_is_that_of_the_same_device_where_two_files_have_one_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = file.as_file().metadata().unwrap();
        let (inode, device) = (meta.ino(), (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev())));
        let line = |pid: u32, (major, minor): (u32, u32), inode: u64| {
            format!("1: FLOCK  ADVISORY  WRITE {pid} {major:02x}:{minor:02x}:{inode} 0 EOF\n")
        };
        let other = line(7, (device.0, device.1 + 1), inode);
        let theirs = [other.clone(), line(8, device, inode)].concat();
        assert_eq!(holder_of(&meta, &theirs), Some(8));
        assert_eq!(holder_of(&meta, &other), Some(7), "an overlay's own device is not listed");
        assert_eq!(holder_of(&meta, &line(9, device, inode + 1)), None);
        assert_eq!(holder_of(&meta, "1: -> FLOCK ADVISORY WRITE 5 0:0:1 0 EOF\n"), None);
    }

    #[test]
    fn a_lock_on_a_file_that_was_unlinked_is_taken_anew() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        // The path names another file now: the next one must get a lock that excludes the one after it.
        let second = Lock::try_acquire(&path).unwrap().unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        drop((held, second));
    }

    #[test]
    fn two_never_hold_it_though_each_unlinks_the_file_as_the_original_does() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let (inside, started) = (std::sync::atomic::AtomicBool::new(false), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while started.elapsed() < Duration::from_secs(2) {
                        // Again and again without a pause: what counts happens between opening the file and locking it.
                        let lock = loop {
                            if let Some(lock) = Lock::try_acquire(&path).unwrap() {
                                break lock;
                            }
                        };
                        assert!(!inside.swap(true, std::sync::atomic::Ordering::SeqCst), "two hold it");
                        std::thread::yield_now();
                        inside.store(false, std::sync::atomic::Ordering::SeqCst);
                        std::fs::remove_file(&path).unwrap();
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn who_waits_gets_the_file_that_is_there_and_not_the_one_that_was() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        let waiter = runtime.spawn({
            let path = path.clone();
            async move { Lock::acquire(&path, &LockWait::default()).await }
        });
        std::thread::sleep(Duration::from_millis(30));
        // Another file of this name, locked before anybody can see it.
        let other = temp.path().join("other");
        let newer = Lock::try_acquire(&other).unwrap().unwrap();
        std::fs::rename(&other, &path).unwrap();
        drop(held);
        std::thread::sleep(Duration::from_millis(150));
        assert!(!waiter.is_finished(), "it took a lock that is held");
        drop(newer);
        let lock = runtime.block_on(waiter).unwrap().unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        drop(lock);
    }

    #[test]
    fn a_file_system_without_locks_is_told_apart_from_other_failures() {
        let path = Path::new("/cache/layers/x.lock");
        let error = not_locked(path, rustix::io::Errno::NOLCK.into());
        assert_eq!(error.code(), "ERR_CACHE");
        assert!(error.to_string().contains("/cache/layers") && error.to_string().contains("local"), "{error}");
        assert_eq!(not_locked(path, rustix::io::Errno::IO.into()).code(), "ERR_IO");
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (path, victim) = (temp.path().join("x.lock"), temp.path().join("victim"));
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(Lock::try_acquire(&path).is_err());
        assert!(!victim.exists());
    }
}
