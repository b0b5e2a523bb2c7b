//! One reference out of the cache, with the layers that nobody else needs.

use serde::Serialize;

use crate::{
    error::Result,
    fs::{Hold, LockWait},
    model::{Digest, Platform, Reference},
    store::{
        GlobalCache,
        inventory::{ImageFile, Inventory},
        measure::Sizes,
        removal::{Item, Reason, Removal},
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
    /// Forgets a reference for all its platforms and removes the layers no other image names.
    ///
    /// What a pull, a lock or a lease needs stays and is told in `kept`. Fails with `ERR_IO`, `ERR_CACHE`,
    /// `ERR_LOCK_TIMEOUT`.
    pub fn remove(&self, reference: &Reference) -> Result<RemoveReport> {
        self.remove_with(reference, &LockWait::default())
    }

    /// [`remove`](Self::remove), waiting for the gc lock as `wait` says; `ERR_ABORTED` once that is cancelled.
    pub fn remove_with(&self, reference: &Reference, wait: &LockWait) -> Result<RemoveReport> {
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
        let gc = self.gc_lock(Hold::Alone, wait)?;
        let inventory = Inventory::read(self)?;
        let (going, staying): (Vec<&ImageFile>, Vec<&ImageFile>) = inventory.images.iter().partition(|i| is_it(i));
        let mut removal = Removal::new(self, Sizes::until(&wait.cancel), Some(&gc), false)?;
        let mut layers: std::collections::BTreeSet<Digest> = std::collections::BTreeSet::new();
        for image in going {
            if removal.image(image, Reason::Requested)? {
                let metadata = image.metadata.iter().flat_map(|metadata| &metadata.layers);
                layers.extend(metadata.map(|layer| layer.digest.clone()));
            }
        }
        let needed = |digest: &Digest| {
            let mut others = staying.iter().filter_map(|image| image.metadata.as_ref());
            others.any(|metadata| metadata.layers.iter().any(|layer| layer.digest == *digest))
        };
        for digest in layers.iter().filter(|digest| inventory.layers.contains_key(*digest) && !needed(digest)) {
            removal.layer(&inventory, digest, Reason::Unreferenced)?;
        }
        drop(gc);
        report.found = true;
        (report.removed, report.kept) = removal.delete()?;
        report.freed_bytes = report.removed.iter().map(|item| item.bytes).sum();
        Ok(report)
    }
}
