//! Removal of what an image or layer has, under its locks, and the account of it.
//!
//! Nothing is removed whose lock somebody holds, nothing that is leased, and, while a pull is under way whose needs are
//! not known (the original's), no layer at all. Trees are renamed under the locks and deleted after they are given back.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{
    error::Result,
    fs::{Lock, LockWait, remove_file_if_there, remove_tree},
    model::Digest,
    store::{
        GlobalCache, LayerFile, TreeName,
        in_use::InUse,
        inventory::{ImageFile, Inventory, LayerEntry, Leftover},
        trash::take_away,
    },
};

/// What a removed or kept thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// Metadata of a reference.
    Image,
    /// A layer with all it has, all its trees included.
    Layer,
    /// One tree of a layer that stays, with its index.
    Tree,
    /// The blob of a layer that stays.
    Blob,
    /// An unfinished download.
    Partial,
    /// What a crash left.
    Leftover,
}

/// Why something goes, or stays although it should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Goes: it was asked for by name.
    Requested,
    /// Goes: last used longer ago than `olderThan`.
    Unused,
    /// Goes: not among the `keep` images used last.
    BeyondKeep,
    /// Goes: the cache is larger than `maxBytes`.
    OverBudget,
    /// Goes: its metadata are damaged.
    Damaged,
    /// Goes: no image names it.
    Unreferenced,
    /// Goes: its tree is there and `blobs` was asked for.
    Extracted,
    /// Goes: nobody will finish it.
    Abandoned,
    /// Stays: a process holds its lock.
    Locked,
    /// Stays: a process holds a lease on it.
    Leased,
    /// Stays: a pull is under way that does not say which layers it needs.
    PullUnderWay,
    /// Stays though the cache is larger than `maxBytes`: a download that somebody went on with in the last week.
    Fresh,
}

/// What it would take to have again what went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recovery {
    /// A pull that asks the registry.
    Download,
    /// A pull that extracts a blob which stays; nothing is downloaded.
    Extract,
    /// Nothing: nobody could use it.
    None,
}

/// Something that went, or stayed although it should go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Reference (or key) of an image; digest of a layer, blob or partial download; digest of a tree's layer and, if the
    /// tree inherits from lower layers, a dot and the key; file name of a leftover.
    pub name: String,
    /// Allocated bytes.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
    /// What it takes, or would take, to have it again.
    pub recovery: Recovery,
}

/// The name of a tree in a report.
pub(super) fn tree_name(tree: &TreeName) -> String {
    let key = tree.inherited.as_ref().map(|key| format!(".{key}")).unwrap_or_default();
    format!("{}{key}", tree.digest)
}

/// The account of one removal at work.
pub(super) struct Removal<'a> {
    cache: &'a GlobalCache,
    in_use: InUse,
    pub(super) removed: Vec<Item>,
    pub(super) kept: Vec<Item>,
    trash: Vec<PathBuf>,
}

impl<'a> Removal<'a> {
    pub(super) fn new(cache: &'a GlobalCache, in_use: InUse) -> Self {
        Self { cache, in_use, removed: Vec::new(), kept: Vec::new(), trash: Vec::new() }
    }

    /// Removes an image's metadata.
    pub(super) fn image(&mut self, image: &ImageFile, item: Item) -> Result<bool> {
        if let Some(reason) = self.in_use.image(image) {
            return Ok(self.keep(item, reason));
        }
        let lock_path = image.path.with_extension("lock");
        let Some(_lock) = Lock::try_acquire(&lock_path)? else { return Ok(self.keep(item, Reason::Locked)) };
        take_file(&image.path)?;
        remove_file_if_there(&lock_path)?;
        self.removed.push(item);
        Ok(true)
    }

    /// Removes all that a layer has. The gc lock is held alone.
    pub(super) fn layer(&mut self, inventory: &Inventory, digest: &Digest, item: Item) -> Result<bool> {
        let Some(layer) = inventory.layers.get(digest) else { return Ok(false) };
        self.under_layer_locks(digest, item, |removal| {
            for tree in layer.trees(digest) {
                removal.take_tree(layer, &tree)?;
            }
            // What was verified is of use as long as the blob is there, so the blob goes last.
            for file in [LayerFile::Part, LayerFile::Table, LayerFile::Blob] {
                take_file(&removal.cache.layer(digest, file))?;
            }
            removal.trash.extend(take_away(&removal.cache.layer(digest, LayerFile::Extracting))?);
            // Whoever waits for these locks looks whether the path still names the file.
            for file in [LayerFile::Lock, LayerFile::DownloadLock] {
                remove_file_if_there(&removal.cache.layer(digest, file))?;
            }
            Ok(())
        })
    }

    /// Removes one tree of a layer, with its index and list. The gc lock is held alone.
    pub(super) fn tree(&mut self, inventory: &Inventory, tree: &TreeName, item: Item) -> Result<bool> {
        let Some(layer) = inventory.layers.get(&tree.digest) else { return Ok(false) };
        self.under_layer_locks(&tree.digest, item, |removal| removal.take_tree(layer, tree))
    }

    /// Removes one file of a layer that stays.
    pub(super) fn layer_file(&mut self, digest: &Digest, file: LayerFile, item: Item) -> Result<bool> {
        let path = self.cache.layer(digest, file);
        self.under_layer_locks(digest, item, |removal| {
            removal.trash.extend(take_away(&path)?);
            Ok(())
        })
    }

    /// Removes what a crash left, unless a lock or a lease says that somebody is at work on it.
    pub(super) fn leftover(&mut self, leftover: &Leftover, item: Item) -> Result<bool> {
        if self.in_use.is_being_made(leftover) {
            return Ok(self.keep(item, Reason::Leased));
        }
        self.under_locks(&leftover.locks, item, |removal| {
            // What has no lock is on its way out already, under a name that is nobody's.
            let path = &leftover.path;
            let trash = if leftover.locks.is_empty() && leftover.lease.is_none() {
                Some(path.clone())
            } else {
                take_away(path)?
            };
            removal.trash.extend(trash);
            Ok(())
        })
    }

    /// Deletes what was renamed; `ERR_ABORTED` once `wait` is cancelled. The gc lock should be given back by now.
    pub(super) fn delete(self, wait: &LockWait) -> Result<(Vec<Item>, Vec<Item>)> {
        for path in &self.trash {
            // What is renamed already is swept by the next who looks.
            wait.check()?;
            remove_tree(path)?;
        }
        Ok((self.removed, self.kept))
    }

    /// Deletes what was renamed while the caller goes on.
    pub(super) fn delete_later(self) {
        let trash = self.trash;
        if trash.is_empty() {
            return;
        }
        let deletion = move || {
            for path in trash {
                if let Err(error) = remove_tree(&path) {
                    tracing::warn!(%error, "what was renamed to go could not be removed");
                }
            }
        };
        // Where no thread can be started it stays for the next one who looks.
        let _ = std::thread::Builder::new().name("image-trash".to_owned()).spawn(deletion);
    }

    fn take_tree(&mut self, layer: &LayerEntry, tree: &TreeName) -> Result<()> {
        for path in layer.tree_paths(self.cache, tree) {
            self.trash.extend(take_away(&path)?);
        }
        Ok(())
    }

    fn under_layer_locks(
        &mut self,
        digest: &Digest,
        item: Item,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<bool> {
        if self.in_use.is_leased(digest) {
            return Ok(self.keep(item, Reason::Leased));
        }
        if matches!(item.kind, ItemKind::Layer | ItemKind::Tree) && self.in_use.unknown_pull() {
            return Ok(self.keep(item, Reason::PullUnderWay));
        }
        let locks = [LayerFile::DownloadLock, LayerFile::Lock].map(|file| self.cache.layer(digest, file));
        self.under_locks(&locks, item, work)
    }

    fn under_locks(
        &mut self,
        locks: &[PathBuf],
        item: Item,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<bool> {
        let mut held = Vec::new();
        for lock in locks {
            match Lock::try_acquire(lock)? {
                Some(lock) => held.push(lock),
                None => return Ok(self.keep(item, Reason::Locked)),
            }
        }
        work(self)?;
        self.removed.push(item);
        Ok(true)
    }

    /// Writes down that something stays, and why.
    pub(super) fn keep(&mut self, item: Item, reason: Reason) -> bool {
        self.kept.push(Item { reason, ..item });
        false
    }
}

/// Removes what should be a file, also where something else was put in its place.
fn take_file(path: &Path) -> Result<()> {
    match remove_file_if_there(path) {
        Ok(_) => Ok(()),
        Err(_) => remove_tree(path),
    }
}
