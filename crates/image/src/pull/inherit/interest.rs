//! The paths that matter, and what the layers so far have at them.
//!
//! Whatever the layers hold, memory is taken for the paths asked for and their ancestors alone. Each node that is set
//! is taken away at most once, so a whiteout costs no more than what it hides did.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::{
    error::Result,
    layer::{Halt, OverrideStat},
};

/// A path that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

pub(super) const ROOT: NodeId = NodeId(0);

const NONE: u32 = u32::MAX;

/// An entry: the position of its layer, its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) layer: u32,
    pub(super) entry: u32,
}

/// What the layers so far have at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    /// `beneath` is a symbolic link that an implied directory lies over: as implied directories are no entries, what
    /// is not found in the directory is looked for at the link's target.
    Directory {
        stat: OverrideStat,
        beneath: Option<Place>,
    },
    Symlink(Place),
    File(Place),
    /// A cross-layer link, by its number.
    Link(u32),
    /// A name that was removed from what a link beneath leads to.
    Removed,
}

struct Node {
    parent: u32,
    name_start: usize,
    name_length: u32,
    state: State,
    // The children that are not absent.
    first_child: u32,
    next_sibling: u32,
    previous_sibling: u32,
}

/// All paths that matter, as a tree of names.
pub(super) struct Interest {
    nodes: Vec<Node>,
    names: Vec<u8>,
    by_name: HashTable<u32>,
    hasher: RandomState,
    /// The directory of the last look-up and the length of its path.
    last: (Vec<u8>, Option<NodeId>),
}

impl Interest {
    pub(super) fn new() -> Self {
        let root = Node {
            parent: 0,
            name_start: 0,
            name_length: 0,
            state: State::Absent,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
        };
        Self {
            nodes: vec![root],
            names: Vec::new(),
            by_name: HashTable::new(),
            hasher: RandomState::new(),
            last: (Vec::new(), Some(ROOT)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a path and its ancestors.
    pub(super) fn add(&mut self, path: &[u8]) {
        self.last = (Vec::new(), Some(ROOT));
        let mut at = ROOT;
        for name in components(path) {
            at = self.child(at, name).unwrap_or_else(|| self.add_child(at, name));
        }
    }

    fn add_child(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        let id = u32::try_from(self.nodes.len()).ok().filter(|&id| id != NONE).expect("fewer than 2^32 paths matter");
        self.nodes.push(Node {
            parent: parent.0,
            name_start: self.names.len(),
            name_length: u32::try_from(name.len()).expect("a name is shorter than 4 GiB"),
            state: State::Absent,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
        });
        self.names.extend_from_slice(name);
        let (nodes, names, hasher) = (&self.nodes, &self.names, &self.hasher);
        self.by_name.insert_unique(hasher.hash_one((parent.0, name)), id, |&other| {
            let node = &nodes[other as usize];
            hasher.hash_one((node.parent, name_of(names, node)))
        });
        NodeId(id)
    }

    /// A name below a path, if it matters.
    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.hasher.hash_one((parent.0, name));
        let found = self.by_name.find(hash, |&id| {
            let node = &self.nodes[id as usize];
            node.parent == parent.0 && name_of(&self.names, node) == name
        });
        found.map(|&id| NodeId(id))
    }

    /// A path, if it matters. Neighbours are found fast.
    pub(super) fn find(&mut self, directory: &[u8], name: &[u8]) -> Option<NodeId> {
        if self.last.0 != directory {
            let found = components(directory).try_fold(ROOT, |at, name| self.child(at, name));
            self.last.0.clear();
            self.last.0.extend_from_slice(directory);
            self.last.1 = found;
        }
        self.child(self.last.1?, name)
    }

    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        NodeId(self.nodes[id.0 as usize].parent)
    }

    pub(super) fn state(&self, id: NodeId) -> State {
        self.nodes[id.0 as usize].state
    }

    /// The path of a node.
    pub(super) fn path(&self, mut id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        while id != ROOT {
            names.push(name_of(&self.names, &self.nodes[id.0 as usize]));
            id = self.parent(id);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Says what is at a path from now on. What is below stays.
    pub(super) fn set(&mut self, id: NodeId, state: State) {
        if id != ROOT && self.state(id) == State::Absent {
            self.link(id);
        }
        self.nodes[id.0 as usize].state = state;
    }

    /// Takes away what is at a path and below it.
    pub(super) fn remove(&mut self, id: NodeId, halt: &Halt) -> Result<()> {
        self.remove_below(id, halt)?;
        if id != ROOT && self.state(id) != State::Absent {
            self.unlink(id);
        }
        self.nodes[id.0 as usize].state = State::Absent;
        Ok(())
    }

    /// Takes away what is below a path.
    pub(super) fn remove_below(&mut self, id: NodeId, halt: &Halt) -> Result<()> {
        let mut pending = vec![std::mem::replace(&mut self.nodes[id.0 as usize].first_child, NONE)];
        while let Some(at) = pending.pop() {
            if at == NONE {
                continue;
            }
            halt.check()?;
            let node = &mut self.nodes[at as usize];
            node.state = State::Absent;
            let (below, beside) =
                (std::mem::replace(&mut node.first_child, NONE), std::mem::replace(&mut node.next_sibling, NONE));
            node.previous_sibling = NONE;
            pending.extend([beside, below]);
        }
        Ok(())
    }

    /// Forgets all states.
    pub(super) fn reset(&mut self) {
        for node in &mut self.nodes {
            node.state = State::Absent;
            (node.first_child, node.next_sibling, node.previous_sibling) = (NONE, NONE, NONE);
        }
    }

    fn link(&mut self, id: NodeId) {
        let parent = self.nodes[id.0 as usize].parent as usize;
        let next = std::mem::replace(&mut self.nodes[parent].first_child, id.0);
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.previous_sibling = id.0;
        }
        self.nodes[id.0 as usize].next_sibling = next;
    }

    fn unlink(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0 as usize];
        let parent = node.parent as usize;
        let next = std::mem::replace(&mut node.next_sibling, NONE);
        let previous = std::mem::replace(&mut node.previous_sibling, NONE);
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.previous_sibling = previous;
        }
        match self.nodes.get_mut(previous as usize) {
            Some(previous) => previous.next_sibling = next,
            None => self.nodes[parent].first_child = next,
        }
    }
}

fn name_of<'a>(names: &'a [u8], node: &Node) -> &'a [u8] {
    &names[node.name_start..][..node.name_length as usize]
}

/// The names of a path, as they stand there; none are empty or `.`.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}
