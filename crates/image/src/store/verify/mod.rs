//! Looks a cache through for damage, and mends it: each layer by itself, under its locks, so that images that are whole
//! stay usable and other processes go on.
//!
//! What is found wrong is extracted anew from its blob where the blob is right, and removed where not, so that the next
//! pull brings it in. Each tree of a layer, the base and those that inherit, is made anew as its own list says.

mod image;
mod layer;
mod order;
mod prove;
mod recheck;
mod report;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    error::Result,
    fs::{Lock, remove_file_if_there},
    layer::Halt,
    model::Digest,
    store::{
        CachedLayerMetadata, GlobalCache, LayerFile, TreeFile, TreeName,
        inventory::{ImageFile, Inventory},
    },
};

pub(crate) use layer::Soundness;
pub(crate) use recheck::Rechecked;
pub use report::{Depth, Problem, ProblemKind, Repair, SkipReason, Skipped, VerifyReport};

use layer::LayerCheck;
use order::Order;

/// How to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// How thoroughly.
    pub depth: Depth,
    /// Mend what is wrong.
    pub repair: bool,
}

impl GlobalCache {
    /// Looks the cache through.
    pub(crate) fn look_through(&self, options: VerifyOptions, halt: &Halt) -> Result<VerifyReport> {
        let inventory = Inventory::read(self)?;
        if options.repair && !inventory.images.is_empty() {
            self.prepare()?;
        }
        let mut report = VerifyReport {
            depth: options.depth,
            ok: true,
            images: inventory.images.len() as u64,
            layers: 0,
            problems: Vec::new(),
            skipped: Vec::new(),
        };
        let named = named_layers(&inventory);
        let has_content = |digest: &Digest| {
            inventory.layers.get(digest).is_some_and(|layer| {
                let has = |file| layer.files.contains(file);
                [LayerFile::Blob, LayerFile::Table].iter().any(has) || !layer.trees(digest).is_empty()
            })
        };
        let mut digests: BTreeSet<&Digest> = inventory.layers.keys().filter(|digest| has_content(digest)).collect();
        digests.extend(named.keys());
        report.layers = digests.len() as u64;
        let mut gone = BTreeSet::new();
        let trees = digests.into_iter().flat_map(|digest| trees_of(&inventory, named.get(digest), digest)).collect();
        let order = Order::of(self, trees)?;
        let mut proven = BTreeSet::new();
        let check = |tree: &TreeName, proven: &BTreeSet<TreeName>, repair: bool| {
            halt.check()?;
            let expected = named.get(&tree.digest).map(|users| users.expected);
            let proven = (options.depth == Depth::Content).then_some(proven);
            LayerCheck { cache: self, tree: tree.clone(), expected, depth: options.depth, proven, halt }.run(repair)
        };
        for step in order.steps(options.depth == Depth::Content) {
            if step.looks_ahead && order.is_proven(step.tree, &proven) {
                continue;
            }
            let findings = check(step.tree, &proven, options.repair && !step.looks_ahead)?;
            if findings.is_proof() {
                proven.insert(step.tree.clone());
            } else {
                proven.remove(step.tree);
            }
            if !step.looks_ahead {
                let images = named.get(&step.tree.digest).map(|users| users.images.clone());
                report.add(step.tree, findings, &images.unwrap_or_default());
                if options.repair && self.tree(step.tree, TreeFile::Tree).symlink_metadata().is_err() {
                    gone.insert(step.tree.clone());
                }
            }
        }
        for image in &inventory.images {
            self.look_at_image(image, &gone, options.repair, &mut report)?;
        }
        report.ok = report.problems.iter().all(|problem| problem.repaired.is_some());
        Ok(report)
    }

    /// True if the layer's tree is there, has its index if that is wanted, and every file in the length the index says: a
    /// `stat` a file, for layers that a pull is about to take as they are.
    pub fn is_sound(&self, digest: &Digest, index: bool) -> bool {
        let halt = Halt::default();
        self.tree_is_sound(&TreeName::base(digest), index, &halt)
    }

    /// The same of any tree.
    pub(crate) fn tree_is_sound(&self, tree: &TreeName, index: bool, halt: &Halt) -> bool {
        let check =
            LayerCheck { cache: self, tree: tree.clone(), expected: None, depth: Depth::Size, proven: None, halt };
        check.is_sound(index)
    }

    /// How a tree is, by a `stat` a file.
    pub(super) fn tree_soundness(&self, tree: &TreeName, index: bool, halt: &Halt) -> Soundness {
        let check =
            LayerCheck { cache: self, tree: tree.clone(), expected: None, depth: Depth::Size, proven: None, halt };
        check.soundness(index)
    }

    /// True if a tree has the same names, types, bytes and attributes as another.
    pub(super) fn is_same_tree(&self, tree: &TreeName, as_tree: &Path, halt: &Halt) -> Result<bool> {
        let found = tree::compare_trees(&self.tree(tree, TreeFile::Tree), as_tree, &tree::Excused::default(), halt)?;
        Ok(found.is_empty())
    }

    /// Metadata that are damaged, or that name a layer that is gone for good, go.
    fn look_at_image(
        &self,
        image: &ImageFile,
        gone: &BTreeSet<TreeName>,
        repair: bool,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let wrong = match &image.metadata {
            None => Some((ProblemKind::DamagedMetadata, "it can't be read".to_owned())),
            Some(metadata) => image::contradiction(metadata).map(|detail| (ProblemKind::WrongMetadata, detail)),
        };
        let mut layers = image.metadata.iter().flat_map(|metadata| &metadata.layers);
        let incomplete = layers.any(|layer| gone.contains(&layer.tree()));
        let removed = if repair && (wrong.is_some() || incomplete) { forget(image)? } else { false };
        let name = name_of(image);
        if removed && incomplete {
            for problem in report.problems.iter_mut().filter(|problem| problem.images.contains(&name)) {
                problem.repaired.get_or_insert(Repair::Deleted);
            }
        }
        report.problems.extend(wrong.map(|(kind, detail)| Problem {
            kind,
            path: image.path.to_string_lossy().into_owned(),
            layer: None,
            images: vec![name],
            detail,
            repaired: removed.then_some(Repair::Deleted),
        }));
        Ok(())
    }
}

struct Users<'a> {
    expected: &'a CachedLayerMetadata,
    images: Vec<String>,
    trees: BTreeSet<TreeName>,
}

/// The trees of a layer that are there or named, in order.
fn trees_of(inventory: &Inventory, users: Option<&Users<'_>>, digest: &Digest) -> BTreeSet<TreeName> {
    let mut trees = users.map(|users| users.trees.clone()).unwrap_or_default();
    let layer = inventory.layers.get(digest);
    trees.extend(layer.into_iter().flat_map(|layer| layer.keyed.keys()).map(|key| TreeName::keyed(digest, key)));
    let base = layer.is_some_and(|layer| [LayerFile::Tree, LayerFile::Index].iter().any(|f| layer.files.contains(f)));
    if base || trees.is_empty() {
        trees.insert(TreeName::base(digest));
    }
    trees
}

fn named_layers(inventory: &Inventory) -> BTreeMap<Digest, Users<'_>> {
    let mut named: BTreeMap<Digest, Users<'_>> = BTreeMap::new();
    for image in &inventory.images {
        // What wrong metadata name is nobody's need.
        let metadata = image.metadata.as_ref().filter(|metadata| image::contradiction(metadata).is_none());
        for layer in metadata.into_iter().flat_map(|metadata| &metadata.layers) {
            let users = named.entry(layer.digest.clone()).or_insert_with(|| Users {
                expected: layer,
                images: Vec::new(),
                trees: BTreeSet::new(),
            });
            users.trees.insert(layer.tree());
            if !users.images.contains(&name_of(image)) {
                users.images.push(name_of(image));
            }
        }
    }
    named
}

fn name_of(image: &ImageFile) -> String {
    let reference = image.metadata.as_ref().and_then(|metadata| metadata.reference.clone());
    reference.unwrap_or_else(|| image.key.clone())
}

/// Removes an image's metadata unless it is being pulled.
fn forget(image: &ImageFile) -> Result<bool> {
    match Lock::try_acquire(&image.path.with_extension("lock"))? {
        Some(_lock) => remove_file_if_there(&image.path),
        None => Ok(false),
    }
}
