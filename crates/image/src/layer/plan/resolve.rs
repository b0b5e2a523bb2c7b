//! Names in an archive → places in the tree.

use crate::{
    error::{ErrorKind, Result},
    layer::{
        limits::{Limits, entry_text},
        plan::{
            inode::NodeKind,
            tree::{EntryId, ROOT, Tree},
        },
    },
};

/// Links followed on the way to one entry, as many as Linux allows.
const MOST_LINKS: usize = 40;

/// The longest name a directory of any file system here can hold, in bytes.
const LONGEST_NAME: usize = 255;

/// The parent directories of a path, walked as far as they exist.
#[derive(Debug)]
pub(super) struct Walked {
    /// The last directory that exists.
    pub(super) directory: EntryId,
    /// Names below it that don't exist yet, parents first. The path's last name is not among them.
    pub(super) missing: Vec<Vec<u8>>,
    /// An entry that stands where the first missing directory must be.
    pub(super) in_the_way: Option<EntryId>,
    /// The last name; `None` for the root itself.
    pub(super) name: Option<Vec<u8>>,
}

/// Walks to the parent of `path`, following the layer's own symbolic links in all components but the last.
pub(super) fn walk(tree: &Tree, path: &[u8], limits: &Limits) -> Result<Walked> {
    let mut rest: Vec<Vec<u8>> = Vec::new();
    push_components(&mut rest, path, path, limits)?;
    let mut at = Position { directory: ROOT, missing: Vec::new(), in_the_way: None };
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            at.up(tree);
            continue;
        }
        if rest.is_empty() {
            return Ok(at.ending_with(Some(name)));
        }
        if let Some(target) = at.down(tree, name)? {
            links += 1;
            if links > MOST_LINKS {
                return Err(unusable(path, "its parents are a loop of symbolic links"));
            }
            if target.starts_with(b"/") {
                at = Position { directory: ROOT, missing: Vec::new(), in_the_way: None };
            }
            push_components(&mut rest, &target, path, limits)?;
        }
    }
    // The path ended in "..", or is the root: what is left is a directory itself.
    at.into_directory(tree)
}

struct Position {
    directory: EntryId,
    missing: Vec<Vec<u8>>,
    in_the_way: Option<EntryId>,
}

impl Position {
    fn up(&mut self, tree: &Tree) {
        if self.missing.pop().is_none() {
            self.directory = tree.parent(self.directory);
        } else if self.missing.is_empty() {
            self.in_the_way = None;
        }
    }

    /// Goes into a directory; gives the target back where a symbolic link stands there.
    fn down(&mut self, tree: &Tree, name: Vec<u8>) -> Result<Option<Vec<u8>>> {
        if !self.missing.is_empty() {
            self.missing.push(name);
            return Ok(None);
        }
        match tree.lookup(self.directory, &name) {
            None => self.missing.push(name),
            Some(found) => match tree.kind(found) {
                NodeKind::Directory => self.directory = found,
                NodeKind::Symlink => return tree.target(&tree.inode(found)?).map(Some),
                NodeKind::Leaf | NodeKind::CrossLayer => {
                    self.in_the_way = Some(found);
                    self.missing.push(name);
                }
            },
        }
        Ok(None)
    }

    fn ending_with(self, name: Option<Vec<u8>>) -> Walked {
        Walked { directory: self.directory, missing: self.missing, in_the_way: self.in_the_way, name }
    }

    fn into_directory(mut self, tree: &Tree) -> Result<Walked> {
        match self.missing.pop() {
            Some(name) => {
                // With one missing name, what stands in the way is that very entry, not a parent of it.
                if self.missing.is_empty() {
                    self.in_the_way = None;
                }
                Ok(self.ending_with(Some(name)))
            }
            None if self.directory == ROOT => Ok(self.ending_with(None)),
            None => {
                let name = tree.name(self.directory).to_vec();
                self.directory = tree.parent(self.directory);
                Ok(self.ending_with(Some(name)))
            }
        }
    }
}

/// The entry a hard link's target names: parents are followed, the last name is not.
pub(super) fn find(tree: &Tree, path: &[u8], limits: &Limits) -> Result<Option<EntryId>> {
    let walked = walk(tree, path, limits)?;
    if !walked.missing.is_empty() {
        return Ok(None);
    }
    Ok(match &walked.name {
        None => Some(ROOT),
        Some(name) => tree.lookup(walked.directory, name),
    })
}

/// A path inside the root by its text alone: no empty names, no `.`, and `..` stops at the root.
pub(super) fn lexical(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join(&b'/')
}

/// A last component that needs no resolving.
pub(super) fn is_plain_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= LONGEST_NAME
}

/// Pushes the components of `path`, the first on top.
fn push_components(rest: &mut Vec<Vec<u8>>, path: &[u8], entry: &[u8], limits: &Limits) -> Result<()> {
    let names = || path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let before = rest.len();
    for (depth, name) in (1u64..).zip(names()) {
        limits.check_depth(before as u64 + depth, entry)?;
        if name.len() > LONGEST_NAME {
            return Err(unusable(entry, "a name in it is longer than 255 bytes"));
        }
        rest.push(name.to_vec());
    }
    rest[before..].reverse();
    Ok(())
}

pub(super) fn unusable(path: &[u8], reason: &str) -> crate::error::ImageError {
    ErrorKind::Extraction { entry: Some(entry_text(path)), reason: reason.to_owned() }.into()
}
