//! A tar archive as a stream of entries: v7, ustar, GNU, PAX and star (POSIX.1-1988, POSIX.1-2001, GNU tar manual).
//!
//! [`Walker`] is fed blocks and tells a [`Sink`] what is in them. It is the only place that decides how far an entry
//! reaches, so what is skipped and what is extracted can't drift apart: one number, [`Member::stored`], says how many
//! bytes follow a header, and both the data handed out and the position of the next header come from it.

mod field;
mod header;
mod pax;
#[cfg(test)]
mod second_opinion;
mod sparse;
mod walk;

use crate::{error::Result, layer::block::Slice};

pub(crate) use sparse::Segment;
pub(crate) use walk::Walker;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character,
    Block,
    Fifo,
    /// A type that means nothing in an image; its payload is skipped.
    Other(u8),
}

/// Seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timestamp {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// One entry as the archive tells it, all overrides applied. Borrowed from the walker; valid during the call.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    /// The name, raw bytes, as it stands in the archive.
    pub(crate) path: &'a [u8],
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Target of a symbolic or hard link.
    pub(crate) link: &'a [u8],
    pub(crate) device: (u32, u32),
    /// Length of the file's content, holes included.
    pub(crate) size: u64,
    /// Bytes of content that follow in the archive: all of a plain file, the segments of a sparse one.
    pub(crate) stored: u64,
    /// Where they begin in the uncompressed stream.
    pub(crate) position: u64,
    /// Of a sparse file, where they go; nothing for any other.
    pub(crate) segments: &'a [Segment],
    /// Extended attributes.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Takes what the walker finds.
pub(crate) trait Sink {
    /// An entry begins; `stored` bytes of content follow through [`data`](Self::data).
    fn entry(&mut self, member: &Member<'_>) -> Result<()>;

    /// A piece of the content of the last file, for the given offset in that file.
    fn data(&mut self, offset: u64, bytes: Slice) -> Result<()>;

    /// Bytes that belong to no file: extended headers, the payload of other types, what follows the end.
    fn skipped(&mut self, bytes: usize) -> Result<()>;
}
