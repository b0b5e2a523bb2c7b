//! What every module needs of a file system: locks, publication by rename, removal of trees, free space,
//! and opening what lies in a cache.

pub(crate) mod fail_point;
mod in_process;
mod lock;
mod open;
mod publish;
pub(crate) mod random;
mod remove;
mod space;

pub(crate) use fail_point::step;
pub use lock::LockWait;
pub(crate) use lock::{Hold, Lock};
pub(crate) use open::{
    Content, Opened, Trust, directory_is_there, no_directory, no_file, open_file, open_trusted, open_with,
    read_trusted, stat_if_there,
};
pub(crate) use publish::{
    make_directory, publish_file, publish_file_with, publish_private_file, remove_file_if_there, rename,
};
pub(crate) use random::{is_random_name, random_name};
pub(crate) use remove::{remove_tree, remove_tree_at};
pub(crate) use space::free_space;
