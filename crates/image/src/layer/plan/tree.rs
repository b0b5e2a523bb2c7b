//! The layer's tree: entries (a name in a directory) and inodes (what the names stand for), as in a file system. It is
//! the only record of what was extracted; table and index are built from it.
//!
//! Memory holds what names are: about 30 bytes an entry beside the name itself. What they stand for lies in rows beside
//! it ([`Inodes`]), which have a file of their own when they are many.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Mutex,
};

use hashbrown::HashTable;

use crate::{
    error::Result,
    layer::{
        halt::Halt,
        plan::inode::{Details, Inode, Inodes, NodeKind},
        spill::SpillHome,
        stat::OverrideStat,
    },
};

/// An entry: a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryId(u32);

impl EntryId {
    /// Its number: entries are counted as they come.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// An inode, by its first entry: the row of that entry is the inode's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct InodeId(u32);

/// The root directory.
pub(crate) const ROOT: EntryId = EntryId(0);

const NONE: u32 = u32::MAX;

/// Bits of an entry: two of its kind, and these.
const ALIVE: u8 = 4;
/// Its inode is another entry's; the row of its own says which.
const LINK: u8 = 8;

/// The tree of one layer.
pub(crate) struct Tree {
    parents: Vec<u32>,
    first_children: Vec<u32>,
    /// Removed entries stay in the chain of their siblings.
    next_siblings: Vec<u32>,
    name_starts: Vec<u32>,
    name_lengths: Vec<u8>,
    bits: Vec<u8>,
    names: Vec<u8>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    alive: u64,
    inodes: Mutex<Inodes>,
}

impl Tree {
    pub(crate) fn new(home: &SpillHome) -> Result<Self> {
        let mut tree = Self {
            parents: Vec::new(),
            first_children: Vec::new(),
            next_siblings: Vec::new(),
            name_starts: Vec::new(),
            name_lengths: Vec::new(),
            bits: Vec::new(),
            names: Vec::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            alive: 0,
            inodes: Mutex::new(Inodes::new(home)),
        };
        tree.push(ROOT, b"", NodeKind::Directory as u8)?;
        tree.inodes().push(&implicit_directory())?;
        Ok(tree)
    }

    fn inodes(&self) -> std::sync::MutexGuard<'_, Inodes> {
        self.inodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a name that is not there yet, with an inode of its own.
    pub(crate) fn add_entry(&mut self, parent: EntryId, name: &[u8], inode: &Inode) -> Result<EntryId> {
        let id = self.push_named(parent, name, inode.kind as u8)?;
        self.inodes().push(inode)?;
        Ok(id)
    }

    /// The host's inode number of what an entry stands for; 0 until it is known.
    pub(crate) fn host(&self, id: EntryId) -> Result<u64> {
        let own = self.inodes().get(id.0)?;
        if self.bits[id.0 as usize] & LINK == 0 || own.host != 0 {
            return Ok(own.host);
        }
        Ok(self.inodes().get(own.mark)?.host)
    }

    /// Takes the host's inode number of an entry. With `copies`, names of one inode may be several files there, and each is
    /// asked for its own.
    pub(crate) fn set_host(&self, id: EntryId, host: u64, copies: bool) -> Result<()> {
        if copies {
            self.update_inode(InodeId(id.0), |own| own.host = host)
        } else {
            self.update(id, |inode| inode.host = host)
        }
    }

    /// One more name for an inode.
    pub(crate) fn add_link(&mut self, parent: EntryId, name: &[u8], inode: InodeId) -> Result<EntryId> {
        let kind = self.bits[inode.0 as usize] & 3;
        let id = self.push_named(parent, name, kind | LINK)?;
        let mut inodes = self.inodes();
        let shared = inodes.get(inode.0)?;
        inodes.set(inode.0, &Inode { links: shared.links + 1, ..shared })?;
        // Of its own row only this number counts, and the host's, where the name is a file of its own there.
        inodes.push(&Inode { mark: inode.0, host: 0, ..shared })?;
        drop(inodes);
        Ok(id)
    }

    fn push(&mut self, parent: EntryId, name: &[u8], bits: u8) -> Result<EntryId> {
        let id = u32::try_from(self.parents.len()).ok().filter(|&id| id < NONE);
        let id = id.expect("a layer has fewer than 2^32 entries");
        self.name_starts.push(u32::try_from(self.names.len()).expect("names of a layer take less than 4 GiB"));
        self.name_lengths.push(u8::try_from(name.len()).expect("a name is at most 255 bytes"));
        self.names.extend_from_slice(name);
        self.parents.push(parent.0);
        self.first_children.push(NONE);
        self.next_siblings.push(NONE);
        self.bits.push(bits | ALIVE);
        self.alive += 1;
        Ok(EntryId(id))
    }

    fn push_named(&mut self, parent: EntryId, name: &[u8], bits: u8) -> Result<EntryId> {
        let id = self.push(parent, name, bits)?;
        self.next_siblings[id.0 as usize] = std::mem::replace(&mut self.first_children[parent.0 as usize], id.0);
        let hash = self.hash(parent, name);
        let (parents, starts, lengths) = (&self.parents, &self.name_starts, &self.name_lengths);
        let (names, hasher) = (&self.names, &self.hasher);
        self.by_name.insert_unique(hash, id.0, |&other| {
            let other = other as usize;
            let name = &names[starts[other] as usize..][..usize::from(lengths[other])];
            hasher.hash_one((parents[other], name))
        });
        Ok(id)
    }

    pub(crate) fn lookup(&self, parent: EntryId, name: &[u8]) -> Option<EntryId> {
        let same = |&id: &u32| self.parents[id as usize] == parent.0 && self.name(EntryId(id)) == name;
        self.by_name.find(self.hash(parent, name), same).copied().map(EntryId)
    }

    /// Takes a name away, and for a directory all below it.
    pub(crate) fn remove(&mut self, id: EntryId, halt: &Halt) -> Result<()> {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            if pending.len().is_multiple_of(1024) {
                halt.check()?;
            }
            pending.extend(self.children(id));
            let hash = self.hash(self.parent(id), self.name(id));
            if let Ok(found) = self.by_name.find_entry(hash, |&other| other == id.0) {
                found.remove();
            }
            let inode = self.inode_of(id)?;
            self.bits[id.0 as usize] &= !ALIVE;
            self.first_children[id.0 as usize] = NONE;
            self.alive -= 1;
            self.update_inode(inode, |inode| inode.links -= 1)?;
        }
        Ok(())
    }

    pub(crate) fn parent(&self, id: EntryId) -> EntryId {
        EntryId(self.parents[id.0 as usize])
    }

    pub(crate) fn name(&self, id: EntryId) -> &[u8] {
        let at = id.0 as usize;
        &self.names[self.name_starts[at] as usize..][..usize::from(self.name_lengths[at])]
    }

    pub(crate) fn kind(&self, id: EntryId) -> NodeKind {
        NodeKind::from_bits(self.bits[id.0 as usize])
    }

    pub(crate) fn is_directory(&self, id: EntryId) -> bool {
        self.kind(id) == NodeKind::Directory
    }

    pub(crate) fn inode_of(&self, id: EntryId) -> Result<InodeId> {
        if self.bits[id.0 as usize] & LINK == 0 {
            return Ok(InodeId(id.0));
        }
        Ok(InodeId(self.inodes().get(id.0)?.mark))
    }

    pub(crate) fn inode(&self, id: EntryId) -> Result<Inode> {
        let InodeId(number) = self.inode_of(id)?;
        self.inodes().get(number)
    }

    /// Changes the inode of an entry.
    pub(crate) fn update(&self, id: EntryId, change: impl FnOnce(&mut Inode)) -> Result<()> {
        self.update_inode(self.inode_of(id)?, change)
    }

    fn update_inode(&self, InodeId(number): InodeId, change: impl FnOnce(&mut Inode)) -> Result<()> {
        let mut inodes = self.inodes();
        let mut inode = inodes.get(number)?;
        change(&mut inode);
        inodes.set(number, &inode)
    }

    /// The target of a symbolic or cross-layer link.
    pub(crate) fn target(&self, inode: &Inode) -> Result<Vec<u8>> {
        self.inodes().text(inode.target)
    }

    pub(crate) fn details(&self, inode: &Inode) -> Result<Details> {
        self.inodes().details(inode)
    }

    /// Keeps a target for an inode that is about to be added, or is there.
    pub(super) fn put_target(&self, inode: &mut Inode, target: &[u8], path: &[u8]) -> Result<()> {
        inode.target = self.inodes().put_text(target, path)?;
        Ok(())
    }

    pub(super) fn put_details(&self, inode: &mut Inode, details: &Details, path: &[u8]) -> Result<()> {
        if !details.is_empty() {
            inode.details = self.inodes().put_text(&details.to_bytes(), path)?;
        }
        Ok(())
    }

    /// The names in a directory, latest first.
    pub(crate) fn children(&self, id: EntryId) -> impl Iterator<Item = EntryId> + '_ {
        let mut at = self.first_children[id.0 as usize];
        std::iter::from_fn(move || {
            loop {
                let id = (at != NONE).then_some(at)?;
                at = self.next_siblings[id as usize];
                if self.bits[id as usize] & ALIVE != 0 {
                    return Some(EntryId(id));
                }
            }
        })
    }

    /// True for a directory that is not empty.
    pub(crate) fn has_children(&self, id: EntryId) -> bool {
        self.children(id).next().is_some()
    }

    /// All living entries in the order they came; parents stand before their children.
    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryId> + '_ {
        (0u32..).zip(&self.bits).filter(|(_, bits)| **bits & ALIVE != 0).map(|(id, _)| EntryId(id))
    }

    /// Number of living entries, the root included.
    pub(crate) fn len(&self) -> u64 {
        self.alive
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
    Inode { implicit: true, ..Inode::new(NodeKind::Directory, implicit_stat()) }
}
