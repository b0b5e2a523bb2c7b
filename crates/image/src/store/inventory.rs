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
    store::{CachedImageMetadata, GlobalCache, InheritedKey, LayerFile, LayerTree, TreeFile, trash::TRASH_PREFIX},
};

/// Prefix of the file with which a file system is tried.
const PROBE_PREFIX: &str = ".probe-";

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// What each layer has.
    pub(super) layers: BTreeMap<Digest, LayerEntry>,
    /// Metadata files, damaged ones included.
    pub(super) images: Vec<ImageFile>,
    /// What crashes leave, unless somebody is at work on it. Unfinished downloads are among a layer's files instead.
    pub(super) leftovers: Vec<Leftover>,
    /// Names that are none of ours.
    pub(super) foreign: Vec<PathBuf>,
}

/// What a layer has.
#[derive(Debug, Default)]
pub(super) struct LayerEntry {
    /// What has a name of the digest alone; the base tree and its index are among it.
    pub(super) files: BTreeSet<LayerFile>,
    /// What there is of each tree that inherits from lower layers.
    pub(super) keyed: BTreeMap<InheritedKey, BTreeSet<TreeFile>>,
}

impl LayerEntry {
    /// The trees of which anything is there, the base tree first.
    pub(super) fn trees(&self, digest: &Digest) -> Vec<LayerTree> {
        let base = OF_BASE_TREE.iter().any(|file| self.files.contains(file)).then(|| LayerTree::base(digest));
        let keyed = self.keyed.keys().map(|key| LayerTree { digest: digest.clone(), inherited: Some(key.clone()) });
        base.into_iter().chain(keyed).collect()
    }

    /// True if there is more than an unfinished download, an unfinished tree and locks.
    pub(super) fn has_content(&self) -> bool {
        let unfinished = |file: &LayerFile| {
            use LayerFile::{DownloadLock, Extracting, Lock, Part};
            matches!(file, Part | Extracting | Lock | DownloadLock)
        };
        !self.keyed.is_empty() || !self.files.iter().all(unfinished)
    }

    /// Paths of what belongs to one tree, in the order in which it has to go: an index without its tree must never be there.
    pub(super) fn tree_paths(&self, cache: &GlobalCache, tree: &LayerTree) -> Vec<PathBuf> {
        match &tree.inherited {
            None => {
                let files = OF_BASE_TREE.into_iter().filter(|file| self.files.contains(file));
                files.map(|file| cache.layer(&tree.digest, file)).collect()
            }
            Some(key) => {
                let there = self.keyed.get(key);
                let files = OF_KEYED_TREE.into_iter().filter(|file| there.is_some_and(|there| there.contains(file)));
                files.map(|file| cache.tree(tree, file)).collect()
            }
        }
    }
}

/// What belongs to a base tree, in the order in which it goes.
const OF_BASE_TREE: [LayerFile; 4] =
    [LayerFile::Index, LayerFile::Tree, LayerFile::ImplicitDirs, LayerFile::LowerLinks];
/// What belongs to another tree, in the order in which it goes.
const OF_KEYED_TREE: [TreeFile; 3] = [TreeFile::Index, TreeFile::Tree, TreeFile::Inherited];

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
    /// A layer that its maker leases while at work on it.
    pub(super) leased_as: Option<Digest>,
}

impl Leftover {
    fn of_nobody(path: PathBuf) -> Self {
        Self { path, locks: Vec::new(), leased_as: None }
    }

    fn locked_by(path: PathBuf, locks: Vec<PathBuf>) -> Self {
        Self { path, locks, leased_as: None }
    }
}

/// What a name below `layers/` is.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Layer(Digest, LayerFile),
    /// What belongs to a tree that inherits from lower layers.
    Keyed(Digest, InheritedKey, TreeFile),
    /// A tree being made, under a name of its own.
    Extracting(Digest),
    /// A file being written beside its place.
    Beside(Digest),
    Leftover,
    Foreign,
}

impl Inventory {
    /// Looks. A cache that is not there is empty.
    pub(super) fn read(cache: &GlobalCache) -> Result<Self> {
        let mut inventory = Self::default();
        cache.check()?;
        for name in names(cache.layers_dir())? {
            let path = cache.layers_dir().join(&name);
            match classify(&name.to_string_lossy()) {
                Name::Layer(digest, file) => {
                    if file == LayerFile::Extracting {
                        let locks = [LayerFile::DownloadLock, LayerFile::Lock].map(|file| cache.layer(&digest, file));
                        inventory.leftovers.push(Leftover::locked_by(path, locks.into()));
                    }
                    inventory.layers.entry(digest).or_default().files.insert(file);
                }
                Name::Keyed(digest, key, file) => {
                    inventory.layers.entry(digest).or_default().keyed.entry(key).or_default().insert(file);
                }
                Name::Extracting(digest) => {
                    // A pull leases its layers; a repair holds the layer's lock.
                    let locks = vec![cache.layer(&digest, LayerFile::Lock)];
                    inventory.leftovers.push(Leftover { path, locks, leased_as: Some(digest) });
                }
                Name::Beside(digest) => {
                    let locks = vec![cache.layer(&digest, LayerFile::Lock)];
                    inventory.leftovers.push(Leftover::locked_by(path, locks));
                }
                Name::Leftover => inventory.leftovers.push(Leftover::of_nobody(path)),
                Name::Foreign => inventory.foreign.push(path),
            }
        }
        for name in names(cache.images_dir())? {
            let path = cache.images_dir().join(&name);
            let name = name.to_string_lossy();
            match name.split_once('.') {
                _ if name.starts_with(TRASH_PREFIX) => inventory.leftovers.push(Leftover::of_nobody(path)),
                Some((key, "json")) => inventory.images.extend(read_image(cache, key, path)?),
                Some((key, rest)) if is_unfinished(rest, &["json"]) => {
                    // Its writer locks the file itself; the original holds the image's lock.
                    let locks = vec![cache.images_dir().join(format!("{key}.lock")), path.clone()];
                    inventory.leftovers.push(Leftover::locked_by(path, locks));
                }
                Some((_, "lock")) => {}
                _ => inventory.foreign.push(path),
            }
        }
        Ok(inventory)
    }

    /// The trees that metadata name.
    pub(super) fn named_trees(&self) -> BTreeSet<LayerTree> {
        self.images.iter().flat_map(ImageFile::trees).collect()
    }
}

impl ImageFile {
    /// The trees of the image; none if its metadata are damaged.
    pub(super) fn trees(&self) -> BTreeSet<LayerTree> {
        self.metadata.iter().flat_map(CachedImageMetadata::trees).collect()
    }

    /// The reference, or the key where the metadata do not tell it.
    pub(super) fn name(&self) -> String {
        let reference = self.metadata.as_ref().and_then(|metadata| metadata.reference.clone());
        reference.unwrap_or_else(|| self.key.clone())
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
    let rest = &suffix[1..];
    if is_unfinished(rest, &["index", "table", "implicit_dirs", "lower_links", "link"]) {
        return Name::Beside(digest);
    }
    let Some((key, rest)) = rest.split_once('.') else { return Name::Foreign };
    let Ok(key) = InheritedKey::parse(key) else { return Name::Foreign };
    match TreeFile::ALL.into_iter().find(|file| file.suffix()[1..] == *rest) {
        Some(file) => Name::Keyed(digest, key, file),
        None if rest == &LayerFile::Extracting.suffix()[1..] => Name::Extracting(digest),
        None if is_unfinished(rest, &["index", "inherited"]) => Name::Beside(digest),
        None => Name::Foreign,
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
        for suffix in ["index.part", "implicit_dirs.part", "lower_links.part", "link.part"] {
            assert_eq!(classify(&format!("sha256_{hex}.{suffix}")), Name::Beside(digest.clone()));
        }
        let random = "0123456789abcdef".repeat(2);
        assert_eq!(classify(&format!("sha256_{hex}.index.{random}.part")), Name::Beside(digest.clone()));
        assert!(is_unfinished("json.part", &["json"]) && is_unfinished(&format!("json.{random}.part"), &["json"]));
        assert!(!is_unfinished("json", &["json"]) && !is_unfinished("json.mine.part", &["json"]));
        let key = InheritedKey::parse(&random).unwrap();
        for file in TreeFile::ALL {
            let name = format!("sha256_{hex}.{key}{}", file.suffix());
            assert_eq!(classify(&name), Name::Keyed(digest.clone(), key.clone(), file), "{name}");
        }
        assert_eq!(classify(&format!("sha256_{hex}.{random}.extracting")), Name::Extracting(digest.clone()));
        for suffix in [format!("{key}.index"), format!("{key}.inherited"), "table".to_owned()] {
            let name = format!("sha256_{hex}.{suffix}.{random}.part");
            assert_eq!(classify(&name), Name::Beside(digest.clone()), "{name}");
        }
        for suffix in ["mine.extracting", "mine.extracted", &format!("{key}.table"), &format!("{key}.lock"), &random] {
            let name = format!("sha256_{hex}.{suffix}");
            assert_eq!(classify(&name), Name::Foreign, "{name}");
        }
        assert_eq!(classify(".trash-1-2"), Name::Leftover);
        assert_eq!(classify(".probe-1-2"), Name::Leftover);
        for foreign in ["README", "sha256_aa.index", &format!("sha256_{hex}"), &format!("sha256_{hex}.index.old")] {
            assert_eq!(classify(foreign), Name::Foreign, "{foreign}");
        }
    }
}
