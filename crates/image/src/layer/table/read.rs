//! A table file, mapped and checked whole, then searched.

use std::{fmt, fs::File, path::Path};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Opened, Trust, open_file, open_trusted},
    layer::{
        map::{Bytes, map},
        stat::OverrideStat,
        table::{
            check::{self, Parts},
            row::{Row, RowKind, SEGMENT, Verified},
            wire::{CROSS_LAYER, DETAILS, IMPLIED, NO_POSITION, NONE, OPAQUE, ROW, u16_at, u32_at, u64_at},
        },
        tar::Timestamp,
    },
};

/// The table of a layer, ready to be searched.
pub(crate) struct Table {
    bytes: Bytes,
    parts: Parts,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("verified", self.verified()).field("rows", &self.len()).finish()
    }
}

impl Table {
    /// Opens and checks a table. Fails with `ERR_CACHE` on anything wrong in it, with `ERR_IO` if it can't be read: its
    /// cause says where it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::map(&open_file(path)?, path)
    }

    /// [`open`](Self::open); `ERR_CACHE` if it is not of a trusted owner or everybody may write it. `None` where nothing, or
    /// no file, is there.
    pub(crate) fn open_trusted(path: &Path, trust: &Trust) -> Result<Option<Self>> {
        match open_trusted(path, trust)? {
            Opened::File(file, _) => Self::map(&file, path).map(Some),
            Opened::Nothing | Opened::Other => Ok(None),
        }
    }

    fn map(file: &File, path: &Path) -> Result<Self> {
        let bytes = map(file).map_err(|error| ImageError::io("map", path, error))?;
        Self::check(Bytes::Mapped(bytes), &path.display().to_string())
    }

    /// The same of bytes at hand.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::check(Bytes::Owned(bytes), "(in memory)")
    }

    fn check(bytes: Bytes, path: &str) -> Result<Self> {
        match check::check(&bytes) {
            Ok(parts) => Ok(Self { bytes, parts }),
            Err(reason) => {
                let reason = format!("the layer's table is damaged: {reason}");
                Err(ErrorKind::Cache { path: path.to_owned(), reason }.into())
            }
        }
    }

    /// The bytes of the file.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was verified of the blob.
    pub(crate) fn verified(&self) -> &Verified {
        &self.parts.verified
    }

    /// Whether a directory other than the root has no entry of its own.
    pub(crate) fn has_implied_directories(&self) -> bool {
        self.parts.has_implied
    }

    /// Whether a hard link leads to a file of a lower layer.
    pub(crate) fn has_cross_layer_links(&self) -> bool {
        self.parts.has_cross_layer
    }

    /// Number of rows, the root's included.
    #[allow(clippy::len_without_is_empty, reason = "there is always the root")]
    pub(crate) fn len(&self) -> usize {
        self.parts.rows.len() / ROW
    }

    /// A row by number. Panics on a number that is not less than [`len`](Self::len).
    pub(crate) fn row(&self, at: usize) -> Row<'_> {
        assert!(at < self.len(), "a row by a number of the table");
        read_row(&self.bytes[self.parts.rows.clone()], &self.bytes[self.parts.pool.clone()], at)
            .expect("the table was checked when it was opened")
    }

    /// All rows in the order of their paths.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|at| self.row(at))
    }

    /// The number of the row of a path.
    pub(crate) fn find(&self, path: &[u8]) -> Option<usize> {
        let at = self.first_from(path);
        (at < self.len() && self.path(at) == path).then_some(at)
    }

    /// The number of the first row whose path is not less than `path`: rows below a directory `d` begin at that of `d/`.
    pub(crate) fn first_from(&self, path: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.path(middle) < path { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn path(&self, at: usize) -> &[u8] {
        let row = &self.bytes[self.parts.rows.start + at * ROW..][..ROW];
        &self.bytes[self.parts.pool.start + u32_at(row, 28) as usize..][..u32_at(row, 32) as usize]
    }
}

/// Reads a row; `None` where it points outside.
pub(super) fn read_row<'a>(rows: &'a [u8], pool: &'a [u8], at: usize) -> Option<Row<'a>> {
    let row = rows.get(at.checked_mul(ROW)?..)?.get(..ROW)?;
    let path = pool.get(u32_at(row, 28) as usize..)?.get(..u32_at(row, 32) as usize)?;
    let details = match u32_at(row, 36) {
        NONE => Details::default(),
        at => Details::read(pool.get(at as usize..)?)?,
    };
    let (position, group, flags) = (u64_at(row, 8), u32_at(row, 48), row[55]);
    Some(Row {
        path,
        kind: RowKind::from_byte(row[54])?,
        stat: OverrideStat {
            uid: u32_at(row, 40),
            gid: u32_at(row, 44),
            mode: u16_at(row, 52).into(),
            rdev: details.rdev,
        },
        mtime: Timestamp { seconds: u64_at(row, 16).cast_signed(), nanoseconds: u32_at(row, 24) },
        size: u64_at(row, 0),
        position: (position != NO_POSITION).then_some(position),
        target: details.target,
        group: (group != NONE).then_some(group),
        implied: flags & IMPLIED != 0,
        opaque: flags & OPAQUE != 0,
        cross_layer: flags & CROSS_LAYER != 0,
        segments: details.segments,
        xattrs: details.xattrs,
    })
}

#[derive(Default)]
struct Details<'a> {
    rdev: u32,
    target: &'a [u8],
    segments: &'a [u8],
    xattrs: &'a [u8],
}

impl<'a> Details<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(DETAILS)?;
        let (target, rest) = rest.split_at_checked(u32_at(head, 4) as usize)?;
        let (segments, rest) = rest.split_at_checked((u32_at(head, 8) as usize).checked_mul(SEGMENT)?)?;
        let mut length = 0usize;
        for _ in 0..u32_at(head, 12) {
            let lengths = rest.get(length..)?.get(..8)?;
            length = length.checked_add(8 + u32_at(lengths, 0) as usize)?.checked_add(u32_at(lengths, 4) as usize)?;
        }
        Some(Self { rdev: u32_at(head, 0), target, segments, xattrs: rest.get(..length)? })
    }
}
