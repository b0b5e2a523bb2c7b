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
    store::{CachedImageMetadata, GlobalCache, LayerFile, TreeFile, TreeName, trash::TRASH_PREFIX},
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
    /// The base tree has a list of what it inherits.
    pub(super) base_list: bool,
    /// What there is of each tree that has a key.
    pub(super) keyed: BTreeMap<String, BTreeSet<TreeFile>>,
}

impl LayerEntry {
    /// The trees of which anything is there, the base tree first.
    pub(super) fn trees(&self, digest: &Digest) -> Vec<TreeName> {
        let base = self.base_list || OF_BASE_TREE.iter().any(|file| self.files.contains(file));
        let keyed = self.keyed.keys().map(|key| TreeName::keyed(digest, key));
        base.then(|| TreeName::base(digest)).into_iter().chain(keyed).collect()
    }

    /// True if there is more than an unfinished download, an unfinished tree and locks.
    pub(super) fn has_content(&self) -> bool {
        let unfinished = |file: &LayerFile| {
            use LayerFile::{DownloadLock, Extracting, Lock, Part};
            matches!(file, Part | Extracting | Lock | DownloadLock)
        };
        self.base_list || !self.keyed.is_empty() || !self.files.iter().all(unfinished)
    }

    /// Paths of what belongs to one tree, in the order in which it has to go: an index without its tree must never be there.
    pub(super) fn tree_paths(&self, cache: &GlobalCache, tree: &TreeName) -> Vec<PathBuf> {
        match &tree.inherited {
            None => {
                let files = OF_BASE_TREE.into_iter().filter(|file| self.files.contains(file));
                let list = self.base_list.then(|| cache.tree(tree, TreeFile::List));
                files.map(|file| cache.layer(&tree.digest, file)).chain(list).collect()
            }
            Some(key) => {
                let there = self.keyed.get(key);
                let files = OF_KEYED_TREE.into_iter().filter(|file| there.is_some_and(|there| there.contains(file)));
                files.map(|file| cache.tree(tree, file)).collect()
            }
        }
    }
}

/// What belongs to a base tree, but for its list, which goes last, in the order in which it goes.
const OF_BASE_TREE: [LayerFile; 3] = [LayerFile::Index, LayerFile::Tree, LayerFile::ImplicitDirs];
/// What belongs to another tree, in the order in which it goes.
const OF_KEYED_TREE: [TreeFile; 3] = [TreeFile::Index, TreeFile::Tree, TreeFile::List];

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
    /// Name of the lease that its maker holds.
    pub(super) lease: Option<String>,
}

impl Leftover {
    fn of_nobody(path: PathBuf) -> Self {
        Self { path, locks: Vec::new(), lease: None }
    }

    fn locked_by(path: PathBuf, locks: Vec<PathBuf>) -> Self {
        Self { path, locks, lease: None }
    }
}

/// What a name below `layers/` is.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Layer(Digest, LayerFile),
    /// What belongs to a tree that has a key, or the list of a base tree.
    Tree(TreeName, TreeFile),
    /// Being made by the holder of this lease.
    Leased(String),
    /// A file being written beside its place.
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
                    if file == LayerFile::Extracting {
                        let locks = [LayerFile::DownloadLock, LayerFile::Lock].map(|file| cache.layer(&digest, file));
                        inventory.leftovers.push(Leftover::locked_by(path, locks.into()));
                    }
                    inventory.layers.entry(digest).or_default().files.insert(file);
                }
                Name::Tree(TreeName { digest, inherited }, file) => {
                    let layer = inventory.layers.entry(digest).or_default();
                    match inherited {
                        Some(key) => drop(layer.keyed.entry(key).or_default().insert(file)),
                        None => layer.base_list = true,
                    }
                }
                Name::Leased(lease) => {
                    inventory.leftovers.push(Leftover { path, locks: Vec::new(), lease: Some(lease) });
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
                Some((key, "json")) => images.push((key.to_owned(), path)),
                Some((key, rest)) if is_unfinished(rest, &["json"]) => {
                    // Its writer locks the file itself; the original holds the image's lock.
                    let locks = vec![cache.images_dir().join(format!("{key}.lock")), path.clone()];
                    inventory.leftovers.push(Leftover::locked_by(path, locks));
                }
                Some((_, "lock")) => {}
                _ => inventory.foreign.push(path),
            }
        }
        Ok((inventory, images))
    }

    /// The trees that metadata name.
    pub(super) fn named_trees(&self) -> BTreeSet<TreeName> {
        self.images.iter().flat_map(ImageFile::trees).collect()
    }
}

impl ImageFile {
    /// The trees of the image; none if its metadata are damaged.
    pub(super) fn trees(&self) -> BTreeSet<TreeName> {
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
        let keyed = TreeName::keyed(&digest, &random);
        for file in TreeFile::ALL {
            let name = format!("sha256_{hex}.{random}{}", file.suffix());
            assert_eq!(classify(&name), Name::Tree(keyed.clone(), file), "{name}");
        }
        let list = format!("sha256_{hex}.inherited");
        assert_eq!(classify(&list), Name::Tree(TreeName::base(&digest), TreeFile::List));
        for suffix in ["extracting", "index.part"] {
            let name = format!("sha256_{hex}.{random}.{suffix}");
            assert_eq!(classify(&name), Name::Leased(random.clone()), "{name}");
        }
        for suffix in [format!("{random}.index"), format!("{random}.inherited"), "table".to_owned()] {
            let name = format!("sha256_{hex}.{suffix}.{random}.part");
            assert_eq!(classify(&name), Name::Beside(digest.clone()), "{name}");
        }
        assert_eq!(classify(&format!("sha256_{hex}.lower_links")), Name::Beside(digest));
        for suffix in
            ["mine.extracting", "mine.extracted", &format!("{random}.table"), &format!("{random}.lock"), &random]
        {
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
