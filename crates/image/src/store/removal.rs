//! Removal of what an image or layer has, under its locks, and the account of it.
//!
//! Nothing is removed whose lock somebody holds, nothing that is leased, and, while a pull is under way whose needs are
//! not known (the original's), no layer at all. Trees are renamed under the locks and deleted after they are given back.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    error::{ImageError, Result},
    fs::{Lock, remove_file_if_there, remove_tree},
    model::Digest,
    store::{
        CachedImageMetadata, GlobalCache, LayerFile, TreeFile, TreeName,
        inventory::{ImageFile, Inventory},
        lease::Leased,
        measure::Sizes,
        trash::take_away,
        usage::layer_bytes,
    },
};

/// What a removed or kept thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// Metadata of a reference.
    Image,
    /// A layer with all it has.
    Layer,
    /// A tree of a layer that stays.
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
}

/// Something that went, or stayed although it should go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Reference (or key) of an image, digest of a layer, blob or partial download, file name of a leftover.
    pub name: String,
    /// Allocated bytes.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// The account of one removal at work.
pub(super) struct Removal<'a> {
    cache: &'a GlobalCache,
    pub(super) sizes: Sizes,
    leased: Leased,
    /// Images whose lock is held.
    busy: BTreeSet<String>,
    /// Only tells what would go.
    dry_run: bool,
    pub(super) removed: Vec<Item>,
    pub(super) kept: Vec<Item>,
    trash: Vec<PathBuf>,
}

impl<'a> Removal<'a> {
    /// `gc` is the gc lock held alone; without it no lease is swept, and layers must not be removed.
    pub(super) fn new(cache: &'a GlobalCache, sizes: Sizes, gc: Option<&Lock>, dry_run: bool) -> Result<Self> {
        let leased = cache.leased(gc.is_some())?;
        let busy = cache.busy_images()?;
        Ok(Self { cache, sizes, leased, busy, dry_run, removed: Vec::new(), kept: Vec::new(), trash: Vec::new() })
    }

    /// One that removes leftovers alone. Must be made after they were listed: who leases then may be making trees.
    pub(super) fn of_leftovers(cache: &'a GlobalCache) -> Result<Self> {
        let (sizes, leased, busy) = (Sizes::default(), cache.leased(false)?, BTreeSet::new());
        Ok(Self {
            cache,
            sizes,
            leased,
            busy,
            dry_run: false,
            removed: Vec::new(),
            kept: Vec::new(),
            trash: Vec::new(),
        })
    }

    /// Why an image can't go; `None` if it can. It is leased if all its layers are.
    pub(super) fn image_in_use(&self, image: &ImageFile) -> Option<Reason> {
        let leased = |metadata: &CachedImageMetadata| {
            let mut layers = metadata.layers.iter();
            !metadata.layers.is_empty() && layers.all(|layer| self.leased.layers.contains(&layer.digest))
        };
        if self.busy.contains(&image.key) {
            Some(Reason::Locked)
        } else {
            image.metadata.as_ref().is_some_and(leased).then_some(Reason::Leased)
        }
    }

    /// Removes an image's metadata.
    pub(super) fn image(&mut self, image: &ImageFile, reason: Reason) -> Result<bool> {
        let name = image.metadata.as_ref().and_then(|metadata| metadata.reference.clone());
        let mut item =
            Item { kind: ItemKind::Image, name: name.unwrap_or_else(|| image.key.clone()), bytes: 0, reason };
        item.bytes = self.sizes.of(&image.path)?;
        let lock_path = image.path.with_extension("lock");
        if let Some(reason) = self.image_in_use(image) {
            return Ok(self.keep(item, reason));
        }
        if !self.dry_run {
            let Some(_lock) = Lock::try_acquire(&lock_path)? else { return Ok(self.keep(item, Reason::Locked)) };
            take_file(&image.path)?;
            remove_file_if_there(&lock_path)?;
        }
        self.removed.push(item);
        Ok(true)
    }

    /// Removes all that a layer has.
    pub(super) fn layer(&mut self, inventory: &Inventory, digest: &Digest, reason: Reason) -> Result<bool> {
        let bytes = layer_bytes(self.cache, inventory, &mut self.sizes, digest)?;
        let item = Item { kind: ItemKind::Layer, name: digest.to_string(), bytes, reason };
        self.under_layer_locks(digest, item, |removal| {
            // An index without its tree must never be there, and a list is of no use without one.
            for file in [LayerFile::Index, LayerFile::ImplicitDirs, LayerFile::Part, LayerFile::Blob] {
                take_file(&removal.cache.layer(digest, file))?;
            }
            let keyed: Vec<TreeName> = inventory.trees_of(digest).map(|(tree, _)| tree.clone()).collect();
            for tree in keyed {
                removal.take_tree(&tree)?;
            }
            for file in [LayerFile::Tree, LayerFile::Extracting] {
                removal.trash.extend(take_away(&removal.cache.layer(digest, file))?);
            }
            take_file(&removal.cache.layer(digest, LayerFile::Table))?;
            // Whoever waits for these locks looks whether the path still names the file.
            for file in [LayerFile::Lock, LayerFile::DownloadLock] {
                remove_file_if_there(&removal.cache.layer(digest, file))?;
            }
            Ok(())
        })
    }

    /// Removes one tree of a layer that stays.
    pub(super) fn tree(&mut self, tree: &TreeName, reason: Reason) -> Result<bool> {
        let mut bytes = 0;
        for file in TreeFile::ALL {
            bytes += self.sizes.of(&self.cache.tree(tree, file))?;
        }
        let key = tree.inherited.iter().map(|key| format!(".{key}")).collect::<String>();
        let item = Item { kind: ItemKind::Tree, name: format!("{}{key}", tree.digest), bytes, reason };
        self.under_layer_locks(&tree.digest, item, |removal| removal.take_tree(tree))
    }

    fn take_tree(&mut self, tree: &TreeName) -> Result<()> {
        take_file(&self.cache.tree(tree, TreeFile::Index))?;
        if tree.inherited.is_none() {
            take_file(&self.cache.layer(&tree.digest, LayerFile::ImplicitDirs))?;
        }
        self.trash.extend(take_away(&self.cache.tree(tree, TreeFile::Tree))?);
        take_file(&self.cache.tree(tree, TreeFile::List))
    }

    /// Removes one file of a layer that stays.
    pub(super) fn layer_file(
        &mut self,
        digest: &Digest,
        file: LayerFile,
        kind: ItemKind,
        reason: Reason,
    ) -> Result<bool> {
        let path = self.cache.layer(digest, file);
        let item = Item { kind, name: digest.to_string(), bytes: self.sizes.of(&path)?, reason };
        self.under_layer_locks(digest, item, |removal| {
            removal.trash.extend(take_away(&path)?);
            Ok(())
        })
    }

    /// Removes what a crash left, unless one of the locks, or a lease, says that somebody is at work on it.
    pub(super) fn leftover(&mut self, path: &Path, locks: &[PathBuf], lease: Option<&str>) -> Result<bool> {
        if lease.is_some_and(|lease| self.leased.names.contains(lease)) {
            return Ok(false);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = self.sizes.of(path)?;
        let item = Item { kind: ItemKind::Leftover, name, bytes, reason: Reason::Abandoned };
        self.under_locks(locks, item, |removal| {
            // What has no lock is on its way out already, under a name that is nobody's.
            let trash = if locks.is_empty() && lease.is_none() { Some(path.to_owned()) } else { take_away(path)? };
            removal.trash.extend(trash);
            Ok(())
        })
    }

    /// Deletes what was renamed. The gc lock should be given back by now.
    pub(super) fn delete(self) -> Result<(Vec<Item>, Vec<Item>)> {
        for path in &self.trash {
            // What is renamed already is swept by the next who looks.
            self.sizes.check()?;
            remove_tree(path)?;
        }
        Ok((self.removed, self.kept))
    }

    fn under_layer_locks(
        &mut self,
        digest: &Digest,
        item: Item,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<bool> {
        if self.leased.layers.contains(digest) {
            return Ok(self.keep(item, Reason::Leased));
        }
        if matches!(item.kind, ItemKind::Layer | ItemKind::Tree)
            && self.busy.iter().any(|key| !self.leased.pulls.contains(key))
        {
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
        if self.dry_run {
            for lock in locks {
                if Lock::is_held(lock)? {
                    return Ok(self.keep(item, Reason::Locked));
                }
            }
        } else {
            let mut held = Vec::new();
            for lock in locks {
                match Lock::try_acquire(lock)? {
                    Some(lock) => held.push(lock),
                    None => return Ok(self.keep(item, Reason::Locked)),
                }
            }
            work(self)?;
        }
        self.removed.push(item);
        Ok(true)
    }

    fn keep(&mut self, item: Item, reason: Reason) -> bool {
        self.kept.push(Item { reason, ..item });
        false
    }
}

impl GlobalCache {
    /// Keys of the images whose lock is held: their pulls are under way.
    fn busy_images(&self) -> Result<BTreeSet<String>> {
        let mut busy = BTreeSet::new();
        let list = match fs::read_dir(self.images_dir()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(busy),
            list => list.map_err(|error| ImageError::io("list", self.images_dir(), error))?,
        };
        for entry in list {
            let path = entry.map_err(|error| ImageError::io("list", self.images_dir(), error))?.path();
            if path.extension().is_some_and(|extension| extension == "lock") && Lock::is_held(&path)? {
                busy.extend(path.file_stem().map(|key| key.to_string_lossy().into_owned()));
            }
        }
        Ok(busy)
    }
}

/// Removes what should be a file, also where something else was put in its place.
fn take_file(path: &Path) -> Result<()> {
    match remove_file_if_there(path) {
        Ok(_) => Ok(()),
        Err(_) => remove_tree(path),
    }
}
