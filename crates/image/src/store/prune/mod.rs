//! What may go from a cache. What there is, is read and measured (`stock`); what goes is decided on that alone (`plan`); then
//! it goes, each thing under its locks. A dry run stops before that and tells the same.

mod plan;
#[cfg(test)]
mod race;
mod stock;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    error::Result,
    fs::{Hold, LockWait},
    model::Reference,
    store::{
        GlobalCache, LayerFile, TreeName,
        in_use::{Moment, scan},
        inventory::{Inventory, Leftover},
        measure::Sizes,
        removal::{Item, ItemKind, Reason, Recovery, Removal, tree_name},
        usage::measure,
    },
};

use plan::{Bounds, Planned, Target, plan};
use stock::take_stock;

/// What may go. The default takes no image: only layers no image names, abandoned downloads and leftovers.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// How many of the images used last stay; all others go.
    pub keep: Option<usize>,
    /// Images that stay whatever else is said.
    pub keep_references: Vec<Reference>,
    /// Images last used longer ago go.
    pub older_than: Option<Duration>,
    /// The images least recently used go until the cache has no more allocated bytes than this, after all that goes anyway.
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
    /// What went, in this order: leftovers, unfinished downloads, what no image names, blobs, then images, the one least
    /// recently used first, each followed by what only it named.
    pub removed: Vec<Item>,
    /// What should go and stayed because it is in use, and what else keeps the cache larger than `max_bytes`.
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
    /// `ERR_LOCK_TIMEOUT` if another process was stopped in the middle of the same. A dry run waits for nothing and writes
    /// nothing.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        self.prune_with(options, &LockWait::default())
    }

    /// [`prune`](Self::prune), waiting for the gc lock as `wait` says; `ERR_ABORTED` once that is cancelled.
    pub fn prune_with(&self, options: &PruneOptions, wait: &LockWait) -> Result<PruneReport> {
        self.prune_step_by_step(options, wait, &mut |_| {})
    }

    /// [`prune_with`](Self::prune_with); `between` is called at each moment.
    fn prune_step_by_step(
        &self,
        options: &PruneOptions,
        wait: &LockWait,
        between: &mut dyn FnMut(Moment),
    ) -> Result<PruneReport> {
        // Measuring takes long and needs no lock; what is new by the time it is held is measured then.
        let mut sizes = Sizes::until(&wait.cancel);
        measure(self, &Inventory::read(self)?, &mut sizes)?;
        between(Moment::GcLock);
        let gc = if options.dry_run { None } else { Some(self.gc_lock(Hold::Alone, wait)?) };
        wait.check()?;
        let (in_use, inventory) = scan(self, gc.as_ref(), between)?;
        let stock = take_stock(self, options, &inventory, &in_use, &mut sizes)?;
        let planned = plan(&stock, options.bounds(), SystemTime::now());
        let mut removal = Removal::new(self, in_use);
        let carried_out = carry_out(&planned, &inventory, options.dry_run, &mut removal, wait);
        drop(gc);
        if let Err(error) = carried_out {
            removal.delete_later();
            return Err(error);
        }
        let (removed, kept) = removal.delete(wait)?;
        if !options.dry_run {
            self.remove_stale_access(&inventory, wait)?;
        }
        let freed_bytes = removed.iter().map(|item| item.bytes).sum();
        let remaining_bytes = stock.total.saturating_sub(freed_bytes);
        Ok(PruneReport { dry_run: options.dry_run, removed, kept, freed_bytes, remaining_bytes })
    }
}

impl PruneOptions {
    fn bounds(&self) -> Bounds {
        let Self { keep, older_than, max_bytes, partials, blobs, .. } = *self;
        Bounds { keep, older_than, max_bytes, partials, blobs }
    }
}

/// Removes what is planned, in its order. What turns out to be in use only now is kept, with what it needs.
fn carry_out(
    planned: &[Planned],
    inventory: &Inventory,
    dry_run: bool,
    removal: &mut Removal<'_>,
    wait: &LockWait,
) -> Result<()> {
    // Trees of images that were to go and could not.
    let mut needed: BTreeSet<TreeName> = BTreeSet::new();
    for step in planned {
        wait.check()?;
        let item = item(step, inventory);
        if let Some(reason) = step.stays {
            removal.keep(item, reason);
            continue;
        }
        if dry_run {
            removal.removed.push(item);
            continue;
        }
        match &step.target {
            Target::Leftover(at) => removal.leftover(&inventory.leftovers[*at], item)?,
            Target::Partial(digest) => removal.layer_file(digest, LayerFile::Part, item)?,
            Target::Blob(digest) => removal.layer_file(digest, LayerFile::Blob, item)?,
            Target::Layer(digest) if needed.iter().any(|tree| tree.digest == *digest) => false,
            Target::Layer(digest) => removal.layer(inventory, digest, item)?,
            Target::Tree(tree) if needed.contains(tree) => false,
            Target::Tree(tree) => removal.tree(inventory, tree, item)?,
            Target::Image(at) => {
                let image = &inventory.images[*at];
                let went = removal.image(image, item)?;
                if !went {
                    needed.extend(image.trees());
                }
                went
            }
        };
    }
    Ok(())
}

fn item(step: &Planned, inventory: &Inventory) -> Item {
    let (kind, name) = match &step.target {
        Target::Leftover(at) => return leftover_item(&inventory.leftovers[*at], step.bytes),
        Target::Partial(digest) => (ItemKind::Partial, digest.to_string()),
        Target::Blob(digest) => (ItemKind::Blob, digest.to_string()),
        Target::Layer(digest) => (ItemKind::Layer, digest.to_string()),
        Target::Tree(tree) => (ItemKind::Tree, tree_name(tree)),
        Target::Image(at) => (ItemKind::Image, inventory.images[*at].name()),
    };
    Item { kind, name, bytes: step.bytes, reason: step.reason, recovery: step.recovery }
}

pub(super) fn leftover_item(leftover: &Leftover, bytes: u64) -> Item {
    let name = leftover.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Item { kind: ItemKind::Leftover, name, bytes, reason: Reason::Abandoned, recovery: Recovery::None }
}
