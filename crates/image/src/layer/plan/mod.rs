//! What each entry of an archive means for the tree: decided in memory, without touching the disk.
//!
//! [`Planner::place`] takes an entry and what is known of the tree and answers with [`Step`]s. Names and link targets
//! are resolved inside the image's root: symbolic links of this layer are followed there, `..` stops at the root.

mod inode;
mod links;
mod place;
mod resolve;
#[cfg(test)]
mod tests;
mod tree;
mod visit;
mod whiteout;

#[cfg(test)]
pub(crate) use inode::Inode;
pub(crate) use inode::{NO_MARK, NodeKind};
pub(crate) use place::{Planner, Step};
pub(crate) use tree::{EntryId, ROOT, Tree};
pub(crate) use visit::visit_by_path;
pub(crate) use whiteout::{OPAQUE as OPAQUE_MARKER, PREFIX as WHITEOUT_PREFIX};
