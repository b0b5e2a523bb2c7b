//! What an entry stands for, and how it is kept: in rows of one length, beside the tree, not in memory.

use crate::{
    error::{ErrorKind, Result},
    layer::{
        limits::entry_text,
        spill::{Spill, SpillHome},
        stat::OverrideStat,
        table::StreamSegment,
        tar::{Member, Timestamp},
    },
};

/// Bytes of targets, attributes and segments of a layer. They lie on disk; real ones have a hundredth of it.
const MAX_TEXT: u64 = 512 << 20;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    Directory,
    Symlink,
    /// A regular file, a device, a pipe, or a whiteout.
    Leaf,
    /// A placeholder of a hard link to a file of a lower layer.
    CrossLayer,
}

impl NodeKind {
    const ALL: [Self; 4] = [Self::Directory, Self::Symlink, Self::Leaf, Self::CrossLayer];

    pub(super) fn from_bits(bits: u8) -> Self {
        Self::ALL[usize::from(bits & 3)]
    }
}

/// A place among the texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::layer) struct Text {
    at: u64,
    length: u32,
}

/// What one or more names stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) kind: NodeKind,
    /// For a directory: no entry of the archive described it.
    pub(crate) implicit: bool,
    pub(crate) stat: OverrideStat,
    pub(crate) mtime: Timestamp,
    /// Length on the host, in bytes.
    pub(crate) size: u64,
    /// The host's inode number; 0 until it is known.
    pub(crate) host: u64,
    /// Where the content begins in the uncompressed stream, if there is any.
    pub(crate) position: Option<u64>,
    /// Names of this inode.
    pub(crate) links: u32,
    /// For what is built from the tree: a number of its record.
    pub(crate) mark: u32,
    /// Target of a symbolic link; of a cross-layer link, its target's path inside the image.
    pub(in crate::layer) target: Text,
    pub(in crate::layer) details: Text,
}

/// Attributes and segments of an inode.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// Extended attributes as the image has them, sorted by name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What of a sparse file is no hole.
    pub(crate) segments: Vec<StreamSegment>,
}

/// No record yet.
pub(crate) const NO_MARK: u32 = u32::MAX;

const NO_POSITION: u64 = u64::MAX;

impl Inode {
    /// An inode of this kind that no entry described: without content.
    pub(crate) fn new(kind: NodeKind, stat: OverrideStat) -> Self {
        Self {
            kind,
            implicit: false,
            stat,
            mtime: Timestamp::default(),
            size: 0,
            host: 0,
            position: None,
            links: 1,
            mark: NO_MARK,
            target: Text::default(),
            details: Text::default(),
        }
    }

    fn to_bytes(self) -> [u8; ROW] {
        let mut row = [0; ROW];
        let words = [
            self.stat.uid,
            self.stat.gid,
            self.stat.mode,
            self.stat.rdev,
            self.mtime.nanoseconds,
            self.links,
            self.mark,
            self.target.length,
            self.details.length,
            self.kind as u32 | u32::from(self.implicit) << 8,
        ];
        for (bytes, word) in row.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let position = self.position.unwrap_or(NO_POSITION);
        let numbers =
            [self.mtime.seconds.cast_unsigned(), self.size, self.host, position, self.target.at, self.details.at];
        for (bytes, number) in row[WORDS..].chunks_exact_mut(8).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        row
    }

    fn from_bytes(row: &[u8; ROW]) -> Self {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|n| row[at * 4 + n]));
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| row[WORDS + at * 8 + n]));
        let position = number(3);
        Self {
            kind: NodeKind::from_bits(word(9) as u8),
            implicit: word(9) >> 8 != 0,
            stat: OverrideStat { uid: word(0), gid: word(1), mode: word(2), rdev: word(3) },
            mtime: Timestamp { seconds: number(0).cast_signed(), nanoseconds: word(4) },
            size: number(1),
            host: number(2),
            position: (position != NO_POSITION).then_some(position),
            links: word(5),
            mark: word(6),
            target: Text { at: number(4), length: word(7) },
            details: Text { at: number(5), length: word(8) },
        }
    }
}

/// Bytes of the words of a row, and of a whole row.
const WORDS: usize = 40;
const ROW: usize = 88;

/// The rows, by number, and the texts they refer to.
pub(super) struct Inodes {
    rows: Spill,
    texts: Spill,
}

impl Inodes {
    pub(super) fn new(home: &SpillHome) -> Self {
        Self { rows: Spill::new(home), texts: Spill::new(home) }
    }

    pub(super) fn push(&mut self, inode: &Inode) -> Result<()> {
        self.rows.append(&inode.to_bytes()).map(|_| ())
    }

    pub(super) fn get(&mut self, number: u32) -> Result<Inode> {
        let mut row = [0; ROW];
        self.rows.read_at(u64::from(number) * ROW as u64, &mut row)?;
        Ok(Inode::from_bytes(&row))
    }

    pub(super) fn set(&mut self, number: u32, inode: &Inode) -> Result<()> {
        self.rows.write_at(u64::from(number) * ROW as u64, &inode.to_bytes())
    }

    pub(super) fn put_text(&mut self, bytes: &[u8], path: &[u8]) -> Result<Text> {
        if self.texts.len() + bytes.len() as u64 > MAX_TEXT {
            let reason = "link targets and extended attributes of the layer take more than 512 MiB".to_owned();
            return Err(ErrorKind::Extraction { entry: Some(entry_text(path)), reason }.into());
        }
        let length = u32::try_from(bytes.len()).expect("texts are bounded");
        Ok(Text { at: self.texts.append(bytes)?, length })
    }

    pub(super) fn text(&mut self, text: Text) -> Result<Vec<u8>> {
        self.texts.read_vec(text.at, text.length as usize)
    }

    pub(super) fn details(&mut self, inode: &Inode) -> Result<Details> {
        if inode.details.length == 0 {
            return Ok(Details::default());
        }
        self.text(inode.details).map(|bytes| Details::from_bytes(&bytes))
    }
}

impl Details {
    /// Takes the extended attributes of an entry; those it does not name stay.
    pub(super) fn take_xattrs(&mut self, member: &Member<'_>) {
        self.xattrs.retain(|(name, _)| !member.xattrs.iter().any(|(other, _)| other == name));
        self.xattrs.extend_from_slice(member.xattrs);
        self.xattrs.sort();
    }

    /// Takes the places of a sparse file's content.
    pub(super) fn take_segments(&mut self, member: &Member<'_>) {
        let mut position = member.position;
        for segment in member.segments.iter().filter(|segment| segment.length > 0) {
            self.segments.push(StreamSegment { offset: segment.offset, length: segment.length, position });
            position += segment.length;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.xattrs.is_empty() && self.segments.is_empty()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let length = |bytes: &mut Vec<u8>, length: usize| bytes.extend_from_slice(&(length as u32).to_le_bytes());
        length(&mut bytes, self.segments.len());
        for segment in &self.segments {
            for number in [segment.offset, segment.length, segment.position] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        for (name, value) in &self.xattrs {
            for text in [name, value] {
                length(&mut bytes, text.len());
                bytes.extend_from_slice(text);
            }
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    fn from_bytes(mut bytes: &[u8]) -> Self {
        let mut take = |count: usize| {
            let (taken, rest) = bytes.split_at(count.min(bytes.len()));
            bytes = rest;
            taken
        };
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word)) as usize;
        let number = |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|n| bytes[at * 8 + n]));
        let segments = (0..word(take(4))).map(|_| take(24).to_vec()).collect::<Vec<_>>();
        let segment = |bytes: &Vec<u8>| StreamSegment {
            offset: number(bytes, 0),
            length: number(bytes, 1),
            position: number(bytes, 2),
        };
        let segments = segments.iter().map(segment).collect();
        let mut xattrs = Vec::new();
        loop {
            let length = take(4);
            if length.is_empty() {
                return Self { xattrs, segments };
            }
            let name = take(word(length)).to_vec();
            let length = word(take(4));
            xattrs.push((name, take(length).to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_away_is_read_again() {
        let mut inodes = Inodes::new(&SpillHome::default());
        let details = Details {
            xattrs: vec![(b"a".to_vec(), b"".to_vec()), (b"user.b".to_vec(), vec![0, 255])],
            segments: vec![StreamSegment { offset: 1, length: 2, position: u64::MAX - 1 }; 3],
        };
        let stat = OverrideStat { uid: 1, gid: u32::MAX, mode: 3, rdev: 4 };
        let inode = Inode {
            implicit: true,
            mtime: Timestamp { seconds: -5, nanoseconds: 6 },
            size: 7,
            host: 8,
            position: Some(9),
            links: 10,
            mark: 11,
            target: inodes.put_text(b"target", b"").unwrap(),
            details: inodes.put_text(&details.to_bytes(), b"").unwrap(),
            ..Inode::new(NodeKind::CrossLayer, stat)
        };
        inodes.push(&Inode::new(NodeKind::Leaf, stat)).unwrap();
        inodes.push(&inode).unwrap();
        assert_eq!(inodes.get(0).unwrap(), Inode::new(NodeKind::Leaf, stat));
        assert_eq!(inodes.get(1).unwrap(), inode);
        assert_eq!(inodes.text(inode.target).unwrap(), b"target");
        assert_eq!(inodes.details(&inode).unwrap(), details);
    }
}
