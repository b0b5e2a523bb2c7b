//! What a killed process left, looked at without the code that is tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{FileExt as _, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fs2::FileExt;
use microsandbox_image_core::{
    Digest, GlobalCache, Reference,
    layer::{LayerIndex, read_stat},
};

use crate::{
    golden::Golden,
    support::{amd64, images},
};

/// A tree: each path's kind, content, described owner and mode, number of names.
pub type Tree = BTreeMap<PathBuf, (bool, Vec<u8>, String, u64)>;

pub fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let there = path.symlink_metadata().unwrap();
            let content = if there.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
            let names = if there.is_dir() { 1 } else { there.nlink() };
            let stat = format!("{:?}", read_stat(&path).unwrap());
            tree.insert(path.strip_prefix(root).unwrap().to_owned(), (there.is_dir(), content, stat, names));
            if there.is_dir() {
                directories.push(path);
            }
        }
    }
    tree
}

/// What a layer has under final names, each looked at and found to be what an undisturbed pull publishes. `damaged` says
/// that the base may be the damaged one that was there before.
pub fn whole(
    cache: &GlobalCache,
    layer: &Digest,
    golden: &Golden,
    damaged: impl Fn() -> bool,
) -> BTreeSet<&'static str> {
    let mut whole = BTreeSet::new();
    let of_layer = layer.to_path_safe() + ".";
    for name in names(cache.layers_dir()).into_iter().filter(|name| name.starts_with(&of_layer)) {
        let path = cache.layers_dir().join(&name);
        let (key, suffix) = match name[of_layer.len()..].split_once('.') {
            Some((key, suffix)) if is_random(key) => (Some(key), suffix),
            _ => (None, &name[of_layer.len()..]),
        };
        whole.insert(match (suffix, key) {
            ("tar.gz", None) => {
                let blob = fs::read(path).unwrap();
                assert_eq!(images::sha256(&blob), *layer, "a blob under its final name is damaged");
                "blob"
            }
            ("table" | "inherited" | "implicit_dirs", _) => {
                assert!(Some(&fs::read(path).unwrap()) == golden.files.get(&name), "{name} is not whole");
                match (suffix, key) {
                    ("table", _) => "table",
                    (_, Some(_)) => "keyed list",
                    _ => "list",
                }
            }
            ("extracted", _) => {
                let (there, wanted) = (tree(&path), golden.trees.get(&name).expect("a tree that some image has"));
                let is_damaged = there != *wanted;
                assert!(!is_damaged || damaged() && there == altered(wanted), "{name} is not whole");
                match key {
                    Some(_) => "keyed tree",
                    None if is_damaged => "damaged tree",
                    None => "tree",
                }
            }
            ("index", _) => {
                assert_describes(&path, &path.with_extension("extracted"));
                if key.is_some() { "keyed index" } else { "index" }
            }
            _ => continue,
        });
    }
    whole
}

/// An index tells what is in its tree.
fn assert_describes(index: &Path, root: &Path) {
    assert!(root.exists(), "an index without its tree: {index:?}");
    let index = LayerIndex::open(index).unwrap();
    for entry in tree(root).keys().filter(|path| *path != Path::new(".complete")) {
        let path = root.join(entry);
        let there = path.symlink_metadata().unwrap();
        let row = index.lookup(entry.as_os_str().as_encoded_bytes()).expect("the index names all that is there");
        let size = if there.is_dir() { 0 } else { there.len() };
        let stat = read_stat(&path).unwrap().unwrap();
        let described = (stat.uid, stat.gid, stat.mode);
        assert_eq!((row.inode, row.size, (row.uid, row.gid, row.mode)), (there.ino(), size, described), "{entry:?}");
    }
}

/// The file whose first byte a damaged tree has wrong.
fn victim(tree: &Tree) -> PathBuf {
    let mut files = tree.iter().filter(|(_, (_, content, ..))| !content.is_empty());
    files.next().expect("a file that is not empty").0.clone()
}

fn altered(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    tree.get_mut(&victim(&tree)).unwrap().1[0] ^= 1;
    tree
}

/// Damages a base tree in a way that no look at sizes finds.
pub fn damage(root: &Path) {
    let path = root.join(victim(&tree(root)));
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, 0).unwrap();
}

/// Random names and keys are 16 hex digits or more.
fn is_random(part: &str) -> bool {
    part.len() >= 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// True if the image's metadata are there; then they are right, and all their layers are there.
pub fn is_remembered(cache: &GlobalCache, reference: &str) -> bool {
    let reference = Reference::parse(reference).unwrap();
    let there = cache.image_metadata_path(&reference, &amd64()).exists();
    assert_eq!(cache.lookup(&reference, &amd64()).unwrap().is_some(), there, "metadata without their layers");
    there
}

/// Names of what was not finished, the same in every run.
pub fn unfinished(cache: &GlobalCache) -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    for directory in ["layers", "images", "leases"] {
        for name in names(&cache.directory().join(directory)) {
            let hex = name.bytes().skip_while(|byte| *byte != b'_').skip(1).take_while(u8::is_ascii_hexdigit).count();
            let is_key = name.bytes().take_while(u8::is_ascii_hexdigit).count() == 64;
            let suffix = match (hex, is_key) {
                (64, _) => &name["sha256_".len() + 64..],
                (_, true) => &name[64..],
                _ => &name[..],
            };
            let suffix: Vec<&str> = suffix.split('.').filter(|part| !is_random(part)).collect();
            let suffix = &suffix.join(".")[..];
            let kind = match suffix {
                ".extracting" => ".extracting/",
                _ if suffix.ends_with(".part") => suffix,
                _ if name.starts_with(".trash-") => ".trash-*",
                _ if name.starts_with(".probe-") => ".probe-*",
                "gc.lock" => continue,
                _ if directory == "leases" => "lease",
                _ => continue,
            };
            left.insert(kind.to_owned());
        }
    }
    left
}

/// Waits until nothing unfinished is left: trees are removed in the background.
pub fn assert_swept(cache: &GlobalCache, case: &str) {
    let started = Instant::now();
    while !unfinished(cache).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(5), "{case}: not swept: {:?}", unfinished(cache));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// No lock file is locked.
pub fn assert_no_lock_stays(cache: &GlobalCache) {
    for directory in ["layers", "images", "leases"] {
        for name in names(&cache.directory().join(directory)) {
            if directory == "leases" || name.ends_with(".lock") {
                let file = fs::File::open(cache.directory().join(directory).join(&name)).unwrap();
                // Another test that is just starting its process has all of this one's files for a moment.
                let started = Instant::now();
                while file.try_lock_exclusive().is_err() {
                    assert!(started.elapsed() < Duration::from_secs(2), "{name} is locked");
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(list) = fs::read_dir(directory) else { return Vec::new() };
    list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
