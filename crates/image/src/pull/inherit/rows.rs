//! What has to be known of a layer: its entries sorted by path, ancestors before what is below them.

use crate::{layer::OverrideStat, model::Digest};

/// A layer's entries, as its table has them.
pub(crate) trait LayerRows {
    /// The layer.
    fn digest(&self) -> &Digest;
    /// Whether any directory of it was described by no entry.
    fn has_implied_directories(&self) -> bool;
    /// Whether any hard link of it leads to a lower layer.
    fn has_cross_layer_links(&self) -> bool;
    /// Number of entries, the root included where it is listed.
    fn len(&self) -> usize;
    /// An entry by number.
    fn entry(&self, at: usize) -> LayerEntry<'_>;
}

/// An entry of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerEntry<'a> {
    /// Relative to the layer's root, raw bytes; of a whiteout with its `.wh.`.
    pub(crate) path: &'a [u8],
    pub(crate) what: What<'a>,
}

/// What an entry is, as far as other layers are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What<'a> {
    Directory {
        stat: OverrideStat,
        /// No entry of the archive described it.
        implied: bool,
        /// Hides all that lower layers have in it.
        opaque: bool,
    },
    Symlink {
        target: &'a [u8],
    },
    /// A hard link to a file of a lower layer; the target is a path inside the image.
    CrossLayerLink {
        target: &'a [u8],
    },
    /// Hides a name of lower layers.
    Whiteout,
    /// Anything else with bytes or an attribute of its own.
    File,
}
