//! A tree as rows that can be compared, read from the cache's form or from a real tree.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use microsandbox_image_core::layer::{OverrideStat, read_stat};

pub type Rows = BTreeMap<Vec<u8>, Row>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// With type bits.
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: (u32, u32),
    /// `None` where nobody said one.
    pub mtime: Option<(i64, i64)>,
    /// A link's target, or a file's content by its hash.
    pub content: String,
    /// The first of this inode's names; its own for a directory.
    pub first: Vec<u8>,
    /// The attribute `user.comment`.
    pub comment: Option<Vec<u8>>,
}

pub fn of_cache(root: &Path) -> Rows {
    rows(root, |path| {
        let stat = read_stat(path).unwrap().expect("every entry has the attribute");
        let content = match stat.mode & 0o170_000 {
            0o120_000 => fs::read(path).unwrap().escape_ascii().to_string(),
            0o100_000 => hash(path),
            _ => String::new(),
        };
        (stat, content)
    })
}

pub fn of_host(root: &Path) -> Rows {
    rows(root, |path| {
        let meta = fs::symlink_metadata(path).unwrap();
        let device = u32::try_from(meta.rdev()).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii().to_string()
        } else if meta.is_file() {
            hash(path)
        } else {
            String::new()
        };
        (OverrideStat { uid: meta.uid(), gid: meta.gid(), mode: meta.mode(), rdev: device }, content)
    })
}

/// A tree of `umoci --rootless`, which writes owners other than root down in an attribute.
pub fn of_rootless(root: &Path) -> Rows {
    let mut rows = of_host(root);
    for (path, row) in &mut rows {
        row.owner = rootless_owner(&root.join(OsStr::from_bytes(path)));
    }
    rows
}

/// `user.rootlesscontainers`: a protocol buffer, field 1 the uid, field 2 the gid; all ones stand for root.
fn rootless_owner(path: &Path) -> (u32, u32) {
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(path, "user.rootlesscontainers", &mut value[..]).unwrap_or(0);
    let mut owner = (0, 0);
    let mut bytes = value[..length].iter();
    while let Some(&key) = bytes.next() {
        let mut number = 0;
        for (at, &byte) in bytes.by_ref().enumerate() {
            number |= u32::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                break;
            }
        }
        let number = if number == u32::MAX { 0 } else { number };
        match key {
            0x08 => owner.0 = number,
            0x10 => owner.1 = number,
            other => panic!("{} has the unknown field {other:x}", path.display()),
        }
    }
    owner
}

fn rows(root: &Path, read: impl Fn(&Path) -> (OverrideStat, String)) -> Rows {
    let mut paths = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut firsts = HashMap::new();
    let row = |path: &Path| {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let meta = fs::symlink_metadata(path).unwrap();
        let (stat, content) = read(path);
        let first = firsts.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
        let device = u64::from(stat.rdev);
        let row = Row {
            mode: stat.mode,
            owner: (stat.uid, stat.gid),
            device: (rustix::fs::major(device), rustix::fs::minor(device)),
            mtime: Some((meta.mtime(), meta.mtime_nsec())),
            content,
            first,
            comment: comment(path),
        };
        (name, row)
    };
    let mut row = row;
    paths.iter().map(|path| row(path)).collect()
}

fn comment(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(path, "user.comment", &mut value[..]).ok()?;
    Some(value[..length].to_vec())
}

fn hash(path: &Path) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(fs::read(path).unwrap()))
}

#[track_caller]
pub fn assert_alike(name: &str, ours: &Rows, theirs: &Rows) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path))) {
        let (our, their) = (ours.get(path), theirs.get(path));
        if our != their {
            differences.push(format!("{:?}\n  ours   {our:?}\n  theirs {their:?}", OsStr::from_bytes(path)));
        }
    }
    assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
}
