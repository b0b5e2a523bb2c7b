//! Work on trees that have no final name yet: a copy of a whole tree, and what a layer inherits put into its own.
//!
//! All of it goes relative to open directories, follows no link, opens nothing that blocks, and looks at the type of
//! what was opened. Nothing here touches a tree that was published, but to read it.

mod copy;
mod file;
mod fill;
#[cfg(test)]
mod tests;
mod walker;

pub(crate) use copy::copy_tree;
pub(crate) use file::open_file;
pub(crate) use fill::fill;
pub(crate) use walker::{Walker, split};
