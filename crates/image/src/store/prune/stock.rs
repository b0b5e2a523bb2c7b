//! What a cache has, measured, for the plan.

use std::{collections::BTreeSet, time::SystemTime};

use crate::{
    error::Result,
    fs::{Lock, stat_if_there},
    model::{Digest, Platform},
    store::{
        GlobalCache, LayerFile, TreeFile, TreeName,
        in_use::InUse,
        inventory::{ImageFile, Inventory, LayerEntry, Leftover},
        measure::Sizes,
        prune::{
            PruneOptions,
            plan::{Image, Layer, Loose, Part, Stock},
        },
        removal::Reason,
        usage::{layer_bytes, measure, tree_bytes},
    },
};

/// Looks at everything that could go.
pub(super) fn take_stock(
    cache: &GlobalCache,
    options: &PruneOptions,
    inventory: &Inventory,
    in_use: &InUse,
    sizes: &mut Sizes,
) -> Result<Stock> {
    let total = measure(cache, inventory, sizes)?.bytes;
    let mut stock = Stock { total, unknown_pull: in_use.unknown_pull(), ..Stock::default() };
    for found in &inventory.leftovers {
        stock.leftovers.push(leftover(found, in_use, sizes)?);
    }
    for found in &inventory.images {
        stock.images.push(image(cache, options, found, in_use, sizes)?);
    }
    let named = inventory.named_trees();
    for (digest, found) in &inventory.layers {
        let layer = Layer { bytes: layer_bytes(cache, inventory, sizes, digest)?, ..Layer::default() };
        let layer = complete(cache, digest, found, in_use, sizes, layer)?;
        let extracted = all_extracted(cache, digest, &named)?;
        stock.layers.insert(digest.clone(), Layer { extracted, ..layer });
    }
    Ok(stock)
}

fn leftover(found: &Leftover, in_use: &InUse, sizes: &mut Sizes) -> Result<Loose> {
    let in_use = if in_use.is_being_made(found) { Some(Reason::Leased) } else { lock_of(&found.locks)? };
    Ok(Loose { bytes: sizes.of(&found.path)?, in_use })
}

fn image(
    cache: &GlobalCache,
    options: &PruneOptions,
    found: &ImageFile,
    in_use: &InUse,
    sizes: &mut Sizes,
) -> Result<Image> {
    let reference = found.metadata.as_ref().and_then(|metadata| metadata.reference.as_deref());
    let exempt = options.keep_references.iter().any(|keep| {
        Some(keep.as_str()) == reference || found.path == cache.image_metadata_path(keep, &Platform::host_linux())
    });
    Ok(Image {
        bytes: sizes.of(&found.path)?,
        last_used: found.last_used,
        trees: found.trees(),
        damaged: found.metadata.is_none(),
        exempt,
        in_use: in_use.image(found),
    })
}

fn complete(
    cache: &GlobalCache,
    digest: &Digest,
    found: &LayerEntry,
    in_use: &InUse,
    sizes: &mut Sizes,
    mut layer: Layer,
) -> Result<Layer> {
    for tree in found.trees(digest) {
        let bytes = tree_bytes(cache, found, sizes, &tree)?;
        layer.trees.insert(tree.inherited, bytes);
    }
    if found.files.contains(&LayerFile::Blob) {
        layer.blob = Some(sizes.of(&cache.layer(digest, LayerFile::Blob))?);
    }
    let part = cache.layer(digest, LayerFile::Part);
    if let Some(there) = stat_if_there(&part)? {
        // Without a time it can't be told to be old.
        let touched = there.modified().unwrap_or_else(|_| SystemTime::now());
        layer.part = Some(Part { bytes: sizes.of(&part)?, touched });
    }
    layer.has_content = found.has_content();
    let locks = [LayerFile::DownloadLock, LayerFile::Lock].map(|file| cache.layer(digest, file));
    layer.in_use = if in_use.is_leased(digest) { Some(Reason::Leased) } else { lock_of(&locks)? };
    Ok(layer)
}

/// True if images name trees of the layer and all of them are there and whole.
fn all_extracted(cache: &GlobalCache, digest: &Digest, named: &BTreeSet<TreeName>) -> Result<bool> {
    let trust = cache.trust()?;
    let mut trees = named.range(TreeName::base(digest)..).take_while(|tree| tree.digest == *digest).peekable();
    if trees.peek().is_none() {
        return Ok(false);
    }
    for tree in trees {
        if !cache.tree_is_finished(&cache.tree(tree, TreeFile::Tree), &trust)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock_of(locks: &[std::path::PathBuf]) -> Result<Option<Reason>> {
    for lock in locks {
        if Lock::is_held(lock)? {
            return Ok(Some(Reason::Locked));
        }
    }
    Ok(None)
}
