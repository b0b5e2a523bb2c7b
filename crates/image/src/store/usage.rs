//! How much room the cache takes, and what for.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    error::Result,
    model::Digest,
    store::{
        GlobalCache, LayerFile, TreeFile, TreeName,
        inventory::{Inventory, LayerEntry},
        measure::Sizes,
    },
};

/// Allocated bytes on the disk. What images share counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// All of it: the sum of the parts below.
    pub bytes: u64,
    /// Compressed blobs.
    pub blob_bytes: u64,
    /// Finished trees, all of each layer.
    pub tree_bytes: u64,
    /// Tables of layers, sidecar indexes, and lists of what trees inherit.
    pub index_bytes: u64,
    /// Unfinished downloads.
    pub partial_bytes: u64,
    /// What crashes left, and what is being made or removed right now.
    pub leftover_bytes: u64,
    /// Metadata of images.
    pub metadata_bytes: u64,
    /// Files that are none of the cache's own; they are never touched.
    pub foreign_bytes: u64,
    /// What belongs to layers, and to trees of layers, that no image names: part of the sums above.
    pub unreferenced_bytes: u64,
    /// Number of images, damaged metadata not counted.
    pub images: u64,
    /// Number of finished trees.
    pub layers: u64,
}

impl GlobalCache {
    /// Measures the cache. Takes no lock and changes nothing.
    pub fn usage(&self) -> Result<Usage> {
        measure(self, &Inventory::read(self)?, &mut Sizes::default())
    }
}

pub(super) fn measure(cache: &GlobalCache, inventory: &Inventory, sizes: &mut Sizes) -> Result<Usage> {
    let mut usage = Usage::default();
    let named = inventory.named_trees();
    let named_layers: BTreeSet<&Digest> = named.iter().map(|tree| &tree.digest).collect();
    for (digest, layer) in &inventory.layers {
        let mut all = 0;
        for &file in layer.files.iter().filter(|&&file| file != LayerFile::Extracting) {
            let bytes = sizes.of(&cache.layer(digest, file))?;
            *part(&mut usage, file) += bytes;
            all += bytes;
        }
        let is_there = |files: &&BTreeSet<TreeFile>| files.contains(&TreeFile::Tree);
        usage.layers += u64::from(layer.files.contains(&LayerFile::Tree));
        usage.layers += layer.keyed.values().filter(is_there).count() as u64;
        let mut unnamed = 0;
        for tree in layer.trees(digest) {
            let bytes = tree_bytes(cache, layer, sizes, &tree)?;
            unnamed += if named.contains(&tree) { 0 } else { bytes };
            if tree.inherited.is_none() {
                // All but its list has been counted as a file of the layer.
                let list = if layer.base_list { sizes.of(&cache.tree(&tree, TreeFile::List))? } else { 0 };
                usage.index_bytes += list;
                all += list;
            } else {
                let of_tree = sizes.of(&cache.tree(&tree, TreeFile::Tree))?;
                usage.tree_bytes += of_tree;
                usage.index_bytes += bytes - of_tree;
                all += bytes;
            }
        }
        usage.unreferenced_bytes += if named_layers.contains(digest) { unnamed } else { all };
    }
    for leftover in &inventory.leftovers {
        usage.leftover_bytes += sizes.of(&leftover.path)?;
    }
    for image in &inventory.images {
        usage.metadata_bytes += sizes.of(&image.path)?;
        usage.images += u64::from(image.metadata.is_some());
    }
    for path in &inventory.foreign {
        usage.foreign_bytes += sizes.of(path)?;
    }
    usage.bytes = usage.blob_bytes
        + usage.tree_bytes
        + usage.index_bytes
        + usage.partial_bytes
        + usage.leftover_bytes
        + usage.metadata_bytes
        + usage.foreign_bytes;
    Ok(usage)
}

/// Bytes of one layer, with all its trees. What is unfinished of a tree counts as a leftover and not here.
pub(super) fn layer_bytes(
    cache: &GlobalCache,
    inventory: &Inventory,
    sizes: &mut Sizes,
    digest: &Digest,
) -> Result<u64> {
    let Some(layer) = inventory.layers.get(digest) else { return Ok(0) };
    let mut bytes = 0;
    for &file in layer.files.iter().filter(|&&file| file != LayerFile::Extracting) {
        bytes += sizes.of(&cache.layer(digest, file))?;
    }
    if layer.base_list {
        bytes += sizes.of(&cache.tree(&TreeName::base(digest), TreeFile::List))?;
    }
    for tree in layer.trees(digest).iter().filter(|tree| tree.inherited.is_some()) {
        bytes += tree_bytes(cache, layer, sizes, tree)?;
    }
    Ok(bytes)
}

/// Bytes of one tree of a layer, with its index and list.
pub(super) fn tree_bytes(cache: &GlobalCache, layer: &LayerEntry, sizes: &mut Sizes, tree: &TreeName) -> Result<u64> {
    layer.tree_paths(cache, tree).iter().map(|path| sizes.of(path)).sum()
}

fn part(usage: &mut Usage, file: LayerFile) -> &mut u64 {
    match file {
        LayerFile::Blob => &mut usage.blob_bytes,
        LayerFile::Tree => &mut usage.tree_bytes,
        LayerFile::Index | LayerFile::Table | LayerFile::ImplicitDirs => &mut usage.index_bytes,
        LayerFile::Part => &mut usage.partial_bytes,
        LayerFile::Extracting => &mut usage.leftover_bytes,
        // Empty files.
        LayerFile::Lock | LayerFile::DownloadLock => &mut usage.metadata_bytes,
    }
}
