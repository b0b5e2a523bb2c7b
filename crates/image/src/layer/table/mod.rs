//! The table of a layer (SPEC §8): what the blob was verified to be and one row for each entry of its tree, sorted by
//! path, in one file made to be mapped and searched. Everything that follows an extraction reads it: merge, verify,
//! export. It is a function of the blob alone; docs/layer-table.md has the format.

mod build;
mod check;
mod facts;
mod from_tree;
mod read;
mod row;
#[cfg(test)]
mod tests;
mod wire;

#[cfg(test)]
pub(crate) use build::build_table;
pub(crate) use facts::TableFacts;
pub(crate) use from_tree::from_tree;
pub(crate) use read::Table;
pub(crate) use row::{OwnedRow, Row, RowKind, StreamSegment, Verified};
