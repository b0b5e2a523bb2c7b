//! Where a cross-layer link leads: a walk through the merged layers, inside the image's root.

use crate::{
    error::Result,
    pull::inherit::{
        interest::{NodeId, Place, ROOT, State, components},
        rows::{LayerRows, What},
        sweep::Sweep,
    },
};

/// Symbolic links followed on the way to one file, as many as Linux allows.
const MAX_SYMLINKS: usize = 40;

/// Names that may wait to be walked: those of a path and of the links in it.
const MAX_NAMES: usize = 4096;

pub(super) const NOWHERE: &str = "which neither its layer nor a lower one has";

/// Where a link leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolved {
    /// To an entry that is no link to a lower layer.
    At(Place),
    /// To where another link leads.
    As(u32),
}

/// A step of the walk.
enum Next {
    Into(NodeId),
    /// A symbolic link; where it stands, and what is to be walked after it.
    Through {
        target: Place,
        from: NodeId,
        again: bool,
    },
    Nowhere,
    /// A path that this sweep does not know.
    Unknown,
}

impl<R: LayerRows> Sweep<'_, R> {
    /// Where a link leads; `None` where only the next sweep can tell. The link's own layer counts as well: for its
    /// symbolic links, and for a link to a link.
    pub(super) fn resolve(&mut self, number: usize) -> Result<Option<Resolved>> {
        let layers = self.layers;
        let place = self.links[number].place;
        let What::CrossLayerLink { target } = layers[place.layer as usize].entry(place.entry as usize).what else {
            return Ok(None);
        };
        // The next name is the last of the list.
        let mut names: Vec<&[u8]> = components(target).rev().collect();
        let (mut at, mut symlinks) = (ROOT, 0);
        while let Some(name) = names.pop() {
            if name == b".." {
                at = self.interest.parent(at);
                continue;
            }
            match self.next(at, name, names.is_empty()) {
                Next::Into(node) if names.is_empty() => return self.arrive(number, node).map(Some),
                Next::Into(node) => at = node,
                Next::Through { target, from, again } => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(self.failed(number, "which leads through more than 40 symbolic links"));
                    }
                    if again {
                        names.push(name);
                    }
                    let What::Symlink { target } = layers[target.layer as usize].entry(target.entry as usize).what
                    else {
                        return Err(self.failed(number, NOWHERE));
                    };
                    at = if target.starts_with(b"/") { ROOT } else { from };
                    names.extend(components(target).rev());
                    if names.len() > MAX_NAMES {
                        return Err(self.failed(number, "which leads through too long a path"));
                    }
                }
                Next::Nowhere => return Err(self.failed(number, NOWHERE)),
                Next::Unknown => {
                    names.push(name);
                    self.ask_for(at, &names);
                    return Ok(None);
                }
            }
        }
        // The path ended in "..", or is the root.
        Err(self.failed(number, "which is a directory"))
    }

    fn next(&self, at: NodeId, name: &[u8], is_last: bool) -> Next {
        let beneath = match self.interest.state(at) {
            State::Directory { beneath, .. } => beneath,
            _ => return Next::Nowhere,
        };
        let Some(node) = self.interest.child(at, name) else { return Next::Unknown };
        match (self.interest.state(node), beneath) {
            (State::Absent, Some(target)) => Next::Through { target, from: self.interest.parent(at), again: true },
            (State::Absent | State::Removed, _) => Next::Nowhere,
            (State::Directory { .. }, _) => Next::Into(node),
            _ if is_last => Next::Into(node),
            (State::Symlink(target), _) => Next::Through { target, from: at, again: false },
            // A hard link to a symbolic link is one. One of the same layer may have its answer in the next sweep.
            (State::Link(link), _) => match self.links[link as usize].resolved {
                Some(Resolved::At(target)) if self.is_symlink(target) => {
                    Next::Through { target, from: at, again: false }
                }
                Some(Resolved::At(_)) => Next::Nowhere,
                Some(Resolved::As(_)) | None => Next::Unknown,
            },
            (State::File(_), _) => Next::Nowhere,
        }
    }

    fn is_symlink(&self, place: Place) -> bool {
        matches!(self.layers[place.layer as usize].entry(place.entry as usize).what, What::Symlink { .. })
    }

    fn arrive(&self, number: usize, node: NodeId) -> Result<Resolved> {
        match self.interest.state(node) {
            State::File(place) | State::Symlink(place) => Ok(Resolved::At(place)),
            State::Link(other) => Ok(Resolved::As(other)),
            State::Directory { .. } => Err(self.failed(number, "which is a directory")),
            State::Absent | State::Removed => Err(self.failed(number, NOWHERE)),
        }
    }

    /// Has the next sweep know a path: as far as can be told from its text.
    fn ask_for(&mut self, at: NodeId, names: &[&[u8]]) {
        let mut path = self.interest.path(at);
        for name in names.iter().rev().take_while(|name| **name != b"..") {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        self.added.push(path);
    }

    /// Follows links to links of the same layer; those of lower layers are settled. A link to itself, or a circle of
    /// links, leads to what was there before its layer.
    pub(super) fn settle(&mut self, number: usize) -> Result<()> {
        let layer = self.links[number].place.layer;
        let (mut walked, mut at) = (Vec::new(), number);
        let end = loop {
            self.halt.check()?;
            let link = &mut self.links[at];
            if link.is_walked {
                break match link.below {
                    Some(Resolved::As(lower)) => self.links[lower as usize].resolved,
                    Some(below) => Some(below),
                    None => return Err(self.failed(number, NOWHERE)),
                };
            }
            let Some(Resolved::As(other)) = link.resolved.filter(|_| link.place.layer == layer) else {
                break link.resolved;
            };
            link.is_walked = true;
            walked.push(at);
            at = other as usize;
        };
        for at in walked {
            self.links[at].resolved = end;
            self.links[at].is_walked = false;
        }
        Ok(())
    }
}
