//! The walk over an archive: header, content, padding, next header.

use std::sync::Arc;

use crate::{
    error::{ErrorKind, Result},
    layer::{
        block::{Block, Slice},
        tar::{
            EntryKind, Member, Segment, Sink, Timestamp,
            field::number,
            header::{self, Fields, RECORD, damaged},
            pax::Overrides,
            sparse::{self, MapReader},
        },
    },
};

/// The longest extended header that is read, in bytes: far more than any real one (attributes are at most 64 KiB each).
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Reads an archive that arrives in blocks.
pub(crate) struct Walker {
    state: State,
    fields: Fields,
    local: Overrides,
    global: Overrides,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extension: Vec<u8>,
    /// Segments of the sparse file at hand, and how far the content has come.
    map: Vec<Segment>,
    segment: usize,
    within: u64,
    /// Bytes of the stream before the block at hand.
    fed: u64,
    /// Where content begins that follows the record at hand.
    content_position: u64,
}

enum State {
    Header,
    /// One record of zeros was seen; a second one ends the archive.
    MaybeEnd,
    /// Collecting an extended header of the given type.
    Extension {
        type_flag: u8,
        left: u64,
        padding: u64,
    },
    /// Old GNU sparse: more segments follow in records of their own.
    GnuMap {
        real_size: u64,
    },
    /// PAX sparse 1.0: the map stands before the data.
    PaxMap {
        reader: MapReader,
        real_size: u64,
        stored: u64,
    },
    Content {
        left: u64,
        padding: u64,
        wanted: bool,
    },
    End,
}

impl Walker {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Header,
            fields: Fields::default(),
            local: Overrides::default(),
            global: Overrides::default(),
            long_name: None,
            long_link: None,
            extension: Vec::new(),
            map: Vec::new(),
            segment: 0,
            within: 0,
            fed: 0,
            content_position: 0,
        }
    }

    /// Walks through a block. All blocks but the last are multiples of a record long.
    pub(crate) fn feed(&mut self, block: &Arc<Block>, sink: &mut impl Sink) -> Result<()> {
        let mut at = 0;
        while at < block.len() {
            at += match &mut self.state {
                State::End => return sink.skipped(block.len() - at),
                State::Content { .. } => self.content(block, at, sink)?,
                State::Extension { .. } => {
                    let taken = self.extension(&block[at..])?;
                    sink.skipped(taken)?;
                    taken
                }
                _ => {
                    let record = block[at..].first_chunk::<RECORD>().ok_or_else(cut)?;
                    self.content_position = self.fed + (at + RECORD) as u64;
                    self.record(record, sink)?;
                    RECORD
                }
            };
        }
        self.fed += block.len() as u64;
        Ok(())
    }

    /// Says that no more blocks come.
    pub(crate) fn finish(&self) -> Result<()> {
        let dangling = self.long_name.is_some() || self.long_link.is_some() || !self.extension.is_empty();
        match self.state {
            State::End | State::MaybeEnd => Ok(()),
            State::Header if !dangling => Ok(()),
            _ => Err(cut()),
        }
    }

    /// A record that is no content: a header, or part of a sparse map.
    fn record(&mut self, record: &[u8; RECORD], sink: &mut impl Sink) -> Result<()> {
        match &mut self.state {
            State::GnuMap { real_size } => {
                let real_size = *real_size;
                sparse::gnu_segments(&record[..504], &mut self.map, &self.fields.path)?;
                if record[504] == 0 {
                    return self.begin(real_size, self.fields.size, true, sink);
                }
                Ok(())
            }
            State::PaxMap { reader, real_size, stored } => {
                let (real_size, before) = (*real_size, *stored);
                let path = self.local.sparse.name.as_deref().unwrap_or(&self.fields.path);
                *stored = before
                    .checked_sub(RECORD as u64)
                    .ok_or_else(|| damaged(path, "the sparse map is longer than the entry".to_owned()))?;
                if reader.take(record, before, path)? {
                    let stored = *stored;
                    self.map = std::mem::take(&mut reader.map);
                    return self.begin(real_size, stored, true, sink);
                }
                Ok(())
            }
            state => {
                let zero = record.iter().all(|&byte| byte == 0);
                match (&state, zero) {
                    (State::MaybeEnd, true) => *state = State::End,
                    (State::MaybeEnd, false) => {
                        return Err(damaged(b"(end)", "data follows a lone record of zeros".to_owned()));
                    }
                    (_, true) => {
                        self.finish()?;
                        self.state = State::MaybeEnd;
                    }
                    (_, false) => self.header(record, sink)?,
                }
                Ok(())
            }
        }
    }

    fn header(&mut self, record: &[u8; RECORD], sink: &mut impl Sink) -> Result<()> {
        header::read(record, &mut self.fields)?;
        match self.fields.type_flag {
            type_flag @ (b'x' | b'X' | b'g' | b'L' | b'K') => {
                let left = self.fields.size;
                if left > LONGEST_EXTENSION {
                    return Err(ErrorKind::Limit {
                        limit: "bytes in an extended header",
                        value: LONGEST_EXTENSION,
                        option: "none: no real image needs more",
                        entry: None,
                    }
                    .into());
                }
                self.extension.clear();
                self.state = State::Extension { type_flag, left, padding: padding(left) };
                if left == 0 { self.end_extension() } else { Ok(()) }
            }
            b'S' => self.gnu_sparse(record, sink),
            _ => self.plain_or_pax_sparse(sink),
        }
    }

    fn extension(&mut self, bytes: &[u8]) -> Result<usize> {
        let State::Extension { left, padding, .. } = &mut self.state else { unreachable!("asked in this state only") };
        let content = take(left, bytes.len());
        self.extension.extend_from_slice(&bytes[..content]);
        let skipped = take(padding, bytes.len() - content);
        if *left == 0 && *padding == 0 {
            self.end_extension()?;
        }
        Ok(content + skipped)
    }

    fn end_extension(&mut self) -> Result<()> {
        let State::Extension { type_flag, .. } = self.state else { unreachable!("asked in this state only") };
        self.state = State::Header;
        match type_flag {
            b'g' => {
                let bytes = std::mem::take(&mut self.extension);
                self.global.read_global(&bytes)
            }
            b'L' => {
                self.long_name = Some(self.field_text());
                Ok(())
            }
            b'K' => {
                self.long_link = Some(self.field_text());
                Ok(())
            }
            _ => {
                self.local.clear();
                self.local.read_local(&self.extension)
            }
        }
    }

    /// The text of a GNU long name, which ends at its NUL.
    fn field_text(&mut self) -> Vec<u8> {
        super::field::text(&std::mem::take(&mut self.extension)).to_vec()
    }

    fn gnu_sparse(&mut self, record: &[u8; RECORD], sink: &mut impl Sink) -> Result<()> {
        if self.local.size.is_some() {
            // Readers disagree which of the two lengths holds.
            return Err(damaged(&self.fields.path, "an old sparse header has a PAX size".to_owned()));
        }
        let real_size = number(&record[483..495]).and_then(|size| u64::try_from(size).ok());
        let real_size =
            real_size.ok_or_else(|| damaged(&self.fields.path, "the sparse file's size is no number".to_owned()))?;
        self.map.clear();
        sparse::gnu_segments(&record[386..482], &mut self.map, &self.fields.path)?;
        if record[482] == 0 {
            return self.begin(real_size, self.fields.size, true, sink);
        }
        self.state = State::GnuMap { real_size };
        Ok(())
    }

    fn plain_or_pax_sparse(&mut self, sink: &mut impl Sink) -> Result<()> {
        let stored = self.local.size.unwrap_or(self.fields.size);
        let keys = &mut self.local.sparse;
        if !keys.any() || !matches!(self.fields.type_flag, 0 | b'0') {
            return self.begin(stored, stored, false, sink);
        }
        let path = keys.name.as_deref().unwrap_or(&self.fields.path);
        let real_size =
            keys.real_size.ok_or_else(|| damaged(path, "a sparse file does not state its size".to_owned()))?;
        if let (Some(1), Some(0)) = (keys.major, keys.minor) {
            self.state = State::PaxMap { reader: MapReader::default(), real_size, stored };
            return Ok(());
        }
        if keys.count.is_some_and(|count| count != keys.map.len() as u64) {
            return Err(damaged(path, "the sparse map has another length than stated".to_owned()));
        }
        self.map = std::mem::take(&mut keys.map);
        self.begin(real_size, stored, true, sink)
    }

    /// Hands the entry out. `stored` bytes follow in the archive, whatever else the headers said.
    fn begin(&mut self, size: u64, stored: u64, sparse: bool, sink: &mut impl Sink) -> Result<()> {
        let mut local = std::mem::take(&mut self.local);
        local.default_to(&self.global);
        let long_name = self.long_name.take();
        let long_link = self.long_link.take();
        let fields = &self.fields;
        let sparse_name = local.sparse.name.as_deref().filter(|_| sparse);
        let path = sparse_name.or(long_name.as_deref()).or(local.path.as_deref()).unwrap_or(&fields.path);
        let link = long_link.as_deref().or(local.link.as_deref()).unwrap_or(&fields.link);
        let kind = kind(fields.type_flag, path);
        // Links, directories and devices have no content, whatever their size field says.
        let header_only = matches!(fields.type_flag, b'1'..=b'6');
        let (size, stored) = if header_only { (0, 0) } else { (size, stored) };
        let wanted = kind == EntryKind::File;
        if sparse {
            sparse::check_map(&self.map, size, stored, path)?;
        }
        let id = |name, value: i64| {
            u32::try_from(value).map_err(|_| damaged(path, format!("the {name} {value} does not fit in 32 bits")))
        };
        sink.entry(&Member {
            path,
            kind,
            mode: fields.mode,
            uid: local.uid.map_or_else(|| id("uid", fields.uid), Ok)?,
            gid: local.gid.map_or_else(|| id("gid", fields.gid), Ok)?,
            mtime: local.mtime.unwrap_or(Timestamp { seconds: fields.mtime, nanoseconds: 0 }),
            link,
            device: (local.device_major.unwrap_or(fields.device.0), local.device_minor.unwrap_or(fields.device.1)),
            size: if wanted { size } else { 0 },
            stored: if wanted { stored } else { 0 },
            position: self.content_position,
            segments: if sparse { &self.map } else { &[] },
            xattrs: &local.xattrs,
        })?;
        if !sparse {
            self.map.clear();
            self.map.push(Segment { offset: 0, length: stored });
        }
        (self.segment, self.within) = (0, 0);
        self.extension.clear();
        self.state = match stored {
            0 => State::Header,
            left => State::Content { left, padding: padding(left), wanted },
        };
        Ok(())
    }

    /// Hands out content, segment by segment, and returns how many bytes of the block are done with.
    fn content(&mut self, block: &Arc<Block>, at: usize, sink: &mut impl Sink) -> Result<usize> {
        let State::Content { left, padding, wanted } = &mut self.state else {
            unreachable!("asked in this state only")
        };
        let content = take(left, block.len() - at);
        let padding_left = take(padding, block.len() - at - content);
        let done = *left == 0 && *padding == 0;
        if *wanted {
            let mut start = at;
            while start < at + content {
                let segment = self.map[self.segment];
                let length = (segment.length - self.within).min((at + content - start) as u64);
                if length == 0 {
                    (self.segment, self.within) = (self.segment + 1, 0);
                    continue;
                }
                let end = start + length as usize;
                sink.data(segment.offset + self.within, Slice::new(block, start..end))?;
                self.within += length;
                start = end;
            }
        } else {
            sink.skipped(content)?;
        }
        if done {
            self.state = State::Header;
        }
        Ok(content + padding_left)
    }
}

/// What a type flag means. Old archives mark a directory by a name that ends in a slash.
fn kind(type_flag: u8, path: &[u8]) -> EntryKind {
    match type_flag {
        0 | b'0' if path.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::Character,
        b'4' => EntryKind::Block,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => EntryKind::Other(other),
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % RECORD as u64
}

/// Takes as much of `left` as `available` allows.
fn take(left: &mut u64, available: usize) -> usize {
    let count = (*left).min(available as u64);
    *left -= count;
    count as usize
}

fn cut() -> crate::error::ImageError {
    ErrorKind::Extraction { entry: None, reason: "the archive ends in the middle of an entry".to_owned() }.into()
}
