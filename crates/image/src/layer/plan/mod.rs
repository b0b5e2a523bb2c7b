//! What each entry of an archive means for the tree: decided in memory, without touching the disk.
//!
//! [`Planner::place`] takes an entry and what is known of the tree and answers with [`Step`]s. Names and link targets
//! are resolved inside the image's root: symbolic links of this layer are followed there, `..` stops at the root.

mod links;
mod place;
mod resolve;
#[cfg(test)]
mod tests;
mod tree;
mod whiteout;

pub(crate) use place::{Planner, Step};
#[cfg(test)]
pub(crate) use tree::Inode;
pub(crate) use tree::{Content, EntryId, InodeId, ROOT, Tree};
pub(crate) use whiteout::{OPAQUE as OPAQUE_MARKER, PREFIX as WHITEOUT_PREFIX};
