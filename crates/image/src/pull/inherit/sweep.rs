//! The sweep through the layers, bottom first.

use crate::{
    error::{ErrorKind, ImageError, Result},
    layer::{Halt, OverrideStat, entry_text},
    pull::inherit::{
        interest::{Interest, Place, ROOT, State},
        resolve::{self, Resolved},
        rows::{LayerRows, What},
    },
    store::{Holder, Inherited},
};

/// What a directory has that neither an entry nor a lower layer describes.
pub(super) const UNDESCRIBED: OverrideStat = OverrideStat { uid: 0, gid: 0, mode: 0o040_755, rdev: 0 };

const WHITEOUT: &[u8] = b".wh.";

/// Entries between two looks at the switch.
const STRIDE: usize = 256;

/// Sweeps at most: each leads every link at least one symbolic link further, of which there may be 40, or through one
/// more link that is itself a hard link to a symbolic one.
const MAX_SWEEPS: usize = 64;

/// Paths that links may add to those they name, so that short links through long ones cost no memory without bound.
const MAX_ADDED_PATHS: usize = 1 << 20;

/// A cross-layer link.
pub(super) struct Link {
    pub(super) place: Place,
    /// What was at its path before its own layer came.
    pub(super) below: Option<Resolved>,
    pub(super) resolved: Option<Resolved>,
    /// It is on the way that is walked.
    pub(super) is_walked: bool,
}

pub(super) struct Sweep<'a, R> {
    pub(super) layers: &'a [R],
    pub(super) halt: &'a Halt,
    pub(super) interest: Interest,
    /// In the order of the layers, and of their entries.
    pub(super) links: Vec<Link>,
    /// Paths that the next sweep has to know.
    pub(super) added: Vec<Vec<u8>>,
    pub(super) added_paths: usize,
}

pub(super) fn sweep<R: LayerRows>(layers: &[R], halt: &Halt) -> Result<Vec<Inherited>> {
    let mut inherited: Vec<Inherited> = layers.iter().map(|_| Inherited::default()).collect();
    // Layers above the last that inherits anything don't matter.
    let asking = |layer: &R| layer.has_implied_directories() || layer.has_cross_layer_links();
    let Some(top) = layers.iter().rposition(asking) else { return Ok(inherited) };
    let mut sweep = Sweep {
        layers: &layers[..=top],
        halt,
        interest: Interest::new(),
        links: Vec::new(),
        added: Vec::new(),
        added_paths: 0,
    };
    sweep.ask()?;
    let mut pending = sweep.links.len();
    for round in 0.. {
        for (at, inherited) in inherited.iter_mut().enumerate().take(top + 1) {
            sweep.merge(at, (round == 0).then_some(inherited))?;
        }
        if sweep.added.is_empty() {
            break;
        }
        if round + 1 == MAX_SWEEPS {
            return Err(sweep.unresolved("which leads through too long a chain of links"));
        }
        let before = sweep.interest.len();
        for path in std::mem::take(&mut sweep.added) {
            sweep.interest.add(&path);
        }
        let grown = sweep.interest.len() - before;
        let still_pending = sweep.links.iter().filter(|link| link.resolved.is_none()).count();
        // Links that wait for each other.
        if grown == 0 && still_pending == std::mem::replace(&mut pending, still_pending) {
            return Err(sweep.unresolved(resolve::NOWHERE));
        }
        sweep.added_paths += grown;
        sweep.interest.reset();
    }
    sweep.answer_links(&mut inherited)?;
    Ok(inherited)
}

impl<R: LayerRows> Sweep<'_, R> {
    /// Collects the paths that matter.
    fn ask(&mut self) -> Result<()> {
        for (at, layer) in self.layers.iter().enumerate() {
            if !layer.has_implied_directories() && !layer.has_cross_layer_links() {
                continue;
            }
            for number in 0..layer.len() {
                self.check(number)?;
                let entry = layer.entry(number);
                if entry.path.is_empty() {
                    continue;
                }
                match entry.what {
                    // Below the lowest layer is nothing.
                    What::Directory { implied: true, .. } if at > 0 => self.interest.add(entry.path),
                    What::CrossLayerLink { target } => {
                        self.interest.add(target);
                        // What it takes the place of, should it be a link to itself.
                        self.interest.add(entry.path);
                        let place = place(at, number);
                        self.links.push(Link { place, below: None, resolved: None, is_walked: false });
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Puts a layer on top of those before it, then answers what it asks.
    fn merge(&mut self, at: usize, mut inherited: Option<&mut Inherited>) -> Result<()> {
        self.hide(at)?;
        let layer = &self.layers[at];
        let first_link = self.links.partition_point(|link| (link.place.layer as usize) < at);
        let mut link = first_link;
        self.interest.set(ROOT, State::Directory { stat: UNDESCRIBED, beneath: None });
        for number in 0..layer.len() {
            self.check(number)?;
            let entry = layer.entry(number);
            if entry.path.is_empty() {
                continue;
            }
            let stat = self.put(place(at, number), entry.path, entry.what, &mut link)?;
            if let (Some(inherited), What::Directory { implied: true, .. }) = (&mut inherited, entry.what) {
                inherited.directories.push((entry.path.to_vec(), stat));
            }
        }
        self.resolve_links(first_link..link)
    }

    /// Takes away what the layer removes of lower ones: first, since it removes nothing of its own.
    fn hide(&mut self, at: usize) -> Result<()> {
        let layer = &self.layers[at];
        for number in 0..layer.len() {
            self.check(number)?;
            let entry = layer.entry(number);
            let (directory, name) = split(entry.path);
            match entry.what {
                What::Directory { opaque: true, .. } if entry.path.is_empty() => {
                    self.interest.remove_below(ROOT, self.halt)?;
                }
                What::Directory { opaque: true, .. } => {
                    if let Some(node) = self.interest.find(directory, name) {
                        self.interest.remove_below(node, self.halt)?;
                        if let State::Directory { stat, .. } = self.interest.state(node) {
                            self.interest.set(node, State::Directory { stat, beneath: None });
                        }
                    }
                }
                What::Whiteout => {
                    let hidden = name.strip_prefix(WHITEOUT).unwrap_or(name);
                    if let Some(node) = self.interest.find(directory, hidden) {
                        self.interest.remove(node, self.halt)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts an entry; answers with the attribute a directory has then.
    fn put(&mut self, place: Place, path: &[u8], what: What<'_>, link: &mut usize) -> Result<OverrideStat> {
        let number = *link;
        if matches!(what, What::CrossLayerLink { .. }) {
            *link += 1;
        }
        let (directory, name) = split(path);
        let hidden = if what == What::Whiteout { name.strip_prefix(WHITEOUT).unwrap_or(name) } else { name };
        let Some(node) = self.interest.find(directory, hidden) else { return Ok(UNDESCRIBED) };
        let before = self.interest.state(node);
        let state = match what {
            What::Directory { stat, implied, opaque } => {
                let state = match before {
                    State::Directory { stat, beneath } if implied => State::Directory { stat, beneath },
                    State::Symlink(link) if implied && !opaque => {
                        State::Directory { stat: UNDESCRIBED, beneath: Some(link) }
                    }
                    _ if implied => State::Directory { stat: UNDESCRIBED, beneath: None },
                    _ => State::Directory { stat, beneath: None },
                };
                self.interest.set(node, state);
                let State::Directory { stat, .. } = state else { return Ok(UNDESCRIBED) };
                return Ok(stat);
            }
            What::Whiteout => {
                let parent = self.interest.state(self.interest.parent(node));
                if before == State::Absent && matches!(parent, State::Directory { beneath: Some(_), .. }) {
                    self.interest.set(node, State::Removed);
                }
                return Ok(UNDESCRIBED);
            }
            What::Symlink { .. } => State::Symlink(place),
            What::File => State::File(place),
            // Only a table that lies about itself has links that were not collected.
            What::CrossLayerLink { .. } if self.links.get(number).is_none_or(|link| link.place != place) => {
                State::File(place)
            }
            What::CrossLayerLink { .. } => {
                let number_of_link = u32::try_from(number).expect("fewer than 2^32 links");
                self.links[number].below = match before {
                    State::File(place) | State::Symlink(place) => Some(Resolved::At(place)),
                    State::Link(other) => Some(Resolved::As(other)),
                    _ => None,
                };
                State::Link(number_of_link)
            }
        };
        self.interest.remove_below(node, self.halt)?;
        self.interest.set(node, state);
        Ok(UNDESCRIBED)
    }

    fn resolve_links(&mut self, links: std::ops::Range<usize>) -> Result<()> {
        for number in links.clone() {
            self.check(number)?;
            if self.added_paths + self.added.len() > MAX_ADDED_PATHS {
                return Err(self.failed(number, "which leads through too many paths"));
            }
            if !matches!(self.links[number].resolved, Some(Resolved::At(_))) {
                self.links[number].resolved = self.resolve(number)?;
            }
        }
        for number in links {
            self.check(number)?;
            self.settle(number)?;
        }
        Ok(())
    }

    fn answer_links(&mut self, inherited: &mut [Inherited]) -> Result<()> {
        for (number, link) in self.links.iter().enumerate() {
            self.check(number)?;
            let Some(Resolved::At(holder)) = link.resolved else {
                return Err(self.failed(number, resolve::NOWHERE));
            };
            let layer = &self.layers[holder.layer as usize];
            let holder =
                Holder { digest: layer.digest().clone(), path: layer.entry(holder.entry as usize).path.to_vec() };
            let path = self.layers[link.place.layer as usize].entry(link.place.entry as usize).path;
            inherited[link.place.layer as usize].links.push((path.to_vec(), holder));
        }
        Ok(())
    }

    fn unresolved(&self, why: &str) -> ImageError {
        let number = self.links.iter().position(|link| link.resolved.is_none()).unwrap_or_default();
        self.failed(number, why)
    }

    /// Why a link can't be had: `why` ends the sentence after its target.
    pub(super) fn failed(&self, number: usize, why: &str) -> ImageError {
        let place = self.links[number].place;
        let layer = &self.layers[place.layer as usize];
        let entry = layer.entry(place.entry as usize);
        let What::CrossLayerLink { target } = entry.what else { return ImageError::internal("a link that is none") };
        let reason = format!("it is a hard link to {:?}, {why}", entry_text(target));
        ImageError::from(ErrorKind::Extraction { entry: Some(entry_text(entry.path)), reason })
            .for_layer(layer.digest())
    }

    fn check(&self, number: usize) -> Result<()> {
        if number.is_multiple_of(STRIDE) { self.halt.check() } else { Ok(()) }
    }
}

fn place(layer: usize, entry: usize) -> Place {
    let number = |number| u32::try_from(number).expect("an image has fewer than 2^32 layers, a layer fewer entries");
    Place { layer: number(layer), entry: number(entry) }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|&byte| byte == b'/').map_or((b"", path), |slash| (&path[..slash], &path[slash + 1..]))
}

/// How many paths are kept for these layers before any link is followed.
#[cfg(test)]
pub(super) fn count_of_paths<R: LayerRows>(layers: &[R]) -> usize {
    let halt = Halt::default();
    let mut sweep =
        Sweep { layers, halt: &halt, interest: Interest::new(), links: Vec::new(), added: Vec::new(), added_paths: 0 };
    sweep.ask().unwrap();
    sweep.interest.len()
}
