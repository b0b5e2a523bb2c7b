//! The sidecar index: a layer's tree as sorted tables in one file, made to be mapped and searched (SPEC §5).
//!
//! It is an optimisation that must never be wrong: it is built from the rows that were extracted, a reader checks it
//! whole before it answers, and where something can't be expressed there is no index.

mod build;
mod read;
mod renumber;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use build::{Patch, build, patch};
pub(crate) use renumber::renumber;

pub use read::{DirectoryRecord, EntryRecord, LayerIndex};
