//! What each layer of an image inherits from those below it (SPEC §8): the attributes of directories that no entry
//! described, and the files that cross-layer hard links lead to. Pure: layers' entries in, [`Inherited`] out.
//!
//! ```text
//! layer 0   etc/ (uid 5, 0700)   lib -> usr/lib   usr/lib/x
//! layer 1   etc/ implied         b, a hard link to lib/x
//!           etc: uid 5, 0700     b: layer 0, usr/lib/x
//! ```
//!
//! One sweep from the bottom to the top merges the layers, but keeps only the paths that are asked for (`interest`).
//! A link that leads through a symbolic link asks for further paths, and another sweep answers them. Work is in
//! proportion to the number of entries, whatever the number of layers; memory to what is asked for.

mod interest;
mod resolve;
mod rows;
mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use rows::{LayerEntry, LayerRows, What};

use crate::{error::Result, layer::Halt, store::Inherited};

/// What each of an image's layers inherits, bottom first.
///
/// Fails with `ERR_EXTRACTION`, naming layer, entry and target, for a link that leads nowhere or to a directory, and
/// with `ERR_ABORTED` once `halt` is thrown.
pub(crate) fn inherit<R: LayerRows>(layers: &[R], halt: &Halt) -> Result<Vec<Inherited>> {
    sweep::sweep(layers, halt)
}
