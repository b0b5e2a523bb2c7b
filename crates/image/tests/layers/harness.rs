//! Unpacks an archive beside a victim directory, and tells the tree as text.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use microsandbox_image_core::{
    ImageError, Result,
    layer::{BlobFacts, LayerIndex, Limits, Source, Unpack, Unpacked, probe_host, read_stat, unpack},
};

use crate::archive::{Archive, MTIME};

/// Gives bytes in pieces.
pub struct Pieces(pub Bytes, pub usize);

impl Source for Pieces {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let count = self.1.min(self.0.len());
        Ok((count > 0).then(|| self.0.split_to(count)))
    }
}

/// A layer that was unpacked, or not.
pub struct Outcome {
    pub root: PathBuf,
    pub unpacked: Result<Unpacked, ImageError>,
    _temp: tempfile::TempDir,
}

pub fn run(bytes: &[u8], limits: Limits) -> Outcome {
    run_in(&scratch(), bytes, limits)
}

/// A directory in memory where that can hold a layer: there are thousands of trees to make and to remove.
pub fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if probe_host(memory).is_ok() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Unpacks in a new directory of `host`, with a victim beside the tree.
pub fn run_in(host: &Path, bytes: &[u8], limits: Limits) -> Outcome {
    run_from(host, |_| Pieces(bytes.to_vec().into(), 10_000), limits)
}

/// As [`run_in`], from a source that may know where the tree is.
pub fn run_from<S: Source>(host: &Path, source: impl FnOnce(&Path) -> S, limits: Limits) -> Outcome {
    let temp = tempfile::tempdir_in(host).unwrap();
    let (root, victim) = (temp.path().join("tree"), temp.path().join("victim"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "untouched").unwrap();
    let unpacked = unpack(source(&root), &root, Unpack { limits, blob: Some(blob_facts()), ..Unpack::default() });
    let beside: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "something was made beside the tree: {beside:?}");
    assert_eq!(fs::read(victim.join("file")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1, "something was made in the victim");
    assert_eq!(fs::metadata(victim.join("file")).unwrap().nlink(), 1, "the victim was linked to");
    Outcome { root, unpacked, _temp: temp }
}

/// Asserts that an archive becomes exactly this tree. One line for each entry, sorted by path:
/// `kind path [octal mode] [uid:gid] [@mtime] [content]`, only what differs from 644 (directories 755), 0:0 and [`MTIME`];
/// kinds are d, i (directory that no entry described), f, l, c, b, p; a further name of an inode is `h path = first`.
#[track_caller]
pub fn unpacks(archive: &Archive, tree: &str) {
    unpacks_bytes(&archive.0, tree);
}

#[track_caller]
pub fn unpacks_bytes(bytes: &[u8], tree: &str) {
    let outcome = run(bytes, Limits::default());
    assert_tree(&outcome, tree);
}

#[track_caller]
pub fn assert_tree(outcome: &Outcome, tree: &str) {
    let unpacked = match &outcome.unpacked {
        Ok(unpacked) => unpacked,
        Err(error) => panic!("refused: {error:?}"),
    };
    let wanted: Vec<&str> = tree.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let described = describe(&outcome.root, unpacked);
    let found: Vec<&str> = described.lines().collect();
    assert_eq!(found, wanted);
    check_index(&outcome.root, unpacked);
}

/// Asserts that an archive is refused with this code and a message that holds `part`.
#[track_caller]
pub fn refuses(archive: &Archive, code: &str, part: &str) {
    refuses_bytes(&archive.0, code, part);
}

#[track_caller]
pub fn refuses_bytes(bytes: &[u8], code: &str, part: &str) {
    refuses_with(bytes, Limits::default(), code, part);
}

#[track_caller]
pub fn refuses_with(bytes: &[u8], limits: Limits, code: &str, part: &str) {
    match run(bytes, limits).unpacked {
        Ok(unpacked) => panic!("{} entries were taken, expected {code}", unpacked.entries),
        Err(error) => {
            assert_eq!(error.code(), code, "{error:?}");
            assert!(error.to_string().contains(part), "{error} does not say {part:?}");
        }
    }
}

/// How often a note was made, by its name in the report.
pub fn noted(archive: &Archive) -> BTreeMap<String, u64> {
    let unpacked = run(&archive.0, Limits::default()).unpacked.unwrap();
    let name = |note| serde_json::to_value(note).unwrap().as_str().unwrap().to_owned();
    unpacked.report.iter().map(|(note, noted)| (name(note), noted.count)).collect()
}

/// All paths below `root`, sorted by bytes.
pub fn paths(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            }
            all.push(entry.path());
        }
    }
    all.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    all
}

pub fn describe(root: &Path, unpacked: &Unpacked) -> String {
    let mut seen = HashMap::new();
    let mut text = String::new();
    let root_stat = read_stat(root).unwrap();
    if root_stat.is_some() {
        writeln!(text, "{}", line(root, Path::new("."), unpacked)).unwrap();
    }
    for path in paths(root) {
        let name = path.strip_prefix(root).unwrap().to_owned();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o7777, if meta.is_dir() { 0o700 } else { 0o600 }, "{name:?} on the host");
        assert!(meta.is_dir() || meta.is_file(), "{name:?} is something else on the host");
        let first = seen.entry(meta.ino()).or_insert_with(|| name.clone());
        if *first != name {
            writeln!(text, "h {} = {}", show(&name), show(first)).unwrap();
            continue;
        }
        writeln!(text, "{}", line(&path, &name, unpacked)).unwrap();
    }
    text
}

fn line(path: &Path, name: &Path, unpacked: &Unpacked) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let stat = read_stat(path).unwrap().unwrap_or_else(|| panic!("{name:?} has no attribute"));
    let implicit = unpacked.implicit_directories.iter().any(|listed| listed == name.as_os_str().as_bytes());
    let kind = match stat.mode & 0o170_000 {
        0o040_000 if implicit => 'i',
        0o040_000 => 'd',
        0o100_000 => 'f',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        other => panic!("{name:?} has type {other:o}"),
    };
    assert_eq!(meta.is_dir(), matches!(kind, 'd' | 'i'), "{name:?}");
    let mut text = format!("{kind} {}", show(name));
    let usual = match kind {
        'd' | 'i' => 0o755,
        'l' => 0o777,
        _ => 0o644,
    };
    if stat.mode & 0o7777 != usual {
        write!(text, " {:o}", stat.mode & 0o7777).unwrap();
    }
    if (stat.uid, stat.gid) != (0, 0) {
        write!(text, " {}:{}", stat.uid, stat.gid).unwrap();
    }
    if kind != 'i' && (meta.mtime(), meta.mtime_nsec()) != (MTIME, 0) {
        write!(text, " @{}", meta.mtime()).unwrap();
        if meta.mtime_nsec() != 0 {
            write!(text, ".{:09}", meta.mtime_nsec()).unwrap();
        }
    }
    if stat.rdev != 0 {
        write!(text, " dev={:x}", stat.rdev).unwrap();
    }
    if kind == 'l' {
        write!(text, " -> {}", String::from_utf8_lossy(&fs::read(path).unwrap())).unwrap();
    } else if meta.is_file() && meta.len() > 60 {
        write!(text, " {} bytes", meta.len()).unwrap();
    } else if meta.is_file() && meta.len() > 0 {
        write!(text, " {}", fs::read(path).unwrap().escape_ascii()).unwrap();
    }
    text
}

fn show(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

/// The index says what the disk says: the same names, inodes, sizes, owners and groups of hard links.
fn check_index(root: &Path, unpacked: &Unpacked) {
    let file = root.with_extension("index");
    let index = unpacked.index.as_ref().expect("every layer here has an index");
    fs::write(&file, index.to_vec().unwrap()).unwrap();
    let index = LayerIndex::open(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let mut visible = 0;
    for path in paths(root) {
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let last = name.rsplit(|&byte| byte == b'/').next().unwrap();
        if last == b".wh..wh..opq" {
            let parent = name[..name.len() - last.len()].strip_suffix(b"/").unwrap_or(b"").to_vec();
            assert!(index.directory(&parent).unwrap().opaque);
            continue;
        }
        visible += 1;
        let (stat, meta) = (read_stat(&path).unwrap().unwrap(), fs::metadata(&path).unwrap());
        let hidden = last.strip_prefix(b".wh.");
        let wanted = hidden.map_or(name.clone(), |hidden| [&name[..name.len() - last.len()], hidden].concat());
        let entry = index.lookup(&wanted).unwrap_or_else(|| panic!("the index lacks {}", wanted.escape_ascii()));
        assert_eq!(entry.whiteout, hidden.is_some());
        if entry.whiteout {
            continue;
        }
        assert_eq!((entry.inode, entry.mode, entry.uid, entry.gid), (meta.ino(), stat.mode, stat.uid, stat.gid));
        if meta.is_file() {
            assert_eq!(entry.size, meta.len(), "{}", name.escape_ascii());
            assert_eq!(index.hard_links(meta.ino()).len() as u64, if meta.nlink() > 1 { meta.nlink() } else { 0 });
        }
    }
    let all: usize = (0..index.directory_count()).map(|at| index.entries(&index.directory_at(at)).count()).sum();
    assert_eq!(all, visible, "the index has other entries than the tree");
}

/// With these a table is made, and looked through whole in builds with assertions.
fn blob_facts() -> BlobFacts {
    let digest = microsandbox_image_core::Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    BlobFacts { digest, size: 0, media_type: String::new() }
}
