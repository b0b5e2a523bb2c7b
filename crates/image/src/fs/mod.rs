//! What every module needs of a file system: locks, publication by rename, removal of trees, the room left.

pub(crate) mod fail_point;
mod lock;
mod publish;
mod remove;
mod space;
mod turn;

pub(crate) use fail_point::step;
pub(crate) use lock::{Hold, Lock};
pub(crate) use publish::{
    make_directory, publish_file, publish_file_with, read_if_there, remove_file_if_there, rename,
};
pub(crate) use remove::{remove_tree, remove_tree_at};
pub(crate) use space::free_space;
