//! Locks between processes: BSD `flock` on a file of its own (SPEC §2), by `fs2`.
//!
//! The original unlinks a lock's file after unlocking it, so whoever waited may hold a lock on a file that nobody else
//! will open. After locking we look whether the path still names our file, and start again if not. We never unlink.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fs2::FileExt;

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{
        step,
        turn::{Turn, queue},
    },
};

/// How often a waiting lock is tried. flock can't be waited for with a time-out or an abort.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

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
    _file: File,
    _turn: Option<Turn>,
}

impl Lock {
    /// Takes the lock, trying again until it is free. Dropping the future ends the wait; no thread is parked meanwhile.
    ///
    /// `waiting` is called once, when the lock is not free at once, with the holder's process id where it is known.
    /// Fails with `ERR_LOCK_TIMEOUT` after `timeout`.
    pub(crate) async fn acquire(
        path: &Path,
        timeout: Option<Duration>,
        waiting: impl FnOnce(Option<u32>) + Send,
    ) -> Result<Self> {
        let nothing = || std::future::ready(());
        let (lock, ()) = Self::acquire_with(path, timeout, waiting, None, nothing).await?;
        Ok(lock)
    }

    /// [`acquire`](Self::acquire) while holding a permit, which is given back for as long as the lock is waited for and then
    /// asked for again. `held` is one that is held already. Waiting for the permit counts for no time-out.
    pub(crate) async fn acquire_with<P, F: Future<Output = P>>(
        path: &Path,
        timeout: Option<Duration>,
        waiting: impl FnOnce(Option<u32>) + Send,
        mut held: Option<P>,
        permit: impl Fn() -> F,
    ) -> Result<(Self, P)> {
        let mut started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut waiting = Some(waiting);
        let turn = match queue(path).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                held = None;
                if let Some(waiting) = waiting.take() {
                    waiting(off_thread(path, holder).await?);
                }
                take_turn(path, timeout).await?
            }
        };
        loop {
            let permit = match held.take() {
                Some(permit) => permit,
                None => {
                    let asked = Instant::now();
                    let permit = permit().await;
                    started += asked.elapsed();
                    permit
                }
            };
            if let Some(lock) = off_thread(path, Self::try_acquire).await?? {
                return Ok((Self { _turn: Some(turn), ..lock }, permit));
            }
            drop(permit);
            if let Some(waiting) = waiting.take() {
                waiting(off_thread(path, holder).await?);
            }
            if let Some(timeout) = timeout.filter(|timeout| started.elapsed() >= *timeout) {
                return Err(timed_out(path, timeout, off_thread(path, holder).await?));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>> {
        Self::try_hold(path, Hold::Alone)
    }

    /// Takes the lock on this thread, which may sleep meanwhile. Fails with `ERR_LOCK_TIMEOUT` after `timeout`.
    pub(crate) fn wait(path: &Path, hold: Hold, timeout: Duration) -> Result<Self> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(lock) = Self::try_hold(path, hold)? {
                return Ok(lock);
            }
            if started.elapsed() >= timeout {
                return Err(timed_out(path, timeout, holder(path)));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// True if somebody holds the lock. Makes no file where there is none.
    pub(crate) fn is_held(path: &Path) -> Result<bool> {
        match path.symlink_metadata() {
            Ok(file) if file.is_file() => Ok(Self::try_hold(path, Hold::Shared)?.is_none()),
            _ => Ok(false),
        }
    }

    fn try_hold(path: &Path, hold: Hold) -> Result<Option<Self>> {
        loop {
            step("open", path);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
                .open(path)
                .map_err(|error| ImageError::io("open the lock", path, error))?;
            step("lock", path);
            let tried = match hold {
                Hold::Alone => file.try_lock_exclusive(),
                Hold::Shared => FileExt::try_lock_shared(&file),
            };
            match tried {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(not_locked(path, error)),
            }
            if names_this_file(path, &file)? {
                step("keep locked", path);
                return Ok(Some(Self { _file: file, _turn: None }));
            }
        }
    }
}

/// Waits until those of this process who came before are done.
async fn take_turn(path: &Path, timeout: Option<Duration>) -> Result<Turn> {
    let turn = queue(path).lock_owned();
    let Some(timeout) = timeout else { return Ok(turn.await) };
    match tokio::time::timeout(timeout, turn).await {
        Ok(turn) => Ok(turn),
        Err(_) => Err(timed_out(path, timeout, off_thread(path, holder).await?)),
    }
}

fn timed_out(path: &Path, timeout: Duration, holder: Option<u32>) -> ImageError {
    ErrorKind::LockTimeout { path: path.display().to_string(), after_ms: timeout.as_millis() as u64, holder }.into()
}

async fn off_thread<T: Send + 'static>(path: &Path, work: fn(&Path) -> T) -> Result<T> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || work(&path)).await.map_err(|_| ImageError::internal("a lock's thread panicked"))
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
    let file = std::fs::metadata(path).ok()?;
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

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_held_lock_times_out_and_names_its_holder() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        let mut told = None;
        let limit = Some(Duration::from_millis(30));
        let error = block_on(Lock::acquire(&path, limit, |holder| told = Some(holder))).unwrap_err();
        assert_eq!(error.code(), "ERR_LOCK_TIMEOUT");
        assert_eq!(told, Some(Some(std::process::id())));
        drop(held);
        block_on(Lock::acquire(&path, limit, |_| {})).unwrap();
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
            async move { Lock::acquire(&path, Some(Duration::from_secs(20)), |_| {}).await }
        });
        std::thread::sleep(Duration::from_millis(30));
        std::fs::remove_file(&path).unwrap();
        let newer = Lock::try_acquire(&path).unwrap().unwrap();
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
