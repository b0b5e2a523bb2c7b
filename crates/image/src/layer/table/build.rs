//! Rows → the bytes of a table.

use crate::{
    error::{ErrorKind, Result},
    layer::{
        halt::Halt,
        sidecar::Sidecar,
        spill::{Spill, SpillHome},
        stat::OverrideStat,
        table::{
            row::{RowKind, StreamSegment, Verified},
            wire::{
                CHECKSUM, CROSS_LAYER, DETAILS, HAS_CROSS_LAYER, HAS_IMPLIED, HEADER, HEADER_CHECKSUM, IMPLIED, MAGIC,
                NO_POSITION, NONE, OPAQUE, ROW, VERSION, header_checksum,
            },
        },
        tar::Timestamp,
    },
};

/// Bytes of paths, targets and attributes in a table. Real ones have a hundredth of it.
const MAX_POOL: u64 = 1 << 30;

/// A row with the places it refers to settled.
pub(super) struct Record<'a> {
    pub(super) path: &'a [u8],
    pub(super) kind: RowKind,
    pub(super) stat: OverrideStat,
    pub(super) mtime: Timestamp,
    pub(super) size: u64,
    pub(super) position: Option<u64>,
    pub(super) target: &'a [u8],
    /// The row of the first name of an inode of several.
    pub(super) group: Option<u32>,
    pub(super) implied: bool,
    pub(super) opaque: bool,
    pub(super) cross_layer: bool,
    pub(super) segments: &'a [StreamSegment],
    /// Sorted by name, each once.
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Takes records sorted by path.
pub(super) struct Builder {
    rows: Spill,
    pool: Spill,
    home: SpillHome,
    count: u32,
    flags: u32,
}

impl Builder {
    /// A table of what was verified; its texts come first in the pool.
    pub(super) fn new(verified: &Verified, home: &SpillHome) -> Result<Self> {
        let (rows, pool) = (Spill::new(home), Spill::new(home));
        let mut builder = Self { rows, pool, home: home.clone(), count: 0, flags: 0 };
        for text in [&verified.digest.to_string(), &verified.diff_id.to_string(), media_type(verified)] {
            builder.put(text.as_bytes())?;
        }
        Ok(builder)
    }

    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<()> {
        let path = self.put(record.path)?;
        let details = details(record);
        let details = if details.is_empty() { NONE } else { self.put(&details)? };
        let mut row = [0; ROW];
        row[..8].copy_from_slice(&record.size.to_le_bytes());
        row[8..16].copy_from_slice(&record.position.unwrap_or(NO_POSITION).to_le_bytes());
        row[16..24].copy_from_slice(&record.mtime.seconds.to_le_bytes());
        let words = [
            record.mtime.nanoseconds,
            path,
            length(record.path),
            details,
            record.stat.uid,
            record.stat.gid,
            record.group.unwrap_or(NONE),
        ];
        for (at, word) in (24..).step_by(4).zip(words) {
            row[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        row[52..54].copy_from_slice(&(record.stat.mode as u16).to_le_bytes());
        row[54] = record.kind.to_byte();
        let flags = [(record.implied, IMPLIED), (record.opaque, OPAQUE), (record.cross_layer, CROSS_LAYER)];
        row[55] = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        self.rows.append(&row)?;
        self.count += 1;
        // The root's attributes depend on no lower layer.
        self.flags |= if record.implied && !record.path.is_empty() { HAS_IMPLIED } else { 0 };
        self.flags |= if record.cross_layer { HAS_CROSS_LAYER } else { 0 };
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<u32> {
        if self.pool.len() + bytes.len() as u64 > MAX_POOL {
            let reason = "its paths, link targets and attributes take more than 1 GiB in all".to_owned();
            return Err(ErrorKind::Extraction { entry: None, reason }.into());
        }
        Ok(u32::try_from(self.pool.append(bytes)?).expect("the pool is bounded"))
    }

    pub(super) fn finish(mut self, verified: &Verified, halt: &Halt) -> Result<Sidecar> {
        let mut file = Spill::new(&self.home);
        let mut header = header(verified, self.flags, self.count, self.pool.len());
        let mut sum = crc32c::crc32c(&header);
        file.append(&header)?;
        for part in [&mut self.rows, &mut self.pool] {
            part.for_each_piece(halt, |piece| {
                sum = crc32c::crc32c_append(sum, piece);
                file.append(piece).map(|_| ())
            })?;
        }
        header[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        file.write_at(0, &header)?;
        file.into_sidecar(halt)
    }
}

/// The media type as it is kept: one that is longer than any real one is not.
fn media_type(verified: &Verified) -> &String {
    static NOT_KEPT: String = String::new();
    if verified.media_type.len() <= 256 { &verified.media_type } else { &NOT_KEPT }
}

fn header(verified: &Verified, flags: u32, rows: u32, pool: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    for (at, word) in [(4, VERSION), (8, flags), (16, rows)] {
        header[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    for (at, number) in [(24, verified.size), (32, verified.uncompressed_size), (40, pool)] {
        header[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    let lengths = [verified.digest.to_string().len(), verified.diff_id.to_string().len(), media_type(verified).len()];
    for (at, length) in (48..).step_by(2).zip(lengths) {
        header[at..at + 2].copy_from_slice(&(length as u16).to_le_bytes());
    }
    let texts = [&verified.digest.to_string(), &verified.diff_id.to_string(), media_type(verified)];
    let sum = header_checksum(&header, texts.map(String::as_bytes).concat().as_slice());
    header[HEADER_CHECKSUM..HEADER_CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
    header
}

/// What few rows have; empty for all others.
fn details(record: &Record<'_>) -> Vec<u8> {
    let Record { stat, target, segments, xattrs, .. } = record;
    if stat.rdev == 0 && target.is_empty() && segments.is_empty() && xattrs.is_empty() {
        return Vec::new();
    }
    let mut bytes = Vec::with_capacity(DETAILS + target.len());
    for word in [stat.rdev, length(target), length(segments), length(xattrs)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(target);
    for segment in *segments {
        for number in [segment.offset, segment.length, segment.position] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    for (name, value) in *xattrs {
        for part in [name, value] {
            bytes.extend_from_slice(&length(part).to_le_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
    }
    bytes
}

fn length<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).expect("nothing in an entry is longer than 4 GiB")
}

/// Builds a table of rows in any order. A root that is not among them is added, as one that no entry described.
#[cfg(test)]
pub(crate) fn build_table(verified: &Verified, rows: impl IntoIterator<Item = super::OwnedRow>) -> Vec<u8> {
    use super::OwnedRow;
    let mut rows: Vec<OwnedRow> = rows.into_iter().collect();
    if !rows.iter().any(|row| row.path.is_empty()) {
        rows.push(OwnedRow { implied: true, ..OwnedRow::new(b"", RowKind::Directory) });
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let mut names = std::collections::HashMap::<u64, u32>::new();
    for group in rows.iter().filter_map(|row| row.group) {
        *names.entry(group).or_default() += 1;
    }
    let mut first = std::collections::HashMap::<u64, u32>::new();
    const FITS: &str = "rows at hand stay in memory and below the bound";
    let mut builder = Builder::new(verified, &SpillHome::default()).expect(FITS);
    for (at, row) in (0u32..).zip(&mut rows) {
        row.xattrs.sort();
        let group = row.group.filter(|group| names[group] > 1).map(|group| *first.entry(group).or_insert(at));
        let record = Record {
            path: &row.path,
            kind: row.kind,
            stat: row.stat,
            mtime: row.mtime,
            size: row.size,
            position: row.position,
            target: &row.target,
            group,
            implied: row.implied,
            opaque: row.opaque,
            cross_layer: row.cross_layer,
            segments: &row.segments,
            xattrs: &row.xattrs,
        };
        builder.push(&record).expect(FITS);
    }
    let table = builder.finish(verified, &Halt::default()).expect(FITS);
    table.to_vec().expect(FITS)
}
