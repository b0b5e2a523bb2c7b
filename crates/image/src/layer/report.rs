//! What a layer asked for and the host could not hold, or what had to be decided: counted and named, never lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::layer::limits::entry_text;

/// How many paths are named for each code; the rest are only counted.
const NAMED: usize = 16;

/// What happened to an entry that was not kept word by word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// An extended attribute the host refused; its value is written down as `user.containers.xattr.<name>`.
    XattrWrittenDown,
    /// An extended attribute that could not be kept in any form.
    XattrDropped,
    /// A device, pipe or socket, kept as an empty file with its type in the attribute.
    SpecialAsFile,
    /// A path that came again with another type or content; the last one stays.
    EntryReplaced,
    /// A file of the AUFS storage driver (`.wh..wh.*`), ignored.
    AufsIgnored,
    /// An entry of a type that means nothing in an image, ignored.
    TypeIgnored,
    /// A whiteout beside an entry of the name it hides; the entry stays and hides what is below.
    WhiteoutAbsorbed,
    /// A hard link whose target is in a lower layer.
    LinkToLowerLayer,
    /// A hard link beyond those that the host allows for one file; a copy of the file stands there.
    LinkCopied,
    /// No index was written: the layer has something it can't express, or the host gives no lasting inode numbers.
    IndexOmitted,
}

/// Count and first paths for one [`Note`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// How often it happened.
    pub count: u64,
    /// The first paths it happened to.
    pub paths: Vec<String>,
}

/// The notes of one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report(BTreeMap<Note, Noted>);

impl Report {
    pub(crate) fn note(&mut self, note: Note, path: &[u8]) {
        let noted = self.0.entry(note).or_default();
        noted.count += 1;
        if noted.paths.len() < NAMED {
            noted.paths.push(entry_text(path));
        }
    }

    pub(crate) fn merge(&mut self, other: Report) {
        for (note, theirs) in other.0 {
            let ours = self.0.entry(note).or_default();
            ours.count += theirs.count;
            let room = NAMED.saturating_sub(ours.paths.len());
            ours.paths.extend(theirs.paths.into_iter().take(room));
        }
    }

    pub(crate) fn has(&self, note: Note) -> bool {
        self.0.contains_key(&note)
    }

    /// The notes, by code.
    pub fn iter(&self) -> impl Iterator<Item = (Note, &Noted)> {
        self.0.iter().map(|(note, noted)| (*note, noted))
    }

    /// True when all was kept as it came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
