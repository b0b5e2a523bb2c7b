//! The tree → the bytes of an index. O(n log n): sorting is all that is not linear. What it makes goes beside memory
//! when it becomes large.

use crate::{
    error::Result,
    layer::{
        halt::Halt,
        index::wire::{
            CHECKSUM, DIRECTORY, ENTRY, HARD_LINK, HEADER, MAGIC, NO_RECORD, OPAQUE, VERSION, WHITEOUT, checksum,
        },
        plan::{EntryId, OPAQUE_MARKER, Tree, WHITEOUT_PREFIX, visit_by_path},
        sidecar::Sidecar,
        sort::sort_by,
        spill::{Spill, SpillHome},
        stat::{OverrideStat, S_IFREG},
    },
};

/// Bytes of paths in an index. Real ones have a hundredth of it; a hostile layer of deep directories could have more
/// than fits on a disk.
const MAX_PATH_BYTES: usize = 512 << 20;

/// Builds the index; `None` where the format can't hold the tree (a path of 64 KiB) or its paths are too long in all.
pub(crate) fn build(tree: &Tree, home: &SpillHome, halt: &Halt) -> Result<Option<Sidecar>> {
    let Some(Survey { directories, mut links }) = Survey::of(tree, halt)? else { return Ok(None) };
    let mut tables = Tables::new(home);
    visit_by_path(
        tree,
        halt,
        |id, path| {
            if tree.is_directory(id) { tables.directory(tree, id, path, halt) } else { Ok(()) }
        },
    )?;
    sort_by(&mut links, halt, |a, b| (a.host, a.order).cmp(&(b.host, b.order)))?;
    // A copy, made where the host allows no more hard links, may have no other name.
    let groups = links.chunk_by(|one, other| one.host == other.host).filter(|group| group.len() > 1);
    for (n, link) in groups.flatten().enumerate() {
        if n.is_multiple_of(1024) {
            halt.check()?;
        }
        tables.hard_link(link.host, &tree.path(link.id))?;
    }
    if tables.pool.len() > u64::from(u32::MAX) {
        return Ok(None);
    }
    tables.into_file(home, directories, halt).map(Some)
}

/// What must be known before the first record is written.
struct Survey {
    directories: u32,
    links: Vec<Link>,
}

/// A name of an inode that has several.
#[derive(Clone, Copy)]
struct Link {
    host: u64,
    /// Its place among the links, by path.
    order: u32,
    id: EntryId,
}

impl Survey {
    /// Numbers the directories and finds the hard links; `None` if their paths can't be expressed.
    fn of(tree: &Tree, halt: &Halt) -> Result<Option<Self>> {
        let mut survey = Self { directories: 0, links: Vec::new() };
        let (mut total, mut expressible) = (0usize, true);
        visit_by_path(tree, halt, |id, path| {
            let directory = tree.is_directory(id);
            let shared = !directory && !hidden_name(tree.name(id)).1 && tree.inode(id)?.links > 1;
            if !directory && !shared {
                return Ok(());
            }
            total = total.saturating_add(path.len());
            expressible &= total <= MAX_PATH_BYTES && (!directory || path.len() <= usize::from(u16::MAX));
            if directory {
                tree.update(id, |inode| inode.mark = survey.directories)?;
                survey.directories += 1;
            } else if expressible {
                let order = survey.links.len() as u32;
                survey.links.push(Link { host: tree.host(id)?, order, id });
            }
            Ok(())
        })?;
        Ok(expressible.then_some(survey))
    }
}

/// The name an entry is filed under, and whether it is a whiteout.
fn hidden_name(name: &[u8]) -> (&[u8], bool) {
    match name.strip_prefix(WHITEOUT_PREFIX) {
        Some(hidden) => (hidden, true),
        None => (name, false),
    }
}

struct Tables {
    directories: Spill,
    entries: Spill,
    entry_count: u32,
    hard_links: Spill,
    hard_link_count: u32,
    pool: Spill,
}

impl Tables {
    fn new(home: &SpillHome) -> Self {
        let new = || Spill::new(home);
        Self { directories: new(), entries: new(), entry_count: 0, hard_links: new(), hard_link_count: 0, pool: new() }
    }

    /// Names and paths are bounded, so that their places fit until [`build`] looks at the whole.
    fn put(&mut self, text: &[u8]) -> Result<(u32, usize)> {
        Ok((self.pool.append(text)? as u32, text.len()))
    }

    fn directory(&mut self, tree: &Tree, id: EntryId, path: &[u8], halt: &Halt) -> Result<()> {
        let (path_offset, path_length) = self.put(path)?;
        let first = self.entry_count;
        let mut opaque = false;
        let mut children: Vec<EntryId> = tree.children(id).collect();
        let name = |id: &EntryId| hidden_name(tree.name(*id)).0;
        sort_by(&mut children, halt, |a, b| name(a).cmp(name(b)))?;
        for (n, child) in children.into_iter().enumerate() {
            if n.is_multiple_of(1024) {
                halt.check()?;
            }
            if tree.name(child) == OPAQUE_MARKER {
                opaque = true;
            } else {
                self.entry(tree, child)?;
            }
        }
        let mut record = [0; DIRECTORY];
        record[..4].copy_from_slice(&path_offset.to_le_bytes());
        record[4..6].copy_from_slice(&(path_length as u16).to_le_bytes());
        record[6] = if opaque { OPAQUE } else { 0 };
        record[8..12].copy_from_slice(&first.to_le_bytes());
        record[12..16].copy_from_slice(&(self.entry_count - first).to_le_bytes());
        self.directories.append(&record).map(|_| ())
    }

    fn entry(&mut self, tree: &Tree, id: EntryId) -> Result<()> {
        let (name, whiteout) = hidden_name(tree.name(id));
        let (name_offset, name_length) = self.put(name)?;
        let inode = tree.inode(id)?;
        let (host, size, stat) = if whiteout {
            (0, 0, OverrideStat { uid: 0, gid: 0, mode: S_IFREG, rdev: 0 })
        } else {
            (tree.host(id)?, inode.size, inode.stat)
        };
        let mut record = [0; ENTRY];
        record[..8].copy_from_slice(&host.to_le_bytes());
        record[8..16].copy_from_slice(&size.to_le_bytes());
        record[16..20].copy_from_slice(&name_offset.to_le_bytes());
        record[20..24].copy_from_slice(&stat.mode.to_le_bytes());
        record[24..28].copy_from_slice(&stat.uid.to_le_bytes());
        record[28..32].copy_from_slice(&stat.gid.to_le_bytes());
        record[32..34].copy_from_slice(&(name_length as u16).to_le_bytes());
        record[34] = if whiteout { WHITEOUT } else { 0 };
        let directory = if tree.is_directory(id) { inode.mark } else { NO_RECORD };
        record[36..40].copy_from_slice(&directory.to_le_bytes());
        self.entries.append(&record)?;
        self.entry_count += 1;
        Ok(())
    }

    fn hard_link(&mut self, host: u64, path: &[u8]) -> Result<()> {
        let (path_offset, path_length) = self.put(path)?;
        let mut record = [0; HARD_LINK];
        record[..8].copy_from_slice(&host.to_le_bytes());
        record[8..12].copy_from_slice(&path_offset.to_le_bytes());
        record[12..].copy_from_slice(&(path_length as u32).to_le_bytes());
        self.hard_links.append(&record)?;
        self.hard_link_count += 1;
        Ok(())
    }

    fn into_file(mut self, home: &SpillHome, directory_count: u32, halt: &Halt) -> Result<Sidecar> {
        let mut file = Spill::new(home);
        let pool = self.pool.len() as u32;
        let words = [MAGIC, VERSION, 0, directory_count, self.entry_count, self.hard_link_count, pool, 0];
        let mut header = [0; HEADER];
        for (bytes, word) in header.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        // The field of the sum counts as zeros.
        let mut sum = crc32c::crc32c(&header);
        file.append(&header)?;
        for table in [&mut self.directories, &mut self.entries, &mut self.hard_links, &mut self.pool] {
            table.for_each_piece(halt, |piece| {
                sum = crc32c::crc32c_append(sum, piece);
                file.append(piece).map(|_| ())
            })?;
        }
        file.write_at(CHECKSUM as u64, &sum.to_le_bytes())?;
        file.into_sidecar(halt)
    }
}

pub(super) fn seal(file: &mut [u8]) {
    let sum = checksum(file);
    file[CHECKSUM..HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// What an entry of an index is to say instead.
pub(crate) struct Patch {
    pub(crate) stat: OverrideStat,
    /// Inode number and length, where they change as well.
    pub(crate) file: Option<(u64, u64)>,
}

/// Changes entries of an index, by the places of their records. The bytes must be those of an index that was checked.
pub(crate) fn patch(file: &mut [u8], patches: impl IntoIterator<Item = (usize, Patch)>) {
    for (at, Patch { stat, file: inode_and_size }) in patches {
        let record = &mut file[at..at + ENTRY];
        record[20..24].copy_from_slice(&stat.mode.to_le_bytes());
        record[24..28].copy_from_slice(&stat.uid.to_le_bytes());
        record[28..32].copy_from_slice(&stat.gid.to_le_bytes());
        if let Some((inode, size)) = inode_and_size {
            record[..8].copy_from_slice(&inode.to_le_bytes());
            record[8..16].copy_from_slice(&size.to_le_bytes());
        }
    }
    seal(file);
}
