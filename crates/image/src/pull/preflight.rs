//! What is asked before the first byte of a layer: how much is to be downloaded, and whether it can fit on the disk,
//! answered by what is certain.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::free_space,
    layer::Halt,
    model::{Descriptor, Digest},
    pull::{
        Registry,
        need::{self, Wanted},
        options::PullOptions,
        receive::{Held, held},
    },
    registry::ResolvedImage,
    store::{GlobalCache, LayerFile},
};

impl Registry {
    /// Bytes that the downloads of a pull will count up to: those of all layers that are to be downloaded, as often as they
    /// are listed, without layers that are there undamaged.
    pub(super) async fn bytes_to_download(&self, resolved: &ResolvedImage, options: &PullOptions) -> Result<u64> {
        let (cache, blobs, force, index) =
            (self.cache().clone(), resolved.layers.clone(), options.force, options.index);
        let counted = tokio::task::spawn_blocking(move || {
            // The tree is looked at only where it matters, since that is a `stat` a file.
            let comes = |blob: &Descriptor| {
                force || (bytes_to_come(&cache, blob) > 0 && !is_ready(&cache, &blob.digest, index))
            };
            let mut seen: BTreeMap<&Digest, bool> = BTreeMap::new();
            blobs.iter().fold(0, |sum: u64, blob| {
                let counts = *seen.entry(&blob.digest).or_insert_with(|| comes(blob));
                if counts { sum.saturating_add(blob.size) } else { sum }
            })
        });
        counted.await.map_err(|_| ImageError::internal("looking at the cache panicked"))
    }

    /// Fails with `ERR_NO_SPACE` if it is certain that there is too little room.
    pub(super) async fn check_space(&self, resolved: &ResolvedImage, options: &PullOptions) -> Result<()> {
        let cache = self.cache().clone();
        let blobs = resolved.layers.clone();
        let keep_blobs = options.keep_blobs;
        let checked = tokio::task::spawn_blocking(move || check(&cache, &blobs, keep_blobs));
        checked.await.map_err(|_| ImageError::internal("looking for room panicked"))?
    }
}

fn check(cache: &GlobalCache, blobs: &[Descriptor], keep_blobs: bool) -> Result<()> {
    let (mut seen, begun) = (BTreeSet::new(), begun(cache));
    let wanted: Vec<Wanted> =
        blobs.iter().filter(|blob| seen.insert(&blob.digest)).filter_map(|blob| wanted(cache, &begun, blob)).collect();
    let Some(free) = free_space(cache.layers_dir()) else { return Ok(()) };
    let need = Some(need::least(&wanted, keep_blobs)).filter(|&need| need > free.bytes);
    let no_inodes = free.inodes.is_some_and(|inodes| inodes < need::least_inodes(wanted.len()));
    if need.is_none() && !no_inodes {
        return Ok(());
    }
    let path = cache.layers_dir().display().to_string();
    Err(ErrorKind::NoSpace { path, need, free: Some(free.bytes), free_inodes: free.inodes }.into())
}

/// Layers that have a tree, finished or not, by the names in the cache.
fn begun(cache: &GlobalCache) -> BTreeSet<String> {
    let list = std::fs::read_dir(cache.layers_dir()).into_iter().flatten().flatten();
    let names = list.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let trees =
        names.filter(|name| [LayerFile::Tree, LayerFile::Extracting].iter().any(|file| name.ends_with(file.suffix())));
    trees.filter_map(|name| Some(name.split_once('.')?.0.to_owned())).collect()
}

/// What is certain to be needed for a layer; nothing if it takes its space already because somebody brings it in right now,
/// or if it may take the space of a tree that it replaces.
fn wanted(cache: &GlobalCache, begun: &BTreeSet<String>, blob: &Descriptor) -> Option<Wanted> {
    if begun.contains(&blob.digest.to_path_safe()) {
        return None;
    }
    Some(Wanted::new(blob.size, bytes_to_come(cache, blob), Some(&blob.media_type)))
}

fn is_ready(cache: &GlobalCache, digest: &Digest, index: bool) -> bool {
    cache.has_content(digest, index, &Halt::default()).unwrap_or(false)
}

fn bytes_to_come(cache: &GlobalCache, blob: &Descriptor) -> u64 {
    let path = |file| cache.layer(&blob.digest, file);
    let Ok(trust) = cache.trust() else { return blob.size };
    match held(&path(LayerFile::Blob), &path(LayerFile::Part), blob.size, &trust) {
        Held::Blob => 0,
        Held::Part(length) => blob.size - length,
        Held::Nothing => blob.size,
    }
}
