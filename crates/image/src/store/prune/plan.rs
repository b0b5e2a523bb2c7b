//! What goes, in which order, and what stays though it should go: a pure decision on what is known of a cache.
//!
//! The order is what can be missed least first: leftovers, abandoned downloads, layers and trees that no image names, blobs
//! if they were asked for, then images by last use, each with what only it named. `max_bytes` is compared with what is
//! left after all that goes anyway.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crate::{
    model::Digest,
    store::{
        TreeName,
        removal::{Reason, Recovery},
    },
};

/// Unfinished downloads that nobody went on with for so long are abandoned.
const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// By what it is decided.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// How many of the images used last stay.
    pub(super) keep: Option<usize>,
    /// How long ago an image may have been used last.
    pub(super) older_than: Option<Duration>,
    /// How many bytes the cache may have.
    pub(super) max_bytes: Option<u64>,
    /// Unfinished downloads: all, none, or those that are abandoned.
    pub(super) partials: Option<bool>,
    /// Blobs of extracted layers go.
    pub(super) blobs: bool,
}

/// What a cache has, as far as the decision needs it.
#[derive(Debug, Clone, Default)]
pub(super) struct Stock {
    /// Allocated bytes of all of it.
    pub(super) total: u64,
    pub(super) leftovers: Vec<Loose>,
    pub(super) images: Vec<Image>,
    pub(super) layers: BTreeMap<Digest, Layer>,
    /// A pull is under way that does not say what it needs: no layer and no tree goes.
    pub(super) unknown_pull: bool,
}

/// A leftover.
#[derive(Debug, Clone, Default)]
pub(super) struct Loose {
    pub(super) bytes: u64,
    pub(super) in_use: Option<Reason>,
}

/// An image. One whose metadata are damaged names nothing.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) bytes: u64,
    pub(super) last_used: SystemTime,
    pub(super) trees: BTreeSet<TreeName>,
    pub(super) damaged: bool,
    /// It was asked for that it stays.
    pub(super) exempt: bool,
    pub(super) in_use: Option<Reason>,
}

/// A layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    /// All it has, trees included, leftovers not.
    pub(super) bytes: u64,
    /// What each of its trees has.
    pub(super) trees: BTreeMap<Option<String>, u64>,
    pub(super) blob: Option<u64>,
    /// Every tree that images name is there, so that no image needs the blob.
    pub(super) extracted: bool,
    pub(super) part: Option<Part>,
    /// It is more than an unfinished download.
    pub(super) has_content: bool,
    /// Its lease or its locks.
    pub(super) in_use: Option<Reason>,
}

/// An unfinished download.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) bytes: u64,
    pub(super) touched: SystemTime,
}

/// What a step of the plan is about; numbers are places in the lists of the stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Leftover(usize),
    Partial(Digest),
    Layer(Digest),
    Tree(TreeName),
    Blob(Digest),
    Image(usize),
}

/// A step of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) target: Target,
    pub(super) bytes: u64,
    /// Why it goes, or should.
    pub(super) reason: Reason,
    /// Why it stays all the same.
    pub(super) stays: Option<Reason>,
    pub(super) recovery: Recovery,
}

/// Decides.
pub(super) fn plan(stock: &Stock, bounds: Bounds, now: SystemTime) -> Vec<Planned> {
    let mut planner = Planner::new(stock, bounds, now);
    planner.leftovers();
    planner.partials();
    planner.damaged();
    planner.unreferenced();
    planner.blobs();
    planner.images();
    planner.fresh();
    planner.plan
}

struct Planner<'a> {
    stock: &'a Stock,
    bounds: Bounds,
    now: SystemTime,
    /// What is left after the plan.
    total: u64,
    plan: Vec<Planned>,
    /// How many images that stay name a tree, or a layer.
    users_of_trees: BTreeMap<&'a TreeName, usize>,
    users_of_layers: BTreeMap<&'a Digest, usize>,
    /// Bytes of each layer that were planned as something else already.
    counted: BTreeMap<&'a Digest, u64>,
}

impl<'a> Planner<'a> {
    fn new(stock: &'a Stock, bounds: Bounds, now: SystemTime) -> Self {
        let (mut users_of_trees, mut users_of_layers) = (BTreeMap::new(), BTreeMap::new());
        for image in &stock.images {
            for tree in &image.trees {
                *users_of_trees.entry(tree).or_default() += 1;
            }
            for digest in layers_of(image) {
                *users_of_layers.entry(digest).or_default() += 1;
            }
        }
        let (total, plan, counted) = (stock.total, Vec::new(), BTreeMap::new());
        Self { stock, bounds, now, total, plan, users_of_trees, users_of_layers, counted }
    }

    fn push(&mut self, target: Target, bytes: u64, reason: Reason, stays: Option<Reason>, recovery: Recovery) {
        if stays.is_none() {
            self.total = self.total.saturating_sub(bytes);
        }
        self.plan.push(Planned { target, bytes, reason, stays, recovery });
    }

    fn leftovers(&mut self) {
        for (at, Loose { bytes, in_use }) in self.stock.leftovers.iter().enumerate() {
            self.push(Target::Leftover(at), *bytes, Reason::Abandoned, *in_use, Recovery::None);
        }
    }

    fn partials(&mut self) {
        for (digest, layer) in &self.stock.layers {
            let Some(part) = layer.part else { continue };
            if self.bounds.partials.unwrap_or_else(|| self.is_abandoned(part)) {
                let recovery = Recovery::Download;
                self.push(Target::Partial(digest.clone()), part.bytes, Reason::Abandoned, layer.in_use, recovery);
                self.count(digest, part.bytes, layer.in_use);
            }
        }
    }

    fn is_abandoned(&self, part: Part) -> bool {
        self.now.duration_since(part.touched).is_ok_and(|age| age > PARTIAL_AGE)
    }

    fn count(&mut self, digest: &'a Digest, bytes: u64, stays: Option<Reason>) {
        if stays.is_none() {
            *self.counted.entry(digest).or_default() += bytes;
        }
    }

    fn damaged(&mut self) {
        for (at, image) in self.stock.images.iter().enumerate().filter(|(_, image)| image.damaged) {
            self.push(Target::Image(at), image.bytes, Reason::Damaged, image.in_use, Recovery::Download);
        }
    }

    fn unreferenced(&mut self) {
        let stock = self.stock;
        for (digest, layer) in &stock.layers {
            if !self.users_of_layers.contains_key(digest) {
                self.layer(digest);
                continue;
            }
            for key in layer.trees.keys() {
                let tree = TreeName { digest: digest.clone(), inherited: key.clone() };
                if !self.users_of_trees.contains_key(&tree) {
                    self.tree(&tree);
                }
            }
        }
    }

    /// A layer nobody names goes, with all it has.
    fn layer(&mut self, digest: &Digest) {
        let stock = self.stock;
        let Some((digest, layer)) = stock.layers.get_key_value(digest).filter(|(_, layer)| layer.has_content) else {
            return;
        };
        let bytes = layer.bytes.saturating_sub(self.counted.get(digest).copied().unwrap_or(0));
        let stays = self.stays(layer);
        self.push(Target::Layer(digest.clone()), bytes, Reason::Unreferenced, stays, Recovery::Download);
    }

    /// A tree nobody names goes; its layer stays.
    fn tree(&mut self, tree: &TreeName) {
        let stock = self.stock;
        let Some((digest, layer)) = stock.layers.get_key_value(&tree.digest) else { return };
        let Some(&bytes) = layer.trees.get(&tree.inherited) else { return };
        let stays = self.stays(layer);
        let has_blob = layer.blob.is_some() && !self.bounds.blobs;
        let recovery = if has_blob { Recovery::Extract } else { Recovery::Download };
        self.push(Target::Tree(tree.clone()), bytes, Reason::Unreferenced, stays, recovery);
        self.count(digest, bytes, stays);
    }

    fn stays(&self, layer: &Layer) -> Option<Reason> {
        let unknown = self.stock.unknown_pull.then_some(Reason::PullUnderWay);
        if layer.in_use == Some(Reason::Leased) { layer.in_use } else { unknown.or(layer.in_use) }
    }

    fn blobs(&mut self) {
        if !self.bounds.blobs {
            return;
        }
        for (digest, layer) in &self.stock.layers {
            let Some(bytes) = layer.blob.filter(|_| layer.extracted) else { continue };
            let recovery = Recovery::Download;
            self.push(Target::Blob(digest.clone()), bytes, Reason::Extracted, layer.in_use, recovery);
            self.count(digest, bytes, layer.in_use);
        }
    }

    /// Images, the one used longest ago first. One in use frees nothing, and goes for its size only if all the others are
    /// not enough.
    fn images(&mut self) {
        let stock = self.stock;
        let mut order: Vec<usize> = (0..stock.images.len()).filter(|&at| !stock.images[at].damaged).collect();
        // A clock that was wrong may have written a time to come.
        order.sort_by_key(|&at| (stock.images[at].last_used.min(self.now), at));
        let kept_from = order.len().saturating_sub(self.bounds.keep.unwrap_or(usize::MAX));
        let mut rest = Vec::new();
        for (rank, &at) in order.iter().enumerate() {
            let image = &stock.images[at];
            let age = self.now.duration_since(image.last_used).unwrap_or_default();
            if image.exempt {
                continue;
            }
            if self.bounds.older_than.is_some_and(|most| age > most) {
                self.image(at, Reason::Unused);
            } else if rank < kept_from {
                self.image(at, Reason::BeyondKeep);
            } else {
                rest.push(at);
            }
        }
        rest.sort_by_key(|&at| stock.images[at].in_use.is_some());
        for at in rest {
            if self.is_too_large() {
                self.image(at, Reason::OverBudget);
            }
        }
    }

    fn is_too_large(&self) -> bool {
        self.bounds.max_bytes.is_some_and(|most| self.total > most)
    }

    /// An image goes, with what only it named.
    fn image(&mut self, at: usize, reason: Reason) {
        let image = &self.stock.images[at];
        self.push(Target::Image(at), image.bytes, reason, image.in_use, Recovery::Download);
        if image.in_use.is_some() {
            return;
        }
        for digest in layers_of(image) {
            self.users_of_layers.entry(digest).and_modify(|users| *users -= 1);
            if self.users_of_layers.get(digest) == Some(&0) {
                self.layer(digest);
            }
        }
        for tree in &image.trees {
            self.users_of_trees.entry(tree).and_modify(|users| *users -= 1);
            let layer_stays = self.users_of_layers.get(&tree.digest) != Some(&0);
            if layer_stays && self.users_of_trees.get(tree) == Some(&0) {
                self.tree(tree);
            }
        }
    }

    /// Where the cache is too large all the same, the downloads that somebody may go on with are part of why.
    fn fresh(&mut self) {
        if !self.is_too_large() || self.bounds.partials.is_some() {
            return;
        }
        let gone: BTreeSet<&Digest> = self.plan.iter().filter_map(Planned::layer_that_goes).collect();
        let fresh: Vec<(&Digest, Part)> = self
            .stock
            .layers
            .iter()
            .filter(|(digest, _)| !gone.contains(digest))
            .filter_map(|(digest, layer)| Some((digest, layer.part.filter(|part| !self.is_abandoned(*part))?)))
            .collect();
        for (digest, part) in fresh {
            let stays = Some(Reason::Fresh);
            self.push(Target::Partial(digest.clone()), part.bytes, Reason::OverBudget, stays, Recovery::Download);
        }
    }
}

impl Planned {
    fn layer_that_goes(&self) -> Option<&Digest> {
        match (&self.target, self.stays) {
            (Target::Layer(digest), None) => Some(digest),
            _ => None,
        }
    }
}

fn layers_of(image: &Image) -> BTreeSet<&Digest> {
    image.trees.iter().map(|tree| &tree.digest).collect()
}

#[cfg(test)]
mod tests;
