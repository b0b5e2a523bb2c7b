//! Whether what a cache holds has reached the disk: after a power cut, what was written shortly before may be cut short,
//! though its names are there.
//!
//! Nothing is synced while an image is pulled, that would cost more than the pull. Instead its metadata remember in which
//! boot they were written, and an attribute of their file, the mark, says later that everything was synced. An image of
//! another boot without the mark is doubtful: it is looked through before it is used again (`pull`), and marked then.
//!
//! Mark and metadata name the trees by a fingerprint of their markers' inodes, so that a tree that was made anew later,
//! for another image, is not taken for the one that was synced. Where metadata name no boot, because the original wrote
//! them or the system tells none, the image is taken as it is; so it is in a cache that can't be written.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use rustix::fs::{Access, XattrFlags, access, fsetxattr, fsync, lgetxattr};
use serde::{Deserialize, Serialize};

use crate::{
    error::{ImageError, Result},
    fs::{open_file, step},
    model::{Algorithm, Digest},
    store::{COMPLETE_MARKER, CachedImageMetadata, CachedLayerMetadata, GlobalCache, TreeFile, TreeName},
};

/// The attribute of a metadata file that holds the fingerprint of trees that were synced.
const MARK: &str = "user.microsandbox-image.synced";
/// Letters of a fingerprint.
const LENGTH: usize = 32;

/// In which boot metadata were written, and of which trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The kernel's id of the boot.
    pub boot_id: String,
    /// The fingerprint of the trees.
    pub trees: String,
}

impl Written {
    /// Right now. `None` where the system tells no boot, or a tree is not there.
    pub(super) fn now(cache: &GlobalCache, metadata: &CachedImageMetadata) -> Option<Self> {
        Some(Self { boot_id: boot_id()?.to_owned(), trees: fingerprint(cache, trees(metadata))? })
    }

    /// True if it was before the machine was started for the last time.
    pub(super) fn is_of_another_boot(&self) -> bool {
        boot_id().is_some_and(|boot| boot != self.boot_id)
    }
}

/// The id of this boot, read once: it does not change while a process lives.
fn boot_id() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned());
    BOOT.get_or_init(|| read().filter(|id| !id.is_empty())).as_deref()
}

/// Names trees by the inodes of their markers, which are made anew with each. `None` if one is not there.
fn fingerprint(cache: &GlobalCache, trees: impl IntoIterator<Item = TreeName>) -> Option<String> {
    let mut bytes = Vec::new();
    for tree in trees {
        let marker = fs::symlink_metadata(cache.tree(&tree, TreeFile::Tree).join(COMPLETE_MARKER)).ok()?;
        for number in [marker.ino(), marker.ctime() as u64, marker.ctime_nsec() as u64] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    let mut text = Digest::of(Algorithm::Sha256, &bytes).hex().to_owned();
    text.truncate(LENGTH);
    Some(text)
}

impl GlobalCache {
    /// True if all of an image that was written in another boot has surely reached the disk, or nobody can tell.
    pub(super) fn is_settled(&self, path: &Path, metadata: &CachedImageMetadata) -> bool {
        let Some(written) = &metadata.written else { return true };
        if !written.is_of_another_boot() || is_remembered(path, written) {
            return true;
        }
        let marked = fingerprint(self, trees(metadata)).is_some_and(|trees| is_marked(path, &trees));
        if marked {
            remember(path, written);
        }
        marked || access(self.images_dir(), Access::WRITE_OK).is_err()
    }

    /// Waits until all that was written to the cache's file system is on the disk, then marks the image whose metadata are
    /// at `path`. Does nothing if it is marked. Blocks.
    ///
    /// Fails with `ERR_IO` if the disk does. That the mark can't be set, as in a read-only cache, is no failure.
    pub(crate) fn sync(&self, path: &Path) -> Result<()> {
        // An image that is gone meanwhile needs no sync.
        let Some(bytes) = self.read_metadata_file(path)? else { return Ok(()) };
        let metadata = CachedImageMetadata::parse(&bytes);
        let trees = metadata.and_then(|metadata| fingerprint(self, trees(&metadata)));
        if trees.as_ref().is_some_and(|trees| is_marked(path, trees)) {
            return Ok(());
        }
        step("sync", self.layers_dir());
        sync_file_system(self.layers_dir())?;
        if let Some(trees) = trees {
            self.mark(path, &trees, true);
        }
        Ok(())
    }

    /// Marks an image that was looked through after a boot, if its trees are those of the boot before: what was read now
    /// was on the disk. Says whether they are.
    pub(super) fn mark_as_read(&self, path: &Path, metadata: &CachedImageMetadata) -> bool {
        let Some(written) = &metadata.written else { return false };
        let same = fingerprint(self, trees(metadata)).is_some_and(|trees| trees == written.trees);
        if same {
            self.mark(path, &written.trees, false);
        }
        same
    }

    fn mark(&self, path: &Path, trees: &str, durably: bool) {
        // Another pull may have written other metadata meanwhile: the fingerprint tells of which trees this is true.
        step("mark as synced", path);
        let marked = open_file(path).and_then(|file| {
            let failed = |errno| ImageError::io("mark", path, errno);
            fsetxattr(&file, MARK, trees.as_bytes(), XattrFlags::empty()).map_err(failed)?;
            if durably { fsync(&file).map_err(failed) } else { Ok(()) }
        });
        if let Err(error) = marked {
            tracing::debug!(path = %path.display(), %error, "that an image is synced could not be written down");
        }
    }
}

/// Images of other boots that were found to be marked, so that a hit need not look again: whatever changes from then on
/// changes in this boot.
static SETTLED: Mutex<BTreeMap<PathBuf, Written>> = Mutex::new(BTreeMap::new());
/// More images than this are not remembered.
const MOST: usize = 10_000;

fn is_remembered(path: &Path, written: &Written) -> bool {
    SETTLED.lock().unwrap_or_else(PoisonError::into_inner).get(path) == Some(written)
}

fn remember(path: &Path, written: &Written) {
    let mut settled = SETTLED.lock().unwrap_or_else(PoisonError::into_inner);
    if settled.len() < MOST {
        settled.insert(path.to_owned(), written.clone());
    }
}

fn trees(metadata: &CachedImageMetadata) -> impl Iterator<Item = TreeName> {
    metadata.layers.iter().map(CachedLayerMetadata::tree)
}

fn is_marked(path: &Path, trees: &str) -> bool {
    let mut mark = [0; LENGTH];
    lgetxattr(path, MARK, &mut mark[..]).is_ok_and(|length| mark[..length] == *trees.as_bytes())
}

/// Waits until a whole file system is on its disk.
pub(super) fn sync_file_system(directory: &Path) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened =
        openat(CWD, directory, flags, Mode::empty()).map_err(|errno| ImageError::io("open", directory, errno))?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&opened).map_err(|errno| ImageError::io("sync", directory, errno))?;
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::sync();
        // That only hands it to the drive; this makes the drive write it.
        #[cfg(target_vendor = "apple")]
        rustix::fs::fcntl_fullfsync(&opened).map_err(|errno| ImageError::io("sync", directory, errno))?;
        #[cfg(not(target_vendor = "apple"))]
        drop(opened);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_is_made_anew_has_another_fingerprint() {
        let temp = tempfile::tempdir().unwrap();
        let cache = GlobalCache::new(temp.path());
        let digest = Digest::of(Algorithm::Sha256, b"layer");
        assert_eq!(fingerprint(&cache, [TreeName::base(&digest)]), None);
        let tree = cache.tree(&TreeName::base(&digest), TreeFile::Tree);
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join(COMPLETE_MARKER), "").unwrap();
        let first = fingerprint(&cache, [TreeName::base(&digest)]).unwrap();
        assert_eq!((first.len(), fingerprint(&cache, [TreeName::base(&digest)])), (LENGTH, Some(first.clone())));
        // Beside the old one, as a layer is.
        fs::write(tree.join("new"), "").unwrap();
        fs::rename(tree.join("new"), tree.join(COMPLETE_MARKER)).unwrap();
        assert_ne!(fingerprint(&cache, [TreeName::base(&digest)]).unwrap(), first);
    }

    #[test]
    fn this_boot_has_an_id_and_it_stays() {
        assert_eq!(boot_id(), boot_id());
        assert!(boot_id().is_some_and(|id| id.len() == 36) || !cfg!(target_os = "linux"));
    }
}
