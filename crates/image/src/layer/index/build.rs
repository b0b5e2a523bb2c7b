//! The tree in memory → the bytes of an index. O(n log n): sorting is all that is not linear.

use std::collections::HashMap;

use crate::layer::{
    index::wire::{
        CHECKSUM, DIRECTORY, ENTRY, HARD_LINK, HEADER, MAGIC, NO_RECORD, OPAQUE, VERSION, WHITEOUT, checksum,
    },
    plan::{EntryId, ROOT, Tree},
    stat::{OverrideStat, S_IFREG},
};

const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// Bytes of paths in an index. Real ones have a hundredth of it; a hostile layer of deep directories could have more
/// than fits in memory.
const MOST_PATH_BYTES: usize = 512 << 20;

/// Builds the index; `None` where the format can't hold the tree (a path of 64 KiB) or its paths are too long in all.
pub(crate) fn build(tree: &Tree) -> Option<Vec<u8>> {
    let listed = tree.entries().filter(|&id| tree.inode(id).is_directory() || tree.inode(id).links > 1);
    if listed.map(|id| tree.path_length(id)).sum::<usize>() > MOST_PATH_BYTES {
        return None;
    }
    let path_of = |id| Some(tree.path(id)).filter(|path| path.len() <= usize::from(u16::MAX)).map(|path| (path, id));
    let directories = tree.entries().filter(|&id| tree.inode(id).is_directory()).map(path_of);
    let mut directories = directories.collect::<Option<Vec<(Vec<u8>, EntryId)>>>()?;
    directories.sort();
    let record_of: HashMap<EntryId, u32> = (0u32..).zip(&directories).map(|(at, (_, id))| (*id, at)).collect();
    let mut tables = Tables::default();
    for (path, id) in &directories {
        let (path_offset, path_length) = tables.put(path)?;
        let first = tables.entry_count;
        let mut opaque = false;
        let mut children: Vec<EntryId> = tree.children(*id).collect();
        children.sort_by_key(|&child| hidden_name(tree.name(child)).0);
        for child in children {
            if tree.name(child) == OPAQUE_NAME {
                opaque = true;
            } else {
                tables.entry(tree, child, &record_of)?;
            }
        }
        let mut record = [0; DIRECTORY];
        record[..4].copy_from_slice(&path_offset.to_le_bytes());
        record[4..6].copy_from_slice(&u16::try_from(path_length).ok()?.to_le_bytes());
        record[6] = if opaque { OPAQUE } else { 0 };
        record[8..12].copy_from_slice(&first.to_le_bytes());
        record[12..16].copy_from_slice(&(tables.entry_count - first).to_le_bytes());
        tables.directories.extend_from_slice(&record);
    }
    tables.hard_links(tree)?;
    tables.into_file(u32::try_from(directories.len()).ok()?)
}

/// The name an entry is filed under, and whether it is a whiteout.
fn hidden_name(name: &[u8]) -> (&[u8], bool) {
    match name.strip_prefix(WHITEOUT_PREFIX) {
        Some(hidden) => (hidden, true),
        None => (name, false),
    }
}

#[derive(Default)]
struct Tables {
    directories: Vec<u8>,
    entries: Vec<u8>,
    entry_count: u32,
    hard_links: Vec<u8>,
    hard_link_count: u32,
    pool: Vec<u8>,
}

impl Tables {
    fn put(&mut self, text: &[u8]) -> Option<(u32, u32)> {
        let place = (u32::try_from(self.pool.len()).ok()?, u32::try_from(text.len()).ok()?);
        self.pool.extend_from_slice(text);
        Some(place)
    }

    fn entry(&mut self, tree: &Tree, id: EntryId, record_of: &HashMap<EntryId, u32>) -> Option<()> {
        let (name, whiteout) = hidden_name(tree.name(id));
        let (name_offset, name_length) = self.put(name)?;
        let inode = tree.inode(id);
        let (host, size, stat) = if whiteout {
            (0, 0, OverrideStat { uid: 0, gid: 0, mode: S_IFREG, rdev: 0 })
        } else {
            (tree.host(id), inode.size, inode.stat)
        };
        let mut record = [0; ENTRY];
        record[..8].copy_from_slice(&host.to_le_bytes());
        record[8..16].copy_from_slice(&size.to_le_bytes());
        record[16..20].copy_from_slice(&name_offset.to_le_bytes());
        record[20..24].copy_from_slice(&stat.mode.to_le_bytes());
        record[24..28].copy_from_slice(&stat.uid.to_le_bytes());
        record[28..32].copy_from_slice(&stat.gid.to_le_bytes());
        record[32..34].copy_from_slice(&u16::try_from(name_length).ok()?.to_le_bytes());
        record[34] = if whiteout { WHITEOUT } else { 0 };
        let directory = record_of.get(&id).copied().unwrap_or(NO_RECORD);
        record[36..40].copy_from_slice(&directory.to_le_bytes());
        self.entries.extend_from_slice(&record);
        self.entry_count += 1;
        Some(())
    }

    fn hard_links(&mut self, tree: &Tree) -> Option<()> {
        let shared = |&id: &EntryId| {
            id != ROOT && tree.inode(id).links > 1 && !tree.inode(id).is_directory() && !hidden_name(tree.name(id)).1
        };
        let mut links: Vec<(u64, Vec<u8>)> =
            tree.entries().filter(shared).map(|id| (tree.host(id), tree.path(id))).collect();
        links.sort();
        // A copy may have no other name.
        for (host, path) in links
            .chunk_by(|(one, _), (other, _)| one == other)
            .filter(|group| group.len() > 1 || !tree.has_copies())
            .flatten()
        {
            let (path_offset, path_length) = self.put(path)?;
            let mut record = [0; HARD_LINK];
            record[..8].copy_from_slice(&host.to_le_bytes());
            record[8..12].copy_from_slice(&path_offset.to_le_bytes());
            record[12..].copy_from_slice(&path_length.to_le_bytes());
            self.hard_links.extend_from_slice(&record);
            self.hard_link_count += 1;
        }
        Some(())
    }

    fn into_file(self, directory_count: u32) -> Option<Vec<u8>> {
        let pool = u32::try_from(self.pool.len()).ok()?;
        let mut file = Vec::with_capacity(
            HEADER + self.directories.len() + self.entries.len() + self.hard_links.len() + self.pool.len(),
        );
        for word in [MAGIC, VERSION, 0, directory_count, self.entry_count, self.hard_link_count, pool, 0] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        for table in [&self.directories, &self.entries, &self.hard_links, &self.pool] {
            file.extend_from_slice(table);
        }
        seal(&mut file);
        Some(file)
    }
}

fn seal(file: &mut [u8]) {
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
