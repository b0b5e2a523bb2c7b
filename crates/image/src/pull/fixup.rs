//! Directories that no entry of a layer described take what the nearest lower layer says of them (SPEC §4).
//!
//! A layer is shared by images that stand on other layers, so what was right for the image before may be wrong for this
//! one: every pull looks again, and changes a layer only where something differs.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, openat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    fs::{Lock, publish_file, read_if_there, remove_file_if_there},
    layer::{LayerIndex, OverrideStat, patch_stats, read_list},
    model::Digest,
    pull::options::Settings,
    store::{GlobalCache, LayerFile},
};

const ATTRIBUTE: &std::ffi::CStr = c"user.containers.override_stat";
const UNDESCRIBED: OverrideStat = OverrideStat { uid: 0, gid: 0, mode: 0o040_755, rdev: 0 };

/// A directory of a layer and what it must say.
struct Change {
    path: Vec<u8>,
    stat: OverrideStat,
}

/// Looks through an image's layers, bottom first, and mends what differs. No layer's lock is held while another's is
/// waited for.
pub(super) async fn fix_implicit_directories(
    cache: &GlobalCache,
    settings: &Settings,
    layers: &[Digest],
) -> Result<()> {
    for (at, digest) in layers.iter().enumerate() {
        let (cache, digest, lower) = (cache.clone(), digest.clone(), layers[..at].to_vec());
        let look = {
            let (cache, digest, lower) = (cache.clone(), digest.clone(), lower.clone());
            move || find_changes(&cache, &digest, &lower)
        };
        if off_thread(look).await?.is_empty() {
            continue;
        }
        let lock = Lock::acquire(&cache.layer(&digest, LayerFile::Lock), settings.lock_timeout, |_| {}).await?;
        off_thread(move || {
            let changes = find_changes(&cache, &digest, &lower)?;
            apply(&cache, &digest, &changes)?;
            drop(lock);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ImageError::internal("mending implicit directories panicked"))?
}

fn find_changes(cache: &GlobalCache, digest: &Digest, lower: &[Digest]) -> Result<Vec<Change>> {
    let list = cache.layer(digest, LayerFile::ImplicitDirs);
    let Some(bytes) = read_if_there(&list)? else { return Ok(Vec::new()) };
    let tree = cache.layer(digest, LayerFile::Tree);
    let mut changes = Vec::new();
    for path in read_list(&bytes, &list.display().to_string())? {
        let Some(directory) = open_directory(&tree, &path)? else { continue };
        let is = read_stat(&directory);
        let mut must_be = UNDESCRIBED;
        for below in lower.iter().rev() {
            match look_in(&cache.layer(below, LayerFile::Tree), &path)? {
                Below::Has(stat) => {
                    must_be = stat;
                    break;
                }
                Below::Hides => break,
                Below::Nothing => {}
            }
        }
        if is != Some(must_be) {
            changes.push(Change { path, stat: must_be });
        }
    }
    Ok(changes)
}

fn apply(cache: &GlobalCache, digest: &Digest, changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let (tree, index_path) = (cache.layer(digest, LayerFile::Tree), cache.layer(digest, LayerFile::Index));
    // While tree and index disagree there is no index.
    let index = LayerIndex::open(&index_path).ok();
    let patched = index.as_ref().map(|index| {
        let mut bytes = index.as_bytes().to_vec();
        let places = changes.iter().filter_map(|change| Some((index.record_offset(&change.path)?, change.stat)));
        patch_stats(&mut bytes, places);
        bytes
    });
    remove_file_if_there(&index_path)?;
    for change in changes {
        if let Some(directory) = open_directory(&tree, &change.path)? {
            fsetxattr(&directory, ATTRIBUTE, &change.stat.to_bytes(), XattrFlags::empty())
                .map_err(|errno| ImageError::io("set an attribute in", &tree, errno))?;
        }
    }
    match patched {
        Some(bytes) => publish_file(&index_path.with_extension("index.part"), &index_path, &bytes),
        None => Ok(()),
    }
}

/// What a lower layer says of a directory.
enum Below {
    Has(OverrideStat),
    /// It removes the path, or has something else there: what is further down does not count.
    Hides,
    Nothing,
}

fn look_in(tree: &Path, path: &[u8]) -> Result<Below> {
    let Some(mut directory) = open_directory(tree, b"")? else { return Ok(Below::Nothing) };
    for name in path.split(|&byte| byte == b'/') {
        match openat(&directory, name, FLAGS, Mode::empty()) {
            Ok(found) => directory = found,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Below::Hides),
            Err(Errno::NOENT) => {
                let whiteout = [b".wh.", name].concat();
                let hidden = exists(&directory, &whiteout) || exists(&directory, b".wh..wh..opq");
                return Ok(if hidden { Below::Hides } else { Below::Nothing });
            }
            Err(errno) => return Err(ImageError::io("open a directory in", tree, errno)),
        }
    }
    Ok(read_stat(&directory).map_or(Below::Nothing, Below::Has))
}

const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory of a tree component by component, following no link. `None` if it is not there.
fn open_directory(tree: &Path, path: &[u8]) -> Result<Option<OwnedFd>> {
    let root = openat(CWD, tree, FLAGS, Mode::empty());
    let mut directory = root.map_err(|errno| ImageError::io("open the tree", tree, errno))?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        directory = match openat(&directory, name, FLAGS, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(ImageError::io("open a directory in", tree, errno)),
        };
    }
    Ok(Some(directory))
}

fn exists(directory: &OwnedFd, name: &[u8]) -> bool {
    rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn read_stat(directory: &OwnedFd) -> Option<OverrideStat> {
    let mut bytes = [0; 20];
    let length = fgetxattr(directory, ATTRIBUTE, &mut bytes[..]).ok()?;
    OverrideStat::from_bytes(bytes.get(..length)?)
}
