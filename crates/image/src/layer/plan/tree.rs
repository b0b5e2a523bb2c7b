//! The layer's tree in memory: entries (a name in a directory) and inodes (what the names stand for), as in a file
//! system. It is the only record of what was extracted; the index is built from it.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::{
    error::Result,
    layer::{
        stat::OverrideStat,
        table::StreamSegment,
        tar::{Member, Timestamp},
    },
};

/// An entry: a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(u32);

/// An inode: what one or more names stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InodeId(pub(crate) u32);

/// The root directory.
pub(crate) const ROOT: EntryId = EntryId(0);

const NONE: u32 = u32::MAX;

/// What an inode is, as far as names are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A regular file, a device, a pipe, or a whiteout.
    Leaf,
    /// A placeholder of a hard link to a file of a lower layer, with the target's path inside the image.
    CrossLayer(Box<[u8]>),
}

pub(crate) struct Inode {
    pub(crate) content: Content,
    pub(crate) stat: OverrideStat,
    pub(crate) mtime: Timestamp,
    /// Length on the host, in bytes.
    pub(crate) size: u64,
    /// The host's inode number; 0 until it is known.
    pub(crate) host: u64,
    /// Names of this inode.
    pub(crate) links: u32,
    /// For a directory: no entry of the archive described it.
    pub(crate) implicit: bool,
    /// Where the content begins in the uncompressed stream, if there is any.
    pub(crate) position: Option<u64>,
    /// What few inodes have.
    pub(crate) details: Option<Box<Details>>,
}

/// Attributes and segments of an inode.
#[derive(Debug, Default)]
pub(crate) struct Details {
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    segments: Vec<StreamSegment>,
}

impl Inode {
    /// An inode of this kind that no entry described: 0:0, without content.
    pub(crate) fn new(content: Content, stat: OverrideStat) -> Self {
        Self {
            content,
            stat,
            mtime: Timestamp::default(),
            size: 0,
            host: 0,
            links: 1,
            implicit: false,
            position: None,
            details: None,
        }
    }

    /// Extended attributes as the image has them, sorted by name.
    pub(crate) fn xattrs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        self.details.as_ref().map_or(&[], |details| &details.xattrs)
    }

    /// What of a sparse file is no hole.
    pub(crate) fn segments(&self) -> &[StreamSegment] {
        self.details.as_ref().map_or(&[], |details| &details.segments)
    }

    /// Takes the extended attributes of an entry; those it does not name stay.
    pub(super) fn take_xattrs(&mut self, member: &Member<'_>) {
        if member.xattrs.is_empty() {
            return;
        }
        let known = &mut self.details.get_or_insert_default().xattrs;
        known.retain(|(name, _)| !member.xattrs.iter().any(|(other, _)| other == name));
        known.extend_from_slice(member.xattrs);
        known.sort();
    }

    /// Takes the place of a file's content.
    pub(super) fn take_position(&mut self, member: &Member<'_>) {
        if member.stored == 0 {
            return;
        }
        self.position = Some(member.position);
        let mut position = member.position;
        let mut segments = Vec::new();
        for segment in member.segments.iter().filter(|segment| segment.length > 0) {
            segments.push(StreamSegment { offset: segment.offset, length: segment.length, position });
            position += segment.length;
        }
        if !segments.is_empty() {
            self.details.get_or_insert_default().segments = segments;
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.content == Content::Directory
    }
}

struct Entry {
    parent: EntryId,
    inode: InodeId,
    name_start: u32,
    name_length: u16,
    alive: bool,
    first_child: u32,
    next_sibling: u32,
    previous_sibling: u32,
}

/// The tree of one layer.
pub(crate) struct Tree {
    entries: Vec<Entry>,
    inodes: Vec<Inode>,
    names: Vec<u8>,
    by_name: HashTable<EntryId>,
    hasher: RandomState,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            entries: Vec::new(),
            inodes: Vec::new(),
            names: Vec::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
        };
        let inode = tree.add_inode(implicit_directory());
        tree.entries.push(Entry {
            parent: ROOT,
            inode,
            name_start: 0,
            name_length: 0,
            alive: true,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
        });
        tree
    }

    pub(crate) fn add_inode(&mut self, inode: Inode) -> InodeId {
        let id = InodeId(u32::try_from(self.inodes.len()).expect("a layer has fewer than 2^32 entries"));
        self.inodes.push(inode);
        id
    }

    /// Adds a name that is not there yet.
    pub(crate) fn add_entry(&mut self, parent: EntryId, name: &[u8], inode: InodeId) -> EntryId {
        let id = EntryId(u32::try_from(self.entries.len()).expect("a layer has fewer than 2^32 entries"));
        let name_start = u32::try_from(self.names.len()).expect("names of a layer take less than 4 GiB");
        self.names.extend_from_slice(name);
        let next_sibling = std::mem::replace(&mut self.entries[parent.0 as usize].first_child, id.0);
        if let Some(next) = self.entries.get_mut(next_sibling as usize) {
            next.previous_sibling = id.0;
        }
        self.entries.push(Entry {
            parent,
            inode,
            name_start,
            name_length: u16::try_from(name.len()).expect("a name is at most 255 bytes"),
            alive: true,
            first_child: NONE,
            next_sibling,
            previous_sibling: NONE,
        });
        let hash = self.hash(parent, name);
        let (entries, names, hasher) = (&self.entries, &self.names, &self.hasher);
        self.by_name.insert_unique(hash, id, |&other| {
            let entry = &entries[other.0 as usize];
            hasher.hash_one((entry.parent.0, name_of(names, entry)))
        });
        id
    }

    pub(crate) fn lookup(&self, parent: EntryId, name: &[u8]) -> Option<EntryId> {
        let same = |&id: &EntryId| {
            let entry = &self.entries[id.0 as usize];
            entry.parent == parent && name_of(&self.names, entry) == name
        };
        self.by_name.find(self.hash(parent, name), same).copied()
    }

    /// Takes a name away, and for a directory all below it.
    pub(crate) fn remove(&mut self, id: EntryId) {
        let parent = self.parent(id);
        self.unlink_sibling(parent, id);
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            pending.extend(self.children(id));
            let hash = self.hash(self.parent(id), self.name(id));
            if let Ok(found) = self.by_name.find_entry(hash, |&other| other == id) {
                found.remove();
            }
            let entry = &mut self.entries[id.0 as usize];
            entry.alive = false;
            entry.first_child = NONE;
            self.inodes[entry.inode.0 as usize].links -= 1;
        }
    }

    fn unlink_sibling(&mut self, parent: EntryId, id: EntryId) {
        let Entry { next_sibling, previous_sibling, .. } = self.entries[id.0 as usize];
        if let Some(next) = self.entries.get_mut(next_sibling as usize) {
            next.previous_sibling = previous_sibling;
        }
        match self.entries.get_mut(previous_sibling as usize) {
            Some(previous) => previous.next_sibling = next_sibling,
            None => self.entries[parent.0 as usize].first_child = next_sibling,
        }
    }

    pub(crate) fn parent(&self, id: EntryId) -> EntryId {
        self.entries[id.0 as usize].parent
    }

    pub(crate) fn name(&self, id: EntryId) -> &[u8] {
        name_of(&self.names, &self.entries[id.0 as usize])
    }

    pub(crate) fn inode_of(&self, id: EntryId) -> InodeId {
        self.entries[id.0 as usize].inode
    }

    pub(crate) fn inode(&self, id: EntryId) -> &Inode {
        &self.inodes[self.inode_of(id).0 as usize]
    }

    pub(crate) fn inode_mut(&mut self, id: EntryId) -> &mut Inode {
        let inode = self.inode_of(id);
        &mut self.inodes[inode.0 as usize]
    }

    /// One more name for an inode.
    pub(crate) fn add_link(&mut self, parent: EntryId, name: &[u8], inode: InodeId) -> EntryId {
        self.inodes[inode.0 as usize].links += 1;
        self.add_entry(parent, name, inode)
    }

    /// The names in a directory, latest first.
    pub(crate) fn children(&self, id: EntryId) -> impl Iterator<Item = EntryId> + '_ {
        let mut at = self.entries[id.0 as usize].first_child;
        std::iter::from_fn(move || {
            let id = (at != NONE).then_some(EntryId(at))?;
            at = self.entries[at as usize].next_sibling;
            Some(id)
        })
    }

    /// True for a directory that is not empty.
    pub(crate) fn has_children(&self, id: EntryId) -> bool {
        self.entries[id.0 as usize].first_child != NONE
    }

    /// Calls `visit` with every living entry and its path, in the order of the paths' bytes.
    pub(crate) fn visit_by_path(&self, visit: &mut impl FnMut(EntryId, &[u8]) -> Result<()>) -> Result<()> {
        let mut path = Vec::new();
        visit(ROOT, &path)?;
        // In this order a directory `d` comes before `d-x`, and that before `d/x`: its name and what is in it are two
        // things to visit, the second one in the place of `d/`.
        let mut levels = vec![(self.things_to_visit(ROOT), 0)];
        while let Some((things, before)) = levels.last_mut() {
            let Some((id, inside)) = things.pop() else {
                path.truncate(*before);
                levels.pop();
                continue;
            };
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(self.name(id));
            if inside {
                levels.push((self.things_to_visit(id), length));
            } else {
                visit(id, &path)?;
                path.truncate(length);
            }
        }
        Ok(())
    }

    /// The names in a directory and the insides of its directories, last first.
    fn things_to_visit(&self, directory: EntryId) -> Vec<(EntryId, bool)> {
        let mut things = Vec::new();
        for id in self.children(directory) {
            things.push((id, false));
            if self.has_children(id) {
                things.push((id, true));
            }
        }
        let key = |&(id, inside): &(EntryId, bool)| (self.name(id), inside);
        things.sort_unstable_by(|a, b| {
            let ((a, a_inside), (b, b_inside)) = (key(a), key(b));
            let slash = |inside: bool| inside.then_some(&b'/');
            b.iter().chain(slash(b_inside)).cmp(a.iter().chain(slash(a_inside)))
        });
        things
    }

    /// All living entries in the order they came; parents stand before their children.
    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryId> + '_ {
        (0u32..).zip(&self.entries).filter(|(_, entry)| entry.alive).map(|(id, _)| EntryId(id))
    }

    /// True if `id` is `directory` or lies below it.
    pub(crate) fn is_within(&self, mut id: EntryId, directory: EntryId) -> bool {
        while id != directory && id != ROOT {
            id = self.parent(id);
        }
        id == directory
    }

    /// The path from the root, without a leading slash; the root is empty.
    pub(crate) fn path(&self, id: EntryId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// How long [`path`](Self::path) is.
    pub(crate) fn path_length(&self, mut id: EntryId) -> usize {
        let mut length = 0;
        while id != ROOT {
            length += self.name(id).len() + 1;
            id = self.parent(id);
        }
        length.saturating_sub(1)
    }

    fn hash(&self, parent: EntryId, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent.0, name))
    }
}

/// What a directory has that no entry described (SPEC §4).
pub(crate) fn implicit_stat() -> OverrideStat {
    OverrideStat { uid: 0, gid: 0, mode: crate::layer::stat::S_IFDIR | 0o755, rdev: 0 }
}

/// A directory that no entry described.
pub(super) fn implicit_directory() -> Inode {
    Inode { implicit: true, ..Inode::new(Content::Directory, implicit_stat()) }
}

fn name_of<'a>(names: &'a [u8], entry: &Entry) -> &'a [u8] {
    let start = entry.name_start as usize;
    &names[start..start + usize::from(entry.name_length)]
}
