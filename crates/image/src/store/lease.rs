//! Leases: layers that somebody uses and that therefore stay, whatever is pruned, from whatever process.
//!
//! A lease is a file `<cache>/leases/<random>` that lists layers and is locked for as long as its process holds it. The
//! lock is what counts, since the kernel gives it back when the process dies, however it dies. The name says nothing: process
//! ids and start times are alike in containers that share a cache, and in two copies of this package in one process.
//!
//! It is written and locked as `<random>.part` and renamed then, so that no lease is ever seen without its lock, and nobody
//! who looks whether it is held can keep it from being taken.
//!
//! The file `<cache>/leases/gc.lock` is held shared while a lease is written and alone while it is decided what goes, so a
//! layer that was seen to be there and leased is there until the lease ends.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{ImageError, Result},
    fs::{Hold, Lock, LockWait, directory_is_there, random_name, remove_file_if_there, rename, stat_if_there, step},
    model::Digest,
    store::GlobalCache,
};

const DIRECTORY: &str = "leases";
const GC_LOCK: &str = "gc.lock";
/// Ends the name of a lease that is being written.
const UNFINISHED: &str = "part";
/// So many random names in a row are never taken; something else is wrong then.
const MAX_NAMES: usize = 100;

/// Layers kept for as long as this value, or at most this process, lives.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    _lock: Lock,
}

impl Lease {
    /// Its own name, which nobody else has.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
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
    /// Those among them that are in use; a pull only means to use what it leases.
    pub(super) used: BTreeSet<Digest>,
    /// Names of the leases: whoever holds one may be making trees.
    pub(super) names: BTreeSet<String>,
    /// Keys of images that are being pulled by a process that leases what it needs.
    pub(super) pulls: BTreeSet<String>,
}

impl GlobalCache {
    /// Keeps these layers from being removed until the lease is dropped or this process ends.
    ///
    /// They need not be there yet. Fails with `ERR_IO` where the cache can't be written, `ERR_CACHE`, `ERR_LOCK_TIMEOUT`.
    pub fn lease<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> Result<Lease> {
        self.lease_with(layers, &LockWait::default())
    }

    /// [`lease`](Self::lease), waiting for the gc lock as `wait` says.
    pub fn lease_with<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>, wait: &LockWait) -> Result<Lease> {
        self.write_lease(None, layers, wait, random_name)
    }

    /// The lease of a pull, which also says that the lock of that image is held by one who leases.
    pub(crate) fn lease_pull<'a>(
        &self,
        key: &str,
        layers: impl IntoIterator<Item = &'a Digest>,
        wait: &LockWait,
    ) -> Result<Lease> {
        self.write_lease(Some(key), layers, wait, random_name)
    }

    fn write_lease<'a>(
        &self,
        key: Option<&str>,
        layers: impl IntoIterator<Item = &'a Digest>,
        wait: &LockWait,
        mut next_name: impl FnMut() -> Result<String>,
    ) -> Result<Lease> {
        let mut text: String = layers.into_iter().map(|digest| format!("layer {digest}\n")).collect();
        text.extend(key.map(|key| format!("pull {key}\n")));
        let _gc = self.gc_lock(Hold::Shared, wait)?;
        for _ in 0..MAX_NAMES {
            if let Some(lease) = take(&self.leases_dir().join(next_name()?), &text)? {
                return Ok(lease);
            }
        }
        Err(ImageError::internal("every name for a lease is taken"))
    }

    /// The lock that separates leasing from deciding what goes.
    pub(super) fn gc_lock(&self, hold: Hold, wait: &LockWait) -> Result<Lock> {
        self.prepare()?;
        let directory = self.leases_dir();
        step("create", &directory);
        match fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ImageError::io("create the directory", &directory, error));
            }
            _ => {}
        }
        directory_is_there(&directory, &self.trust()?)?;
        Lock::wait(&directory.join(GC_LOCK), hold, wait)
    }

    /// Reads the leases; those whose process is gone are removed if `sweep` says so, which needs the gc lock alone.
    pub(super) fn leased(&self, sweep: bool) -> Result<Leased> {
        let mut leased = Leased::default();
        let directory = self.leases_dir();
        if !directory_is_there(&directory, &self.trust()?)? {
            return Ok(leased);
        }
        let list = fs::read_dir(&directory).map_err(|error| ImageError::io("list", &directory, error))?;
        for entry in list {
            let path = entry.map_err(|error| ImageError::io("list", &directory, error))?.path();
            if path.ends_with(GC_LOCK) {
                continue;
            }
            if !Lock::is_held(&path)? {
                if sweep {
                    sweep_away(&path)?;
                }
                continue;
            }
            let bytes = self.read_metadata_file(&path)?.unwrap_or_default();
            leased.names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            let text = String::from_utf8_lossy(&bytes);
            let is_pull = text.lines().any(|line| line.starts_with("pull "));
            for line in text.lines() {
                match line.split_once(' ') {
                    Some(("layer", digest)) => {
                        let digest = Digest::parse(digest).ok();
                        leased.used.extend(digest.clone().filter(|_| !is_pull));
                        leased.layers.extend(digest);
                    }
                    Some(("pull", key)) => {
                        leased.pulls.insert(key.to_owned());
                    }
                    _ => {}
                }
            }
        }
        Ok(leased)
    }

    /// True if somebody who does not pull holds a lease on this layer.
    pub(super) fn is_in_use(&self, digest: &Digest) -> Result<bool> {
        Ok(self.leased(false)?.used.contains(digest))
    }

    /// Removes the leases of processes that are gone, unless somebody leases or decides what goes right now.
    pub(super) fn sweep_leases(&self) -> Result<()> {
        let is_lease = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() != GC_LOCK);
        if !directory_is_there(&self.leases_dir(), &self.trust()?)?
            || !fs::read_dir(self.leases_dir()).is_ok_and(|mut list| list.any(is_lease))
        {
            return Ok(());
        }
        let Some(_gc) = Lock::try_acquire(&self.leases_dir().join(GC_LOCK))? else { return Ok(()) };
        self.leased(true).map(drop)
    }

    fn leases_dir(&self) -> PathBuf {
        self.directory().join(DIRECTORY)
    }
}

/// Writes a lease under this name; `None` if the name is taken. Whoever wants the same name at the same time has to make the
/// same unfinished file, so that only one of them goes on.
fn take(path: &Path, text: &str) -> Result<Option<Lease>> {
    let unfinished = path.with_extension(UNFINISHED);
    let Some(lock) = Lock::create(&unfinished, 0o600)? else { return Ok(None) };
    // Dropped before it is renamed, it takes the unfinished file with it.
    let mut lease = Lease { path: unfinished, _lock: lock };
    if stat_if_there(path)?.is_some() {
        return Ok(None);
    }
    step("write", &lease.path);
    let written = lease._lock.file().write_all(text.as_bytes());
    written.map_err(|error| ImageError::io("write the lease", &lease.path, error))?;
    rename(&lease.path, path)?;
    lease.path = path.to_owned();
    Ok(Some(lease))
}

/// A dead lease, or something else of its name: a link is removed and not followed, a directory is nobody's lease and stays.
fn sweep_away(path: &Path) -> Result<()> {
    if stat_if_there(path)?.is_some_and(|there| !there.is_dir()) {
        remove_file_if_there(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn cache() -> (tempfile::TempDir, GlobalCache, Digest) {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(&temp.path().join("cache"));
        (temp, cache, Digest::parse(&format!("sha256:{}", "a".repeat(64))).unwrap())
    }

    fn names(cache: &GlobalCache) -> Vec<String> {
        let entries = fs::read_dir(cache.leases_dir()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != GC_LOCK).collect()
    }

    #[test]
    fn a_lease_counts_until_it_is_dropped_and_a_dead_one_does_not() {
        let (_temp, cache, digest) = cache();
        let lease = cache.lease([&digest]).unwrap();
        assert!(cache.leased(true).unwrap().layers.contains(&digest));
        // What a killed process leaves: the file without its lock, finished or not.
        let dead = ["1-1-1", "0123456789abcdef.part"].map(|name| cache.leases_dir().join(name));
        for dead in &dead {
            fs::copy(&lease.path, dead).unwrap();
        }
        drop(lease);
        assert!(cache.leased(true).unwrap().layers.is_empty());
        assert!(!dead.iter().any(|dead| dead.exists()));
    }

    #[test]
    fn a_name_that_exists_or_is_held_gives_way_to_the_next() {
        let (_temp, cache, digest) = cache();
        let mut all = ["a", "a", "b"].into_iter().map(|name| Ok(name.to_owned()));
        let first = cache.write_lease(None, [&digest], &LockWait::default(), || all.next().unwrap()).unwrap();
        // Held, and held while it is written.
        let _unfinished = Lock::create(&cache.leases_dir().join("b.part"), 0o600).unwrap().unwrap();
        let mut all = ["a", "b", "c"].into_iter().map(|name| Ok(name.to_owned()));
        let second = cache.write_lease(None, [&digest], &LockWait::default(), || all.next().unwrap()).unwrap();
        assert!(first.path.ends_with("a") && second.path.ends_with("c"), "{second:?}");
        // Dead, of a process that ended.
        fs::write(cache.leases_dir().join("d"), "").unwrap();
        let mut all = ["d", "e"].into_iter().map(|name| Ok(name.to_owned()));
        let third = cache.write_lease(None, [&digest], &LockWait::default(), || all.next().unwrap()).unwrap();
        assert!(third.path.ends_with("e"));
        drop((first, second, third));
        assert_eq!(names(&cache).len(), 2, "{:?}", names(&cache));
    }

    #[test]
    fn names_are_random_so_that_many_who_are_alike_lease_at_once() {
        let (_temp, cache, digest) = cache();
        let leases: Vec<Lease> = std::thread::scope(|scope| {
            let takers: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| (0..25).map(|_| cache.lease([&digest]).unwrap()).collect::<Vec<_>>()))
                .collect();
            takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
        });
        let names = names(&cache);
        assert_eq!((leases.len(), names.len()), (400, 400));
        assert!(names.iter().all(|name| crate::fs::is_random_name(name)), "{names:?}");
    }

    #[test]
    fn whoever_looks_at_leases_never_makes_one_fail_that_is_being_taken() {
        let (_temp, cache, digest) = cache();
        drop(cache.lease([&digest]).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for sweep in [false, true] {
                let (cache, done) = (&cache, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        if sweep { cache.sweep_leases().unwrap() } else { cache.leased(false).map(drop).unwrap() }
                    }
                });
            }
            let takers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..400 {
                            let lease = cache.lease([&digest])?;
                            assert!(lease.path.exists(), "a living lease was swept");
                        }
                        Ok::<_, ImageError>(())
                    })
                })
                .collect();
            let taken: Vec<_> = takers.into_iter().map(|taker| taker.join()).collect();
            done.store(true, Ordering::SeqCst);
            for taken in taken {
                taken.unwrap().unwrap();
            }
        });
    }

    #[test]
    fn leases_planted_as_a_link_or_a_file_are_refused_and_nothing_behind_is_deleted() {
        let (temp, cache, digest) = cache();
        cache.prepare().unwrap();
        let victim = temp.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("precious"), "x").unwrap();
        let refused = |cache: &GlobalCache| {
            for refused in [
                cache.lease([&digest]).map(drop),
                cache.sweep(),
                cache.leased(true).map(drop),
                cache.prune(&Default::default()).map(drop),
            ] {
                assert_eq!(refused.unwrap_err().code(), "ERR_CACHE");
            }
        };
        symlink(&victim, cache.leases_dir()).unwrap();
        refused(&cache);
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        fs::remove_file(cache.leases_dir()).unwrap();
        fs::write(cache.leases_dir(), "").unwrap();
        refused(&cache);
    }

    #[test]
    fn what_is_planted_as_a_lease_neither_blocks_nor_leads_anywhere() {
        let (temp, cache, digest) = cache();
        drop(cache.lease([&digest]).unwrap());
        let (victim, planted) = (temp.path().join("victim"), |name: &str| cache.leases_dir().join(name));
        fs::write(&victim, "x").unwrap();
        symlink(&victim, planted("link")).unwrap();
        fs::create_dir(planted("directory")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, planted("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(cache.leased(true).unwrap().layers.is_empty());
        assert!(victim.exists());
        assert_eq!(names(&cache), ["directory"]);
    }
}
