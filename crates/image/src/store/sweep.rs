//! What crashes left, removed by a thread of its own: a pull neither waits for it nor reads anything for it.
//!
//! The thread looks at names alone, opens no metadata, and runs at most once in a while for each cache of a process. What a
//! pull would meet itself (its layers' unfinished trees, files beside those it publishes) it removes under its own locks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::Result,
    store::{GlobalCache, LayerFile, inventory::Inventory, prune::remove_leftovers, removal::Removal},
};

/// Between two looks. Tests that kill at each step want one in every pull, with its steps in the same order, and so wait for
/// it too.
const PAUSE: Duration = Duration::from_secs(if cfg!(feature = "fail-points") { 0 } else { 600 });
const PATIENCE: Duration = Duration::from_secs(if cfg!(feature = "fail-points") { 30 } else { 0 });

/// When each cache was looked at, as long as that counts.
static LOOKED: Mutex<BTreeMap<PathBuf, Instant>> = Mutex::new(BTreeMap::new());

impl GlobalCache {
    /// Removes what crashes left, if nobody of this process has lately; without holding anybody up.
    pub(crate) fn sweep_later(&self) {
        if !is_due(self.directory(), PAUSE, Instant::now()) {
            return;
        }
        let (cache, (done, swept)) = (self.clone(), mpsc::sync_channel::<()>(1));
        let sweep = move || {
            if let Err(error) = cache.sweep() {
                tracing::warn!(%error, "what a crash left could not be swept");
            }
            let _ = done.send(());
        };
        // Where no thread can be started it stays for the next one who looks.
        if thread::Builder::new().name("image-sweep".to_owned()).spawn(sweep).is_ok() {
            let _ = swept.recv_timeout(PATIENCE);
        }
    }

    pub(super) fn sweep(&self) -> Result<()> {
        self.sweep_leases()?;
        let inventory = Inventory::without_metadata(self)?;
        if inventory.leftovers.is_empty()
            && !inventory.layers.values().any(|files| files.contains(&LayerFile::Extracting))
        {
            return Ok(());
        }
        // Leases are read last: a tree in the making that was there before, and that nobody leases now, has been left.
        let mut removal = Removal::of_leftovers(self)?;
        remove_leftovers(self, &inventory, &mut removal)?;
        removal.delete().map(drop)
    }
}

/// Whether a cache was not looked at for so long; if so, it is now.
fn is_due(cache: &Path, pause: Duration, now: Instant) -> bool {
    let mut looked = LOOKED.lock().unwrap_or_else(PoisonError::into_inner);
    looked.retain(|_, then| now.duration_since(*then) < pause);
    let due = !looked.contains_key(cache);
    if due {
        looked.insert(cache.to_owned(), now);
    }
    due
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::{Algorithm, Digest};

    #[test]
    fn a_tree_in_the_making_stays_while_its_lease_lives_and_goes_afterwards() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(&temp.path().join("cache"));
        let digest = Digest::of(Algorithm::Sha256, b"layer");
        let lease = cache.lease([&digest]).unwrap();
        let scratch = cache.scratch(&digest, &lease.name());
        fs::create_dir(&scratch).unwrap();
        cache.sweep().unwrap();
        assert!(scratch.is_dir(), "somebody is at work on it");
        drop(lease);
        cache.sweep().unwrap();
        assert!(!scratch.exists(), "nobody will finish it");
    }

    #[test]
    fn a_cache_is_looked_at_once_in_a_while() {
        let (cache, other) = (Path::new("/sweep/a"), Path::new("/sweep/b"));
        let (pause, now) = (Duration::from_secs(600), Instant::now());
        assert!(is_due(cache, pause, now) && is_due(other, pause, now));
        assert!(!is_due(cache, pause, now + Duration::from_secs(599)));
        assert!(is_due(cache, pause, now + Duration::from_secs(600)));
    }
}
