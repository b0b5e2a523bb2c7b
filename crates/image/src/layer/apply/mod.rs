//! Steps → disk. Everything is done relative to directory handles that were opened one component at a time without
//! following links, so nothing in an image or put into the cache by others can lead outside the tree.

mod directories;
mod finish;
mod handle;
mod links;
mod listing;
mod symlink;
mod twin;
mod writers;
mod xattr;

/// Names of steps on files and directories of the tree that is made.
const FILE: &str = "layers/<d>.extracting/file";
const DIRECTORY: &str = "layers/<d>.extracting/directory";

pub(crate) use directories::Directories;
pub(crate) use finish::finish_directories;
pub(crate) use handle::Handle;
pub(crate) use writers::{FileMeta, Writers};
pub(crate) use xattr::keep_all;
