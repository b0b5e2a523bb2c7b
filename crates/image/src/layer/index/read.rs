//! An index file, mapped and checked whole, then searched.

use std::{ops::Range, path::Path};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Opened, Trust, no_file, open_file, open_trusted},
    layer::{
        index::wire::{
            CHECKSUM, DIRECTORY, ENTRY, HARD_LINK, HEADER, MAGIC, NO_RECORD, OPAQUE, VERSION, WHITEOUT, checksum,
            u16_at, u32_at, u64_at,
        },
        map::{Bytes, map},
    },
};

/// A layer's index, ready to be searched. Paths are raw bytes, relative, without a leading slash; the root is empty.
pub struct LayerIndex {
    bytes: Bytes,
    directories: Range<usize>,
    entries: Range<usize>,
    hard_links: Range<usize>,
    pool: Range<usize>,
}

/// What an index says of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryRecord<'a> {
    /// Path from the root.
    pub path: &'a [u8],
    /// True if it hides all that lower layers have in it.
    pub opaque: bool,
    pub(super) first: usize,
    count: usize,
    tombstones: (usize, usize),
}

/// What an index says of a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRecord<'a> {
    /// The name; of a whiteout, the name it hides.
    pub name: &'a [u8],
    /// The host's inode number; 0 for a whiteout.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Mode with type bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// True if it hides the name in lower layers.
    pub whiteout: bool,
    /// Number of its directory record, for a directory.
    pub directory: Option<usize>,
}

impl LayerIndex {
    /// Opens and checks an index. Fails with `ERR_INDEX` on anything wrong in it, `ERR_IO` if it can't be read, `ERR_CACHE` if
    /// it is no regular file; never blocks and follows no link.
    pub fn open(path: &Path) -> Result<Self> {
        Self::map(&open_file(path)?, path)
    }

    /// [`open`](Self::open); `ERR_CACHE` if it is not of a trusted owner or everybody may write it.
    pub(crate) fn open_trusted(path: &Path, trust: &Trust) -> Result<Self> {
        match open_trusted(path, trust)? {
            Opened::File(file, _) => Self::map(&file, path),
            Opened::Nothing | Opened::Other => Err(no_file(path)),
        }
    }

    /// [`open`](Self::open) of bytes at hand.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::checked(Bytes::Owned(bytes), Path::new("(in memory)"))
    }

    fn map(file: &std::fs::File, path: &Path) -> Result<Self> {
        let bytes = map(file).map_err(|error| ImageError::io("map", path, error))?;
        Self::checked(Bytes::Mapped(bytes), path)
    }

    fn checked(bytes: Bytes, path: &Path) -> Result<Self> {
        Self::check(bytes)
            .map_err(|reason| ErrorKind::Index { path: path.display().to_string(), reason: reason.to_owned() }.into())
    }

    fn check(bytes: Bytes) -> Result<Self, &'static str> {
        if bytes.len() < HEADER || u32_at(&bytes, 0) != MAGIC {
            return Err("it is no index");
        }
        if u32_at(&bytes, 4) != VERSION {
            return Err("it has an unknown version");
        }
        let count =
            |at: usize, size: usize| (u32_at(&bytes, at) as usize).checked_mul(size).ok_or("its tables are too large");
        let mut end = HEADER;
        let mut table = |length: usize| {
            let start = end;
            end = end.checked_add(length).ok_or("its tables are too large")?;
            Ok::<_, &'static str>(start..end)
        };
        let directories = table(count(12, DIRECTORY)?)?;
        let entries = table(count(16, ENTRY)?)?;
        let hard_links = table(count(20, HARD_LINK)?)?;
        let pool = table(count(24, 1)?)?;
        if end != bytes.len() {
            return Err("its length is not that of its tables");
        }
        if checksum(&bytes) != u32_at(&bytes, CHECKSUM) {
            return Err("its checksum is wrong");
        }
        let index = Self { bytes, directories, entries, hard_links, pool };
        index.check_places()?;
        Ok(index)
    }

    /// A right checksum says that nothing was lost, not that it was written well.
    fn check_places(&self) -> Result<(), &'static str> {
        let pool = self.pool.len();
        let in_pool = |offset: usize, length: usize| offset.checked_add(length).is_some_and(|end| end <= pool);
        for record in self.bytes[self.directories.clone()].chunks_exact(DIRECTORY) {
            let (first, count) = (u32_at(record, 8) as usize, u32_at(record, 12) as usize);
            if !in_pool(u32_at(record, 0) as usize, u16_at(record, 4).into())
                || first.checked_add(count).is_none_or(|end| end > self.entry_count())
                || !in_pool(u32_at(record, 16) as usize, 2 * usize::from(u16_at(record, 20)))
            {
                return Err("a directory record points outside");
            }
        }
        for record in self.bytes[self.entries.clone()].chunks_exact(ENTRY) {
            let directory = u32_at(record, 36);
            if !in_pool(u32_at(record, 16) as usize, u16_at(record, 32).into())
                || (directory != NO_RECORD && directory as usize >= self.directory_count())
            {
                return Err("an entry record points outside");
            }
        }
        for record in self.bytes[self.hard_links.clone()].chunks_exact(HARD_LINK) {
            if !in_pool(u32_at(record, 8) as usize, u32_at(record, 12) as usize) {
                return Err("a hard-link record points outside");
            }
        }
        Ok(())
    }

    /// Number of directories, the root included.
    pub fn directory_count(&self) -> usize {
        self.directories.len() / DIRECTORY
    }

    /// Number of entries in all directories, whiteouts included.
    pub fn entry_count(&self) -> usize {
        self.entries.len() / ENTRY
    }

    /// The directory at `path`.
    pub fn directory(&self, path: &[u8]) -> Option<DirectoryRecord<'_>> {
        let at = self.search(self.directory_count(), |at| self.directory_at(at).path, path)?;
        Some(self.directory_at(at))
    }

    /// A directory record by number.
    pub fn directory_at(&self, at: usize) -> DirectoryRecord<'_> {
        let record = &self.bytes[self.directories.start + at * DIRECTORY..][..DIRECTORY];
        DirectoryRecord {
            path: self.text(u32_at(record, 0), u16_at(record, 4).into()),
            opaque: record[6] & OPAQUE != 0,
            first: u32_at(record, 8) as usize,
            count: u32_at(record, 12) as usize,
            tombstones: (u32_at(record, 16) as usize, u16_at(record, 20).into()),
        }
    }

    /// What a directory holds, sorted by name.
    pub fn entries(&self, directory: &DirectoryRecord<'_>) -> impl ExactSizeIterator<Item = EntryRecord<'_>> + '_ {
        (directory.first..directory.first + directory.count).map(|at| self.entry_at(at))
    }

    /// Names a directory hides that are too long for a whiteout entry.
    pub fn tombstones(&self, directory: &DirectoryRecord<'_>) -> Vec<&[u8]> {
        let (mut at, count) = directory.tombstones;
        let pool = &self.bytes[self.pool.clone()];
        let mut names = Vec::new();
        for _ in 0..count {
            let Some(length) = pool.get(at..at + 2).map(|bytes| usize::from(u16_at(bytes, 0))) else { break };
            let Some(name) = pool.get(at + 2..at + 2 + length) else { break };
            names.push(name);
            at += 2 + length;
        }
        names
    }

    /// The entry at `path`, looked up in its parent's record. The root has no entry.
    pub fn lookup(&self, path: &[u8]) -> Option<EntryRecord<'_>> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        Some(self.entry_at(self.place_of(parent, name)?))
    }

    fn place_of(&self, parent: &[u8], name: &[u8]) -> Option<usize> {
        let directory = self.directory(parent)?;
        let at = self.search(directory.count, |at| self.entry_at(directory.first + at).name, name)?;
        Some(directory.first + at)
    }

    /// All paths of an inode that has more than one name in the layer, sorted.
    pub fn hard_links(&self, inode: u64) -> Vec<&[u8]> {
        let records = self.bytes[self.hard_links.clone()].chunks_exact(HARD_LINK);
        records
            .filter(|record| u64_at(record, 0) == inode)
            .map(|record| self.text(u32_at(record, 8), u32_at(record, 12) as usize))
            .collect()
    }

    /// Where in the file the record of the entry at `path` stands, for patching a copy.
    pub(crate) fn record_offset(&self, path: &[u8]) -> Option<usize> {
        let split = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = split.map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]));
        Some(self.entries.start + self.place_of(parent, name)? * ENTRY)
    }

    /// Where in the file the records of entries begin.
    pub(super) fn entries_start(&self) -> usize {
        self.entries.start
    }

    /// Where in the file the records of hard links are.
    pub(super) fn hard_link_records(&self) -> std::ops::Range<usize> {
        self.hard_links.clone()
    }

    /// The path in the hard-link record at this place of the file.
    pub(super) fn hard_link_path(&self, at: usize) -> &[u8] {
        let record = &self.bytes[at..at + HARD_LINK];
        self.text(u32_at(record, 8), u32_at(record, 12) as usize)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn entry_at(&self, at: usize) -> EntryRecord<'_> {
        let record = &self.bytes[self.entries.start + at * ENTRY..][..ENTRY];
        let directory = u32_at(record, 36);
        EntryRecord {
            name: self.text(u32_at(record, 16), u16_at(record, 32).into()),
            inode: u64_at(record, 0),
            size: u64_at(record, 8),
            mode: u32_at(record, 20),
            uid: u32_at(record, 24),
            gid: u32_at(record, 28),
            whiteout: record[34] & WHITEOUT != 0,
            directory: (directory != NO_RECORD).then_some(directory as usize),
        }
    }

    fn text(&self, offset: u32, length: usize) -> &[u8] {
        &self.bytes[self.pool.start + offset as usize..][..length]
    }

    fn search<'a>(&'a self, count: usize, key: impl Fn(usize) -> &'a [u8], wanted: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            match key(middle).cmp(wanted) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }
}
