//! What is in a cache directory right now, by name alone: layers, images, and what no finished work left.
//!
//! Trusts nothing in it: names that are none of ours are listed apart and never touched, links are not followed. It
//! changes nothing and takes no lock, so what it says may be outdated a moment later; whoever acts on it locks and looks
//! again.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    error::{ImageError, Result},
    fs::{is_random_name, stat_if_there},
    model::Digest,
    store::{
        CachedImageMetadata, CachedLayerMetadata, GlobalCache, LayerFile, TreeFile, TreeName, trash::TRASH_PREFIX,
    },
};

/// Prefix of the file with which a file system is tried.
const PROBE_PREFIX: &str = ".probe-";

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// What each layer has.
    pub(super) layers: BTreeMap<Digest, BTreeSet<LayerFile>>,
    /// What each tree of a layer has, but for base trees and their indexes.
    pub(super) trees: BTreeMap<TreeName, BTreeSet<TreeFile>>,
    /// Metadata files, damaged ones included.
    pub(super) images: Vec<ImageFile>,
    /// What crashes leave. Unfinished downloads and trees are among a layer's files instead.
    pub(super) leftovers: Vec<Leftover>,
    /// Names that are none of ours.
    pub(super) foreign: Vec<PathBuf>,
}

/// A metadata file.
#[derive(Debug)]
pub(super) struct ImageFile {
    /// Its name without `.json`.
    pub(super) key: String,
    pub(super) path: PathBuf,
    /// `None` if it is damaged.
    pub(super) metadata: Option<CachedImageMetadata>,
    /// When it was last answered from, to the hour.
    pub(super) last_used: SystemTime,
}

/// A file or tree that nobody will finish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) path: PathBuf,
    /// Locks that its maker holds while at work on it.
    pub(super) locks: Vec<PathBuf>,
    /// The lease that its maker holds.
    pub(super) lease: Option<String>,
}

/// What a name below `layers/` is.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Layer(Digest, LayerFile),
    Tree(TreeName, TreeFile),
    /// Being made by the holder of this lease.
    Leased(String),
    Beside(Digest),
    Leftover,
    Foreign,
}

impl Inventory {
    /// Looks. A cache that is not there is empty.
    pub(super) fn read(cache: &GlobalCache) -> Result<Self> {
        let (mut inventory, images) = Self::look(cache)?;
        for (key, path) in images {
            inventory.images.extend(read_image(cache, &key, path)?);
        }
        Ok(inventory)
    }

    /// Looks at names alone: `images` stays empty.
    pub(super) fn without_metadata(cache: &GlobalCache) -> Result<Self> {
        Self::look(cache).map(|(inventory, _)| inventory)
    }

    /// All but the images, and the keys and paths of those.
    fn look(cache: &GlobalCache) -> Result<(Self, Vec<(String, PathBuf)>)> {
        let mut images = Vec::new();
        let mut inventory = Self::default();
        cache.check()?;
        for name in names(cache.layers_dir())? {
            let path = cache.layers_dir().join(&name);
            match classify(&name.to_string_lossy()) {
                Name::Layer(digest, file) => {
                    inventory.layers.entry(digest).or_default().insert(file);
                }
                Name::Tree(tree, file) => {
                    inventory.trees.entry(tree).or_default().insert(file);
                }
                Name::Leased(lease) => {
                    inventory.leftovers.push(Leftover { path, locks: Vec::new(), lease: Some(lease) });
                }
                Name::Beside(digest) => {
                    let locks = vec![cache.layer(&digest, LayerFile::Lock)];
                    inventory.leftovers.push(Leftover { path, locks, lease: None });
                }
                Name::Leftover => inventory.leftovers.push(Leftover { path, locks: Vec::new(), lease: None }),
                Name::Foreign => inventory.foreign.push(path),
            }
        }
        for name in names(cache.images_dir())? {
            let path = cache.images_dir().join(&name);
            let name = name.to_string_lossy();
            match name.split_once('.') {
                _ if name.starts_with(TRASH_PREFIX) => {
                    inventory.leftovers.push(Leftover { path, locks: Vec::new(), lease: None })
                }
                Some((key, "json")) => images.push((key.to_owned(), path)),
                Some((key, rest)) if is_unfinished(rest, &["json"]) => {
                    // Its writer locks the file itself; the original holds the image's lock.
                    let locks = vec![cache.images_dir().join(format!("{key}.lock")), path.clone()];
                    inventory.leftovers.push(Leftover { path, locks, lease: None });
                }
                Some((_, "lock")) => {}
                _ => inventory.foreign.push(path),
            }
        }
        Ok((inventory, images))
    }

    /// The layers that metadata name.
    pub(super) fn named_layers(&self) -> BTreeSet<Digest> {
        let all = self.images.iter().filter_map(|image| image.metadata.as_ref());
        all.flat_map(|metadata| metadata.layers.iter().map(|layer| layer.digest.clone())).collect()
    }
}

impl Inventory {
    /// The trees that metadata name.
    pub(super) fn named_trees(&self) -> BTreeSet<TreeName> {
        let all = self.images.iter().filter_map(|image| image.metadata.as_ref());
        all.flat_map(|metadata| metadata.layers.iter().map(CachedLayerMetadata::tree)).collect()
    }

    /// The trees of a layer, but for its base.
    pub(super) fn trees_of<'a>(
        &'a self,
        digest: &'a Digest,
    ) -> impl Iterator<Item = (&'a TreeName, &'a BTreeSet<TreeFile>)> {
        self.trees.iter().filter(move |(tree, _)| tree.digest == *digest)
    }
}

fn read_image(cache: &GlobalCache, key: &str, path: PathBuf) -> Result<Option<ImageFile>> {
    let Some(there) = stat_if_there(&path)? else { return Ok(None) };
    let last_used = there.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let Some(bytes) = cache.read_metadata_file(&path)? else { return Ok(None) };
    Ok(Some(ImageFile { key: key.to_owned(), path, metadata: CachedImageMetadata::parse(&bytes), last_used }))
}

fn names(directory: &Path) -> Result<Vec<OsString>> {
    if stat_if_there(directory)?.is_none() {
        return Ok(Vec::new());
    }
    let list = || fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    list().map_err(|error| ImageError::io("list", directory, error))
}

fn classify(name: &str) -> Name {
    if name.starts_with(TRASH_PREFIX) || name.starts_with(PROBE_PREFIX) {
        return Name::Leftover;
    }
    let Some((digest, suffix)) = name.find('.').map(|dot| name.split_at(dot)) else { return Name::Foreign };
    let Ok(digest) = Digest::parse(&digest.replacen('_', ":", 1)) else { return Name::Foreign };
    if let Some(file) = LayerFile::ALL.into_iter().find(|file| file.suffix() == suffix) {
        return Name::Layer(digest, file);
    }
    if suffix == TreeFile::List.suffix() {
        return Name::Tree(TreeName::base(&digest), TreeFile::List);
    }
    let rest = &suffix[1..];
    if let Some((random, rest)) = rest.split_once('.').filter(|(random, _)| is_random_name(random)) {
        let file = TreeFile::ALL.into_iter().find(|file| file.suffix().strip_prefix('.') == Some(rest));
        return match file {
            Some(file) => Name::Tree(TreeName::keyed(&digest, random), file),
            None if matches!(rest, "extracting" | "index.part") => Name::Leased(random.to_owned()),
            None if is_unfinished(rest, &["index", "inherited"]) => Name::Beside(digest),
            None => Name::Foreign,
        };
    }
    let unfinished = ["table", "index", "inherited", "implicit_dirs", "lower_links", "link"];
    match rest {
        // Older versions kept a list that nobody reads any more.
        "lower_links" => Name::Beside(digest),
        _ if is_unfinished(rest, &unfinished) => Name::Beside(digest),
        _ => Name::Foreign,
    }
}

/// True for `<file>.<random>.part`, and for the `<file>.part` of the original and of older versions.
fn is_unfinished(name: &str, files: &[&str]) -> bool {
    let Some(name) = name.strip_suffix(".part") else { return false };
    let file = name.rsplit_once('.').filter(|(_, random)| is_random_name(random)).map_or(name, |(file, _)| file);
    files.contains(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let hex = "a".repeat(64);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        for file in LayerFile::ALL {
            let name = format!("sha256_{hex}{}", file.suffix());
            assert_eq!(classify(&name), Name::Layer(digest.clone(), file), "{name}");
        }
        for suffix in ["index.part", "implicit_dirs.part", "table.part", "lower_links.part", "link.part"] {
            assert_eq!(classify(&format!("sha256_{hex}.{suffix}")), Name::Beside(digest.clone()));
        }
        let random = "0123456789abcdef".repeat(2);
        assert_eq!(classify(&format!("sha256_{hex}.index.{random}.part")), Name::Beside(digest.clone()));
        assert!(is_unfinished("json.part", &["json"]) && is_unfinished(&format!("json.{random}.part"), &["json"]));
        assert!(!is_unfinished("json", &["json"]) && !is_unfinished("json.mine.part", &["json"]));
        assert_eq!(classify(".trash-1-2"), Name::Leftover);
        assert_eq!(classify(".probe-1-2"), Name::Leftover);
        for foreign in ["README", "sha256_aa.index", &format!("sha256_{hex}"), &format!("sha256_{hex}.index.old")] {
            assert_eq!(classify(foreign), Name::Foreign, "{foreign}");
        }
    }
}
