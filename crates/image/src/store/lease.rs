//! Leases: layers that somebody uses and that therefore stay, whatever is pruned, from whatever process.
//!
//! A lease is a file `<cache>/leases/<pid>-<start time>-<n>` that lists layers and is locked for as long as its process
//! holds it. The name tells people whose it is; the lock is what counts, since the kernel gives it back when the process
//! dies, however it dies, and no process id that comes again can take its place.
//!
//! The file `<cache>/leases/room.lock` is held shared while a lease is written and alone while it is decided what goes,
//! so a layer that was seen to be there and leased is there until the lease ends.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Hold, Lock, remove_file_if_there, step},
    model::Digest,
    store::GlobalCache,
};

const DIRECTORY: &str = "leases";
const ROOM_LOCK: &str = "room.lock";
/// Deciding what goes takes moments; longer waits mean that somebody was stopped in the middle.
pub(super) const ROOM_TIMEOUT: Duration = Duration::from_secs(60);

/// Layers kept for as long as this value, or at most this process, lives.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for Lease {
    fn drop(&mut self) {
        step("remove", &self.path);
        let _ = fs::remove_file(&self.path);
    }
}

/// What the living leases say.
#[derive(Debug, Default)]
pub(super) struct Leased {
    pub(super) layers: BTreeSet<Digest>,
    /// Keys of images that are being pulled by a process that leases what it needs.
    pub(super) pulls: BTreeSet<String>,
}

impl GlobalCache {
    /// Keeps these layers from being removed until the lease is dropped or this process ends.
    ///
    /// They need not be there yet. Fails with `ERR_IO` where the cache can't be written, `ERR_LOCK_TIMEOUT`.
    pub fn lease<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> Result<Lease> {
        self.write_lease(None, layers)
    }

    /// The lease of a pull, which also says that the lock of that image is held by one who leases.
    pub(crate) fn lease_pull<'a>(&self, key: &str, layers: impl IntoIterator<Item = &'a Digest>) -> Result<Lease> {
        self.write_lease(Some(key), layers)
    }

    fn write_lease<'a>(&self, key: Option<&str>, layers: impl IntoIterator<Item = &'a Digest>) -> Result<Lease> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut text: String = layers.into_iter().map(|digest| format!("layer {digest}\n")).collect();
        text.extend(key.map(|key| format!("pull {key}\n")));
        let _room = self.room_lock(Hold::Shared)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}", std::process::id(), start_time());
        let path = self.leases_dir().join(name);
        let lock = Lock::try_acquire(&path)?;
        let lock = lock.ok_or_else(|| ErrorKind::Cache {
            path: path.display().to_string(),
            reason: "a lease of this name is held by another process".to_owned(),
        })?;
        let lease = Lease { path, _lock: lock };
        step("write", &lease.path);
        fs::write(&lease.path, text).map_err(|error| ImageError::io("write the lease", &lease.path, error))?;
        Ok(lease)
    }

    /// The lock that separates leasing from deciding what goes.
    pub(super) fn room_lock(&self, hold: Hold) -> Result<Lock> {
        self.prepare()?;
        let directory = self.leases_dir();
        step("create", &directory);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ImageError::io("create the directory", &directory, error));
            }
            _ => {}
        }
        Lock::wait(&directory.join(ROOM_LOCK), hold, ROOM_TIMEOUT)
    }

    /// Reads the leases; those whose process is gone are removed if `sweep` says so, which needs the room lock alone.
    pub(super) fn leased(&self, sweep: bool) -> Result<Leased> {
        let mut leased = Leased::default();
        let directory = self.leases_dir();
        let list = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(leased),
            list => list.map_err(|error| ImageError::io("list", &directory, error))?,
        };
        for entry in list {
            let path = entry.map_err(|error| ImageError::io("list", &directory, error))?.path();
            if path.ends_with(ROOM_LOCK) {
                continue;
            }
            if !Lock::is_held(&path)? {
                if sweep {
                    remove_file_if_there(&path)?;
                }
                continue;
            }
            let bytes = crate::fs::read_if_there(&path)?.unwrap_or_default();
            for line in String::from_utf8_lossy(&bytes).lines() {
                match line.split_once(' ') {
                    Some(("layer", digest)) => leased.layers.extend(Digest::parse(digest).ok()),
                    Some(("pull", key)) => {
                        leased.pulls.insert(key.to_owned());
                    }
                    _ => {}
                }
            }
        }
        Ok(leased)
    }

    /// Removes the leases of processes that are gone, unless somebody leases or decides what goes right now.
    pub(super) fn sweep_leases(&self) -> Result<()> {
        let is_lease = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != ROOM_LOCK);
        if !fs::read_dir(self.leases_dir()).is_ok_and(|mut list| list.any(is_lease)) {
            return Ok(());
        }
        let Some(_room) = Lock::try_acquire(&self.leases_dir().join(ROOM_LOCK))? else { return Ok(()) };
        self.leased(true).map(drop)
    }

    fn leases_dir(&self) -> PathBuf {
        self.directory().join(DIRECTORY)
    }
}

/// When this process started, in the kernel's ticks since boot; 0 where that is not told.
fn start_time() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_until_it_is_dropped_and_a_dead_one_does_not() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(temp.path());
        let digest = Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap();
        let lease = cache.lease([&digest]).unwrap();
        assert!(cache.leased(true).unwrap().layers.contains(&digest));
        // What a killed process leaves: the file without its lock.
        let dead = cache.leases_dir().join("1-1-1");
        fs::copy(&lease.path, &dead).unwrap();
        drop(lease);
        assert!(cache.leased(true).unwrap().layers.is_empty());
        assert!(!dead.exists());
    }

    #[test]
    fn this_process_has_a_start_time() {
        assert!(start_time() > 0 || !cfg!(target_os = "linux"));
    }
}
