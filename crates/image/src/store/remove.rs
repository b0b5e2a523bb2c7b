//! One reference out of the cache, with the layers that nobody else needs.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    error::Result,
    fs::{Hold, LockWait},
    model::{Digest, Platform, Reference},
    store::{
        GlobalCache, LayerFile,
        in_use::{Moment, scan},
        inventory::{ImageFile, Inventory},
        measure::Sizes,
        removal::{Item, ItemKind, Reason, Recovery, Removal, tree_name},
        usage::{layer_bytes, tree_bytes},
    },
};

/// What came of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveReport {
    /// True if the reference was there.
    pub found: bool,
    /// What went.
    pub removed: Vec<Item>,
    /// What stayed because it is in use.
    pub kept: Vec<Item>,
    /// Allocated bytes of what went.
    pub freed_bytes: u64,
}

impl GlobalCache {
    /// Forgets a reference for all its platforms and removes the layers, and trees of layers, that no other image names.
    ///
    /// What a pull, a lock or a lease needs stays and is told in `kept`. Fails with `ERR_IO`, `ERR_CACHE`,
    /// `ERR_LOCK_TIMEOUT`.
    pub fn remove(&self, reference: &Reference) -> Result<RemoveReport> {
        self.remove_with(reference, &LockWait::default())
    }

    /// [`remove`](Self::remove), waiting for the gc lock as `wait` says; `ERR_ABORTED` once that is cancelled.
    pub fn remove_with(&self, reference: &Reference, wait: &LockWait) -> Result<RemoveReport> {
        self.remove_step_by_step(reference, wait, &mut |_| {})
    }

    /// [`remove_with`](Self::remove_with); `between` is called at each moment.
    pub(super) fn remove_step_by_step(
        &self,
        reference: &Reference,
        wait: &LockWait,
        between: &mut dyn FnMut(Moment),
    ) -> Result<RemoveReport> {
        wait.check()?;
        let mut report = RemoveReport { found: false, removed: Vec::new(), kept: Vec::new(), freed_bytes: 0 };
        let path = self.image_metadata_path(reference, &Platform::host_linux());
        let is_it = |image: &ImageFile| {
            let named = image.metadata.as_ref().and_then(|metadata| metadata.reference.as_deref());
            image.path == path || named == Some(reference.as_str())
        };
        if !Inventory::read(self)?.images.iter().any(is_it) {
            return Ok(report);
        }
        between(Moment::GcLock);
        let gc = self.gc_lock(Hold::Alone, wait)?;
        let (in_use, inventory) = scan(self, Some(&gc), between)?;
        let mut removal = Removal::new(self, in_use);
        let mut sizes = Sizes::until(&wait.cancel);
        let removed = remove_image(self, &inventory, is_it, &mut sizes, &mut removal);
        drop(gc);
        if let Err(error) = removed {
            removal.delete_later();
            return Err(error);
        }
        report.found = true;
        (report.removed, report.kept) = removal.delete(wait)?;
        report.freed_bytes = report.removed.iter().map(|item| item.bytes).sum();
        Ok(report)
    }
}

/// Metadata first, then the layers and trees that no other metadata name.
fn remove_image(
    cache: &GlobalCache,
    inventory: &Inventory,
    is_it: impl Fn(&ImageFile) -> bool,
    sizes: &mut Sizes,
    removal: &mut Removal<'_>,
) -> Result<()> {
    let (mut gone, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for image in &inventory.images {
        let goes = is_it(image) && {
            let (kind, reason, recovery) = (ItemKind::Image, Reason::Requested, Recovery::Download);
            let item = Item { kind, name: image.name(), bytes: sizes.of(&image.path)?, reason, recovery };
            removal.image(image, item)?
        };
        if goes { gone.extend(image.trees()) } else { needed.extend(image.trees()) }
    }
    let needed_layers: BTreeSet<&Digest> = needed.iter().map(|tree| &tree.digest).collect();
    let gone_layers: BTreeSet<&Digest> = gone.iter().map(|tree| &tree.digest).collect();
    let reason = Reason::Unreferenced;
    for digest in gone_layers {
        let Some(layer) = inventory.layers.get(digest) else { continue };
        if !needed_layers.contains(digest) {
            let bytes = layer_bytes(cache, inventory, sizes, digest)?;
            let (kind, name, recovery) = (ItemKind::Layer, digest.to_string(), Recovery::Download);
            removal.layer(inventory, digest, Item { kind, name, bytes, reason, recovery })?;
            continue;
        }
        let has_blob = layer.files.contains(&LayerFile::Blob);
        let recovery = if has_blob { Recovery::Extract } else { Recovery::Download };
        for tree in layer.trees(digest).iter().filter(|tree| gone.contains(tree) && !needed.contains(tree)) {
            let bytes = tree_bytes(cache, layer, sizes, tree)?;
            let (kind, name) = (ItemKind::Tree, tree_name(tree));
            removal.tree(inventory, tree, Item { kind, name, bytes, reason, recovery })?;
        }
    }
    Ok(())
}
