//! How much room the cache takes, and what for.

use serde::Serialize;

use crate::{
    error::Result,
    model::Digest,
    store::{GlobalCache, LayerFile, TreeFile, inventory::Inventory, measure::Sizes},
};

/// Allocated bytes on the disk. What images share counts once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// All of it: the sum of the parts below.
    pub bytes: u64,
    /// Compressed blobs.
    pub blob_bytes: u64,
    /// Finished trees.
    pub tree_bytes: u64,
    /// Sidecar indexes, tables, and lists of what depends on lower layers.
    pub index_bytes: u64,
    /// Unfinished downloads.
    pub partial_bytes: u64,
    /// What crashes left, and what is being made or removed right now.
    pub leftover_bytes: u64,
    /// Metadata of images.
    pub metadata_bytes: u64,
    /// Files that are none of the cache's own; they are never touched.
    pub foreign_bytes: u64,
    /// What belongs to layers that no image names: part of the sums above.
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
    let named = inventory.named_layers();
    for (digest, files) in &inventory.layers {
        for &file in files {
            let bytes = sizes.of(&cache.layer(digest, file))?;
            *part(&mut usage, file) += bytes;
            if !named.contains(digest) {
                usage.unreferenced_bytes += bytes;
            }
        }
        usage.layers += u64::from(files.contains(&LayerFile::Tree));
    }
    for (tree, files) in &inventory.trees {
        for &file in files {
            let bytes = sizes.of(&cache.tree(tree, file))?;
            match file {
                TreeFile::Tree => usage.tree_bytes += bytes,
                TreeFile::Index | TreeFile::List => usage.index_bytes += bytes,
            }
            if !named.contains(&tree.digest) {
                usage.unreferenced_bytes += bytes;
            }
        }
        usage.layers += u64::from(files.contains(&TreeFile::Tree));
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

/// Bytes of one layer, all its files together.
pub(super) fn layer_bytes(
    cache: &GlobalCache,
    inventory: &Inventory,
    sizes: &mut Sizes,
    digest: &Digest,
) -> Result<u64> {
    let files = inventory.layers.get(digest).into_iter().flatten();
    let own: u64 = files.map(|&file| sizes.of(&cache.layer(digest, file))).sum::<Result<u64>>()?;
    let trees = inventory.trees_of(digest).flat_map(|(tree, files)| files.iter().map(|&file| cache.tree(tree, file)));
    trees.map(|path| sizes.of(&path)).try_fold(own, |sum, bytes| Ok(sum + bytes?))
}

fn part(usage: &mut Usage, file: LayerFile) -> &mut u64 {
    match file {
        LayerFile::Blob => &mut usage.blob_bytes,
        LayerFile::Tree => &mut usage.tree_bytes,
        LayerFile::Index | LayerFile::ImplicitDirs | LayerFile::Table => &mut usage.index_bytes,
        LayerFile::Part => &mut usage.partial_bytes,
        LayerFile::Extracting => &mut usage.leftover_bytes,
        // Empty files.
        LayerFile::Lock | LayerFile::DownloadLock => &mut usage.metadata_bytes,
    }
}
