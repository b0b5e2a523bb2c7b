//! A finished tree under its final name, and what belongs beside it.

use std::{fs, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::fs::{CWD, RenameFlags, Timestamps, renameat_with};

use crate::{
    error::{ImageError, Result},
    fs::{publish_file, remove_file_if_there, rename, step},
    layer::{Unpacked, write_links, write_list},
    model::Digest,
    store::{COMPLETE_MARKER, GlobalCache, LayerFile, trash::throw_away},
};

/// Publishes a tree that was extracted and verified. Its locks are held.
///
/// The index goes first and comes last, since one without its tree must never be there.
pub(crate) fn publish_tree(cache: &GlobalCache, digest: &Digest, unpacked: &Unpacked) -> Result<()> {
    let path = |file| cache.layer(digest, file);
    let (tree, extracting, index) = (path(LayerFile::Tree), path(LayerFile::Extracting), path(LayerFile::Index));
    remove_file_if_there(&index)?;
    write_or_remove(&path(LayerFile::ImplicitDirs), &write_list(&unpacked.implicit_directories))?;
    write_or_remove(&path(LayerFile::LowerLinks), &write_links(&unpacked.lower_links))?;
    write_marker(&extracting)?;
    swap(&extracting, &tree)?;
    if let Some(bytes) = &unpacked.index {
        publish_file(&index, bytes)?;
    }
    Ok(())
}

/// A list that is empty has no file.
fn write_or_remove(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() { remove_file_if_there(path).map(drop) } else { publish_file(path, bytes) }
}

/// The empty file that makes a tree valid. An image's own file of that name serves as well, and keeps its content.
fn write_marker(tree: &Path) -> Result<()> {
    let marker = tree.join(COMPLETE_MARKER);
    if marker.symlink_metadata().is_ok() {
        return Ok(());
    }
    let before = rustix::fs::stat(tree).map_err(|errno| ImageError::io("stat", tree, errno))?;
    step("create", &marker);
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&marker);
    made.map_err(|error| ImageError::io("create", &marker, error))?;
    // Making the marker touched the root's time, which is the image's.
    let times = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: before.st_atime as i64, tv_nsec: before.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: before.st_mtime as i64, tv_nsec: before.st_mtime_nsec as _ },
    };
    step("time", tree);
    rustix::fs::utimensat(CWD, tree, &times, rustix::fs::AtFlags::empty())
        .map_err(|errno| ImageError::io("set the time of", tree, errno))
}

/// Puts the new tree in place of an old one, which is gone afterwards.
fn swap(new: &Path, place: &Path) -> Result<()> {
    if place.symlink_metadata().is_err() {
        return rename(new, place);
    }
    step("exchange", new);
    match renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => throw_away(new),
        // Not every file system can exchange.
        Err(_) => {
            throw_away(place)?;
            rename(new, place)
        }
    }
}
