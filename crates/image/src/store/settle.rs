//! Syncs images some time after they were pulled, in the background: nobody waits for it, it holds no lock, and that it
//! fails means only that the image is looked through after the next boot.
//!
//! It waits until the kernel itself has written most of it (after half a minute, on Linux), so that there is little left to
//! do, and programs that pull and end are not held up: a thread that sleeps ends with its process, one inside of a sync
//! would not.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::store::GlobalCache;

/// From a pull to its sync: longer than the 30 s after which the kernel writes back, and its 5 s of rounds.
const DELAY: Duration = Duration::from_secs(40);

/// Metadata files to be marked, by their cache's directory. A cache that is in the map has a thread.
static PENDING: Mutex<BTreeMap<PathBuf, BTreeSet<PathBuf>>> = Mutex::new(BTreeMap::new());

impl GlobalCache {
    /// Syncs and marks the image whose metadata are at `path`, later.
    pub(crate) fn sync_later(&self, path: PathBuf) {
        self.sync_after(DELAY, path);
    }

    fn sync_after(&self, delay: Duration, path: PathBuf) {
        let mut pending = pending();
        if let Some(paths) = pending.get_mut(self.directory()) {
            paths.insert(path);
            return;
        }
        let cache = self.clone();
        let thread = std::thread::Builder::new().name("image-sync".to_owned()).spawn(move || {
            while let Some(paths) = {
                std::thread::sleep(delay);
                cache.take_pending()
            } {
                for path in paths {
                    if let Err(error) = cache.sync(&path) {
                        tracing::debug!(%error, "a cache could not be synced");
                    }
                }
            }
        });
        if thread.is_ok() {
            pending.insert(self.directory().to_owned(), BTreeSet::from([path]));
        }
    }

    /// What came since the last time; after the first round without anything the thread ends.
    fn take_pending(&self) -> Option<BTreeSet<PathBuf>> {
        let mut pending = pending();
        let paths = pending.get_mut(self.directory()).map(std::mem::take).filter(|paths| !paths.is_empty());
        if paths.is_none() {
            pending.remove(self.directory());
        }
        paths
    }
}

fn pending() -> MutexGuard<'static, BTreeMap<PathBuf, BTreeSet<PathBuf>>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;
    use crate::{
        model::{Algorithm, Digest, Platform, Reference},
        store::{COMPLETE_MARKER, CachedImageMetadata, LayerFile},
    };

    fn image(cache: &GlobalCache, name: &str) -> PathBuf {
        let digest = Digest::of(Algorithm::Sha256, name.as_bytes());
        let tree = cache.layer(&digest, LayerFile::Tree);
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join(COMPLETE_MARKER), "").unwrap();
        let json = format!(
            r#"{{"manifest_digest":"{digest}","config_digest":"{digest}","config":{{"env":[],"exposed_ports":[],"volumes":[],
            "labels":{{}}}},"layers":[{{"digest":"{digest}","media_type":null,"size_bytes":1,"diff_id":""}}]}}"#
        );
        let metadata = CachedImageMetadata::parse(json.as_bytes()).unwrap();
        let (reference, platform) = (Reference::parse(name).unwrap(), Platform::host_linux());
        cache.write_image_metadata(&reference, &platform, &metadata).unwrap();
        cache.image_metadata_path(&reference, &platform)
    }

    fn is_marked(path: &std::path::Path) -> bool {
        rustix::fs::lgetxattr(path, "user.microsandbox-image.synced", &mut [0; 64][..]).is_ok()
    }

    #[test]
    fn images_are_synced_and_marked_later_by_one_thread_that_ends() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(temp.path());
        cache.prepare().unwrap();
        let delay = Duration::from_millis(50);
        let paths = ["a", "b"].map(|name| image(&cache, name));
        for path in &paths {
            cache.sync_after(delay, path.clone());
        }
        // One that went away meanwhile is no reason not to do the others.
        cache.sync_after(delay, temp.path().join("images/gone.json"));
        assert!(!paths.iter().any(|path| is_marked(path)), "nobody waits for it");
        let started = Instant::now();
        while pending().contains_key(temp.path()) {
            assert!(started.elapsed() < Duration::from_secs(30), "the thread goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(paths.iter().all(|path| is_marked(path)));
    }
}
