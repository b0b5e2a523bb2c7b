//! What may go from a cache: images by last use, then all that no image names, then what crashes left.

mod choose;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    error::Result,
    fs::{Hold, LockWait},
    model::{Digest, Platform, Reference},
    store::{
        CachedLayerMetadata, GlobalCache, LayerFile, TreeFile, TreeName,
        inventory::{ImageFile, Inventory},
        measure::Sizes,
        removal::{Item, ItemKind, Reason, Removal},
        usage::{layer_bytes, measure},
    },
};

use choose::{Bounds, Candidate, Stays, choose};

/// Unfinished downloads that nobody went on with for so long are abandoned.
const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What may go. The default takes no image: only layers no image names, abandoned downloads and leftovers.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// How many of the images used last stay; all others go.
    pub keep: Option<usize>,
    /// Images that stay whatever else is said.
    pub keep_references: Vec<Reference>,
    /// Images last used longer ago go.
    pub older_than: Option<Duration>,
    /// The images least recently used go until the cache has no more allocated bytes than this.
    pub max_bytes: Option<u64>,
    /// Unfinished downloads: all of them, none, or (`None`) those untouched for a week.
    pub partials: Option<bool>,
    /// Blobs of layers whose tree is there go; a repair then has to download them again.
    pub blobs: bool,
    /// Only tell what would go.
    pub dry_run: bool,
}

/// What went and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// True if nothing was removed and `removed` says what would be.
    pub dry_run: bool,
    /// What went, images first, the one least recently used first.
    pub removed: Vec<Item>,
    /// What should go and stayed because it is in use.
    pub kept: Vec<Item>,
    /// Allocated bytes of what went.
    pub freed_bytes: u64,
    /// Allocated bytes of what is left.
    pub remaining_bytes: u64,
}

impl GlobalCache {
    /// Removes what `options` name, from whatever process, without harm to others at work in the same cache.
    ///
    /// Layers and images whose lock is held, or that are leased, stay. Fails with `ERR_IO`, `ERR_CACHE`, and
    /// `ERR_LOCK_TIMEOUT` if another process was stopped in the middle of the same.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        self.prune_with(options, &LockWait::default())
    }

    /// [`prune`](Self::prune), waiting for the gc lock as `wait` says; `ERR_ABORTED` once that is cancelled.
    pub fn prune_with(&self, options: &PruneOptions, wait: &LockWait) -> Result<PruneReport> {
        // Measuring takes long and needs no lock; what is new by the time it is held is measured then.
        let mut sizes = Sizes::until(&wait.cancel);
        measure(self, &Inventory::read(self)?, &mut sizes)?;
        let gc = if options.dry_run { None } else { Some(self.gc_lock(Hold::Alone, wait)?) };
        wait.check()?;
        let inventory = Inventory::read(self)?;
        let total = measure(self, &inventory, &mut sizes)?.bytes;
        let mut removal = Removal::new(self, sizes, gc.as_ref(), options.dry_run)?;
        remove_images(self, options, &inventory, total, &mut removal)?;
        remove_partials(self, options, &inventory, &mut removal)?;
        remove_leftovers(self, &inventory, &mut removal)?;
        drop(gc);
        let (removed, kept) = removal.delete()?;
        if !options.dry_run {
            self.remove_stale_access(&inventory, wait)?;
        }
        let freed_bytes = removed.iter().map(|item| item.bytes).sum();
        let remaining_bytes = total.saturating_sub(freed_bytes);
        Ok(PruneReport { dry_run: options.dry_run, removed, kept, freed_bytes, remaining_bytes })
    }
}

/// Images that go, and the layers that nobody names afterwards.
fn remove_images(
    cache: &GlobalCache,
    options: &PruneOptions,
    inventory: &Inventory,
    total: u64,
    removal: &mut Removal<'_>,
) -> Result<()> {
    let mut sizes = BTreeMap::new();
    let digests: BTreeSet<&Digest> =
        inventory.layers.keys().chain(inventory.trees.keys().map(|tree| &tree.digest)).collect();
    for digest in digests {
        sizes.insert(digest.clone(), layer_bytes(cache, inventory, &mut removal.sizes, digest)?);
    }
    let (whole, damaged): (Vec<&ImageFile>, Vec<&ImageFile>) =
        inventory.images.iter().partition(|image| image.metadata.is_some());
    for image in damaged {
        removal.image(image, Reason::Damaged)?;
    }
    let candidates: Vec<Candidate> = whole.iter().map(|image| candidate(cache, options, image, removal)).collect();
    let named = inventory.named_layers();
    let unnamed: u64 = sizes.iter().filter(|(digest, _)| !named.contains(*digest)).map(|(_, bytes)| bytes).sum();
    let going = removal_order(&candidates, options, total.saturating_sub(unnamed), &sizes);
    let mut staying: BTreeSet<usize> = (0..whole.len()).collect();
    for (at, reason) in going {
        if removal.image(whole[at], reason)? {
            staying.remove(&at);
        }
    }
    let mut all = inventory.layers.clone();
    for tree in inventory.trees.keys() {
        all.entry(tree.digest.clone()).or_default();
    }
    let needed: BTreeSet<&Digest> = staying.iter().flat_map(|&at| &candidates[at].layers).collect();
    let needed_trees: BTreeSet<TreeName> = staying
        .iter()
        .filter_map(|&at| whole[at].metadata.as_ref())
        .flat_map(|metadata| metadata.layers.iter().map(CachedLayerMetadata::tree))
        .collect();
    for (digest, files) in &all {
        let only_partial = inventory.trees_of(digest).next().is_none()
            && files.iter().all(|file| {
                matches!(file, LayerFile::Part | LayerFile::Lock | LayerFile::DownloadLock | LayerFile::Extracting)
            });
        if needed.contains(digest) {
            for tree in trees_of_layer(inventory, digest, files).filter(|tree| !needed_trees.contains(tree)) {
                removal.tree(&tree, Reason::Unreferenced)?;
            }
            if options.blobs && files.contains(&LayerFile::Blob) && has_tree(cache, inventory, digest) {
                removal.layer_file(digest, LayerFile::Blob, ItemKind::Blob, Reason::Extracted)?;
            }
        } else if !only_partial {
            removal.layer(inventory, digest, Reason::Unreferenced)?;
        }
    }
    Ok(())
}

fn trees_of_layer<'a>(
    inventory: &'a Inventory,
    digest: &'a Digest,
    files: &BTreeSet<LayerFile>,
) -> impl Iterator<Item = TreeName> + 'a {
    let base = files.contains(&LayerFile::Tree).then(|| TreeName::base(digest));
    base.into_iter()
        .chain(inventory.trees_of(digest).map(|(tree, _)| tree.clone()).filter(|tree| tree.inherited.is_some()))
}

fn has_tree(cache: &GlobalCache, inventory: &Inventory, digest: &Digest) -> bool {
    cache.is_extracted(digest) || inventory.trees_of(digest).any(|(_, files)| files.contains(&TreeFile::Tree))
}

fn candidate(cache: &GlobalCache, options: &PruneOptions, image: &ImageFile, removal: &Removal<'_>) -> Candidate {
    let metadata = image.metadata.as_ref();
    let reference = metadata.and_then(|metadata| metadata.reference.as_deref());
    let named = options.keep_references.iter().any(|keep| {
        Some(keep.as_str()) == reference || image.path == cache.image_metadata_path(keep, &Platform::host_linux())
    });
    let layers = metadata.into_iter().flat_map(|metadata| &metadata.layers);
    Candidate {
        last_used: image.last_used,
        layers: layers.map(|layer| layer.digest.clone()).collect(),
        stays: match removal.image_in_use(image) {
            _ if named => Stays::Named,
            Some(_) => Stays::InUse,
            None => Stays::No,
        },
    }
}

fn removal_order(
    candidates: &[Candidate],
    options: &PruneOptions,
    total: u64,
    sizes: &BTreeMap<Digest, u64>,
) -> Vec<(usize, Reason)> {
    let bounds = Bounds { keep: options.keep, older_than: options.older_than, max_bytes: options.max_bytes };
    choose(candidates, bounds, SystemTime::now(), total, sizes)
}

fn remove_partials(
    cache: &GlobalCache,
    options: &PruneOptions,
    inventory: &Inventory,
    removal: &mut Removal<'_>,
) -> Result<()> {
    let gone: BTreeSet<String> = going(removal);
    for (digest, files) in &inventory.layers {
        if !files.contains(&LayerFile::Part) || gone.contains(&digest.to_string()) {
            continue;
        }
        let path = cache.layer(digest, LayerFile::Part);
        let touched = fs::symlink_metadata(&path).and_then(|file| file.modified());
        let old = touched.is_ok_and(|then| SystemTime::now().duration_since(then).is_ok_and(|is| is > PARTIAL_AGE));
        if options.partials.unwrap_or(old) {
            removal.layer_file(digest, LayerFile::Part, ItemKind::Partial, Reason::Abandoned)?;
        }
    }
    Ok(())
}

pub(super) fn remove_leftovers(cache: &GlobalCache, inventory: &Inventory, removal: &mut Removal<'_>) -> Result<()> {
    let gone: BTreeSet<String> = going(removal);
    for leftover in &inventory.leftovers {
        removal.leftover(&leftover.path, &leftover.locks, leftover.lease.as_deref())?;
    }
    for (digest, files) in &inventory.layers {
        if files.contains(&LayerFile::Extracting) && !gone.contains(&digest.to_string()) {
            let locks = [LayerFile::DownloadLock, LayerFile::Lock].map(|file| cache.layer(digest, file));
            removal.leftover(&cache.layer(digest, LayerFile::Extracting), &locks, None)?;
        }
    }
    Ok(())
}

/// Layers that have gone already, with all they had.
fn going(removal: &Removal<'_>) -> BTreeSet<String> {
    let layers = removal.removed.iter().filter(|item| item.kind == ItemKind::Layer);
    layers.map(|item| item.name.clone()).collect()
}
