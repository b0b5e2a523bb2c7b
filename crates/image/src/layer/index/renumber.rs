//! The index of a tree, made into that of another tree like it: only the inode numbers differ.

use std::collections::HashMap;

use crate::{
    error::Result,
    layer::index::{
        build::seal,
        read::LayerIndex,
        wire::{DIRECTORY, ENTRY, HARD_LINK, HEADER, u32_at, u64_at},
    },
};

/// The bytes of `index` with the inode numbers of another tree of the same names. `inode_of` is asked for each path that is no
/// whiteout, directory by directory.
pub(crate) fn renumber(index: &LayerIndex, mut inode_of: impl FnMut(&[u8]) -> Result<u64>) -> Result<Vec<u8>> {
    let mut bytes = index.as_bytes().to_vec();
    let mut numbers = HashMap::new();
    for at in 0..index.directory_count() {
        let record = index.directory_at(at);
        for entry in index.entries(&record).filter(|entry| !entry.whiteout) {
            let path = if record.path.is_empty() { entry.name.to_vec() } else { [record.path, entry.name].join(&b'/') };
            let inode = inode_of(&path)?;
            numbers.insert(entry.inode, inode);
            if let Some(place) = index.record_offset(&path) {
                bytes[place..place + 8].copy_from_slice(&inode.to_le_bytes());
            }
        }
    }
    renumber_hard_links(&mut bytes, &numbers);
    seal(&mut bytes);
    Ok(bytes)
}

/// The table of hard links is sorted by number, then path.
fn renumber_hard_links(bytes: &mut [u8], numbers: &HashMap<u64, u64>) {
    let count = |at: usize| u32_at(bytes, at) as usize;
    let start = HEADER + count(12) * DIRECTORY + count(16) * ENTRY;
    let end = start + count(20) * HARD_LINK;
    let pool = end;
    let mut records: Vec<(u64, Vec<u8>, [u8; 8])> = Vec::new();
    for record in bytes[start..end].chunks_exact(HARD_LINK) {
        let (offset, length) = (u32_at(record, 8) as usize, u32_at(record, 12) as usize);
        let path = bytes[pool + offset..][..length].to_vec();
        let number = u64_at(record, 0);
        let place = record[8..16].try_into().expect("eight bytes");
        records.push((numbers.get(&number).copied().unwrap_or(number), path, place));
    }
    records.sort();
    for ((number, _, place), record) in records.iter().zip(bytes[start..end].chunks_exact_mut(HARD_LINK)) {
        record[..8].copy_from_slice(&number.to_le_bytes());
        record[8..].copy_from_slice(place);
    }
}
