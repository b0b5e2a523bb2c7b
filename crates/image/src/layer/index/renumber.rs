//! The index of a tree, made from the index of another one that has the same names and bytes: only inode numbers differ.

use crate::{
    error::{ErrorKind, Result},
    layer::{
        halt::Halt,
        index::{
            build::seal,
            read::LayerIndex,
            wire::{ENTRY, HARD_LINK, u64_at},
        },
    },
};

/// The bytes of an index whose inode numbers are those that `number` gives for a path.
///
/// Fails with `ERR_INDEX` where names that are one inode in `index` are several.
pub(crate) fn renumber(
    index: &LayerIndex,
    mut number: impl FnMut(&[u8]) -> Result<u64>,
    halt: &Halt,
) -> Result<Vec<u8>> {
    let (entries, hard_links) = (index.entries_start(), index.hard_link_records());
    let mut bytes = index.as_bytes().to_vec();
    for at in 0..index.directory_count() {
        let directory = index.directory_at(at);
        for (n, entry) in index.entries(&directory).enumerate().filter(|(_, entry)| !entry.whiteout) {
            halt.check()?;
            let record = entries + (directory.first + n) * ENTRY;
            let inode = number(&path_of(directory.path, entry.name))?;
            bytes[record..record + 8].copy_from_slice(&inode.to_le_bytes());
        }
    }
    let mut links = Vec::with_capacity(hard_links.len() / HARD_LINK);
    let mut last = None;
    for at in hard_links.clone().step_by(HARD_LINK) {
        halt.check()?;
        let mut record = <[u8; HARD_LINK]>::try_from(&bytes[at..at + HARD_LINK]).expect("a whole record");
        let (before, inode) = (u64_at(&record, 0), number(index.hard_link_path(at))?);
        if last.is_some_and(|(old, new)| old == before && new != inode) {
            let reason = "names of one inode are several files in the tree".to_owned();
            return Err(ErrorKind::Index { path: "(in memory)".to_owned(), reason }.into());
        }
        last = Some((before, inode));
        record[..8].copy_from_slice(&inode.to_le_bytes());
        links.push(record);
    }
    // Stable: the paths of an inode stay in their order.
    links.sort_by_key(|record| u64_at(record, 0));
    bytes[hard_links].copy_from_slice(links.as_flattened());
    seal(&mut bytes);
    Ok(bytes)
}

fn path_of(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}
