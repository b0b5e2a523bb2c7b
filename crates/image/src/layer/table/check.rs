//! Is it a table? A right checksum says that nothing was lost, not that it was written well: whoever reads a table that
//! passed here may use its paths, places and groups as they stand.

use std::ops::Range;

use crate::{
    layer::table::{
        read::read_row,
        row::{Row, RowKind, Verified},
        wire::{
            CHECKSUM, CROSS_LAYER, HAS_CROSS_LAYER, HAS_IMPLIED, HEADER, HEADER_CHECKSUM, IMPLIED, MAGIC, NONE, OPAQUE,
            ROW, VERSION, checksum, header_checksum, u16_at, u32_at, u64_at,
        },
    },
    model::Digest,
};

/// Where the parts of a table lie, and what its header says.
pub(super) struct Parts {
    pub(super) verified: Verified,
    pub(super) has_implied: bool,
    pub(super) has_cross_layer: bool,
    pub(super) rows: Range<usize>,
    pub(super) pool: Range<usize>,
}

pub(super) fn check(bytes: &[u8]) -> Result<Parts, &'static str> {
    if bytes.len() < HEADER || bytes[..4] != MAGIC {
        return Err("it is no table");
    }
    if u32_at(bytes, 4) != VERSION {
        return Err("it has an unknown version");
    }
    let rows = (u32_at(bytes, 16) as usize).checked_mul(ROW).and_then(|length| length.checked_add(HEADER));
    let rows = HEADER..rows.ok_or("its length is not that of its parts")?;
    let pool = usize::try_from(u64_at(bytes, 40)).ok().and_then(|length| rows.end.checked_add(length));
    let pool = rows.end..pool.filter(|&end| end == bytes.len()).ok_or("its length is not that of its parts")?;
    if checksum(bytes) != u32_at(bytes, CHECKSUM) {
        return Err("its checksum is wrong");
    }
    let flags = u32_at(bytes, 8);
    let reserved = bytes[54..HEADER].iter().any(|&byte| byte != 0);
    if flags & !(HAS_IMPLIED | HAS_CROSS_LAYER) != 0 || reserved {
        return Err("it has something that this version does not know");
    }
    let verified = read_verified(bytes, &bytes[pool.clone()]).ok_or("what it says of the blob can't be read")?;
    let found = Checker::new(&bytes[rows.clone()], &bytes[pool.clone()], verified.uncompressed_size).all()?;
    if found != flags {
        return Err("its flags are not those of its rows");
    }
    let (has_implied, has_cross_layer) = (flags & HAS_IMPLIED != 0, flags & HAS_CROSS_LAYER != 0);
    Ok(Parts { verified, has_implied, has_cross_layer, rows, pool })
}

pub(super) fn read_verified(header: &[u8], pool: &[u8]) -> Option<Verified> {
    let (digest, rest) = pool.split_at_checked(u16_at(header, 48).into())?;
    let (diff_id, rest) = rest.split_at_checked(u16_at(header, 50).into())?;
    let media_type = rest.get(..u16_at(header, 52).into())?;
    let texts = pool.get(..digest.len() + diff_id.len() + media_type.len())?;
    if header_checksum(header, texts) != u32_at(header, HEADER_CHECKSUM) {
        return None;
    }
    let digest_of = |bytes| Digest::parse(std::str::from_utf8(bytes).ok()?).ok();
    Some(Verified {
        digest: digest_of(digest)?,
        size: u64_at(header, 24),
        media_type: std::str::from_utf8(media_type).ok()?.to_owned(),
        diff_id: digest_of(diff_id)?,
        uncompressed_size: u64_at(header, 32),
    })
}

struct Checker<'a> {
    rows: &'a [u8],
    pool: &'a [u8],
    stream: u64,
    /// Rows whose paths the path at hand begins with, shortest first. A parent is always among them.
    prefixes: Vec<(usize, RowKind)>,
    last: &'a [u8],
    flags: u32,
}

impl<'a> Checker<'a> {
    fn new(rows: &'a [u8], pool: &'a [u8], stream: u64) -> Self {
        Self { rows, pool, stream, prefixes: Vec::new(), last: b"", flags: 0 }
    }

    /// Checks all rows; answers with the flags that their header must have.
    fn all(mut self) -> Result<u32, &'static str> {
        let mut before: Option<&[u8]> = None;
        for at in 0..self.rows.len() / ROW {
            let row = read_row(self.rows, self.pool, at).ok_or("a row can't be read")?;
            match before {
                None if !row.path.is_empty() || row.kind != RowKind::Directory => return Err("it has no root"),
                Some(before) if before >= row.path => return Err("its rows are not sorted"),
                _ => {}
            }
            before = Some(row.path);
            self.place(&row)?;
            self.facts(&row, self.rows[at * ROW + 55])?;
            self.group(&row, at)?;
        }
        before.map(|_| self.flags).ok_or("it has no root")
    }

    /// Every row lies in a directory that has a row, under a name that is one.
    fn place(&mut self, row: &Row<'a>) -> Result<(), &'static str> {
        while self.prefixes.last().is_some_and(|&(length, _)| row.path.get(..length) != Some(&self.last[..length])) {
            self.prefixes.pop();
        }
        if !row.path.is_empty() {
            let slash = row.path.iter().rposition(|&byte| byte == b'/');
            let (parent, name) = slash.map_or((0, row.path), |slash| (slash, &row.path[slash + 1..]));
            if slash == Some(0) || matches!(name, b"" | b"." | b"..") || name.contains(&0) {
                return Err("a path leads elsewhere");
            }
            let parent = self.prefixes.binary_search_by_key(&parent, |&(length, _)| length);
            if !parent.is_ok_and(|at| self.prefixes[at].1 == RowKind::Directory) {
                return Err("a row lies in no directory");
            }
            let hides = name.starts_with(b".wh.");
            if hides != (row.kind == RowKind::Whiteout) || name.starts_with(b".wh..wh.") || name == b".wh." {
                return Err("a name and its kind disagree about a whiteout");
            }
        }
        self.prefixes.push((row.path.len(), row.kind));
        self.last = row.path;
        Ok(())
    }

    fn facts(&mut self, row: &Row<'a>, flags: u8) -> Result<(), &'static str> {
        let directory = row.kind == RowKind::Directory;
        if flags & !(IMPLIED | OPAQUE | CROSS_LAYER) != 0 || (row.implied || row.opaque) && !directory {
            return Err("a row has a flag that its kind can't have");
        }
        let device = matches!(row.kind, RowKind::Character | RowKind::Block);
        let type_bits = row.stat.mode & !0o7777;
        if type_bits != row.kind.type_bits() || row.mtime.nanoseconds >= 1_000_000_000 || row.stat.rdev != 0 && !device
        {
            return Err("a row's attributes are not those of its kind");
        }
        let links = row.kind == RowKind::Symlink || row.cross_layer;
        if row.cross_layer && (row.kind != RowKind::File || row.position.is_some() || row.size != 0)
            || links == row.target.is_empty()
            || row.target.contains(&0)
            || row.cross_layer && !is_inside(row.target)
        {
            return Err("a row is no proper link");
        }
        self.content(row)?;
        let mut before: &[u8] = b"";
        for (name, _) in row.xattrs() {
            if name <= before || name.contains(&0) {
                return Err("the attributes of a row are not sorted");
            }
            before = name;
        }
        self.flags |= if row.implied && !row.path.is_empty() { HAS_IMPLIED } else { 0 };
        self.flags |= if row.cross_layer { HAS_CROSS_LAYER } else { 0 };
        Ok(())
    }

    /// What a row says of its content lies within the stream.
    fn content(&self, row: &Row<'_>) -> Result<(), &'static str> {
        const OUTSIDE: &str = "a row's content lies outside the stream";
        let inside = |position: u64, length: u64| position.checked_add(length).is_some_and(|end| end <= self.stream);
        let Some(position) = row.position else {
            let (none, sparse) = (row.size == 0 || row.kind == RowKind::Symlink, row.segments().len() > 0);
            // A file of nothing but a hole has no bytes in the stream.
            return if sparse || !none && row.kind != RowKind::File && row.kind != RowKind::Whiteout {
                Err(OUTSIDE)
            } else {
                Ok(())
            };
        };
        if !matches!(row.kind, RowKind::File | RowKind::Whiteout) || !inside(position, 0) {
            return Err(OUTSIDE);
        }
        if row.segments().len() == 0 {
            return if inside(position, row.size) { Ok(()) } else { Err(OUTSIDE) };
        }
        let mut end = 0;
        for segment in row.segments() {
            let next = segment.offset.checked_add(segment.length).filter(|_| segment.offset >= end);
            end = next.filter(|&end| end <= row.size).ok_or("the segments of a row are out of order")?;
            if segment.length == 0 || !inside(segment.position, segment.length) {
                return Err(OUTSIDE);
            }
        }
        Ok(())
    }

    /// A group is named by its first row, and all its rows say the same.
    fn group(&self, row: &Row<'_>, at: usize) -> Result<(), &'static str> {
        const WRONG: &str = "a group of hard links is none";
        let Some(group) = row.group else { return Ok(()) };
        if group == NONE || group as usize > at || matches!(row.kind, RowKind::Directory | RowKind::Whiteout) {
            return Err(WRONG);
        }
        let first = read_row(self.rows, self.pool, group as usize).ok_or(WRONG)?;
        let facts = |row: &Row<'_>| (row.kind, row.stat, row.mtime, row.size, row.position, row.cross_layer);
        let same = facts(&first) == facts(row) && first.target == row.target && first.segments == row.segments;
        if first.group == Some(group) && same && first.xattrs == row.xattrs { Ok(()) } else { Err(WRONG) }
    }
}

/// A relative path without empty names and dots.
fn is_inside(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}
