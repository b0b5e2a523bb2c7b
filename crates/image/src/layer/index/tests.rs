//! Large trees, without a disk.

use std::time::{Duration, Instant};

use super::{LayerIndex, build};
use crate::layer::{
    halt::Halt,
    plan::{EntryId, Inode, NodeKind, ROOT, Tree},
    spill::SpillHome,
    stat::{OverrideStat, S_IFDIR, S_IFREG},
    table::{Verified, from_tree},
};
use crate::model::{Algorithm, Digest};

fn add(tree: &mut Tree, parent: EntryId, name: &str, directory: bool) -> EntryId {
    let (kind, mode) =
        if directory { (NodeKind::Directory, S_IFDIR | 0o755) } else { (NodeKind::Leaf, S_IFREG | 0o644) };
    let stat = OverrideStat { uid: 0, gid: 0, mode, rdev: 0 };
    tree.add_entry(parent, name.as_bytes(), &Inode { size: 1, ..Inode::new(kind, stat) }).unwrap()
}

#[test]
fn half_a_million_entries_are_indexed_in_seconds() {
    let mut tree = Tree::new(&SpillHome::default()).unwrap();
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
    let bytes = build(&tree, &SpillHome::default(), &Halt::default()).unwrap().unwrap().to_vec().unwrap();
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
    let mut tree = Tree::new(&SpillHome::default()).unwrap();
    let name = "n".repeat(255);
    let deep = (0..120).fold(ROOT, |parent, _| add(&mut tree, parent, &name, true));
    for n in 0..100_000 {
        add(&mut tree, deep, &n.to_string(), true);
    }
    let started = Instant::now();
    assert!(build(&tree, &SpillHome::default(), &Halt::default()).unwrap().is_none());
    assert!(started.elapsed() < Duration::from_secs(2));
}

/// A million names in one directory, in no order.
fn a_million_names() -> Tree {
    let mut tree = Tree::new(&SpillHome::default()).unwrap();
    for n in 0..1_000_000u64 {
        add(&mut tree, ROOT, &format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), false);
    }
    tree
}

#[test]
fn an_abort_stops_the_indexing_of_a_million_entries_within_250_ms() {
    let tree = a_million_names();
    let verified = Verified {
        digest: Digest::of(Algorithm::Sha256, b""),
        size: 0,
        media_type: String::new(),
        diff_id: Digest::of(Algorithm::Sha256, b""),
        uncompressed_size: 0,
    };
    let folder = tempfile::tempdir().unwrap();
    let home = SpillHome::new(std::sync::Arc::new(std::fs::File::open(folder.path()).unwrap().into()));
    let started = Instant::now();
    from_tree(&tree, &verified, &home, &Halt::default()).unwrap();
    let table = started.elapsed();
    build(&tree, &home, &Halt::default()).unwrap().unwrap();
    let index = started.elapsed() - table;
    let mut stopped = 0;
    for (whole, work) in [(table, true), (index, false)] {
        for part in [1, 3] {
            let halt = Halt::default();
            let other = halt.clone();
            let aborting = std::thread::spawn(move || {
                std::thread::sleep(whole * part / 4);
                let now = Instant::now();
                other.abort();
                now
            });
            let outcome = if work {
                from_tree(&tree, &verified, &home, &halt).map(|_| ())
            } else {
                build(&tree, &home, &halt).map(|_| ())
            };
            let ended = Instant::now();
            let took = ended.saturating_duration_since(aborting.join().unwrap());
            assert!(took < Duration::from_millis(250), "{took:?} after {part}/4 of {whole:?}");
            if let Err(error) = outcome {
                assert!(error.is_aborted());
                stopped += 1;
            }
        }
    }
    // On a busy machine one may have been done by then.
    assert!(stopped >= 2, "{stopped}");
}
