//! What is asked before the first byte of a layer: how much is to be downloaded, and whether it can fit on the disk,
//! answered by what is certain.

use std::collections::{BTreeMap, BTreeSet};

use tokio_util::sync::CancellationToken;

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
        waiting::stoppable,
    },
    registry::ResolvedImage,
    store::{GlobalCache, LayerFile},
};

impl Registry {
    /// Bytes that the downloads of a pull will count up to: those of all layers that are to be downloaded, as often as they
    /// are listed, without layers that are there undamaged.
    pub(super) async fn bytes_to_download(
        &self,
        resolved: &ResolvedImage,
        options: &PullOptions,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let (cache, blobs, force, index) =
            (self.cache().clone(), resolved.layers.clone(), options.force, options.index);
        let count = move |halt: &Halt| {
            // The tree is looked at only where it matters, since that is a `stat` a file.
            let comes = |blob: &Descriptor| {
                force || (bytes_to_come(&cache, blob) > 0 && !is_ready(&cache, &blob.digest, index, halt))
            };
            let mut seen: BTreeMap<&Digest, bool> = BTreeMap::new();
            let mut sum: u64 = 0;
            for blob in &blobs {
                let counts = *seen.entry(&blob.digest).or_insert_with(|| comes(blob));
                halt.check()?;
                sum = if counts { sum.saturating_add(blob.size) } else { sum };
            }
            Ok(sum)
        };
        stoppable(cancel, count).await
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

fn is_ready(cache: &GlobalCache, digest: &Digest, index: bool, halt: &Halt) -> bool {
    cache.has_content(digest, index, halt).unwrap_or(false)
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        model::{Algorithm, ParsedConfig, Platform},
        pull::Settings,
        registry::ClientOptions,
    };

    fn image(count: usize) -> ResolvedImage {
        let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
        let blob =
            |at: usize| Descriptor { media_type: String::new(), digest: digest(&at.to_string()), size: 10, data: None };
        ResolvedImage {
            platform: Platform::parse("linux/amd64").unwrap(),
            manifest_digest: digest("m"),
            index_digest: None,
            manifest_media_type: String::new(),
            raw_index: None,
            raw_manifest: Bytes::new(),
            config_digest: digest("c"),
            raw_config: Bytes::new(),
            config: ParsedConfig::parse(br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).unwrap(),
            layers: (0..count).map(blob).collect(),
            reason: String::new(),
            candidates: Vec::new(),
            mirrors: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_pull_is_stopped_while_it_counts_what_is_to_come() {
        let temp = tempfile::tempdir().unwrap();
        let (cache, platform) = (GlobalCache::new(temp.path()), Platform::parse("linux/amd64").unwrap());
        let registry = Registry::new(cache, platform, ClientOptions::default(), Settings::default()).unwrap();
        let (image, options, cancel) = (image(3), PullOptions::default(), CancellationToken::new());
        assert_eq!(registry.bytes_to_download(&image, &options, &cancel).await.unwrap(), 30);
        cancel.cancel();
        assert!(registry.bytes_to_download(&image, &options, &cancel).await.unwrap_err().is_aborted());
    }
}
