//! What a table says: of the blob, and of each entry.

use crate::{
    layer::{
        stat::{OverrideStat, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG},
        table::wire::{u32_at, u64_at},
        tar::Timestamp,
    },
    model::Digest,
};

/// What was verified of the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    /// Hash and length of the compressed bytes.
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// As the manifest named it; empty where it is not known.
    pub(crate) media_type: String,
    /// Hash and length of the uncompressed bytes.
    pub(crate) diff_id: Digest,
    pub(crate) uncompressed_size: u64,
}

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RowKind {
    File,
    Directory,
    Symlink,
    Character,
    Block,
    Fifo,
    /// Hides a name of lower layers. Its path has the `.wh.`; on disk it is a regular file.
    Whiteout,
}

impl RowKind {
    const ALL: [Self; 7] =
        [Self::File, Self::Directory, Self::Symlink, Self::Character, Self::Block, Self::Fifo, Self::Whiteout];

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    pub(super) fn to_byte(self) -> u8 {
        self as u8
    }

    /// The type bits of its mode.
    pub(crate) fn type_bits(self) -> u32 {
        match self {
            Self::File | Self::Whiteout => S_IFREG,
            Self::Directory => S_IFDIR,
            Self::Symlink => S_IFLNK,
            Self::Character => S_IFCHR,
            Self::Block => S_IFBLK,
            Self::Fifo => S_IFIFO,
        }
    }
}

/// Bytes of a sparse file that are no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamSegment {
    /// Where they lie in the file.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Where they lie in the uncompressed stream.
    pub(crate) position: u64,
}

/// An entry, borrowed from the table.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// Relative to the layer's root, raw bytes; the root is empty.
    pub(crate) path: &'a [u8],
    pub(crate) kind: RowKind,
    pub(crate) stat: OverrideStat,
    pub(crate) mtime: Timestamp,
    /// Length of the content, holes included; of a symbolic link, of its target.
    pub(crate) size: u64,
    /// Where the content begins in the uncompressed stream; `None` where there is none.
    pub(crate) position: Option<u64>,
    /// A symbolic link's target; a cross-layer link's target path inside the image.
    pub(crate) target: &'a [u8],
    /// For an inode of several names: the row of the first of them.
    pub(crate) group: Option<u32>,
    /// No entry of the archive described this directory.
    pub(crate) implied: bool,
    /// This directory hides all that lower layers have in it.
    pub(crate) opaque: bool,
    /// A hard link to a file of a lower layer; its content is not here.
    pub(crate) cross_layer: bool,
    pub(super) segments: &'a [u8],
    pub(super) xattrs: &'a [u8],
}

/// Bytes of a segment in a table.
pub(super) const SEGMENT: usize = 24;

impl<'a> Row<'a> {
    /// What of a sparse file is no hole, in order; nothing for a file whose content lies in one piece.
    pub(crate) fn segments(&self) -> impl ExactSizeIterator<Item = StreamSegment> + 'a {
        self.segments.chunks_exact(SEGMENT).map(|bytes| StreamSegment {
            offset: u64_at(bytes, 0),
            length: u64_at(bytes, 8),
            position: u64_at(bytes, 16),
        })
    }

    /// Extended attributes as the image has them: name and value, sorted by name.
    pub(crate) fn xattrs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + 'a {
        Xattrs(self.xattrs)
    }

    /// The same, on its own.
    pub(crate) fn to_owned(self) -> OwnedRow {
        OwnedRow {
            path: self.path.to_vec(),
            kind: self.kind,
            stat: self.stat,
            mtime: self.mtime,
            size: self.size,
            position: self.position,
            target: self.target.to_vec(),
            group: self.group.map(u64::from),
            implied: self.implied,
            opaque: self.opaque,
            cross_layer: self.cross_layer,
            segments: self.segments().collect(),
            xattrs: self.xattrs().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        }
    }
}

/// Length-prefixed names and values. Ends early where they are cut short.
pub(super) struct Xattrs<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Xattrs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (lengths, rest) = self.0.split_at_checked(8)?;
        let (name, rest) = rest.split_at_checked(u32_at(lengths, 0) as usize)?;
        let (value, rest) = rest.split_at_checked(u32_at(lengths, 4) as usize)?;
        self.0 = rest;
        Some((name, value))
    }
}

/// An entry to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedRow {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: RowKind,
    pub(crate) stat: OverrideStat,
    pub(crate) mtime: Timestamp,
    pub(crate) size: u64,
    pub(crate) position: Option<u64>,
    pub(crate) target: Vec<u8>,
    /// Any number that the names of one inode have in common and no other inode has.
    pub(crate) group: Option<u64>,
    pub(crate) implied: bool,
    pub(crate) opaque: bool,
    pub(crate) cross_layer: bool,
    pub(crate) segments: Vec<StreamSegment>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl OwnedRow {
    /// A row of this kind, root's own, with usual permissions and nothing else.
    pub(crate) fn new(path: &[u8], kind: RowKind) -> Self {
        let permissions = match kind {
            RowKind::Directory => 0o755,
            RowKind::Symlink => 0o777,
            _ => 0o644,
        };
        Self {
            path: path.to_vec(),
            kind,
            stat: OverrideStat { uid: 0, gid: 0, mode: kind.type_bits() | permissions, rdev: 0 },
            mtime: Timestamp::default(),
            size: 0,
            position: None,
            target: Vec::new(),
            group: None,
            implied: false,
            opaque: false,
            cross_layer: false,
            segments: Vec::new(),
            xattrs: Vec::new(),
        }
    }
}
