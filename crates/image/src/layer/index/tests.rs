//! Large trees, without a disk.

use std::time::{Duration, Instant};

use super::{LayerIndex, build};
use crate::layer::{
    plan::{EntryId, ROOT, Tree},
    stat::{OverrideStat, S_IFDIR, S_IFREG},
};

fn add(tree: &mut Tree, parent: EntryId, name: &str, directory: bool) -> EntryId {
    use crate::layer::plan::{Content, Inode};
    let (content, mode) =
        if directory { (Content::Directory, S_IFDIR | 0o755) } else { (Content::Leaf, S_IFREG | 0o644) };
    let stat = OverrideStat { uid: 0, gid: 0, mode, rdev: 0 };
    let inode = tree.add_inode(Inode { size: 1, ..Inode::new(content, stat) });
    tree.add_entry(parent, name.as_bytes(), inode)
}

#[test]
fn half_a_million_entries_are_indexed_in_seconds() {
    let mut tree = Tree::new();
    // Names in no order, half of them in one directory.
    for n in 0..250_000u64 {
        add(&mut tree, ROOT, &format!("file-{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), false);
    }
    for directory in 0..500 {
        let id = add(&mut tree, ROOT, &format!("d{directory}"), true);
        for n in 0..500u64 {
            add(&mut tree, id, &format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), false);
        }
    }
    let started = Instant::now();
    let bytes = build(&tree).unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(bytes.len() < 64 << 20, "{} bytes", bytes.len());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let index = LayerIndex::open(file.path()).unwrap();
    assert_eq!((index.directory_count(), index.entry_count()), (501, 500_500));
    assert!(index.lookup(b"d499/0").is_some() && index.lookup(b"d499/nothing").is_none());
}

#[test]
fn deep_directories_whose_paths_add_up_get_no_index_and_take_no_memory() {
    let mut tree = Tree::new();
    let name = "n".repeat(255);
    let deep = (0..120).fold(ROOT, |parent, _| add(&mut tree, parent, &name, true));
    for n in 0..100_000 {
        add(&mut tree, deep, &n.to_string(), true);
    }
    let started = Instant::now();
    assert!(build(&tree).is_none());
    assert!(started.elapsed() < Duration::from_secs(2));
}
