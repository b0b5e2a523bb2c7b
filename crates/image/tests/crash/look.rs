//! What a killed process left, looked at without the code that is tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fs2::FileExt;
use microsandbox_image_core::{
    Digest, GlobalCache, Reference,
    layer::{LayerIndex, read_stat},
    store::LayerFile,
};

use crate::{
    support::{amd64, images},
    world::DEPENDENT,
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

/// What a layer has under final names, each looked at and found whole.
pub fn whole(cache: &GlobalCache, layer: &Digest, golden: &Tree) -> BTreeSet<&'static str> {
    let path = |file| cache.layer(layer, file);
    let mut whole = BTreeSet::new();
    if let Ok(blob) = fs::read(path(LayerFile::Blob)) {
        assert_eq!(images::sha256(&blob), *layer, "a blob under its final name is damaged");
        whole.insert("blob");
    }
    let root = path(LayerFile::Tree);
    if root.exists() {
        let mut there = tree(&root);
        let mut wanted = golden.clone();
        if there != wanted {
            // It may still have to be fitted to the layer below.
            for path in DEPENDENT.map(Path::new) {
                assert_eq!(there.remove(path).is_some(), wanted.remove(path).is_some(), "{path:?}");
            }
        }
        assert!(there == wanted, "a tree under its final name is not whole");
        whole.insert("tree");
    }
    if path(LayerFile::Index).exists() {
        assert!(root.exists(), "an index without its tree");
        let index = LayerIndex::open(&path(LayerFile::Index)).unwrap();
        for entry in tree(&root).keys().filter(|path| *path != Path::new(".complete")) {
            let there = root.join(entry).symlink_metadata().unwrap();
            let row = index.lookup(entry.as_os_str().as_encoded_bytes()).expect("the index names all that is there");
            assert_eq!((row.inode, row.size), (there.ino(), if there.is_dir() { 0 } else { there.len() }), "{entry:?}");
        }
        whole.insert("index");
    }
    whole
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
            // Random parts and keys are 16 hex digits or more.
            let is_random = |part: &str| part.len() >= 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
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
