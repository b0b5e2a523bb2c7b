//! Any tree → tar → unpack → the same tree, on disk and in the index.

use std::{collections::BTreeMap, fs, io::Write, os::unix::fs::MetadataExt, path::Path};

use bytes::Bytes;
use microsandbox_image_core::{
    Result,
    layer::{LayerIndex, OverrideStat, Source, Unpack, read_stat, unpack},
};
use proptest::{collection, prelude::*};

/// Gives the bytes in pieces of a length that fits nothing.
struct Chopped(Bytes);

impl Source for Chopped {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let count = self.0.len().min(1009);
        Ok((count > 0).then(|| self.0.split_to(count)))
    }
}

#[derive(Debug, Clone)]
struct Node {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: u32,
}

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<u8>),
    Link(String),
    Directory(BTreeMap<String, Node>),
}

fn names() -> impl Strategy<Value = String> {
    // Long names and others than ASCII need extended headers; whiteouts are a matter of their own.
    prop_oneof!["[a-z]{1,8}", "[A-Za-z0-9 _.+~-]{1,120}", "[äöü☃]{1,30}"]
        .prop_filter("a name that means something else", |name| {
            !matches!(name.as_str(), "." | "..") && !name.starts_with(".wh.")
        })
}

fn nodes() -> impl Strategy<Value = Node> {
    let content = collection::vec(any::<u8>(), 0..3000);
    let leaf = prop_oneof![content.prop_map(Kind::File), "[a-z]{1,20}(/[a-z]{1,20}){0,7}".prop_map(Kind::Link)];
    let kind = leaf.prop_recursive(4, 40, 6, |inner| {
        collection::btree_map(names(), with_owner(inner), 0..6).prop_map(Kind::Directory)
    });
    with_owner(kind)
}

fn with_owner(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Node> {
    (kind, 0u32..0o10000, any::<u32>(), any::<u32>(), 0u32..4_000_000_000)
        .prop_map(|(kind, mode, uid, gid, mtime)| Node { kind, mode, uid, gid, mtime })
}

fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, node: &Node) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(node.mtime.into());
    header.set_size(0);
    match &node.kind {
        Kind::File(content) => {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        Kind::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, path, target).unwrap();
        }
        Kind::Directory(children) => {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), &[][..]).unwrap();
            for (name, child) in children {
                append(builder, &format!("{path}/{name}"), child);
            }
        }
    }
}

fn check(root: &Path, index: &LayerIndex, path: &str, node: &Node) {
    let file = root.join(path);
    let host = fs::symlink_metadata(&file).unwrap();
    let (type_bits, mode, size) = match &node.kind {
        Kind::File(content) => {
            assert_eq!(&fs::read(&file).unwrap(), content, "{path:?}");
            (0o100_000, node.mode, content.len())
        }
        Kind::Link(target) => {
            assert_eq!(fs::read(&file).unwrap(), target.as_bytes(), "{path:?}");
            (0o120_000, 0o777, target.len())
        }
        Kind::Directory(children) => {
            assert_eq!(fs::read_dir(&file).unwrap().count(), children.len(), "{path:?}");
            for (name, child) in children {
                check(root, index, &format!("{path}/{name}"), child);
            }
            (0o040_000, node.mode, 0)
        }
    };
    let expected = OverrideStat { uid: node.uid, gid: node.gid, mode: type_bits | mode, rdev: 0 };
    assert_eq!(read_stat(&file).unwrap(), Some(expected), "{path:?}");
    assert_eq!(host.mtime(), i64::from(node.mtime), "{path:?}");
    let entry = index.lookup(path.as_bytes()).unwrap();
    assert_eq!((entry.mode, entry.uid, entry.gid, entry.inode), (expected.mode, node.uid, node.gid, host.ino()));
    assert_eq!(entry.size, size as u64, "{path:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_out_as_it_went_in(tree in collection::btree_map(names(), nodes(), 0..8)) {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, node) in &tree {
            append(&mut builder, name, node);
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&builder.into_inner().unwrap()).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("tree");
        fs::create_dir(&root).unwrap();
        let unpacked = unpack(Chopped(gzip.finish().unwrap().into()), &root, Unpack::default()).unwrap();
        let file = temp.path().join("index");
        fs::write(&file, unpacked.index.unwrap().to_vec().unwrap()).unwrap();
        let index = LayerIndex::open(&file).unwrap();
        prop_assert_eq!(fs::read_dir(&root).unwrap().count(), tree.len());
        for (name, node) in &tree {
            check(&root, &index, name, node);
        }
    }
}
