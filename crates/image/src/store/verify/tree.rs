//! A tree against its index, and a tree against another one. Follows no link; trusts neither.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use crate::{
    error::{ImageError, Result},
    layer::{Halt, LayerIndex, read_stat},
    store::{COMPLETE_MARKER, verify::report::ProblemKind},
};

const OPAQUE: &[u8] = b".wh..wh..opq";
/// Differences told of one tree; more tell nothing new.
const MOST: usize = 16;

/// A difference: what, where in the tree, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) kind: ProblemKind,
    pub(super) path: PathBuf,
    pub(super) detail: String,
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, kind: ProblemKind, path: PathBuf, detail: impl Into<String>) {
        if self.0.len() < MOST {
            self.0.push(Difference { kind, path, detail: detail.into() });
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }
}

/// What came of comparing a tree with its index.
pub(super) struct Compared {
    pub(super) differences: Vec<Difference>,
    /// True if no inode number of the index was right, so that only names were compared.
    pub(super) foreign: bool,
}

/// Every name of the index is in the tree in the right length, and nothing else is.
pub(super) fn compare_with_index(tree: &Path, index: &LayerIndex, halt: &Halt) -> Result<Compared> {
    let foreign = is_foreign(tree, index);
    let mut found = Differences::default();
    for at in 0..index.directory_count() {
        halt.check()?;
        if found.is_full() {
            break;
        }
        let record = index.directory_at(at);
        let directory = tree.join(OsStr::from_bytes(record.path));
        // A directory that is not there is told of by the one above it.
        let Some(mut names) = names(&directory)? else { continue };
        if record.path.is_empty() {
            names.remove(COMPLETE_MARKER.as_bytes());
        }
        let hidden = index.tombstones(&record).into_iter().map(|name| [b".wh.", name].concat());
        let hidden = hidden.chain(record.opaque.then(|| OPAQUE.to_vec()));
        for name in hidden {
            if !names.remove(&name) {
                found.add(ProblemKind::MissingFile, directory.join(OsStr::from_bytes(&name)), "the index lists it");
            }
        }
        for entry in index.entries(&record) {
            let name = if entry.whiteout { [b".wh.", entry.name].concat() } else { entry.name.to_vec() };
            let path = directory.join(OsStr::from_bytes(&name));
            names.remove(&name);
            let Ok(there) = fs::symlink_metadata(&path) else {
                found.add(ProblemKind::MissingFile, path, "the index lists it");
                continue;
            };
            if entry.whiteout {
                continue;
            }
            if there.is_dir() != entry.directory.is_some() {
                found.add(ProblemKind::WrongFile, path, "the index says that it is of another type");
            } else if !foreign && !there.is_dir() && there.len() != entry.size {
                let detail = format!("it has {} bytes, the index says {}", there.len(), entry.size);
                found.add(ProblemKind::WrongFile, path, detail);
            } else if !foreign && there.ino() != entry.inode {
                found.add(ProblemKind::WrongFile, path, "it is not the file that the index was made of");
            }
        }
        for name in names {
            // An image may have a file of the marker's name; the root's own is in the index then, or not at all.
            found.add(ProblemKind::ExtraFile, directory.join(OsStr::from_bytes(&name)), "the index does not list it");
        }
    }
    Ok(Compared { differences: found.0, foreign })
}

/// True if the first inode numbers of the index are all wrong.
fn is_foreign(tree: &Path, index: &LayerIndex) -> bool {
    let mut looked_at = 0;
    for at in 0..index.directory_count() {
        let record = index.directory_at(at);
        for entry in index.entries(&record).filter(|entry| !entry.whiteout) {
            let path = tree.join(OsStr::from_bytes(record.path)).join(OsStr::from_bytes(entry.name));
            match fs::symlink_metadata(path) {
                Ok(there) if there.ino() == entry.inode => return false,
                Ok(_) => looked_at += 1,
                Err(_) => {}
            }
            if looked_at >= 64 {
                return true;
            }
        }
    }
    looked_at > 0
}

/// What may differ between a tree in use and one that was just unpacked, relative to the root: what depends on lower
/// layers.
#[derive(Default)]
pub(super) struct Excused {
    /// Directories whose attribute may differ.
    pub(super) directories: BTreeSet<Vec<u8>>,
    /// Files that may differ in all.
    pub(super) files: BTreeSet<Vec<u8>>,
    /// Files and directories that may be missing.
    pub(super) absent: BTreeSet<Vec<u8>>,
}

/// What the original leaves out of a tree: these links to lower layers, and the directories that were made for them alone.
/// `complete` is a tree with all of it, `implied` are its directories without an entry.
pub(super) fn left_out(
    complete: &Path,
    links: impl IntoIterator<Item = Vec<u8>>,
    implied: &[Vec<u8>],
    halt: &Halt,
) -> Result<BTreeSet<Vec<u8>>> {
    let mut absent: BTreeSet<Vec<u8>> = links.into_iter().collect();
    // A directory comes after what it lies in, so it is looked at before.
    let implied: BTreeSet<&Vec<u8>> = implied.iter().filter(|path| !path.is_empty()).collect();
    for directory in implied.into_iter().rev() {
        halt.check()?;
        let inside = names(&complete.join(OsStr::from_bytes(directory)))?.unwrap_or_default();
        if inside.iter().all(|name| absent.contains(&child(directory, name))) {
            absent.insert(directory.clone());
        }
    }
    Ok(absent)
}

fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// The two trees have the same names, types, bytes and owners.
pub(super) fn compare_trees(is: &Path, must_be: &Path, excused: &Excused, halt: &Halt) -> Result<Vec<Difference>> {
    let mut found = Differences::default();
    let mut open = vec![Vec::new()];
    while let Some(at) = open.pop() {
        halt.check()?;
        if found.is_full() {
            break;
        }
        let (left, right) = (is.join(OsStr::from_bytes(&at)), must_be.join(OsStr::from_bytes(&at)));
        let mut there = names(&left)?.unwrap_or_default();
        let mut wanted = names(&right)?.unwrap_or_default();
        if at.is_empty() && !wanted.contains(COMPLETE_MARKER.as_bytes()) {
            there.remove(COMPLETE_MARKER.as_bytes());
        }
        for extra in there.difference(&wanted) {
            found.add(ProblemKind::ExtraFile, left.join(OsStr::from_bytes(extra)), "the layer does not have it");
        }
        for missing in wanted.difference(&there).filter(|name| !excused.absent.contains(&child(&at, name))) {
            found.add(ProblemKind::MissingFile, left.join(OsStr::from_bytes(missing)), "the layer has it");
        }
        wanted.retain(|name| there.contains(name));
        for name in wanted {
            let path = child(&at, &name);
            if excused.files.contains(&path) {
                continue;
            }
            let (left, right) = (left.join(OsStr::from_bytes(&name)), right.join(OsStr::from_bytes(&name)));
            let attribute = !excused.directories.contains(&path);
            match difference(&left, &right, attribute, halt)? {
                Some(detail) => found.add(ProblemKind::WrongFile, left, detail),
                None if fs::symlink_metadata(&right).is_ok_and(|file| file.is_dir()) => open.push(path),
                None => {}
            }
        }
    }
    Ok(found.0)
}

fn difference(left: &Path, right: &Path, attribute: bool, halt: &Halt) -> Result<Option<&'static str>> {
    let stat = |path: &Path| fs::symlink_metadata(path).map_err(|error| ImageError::io("stat", path, error));
    let (is, must_be) = (stat(left)?, stat(right)?);
    if is.file_type() != must_be.file_type() {
        return Ok(Some("it is of another type"));
    }
    if attribute && read_stat(left)? != read_stat(right)? {
        return Ok(Some("it has another owner, mode or device number"));
    }
    if !is.is_dir() && is.len() != must_be.len() {
        return Ok(Some("it has another length"));
    }
    if is.is_symlink() {
        let target = |path: &Path| fs::read_link(path).map_err(|error| ImageError::io("read", path, error));
        return Ok((target(left)? != target(right)?).then_some("it leads elsewhere"));
    }
    if is.is_file() && !same_bytes(left, right, halt)? {
        return Ok(Some("it has other content"));
    }
    Ok(None)
}

fn same_bytes(left: &Path, right: &Path, halt: &Halt) -> Result<bool> {
    let (mut is, mut must_be) = (open(left)?, open(right)?);
    let (mut a, mut b) = (vec![0; 128 << 10], vec![0; 128 << 10]);
    loop {
        halt.check()?;
        let length = is.read(&mut a).map_err(|error| ImageError::io("read", left, error))?;
        if length == 0 {
            let more = must_be.read(&mut b[..1]).map_err(|error| ImageError::io("read", right, error))?;
            return Ok(more == 0);
        }
        match must_be.read_exact(&mut b[..length]) {
            Ok(()) if a[..length] == b[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(ImageError::io("read", right, error)),
        }
    }
}

/// Opens a regular file for reading; nothing else in its place is opened or followed.
pub(super) fn open(path: &Path) -> Result<File> {
    crate::fs::open_file(path)
}

/// The names in a directory; `None` if it is not there, or something else is.
fn names(directory: &Path) -> Result<Option<BTreeSet<Vec<u8>>>> {
    if !fs::symlink_metadata(directory).is_ok_and(|there| there.is_dir()) {
        return Ok(None);
    }
    let list = || fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_vec())).collect::<io::Result<_>>();
    list().map(Some).map_err(|error| ImageError::io("list", directory, error))
}
