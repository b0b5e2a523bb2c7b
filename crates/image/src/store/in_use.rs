//! What others are at work on, and the order in which a cache is looked at before anything goes.
//!
//! A pull holds its image's lock, then: takes a lease on its layers, publishes tables and trees, writes metadata, drops the
//! lease, gives the lock back. So at every moment what it needs is leased or named by metadata. Whoever removes something:
//!
//! 1. holds the gc lock alone, so that no lease is taken from here on;
//! 2. reads leases and busy keys;
//! 3. reads the inventory.
//!
//! A lease that is gone in step 2 was dropped after its metadata were written, and step 3 sees those. In the other order a
//! pull that ends in between is in neither.
//!
//! What is only *being made*, and who holds no gc lock (`sweep`), asks the other way round: a tree has the name of a lease until
//! it has its final one, and is made after that lease was taken. One that is there while no living lease has its name
//! *afterwards* has been left.

use std::{collections::BTreeSet, fs};

use crate::{
    error::{ImageError, Result},
    fs::Lock,
    model::Digest,
    store::{
        GlobalCache,
        inventory::{ImageFile, Inventory, Leftover},
        lease::Leased,
        removal::Reason,
    },
};

/// What leases and locks say.
#[derive(Debug, Default)]
pub(super) struct InUse {
    leased: Leased,
    /// Images whose lock is held: their pulls are under way.
    busy: BTreeSet<String>,
}

/// Reads what is in use, then what is there. `gc` is the gc lock held alone; without it (a dry run) no lease is swept, and
/// what is told may be outdated. `between` is called before each of the steps.
pub(super) fn scan(
    cache: &GlobalCache,
    gc: Option<&Lock>,
    between: &mut dyn FnMut(Moment),
) -> Result<(InUse, Inventory)> {
    between(Moment::Leases);
    let leased = cache.leased(gc.is_some())?;
    between(Moment::BusyKeys);
    let busy = cache.busy_images()?;
    between(Moment::Inventory);
    let inventory = Inventory::read(cache)?;
    between(Moment::Removal);
    Ok((InUse { leased, busy }, inventory))
}

/// Where a removal stands. Tests let others go on there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the gc lock is taken.
    GcLock,
    /// Before leases are read.
    Leases,
    /// Before it is read which images are being pulled.
    BusyKeys,
    /// Before it is read what is there.
    Inventory,
    /// Before anything goes.
    Removal,
}

impl InUse {
    /// The leases alone, which is enough for leftovers. Must be read after those were listed: who leases then may make trees.
    pub(super) fn leases(cache: &GlobalCache) -> Result<Self> {
        Ok(Self { leased: cache.leased(false)?, busy: BTreeSet::new() })
    }

    /// Why an image can't go; `None` if it can. It is leased if all its layers are.
    pub(super) fn image(&self, image: &ImageFile) -> Option<Reason> {
        if self.busy.contains(&image.key) {
            return Some(Reason::Locked);
        }
        let layers = &image.metadata.as_ref()?.layers;
        let leased = !layers.is_empty() && layers.iter().all(|layer| self.is_leased(&layer.digest));
        leased.then_some(Reason::Leased)
    }

    /// True if a living process leases the layer, with all it has.
    pub(super) fn is_leased(&self, digest: &Digest) -> bool {
        self.leased.layers.contains(digest)
    }

    /// True if the process that makes this leftover lives.
    pub(super) fn is_being_made(&self, leftover: &Leftover) -> bool {
        leftover.lease.as_ref().is_some_and(|lease| self.leased.names.contains(lease))
    }

    /// True if somebody pulls who does not say which layers are needed: the original.
    pub(super) fn unknown_pull(&self) -> bool {
        self.busy.iter().any(|key| !self.leased.pulls.contains(key))
    }
}

impl GlobalCache {
    /// Keys of the images whose lock is held.
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
