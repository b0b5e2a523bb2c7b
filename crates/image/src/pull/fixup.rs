//! What a layer leaves to the layers below it: directories that no entry of it described take what the nearest lower
//! layer says of them (SPEC §4), and hard links to files of lower layers get those files' content.
//!
//! A layer is shared by images that stand on other layers, so what was right for the image before may be wrong for this
//! one: every pull looks again, and changes a layer only where something differs.

use std::path::Path;

use rustix::fs::{XattrFlags, fsetxattr};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Lock, LockWait, publish_file, remove_file_if_there, step},
    layer::{LayerIndex, OverrideStat, Patch, patch, read_links, read_list},
    model::Digest,
    pull::{
        lower::{ATTRIBUTE, Found, Wanted, look_in, open_directory, read_stat},
        stand_in::{LowerFile, fill},
    },
    store::{GlobalCache, LayerFile},
};

const UNDESCRIBED: OverrideStat = OverrideStat { uid: 0, gid: 0, mode: 0o040_755, rdev: 0 };

/// What of a layer has to change.
enum Change {
    Directory { path: Vec<u8>, stat: OverrideStat },
    Link { path: Vec<u8>, file: LowerFile },
}

/// Looks through an image's layers, bottom first, and mends what differs. No layer's lock is held while another's is
/// waited for.
pub(super) async fn fit_to_lower_layers(cache: &GlobalCache, wait: &LockWait, layers: &[Digest]) -> Result<()> {
    for (at, digest) in layers.iter().enumerate() {
        let (cache, digest, lower) = (cache.clone(), digest.clone(), layers[..at].to_vec());
        let look = {
            let (cache, digest, lower) = (cache.clone(), digest.clone(), lower.clone());
            move || find_changes(&cache, &digest, &lower)
        };
        if off_thread(look).await?.is_empty() {
            continue;
        }
        let lock = Lock::acquire(&cache.layer(&digest, LayerFile::Lock), wait).await?;
        off_thread(move || {
            let changes = find_changes(&cache, &digest, &lower)?;
            apply(&cache, &digest, changes)?;
            drop(lock);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImageError::internal("fitting a layer to lower ones panicked"))?
}

fn find_changes(cache: &GlobalCache, digest: &Digest, lower: &[Digest]) -> Result<Vec<Change>> {
    let mut changes = directory_changes(cache, digest, lower)?;
    changes.extend(link_changes(cache, digest, lower).map_err(|error| error.for_layer(digest))?);
    Ok(changes)
}

fn directory_changes(cache: &GlobalCache, digest: &Digest, lower: &[Digest]) -> Result<Vec<Change>> {
    let list = cache.layer(digest, LayerFile::ImplicitDirs);
    let Some(bytes) = cache.read_list_file(&list)? else { return Ok(Vec::new()) };
    let tree = cache.layer(digest, LayerFile::Tree);
    let mut changes = Vec::new();
    for path in read_list(&bytes, &list.display().to_string())? {
        let Some(directory) = open_directory(&tree, &path)? else { continue };
        let stat = match find_below(cache, lower, &path, Wanted::Directory)? {
            Some(found) => read_stat(&found).unwrap_or(UNDESCRIBED),
            None => UNDESCRIBED,
        };
        if read_stat(&directory) != Some(stat) {
            changes.push(Change::Directory { path, stat });
        }
    }
    Ok(changes)
}

fn link_changes(cache: &GlobalCache, digest: &Digest, lower: &[Digest]) -> Result<Vec<Change>> {
    let list = cache.layer(digest, LayerFile::LowerLinks);
    let Some(bytes) = cache.read_list_file(&list)? else { return Ok(Vec::new()) };
    let tree = cache.layer(digest, LayerFile::Tree);
    let mut changes = Vec::new();
    for link in read_links(&bytes, &list.display().to_string())? {
        let Some(target) = find_below(cache, lower, &link.target, Wanted::File)? else {
            let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
            let target = text(&link.target);
            let reason = format!("it is a hard link to {target:?}, which neither its layer nor a lower one has");
            return Err(ErrorKind::Extraction { entry: Some(text(&link.path)), reason }.into());
        };
        let file = LowerFile::read(target, &tree)?;
        let is_filled = match look_in(&tree, &link.path, Wanted::File)? {
            Found::There(stand_in) => file.is_same(&stand_in, &tree)?,
            _ => continue,
        };
        if !is_filled {
            changes.push(Change::Link { path: link.path, file });
        }
    }
    Ok(changes)
}

/// The nearest lower layer's idea of a path.
fn find_below(
    cache: &GlobalCache,
    lower: &[Digest],
    path: &[u8],
    wanted: Wanted,
) -> Result<Option<std::os::fd::OwnedFd>> {
    for below in lower.iter().rev() {
        match look_in(&cache.layer(below, LayerFile::Tree), path, wanted)? {
            Found::There(found) => return Ok(Some(found)),
            Found::Hidden => return Ok(None),
            Found::Nothing => {}
        }
    }
    Ok(None)
}

fn apply(cache: &GlobalCache, digest: &Digest, changes: Vec<Change>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let (tree, index_path) = (cache.layer(digest, LayerFile::Tree), cache.layer(digest, LayerFile::Index));
    let index = LayerIndex::open(&index_path).ok();
    // While tree and index disagree there is no index.
    remove_file_if_there(&index_path)?;
    let mut patches = Vec::new();
    for change in changes {
        let (path, change) = apply_one(&tree, change)?;
        patches.extend(index.as_ref().and_then(|index| index.record_offset(&path)).map(|at| (at, change)));
    }
    let Some(index) = index else { return Ok(()) };
    let mut bytes = index.as_bytes().to_vec();
    patch(&mut bytes, patches);
    publish_file(&index_path, &bytes)
}

fn apply_one(tree: &Path, change: Change) -> Result<(Vec<u8>, Patch)> {
    match change {
        Change::Directory { path, stat } => {
            if let Some(directory) = open_directory(tree, &path)? {
                step("attribute", tree);
                fsetxattr(&directory, ATTRIBUTE, &stat.to_bytes(), XattrFlags::empty())
                    .map_err(|errno| ImageError::io("set an attribute in", tree, errno))?;
            }
            Ok((path, Patch { stat, file: None }))
        }
        Change::Link { path, file } => {
            let inode = fill(&file, tree, &path)?;
            Ok((path, Patch { stat: file.stat, file: Some((inode, file.size)) }))
        }
    }
}
