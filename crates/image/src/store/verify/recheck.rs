//! An image that may not have reached the disk before the power was cut: looked through, and mended from its blobs.

use std::{collections::BTreeMap, path::Path};

use crate::{
    error::Result,
    layer::Halt,
    store::{
        CachedImageMetadata, CachedLayerMetadata, GlobalCache,
        verify::{
            Depth,
            layer::{Healed, LayerCheck},
        },
    },
};

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rechecked {
    /// It is whole and remembered to be.
    Settled,
    /// It is whole now. Layers were made anew, which has to be remembered.
    Mended,
    /// It lacks something.
    Damaged,
}

impl GlobalCache {
    /// Looks every file of a doubtful image up in its index, a `stat` each, and marks the image if all is as it was written.
    /// Takes no lock.
    pub(crate) fn recheck(&self, path: &Path, metadata: &CachedImageMetadata, halt: &Halt) -> bool {
        let whole = once(metadata).all(|layer| self.layer_check(layer, halt).is_sound(true));
        whole && self.mark_as_read(path, metadata)
    }

    /// The same under each layer's locks, and layers that are damaged are made anew from their blobs. The lock of the image
    /// is held.
    pub(crate) fn heal(&self, path: &Path, metadata: &CachedImageMetadata, halt: &Halt) -> Result<Rechecked> {
        for layer in once(metadata) {
            if self.layer_check(layer, halt).heal()? == Healed::Not {
                return Ok(Rechecked::Damaged);
            }
        }
        Ok(if self.mark_as_read(path, metadata) { Rechecked::Settled } else { Rechecked::Mended })
    }

    fn layer_check<'a>(&'a self, layer: &'a CachedLayerMetadata, halt: &'a Halt) -> LayerCheck<'a> {
        LayerCheck { cache: self, tree: layer.tree(), expected: Some(layer), depth: Depth::Size, proven: None, halt }
    }
}

/// The layers, each of their trees once.
fn once(metadata: &CachedImageMetadata) -> impl Iterator<Item = &CachedLayerMetadata> {
    let trees: BTreeMap<_, _> = metadata.layers.iter().map(|layer| (layer.tree(), layer)).collect();
    trees.into_values()
}
