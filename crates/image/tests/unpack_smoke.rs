//! One archive with a bit of everything, unpacked.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::Path};

use bytes::Bytes;
use microsandbox_image_core::{
    Result,
    layer::{LayerIndex, OverrideStat, Source, Unpack, unpack},
};

struct Once(Option<Bytes>);

impl Source for Once {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}

fn stat(path: &Path) -> OverrideStat {
    let mut value = [0; 20];
    let length = rustix::fs::lgetxattr(path, "user.containers.override_stat", &mut value[..]).unwrap();
    OverrideStat::from_bytes(&value[..length]).unwrap()
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder.append_data(&mut header, path, content).unwrap();
    };
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    add("usr/", Directory, 0o755, "", b"");
    add("usr/lib/", Directory, 0o700, "", b"");
    add("lib", Symlink, 0o777, "usr/lib", b"");
    add("lib/x", Regular, 0o4755, "", &[7; 3_000_000]);
    add("deep/er/file", Regular, 0o644, "", b"hello");
    add("usr/hard", Link, 0o644, "lib/x", b"");
    add(".wh.gone", Regular, 0o644, "", b"");
    add("usr/.wh..wh..opq", Regular, 0o644, "", b"");
    builder.into_inner().unwrap()
}

#[test]
fn an_archive_with_a_bit_of_everything_is_unpacked() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("tree");
    fs::create_dir(&root).unwrap();
    let unpacked = unpack(Once(Some(archive().into())), &root, Unpack::default()).unwrap();
    assert_eq!(fs::read(root.join("usr/lib/x")).unwrap(), vec![7; 3_000_000]);
    assert_eq!(fs::read(root.join("lib")).unwrap(), b"usr/lib");
    assert_eq!(stat(&root.join("lib")).mode, 0o120_777);
    let x = stat(&root.join("usr/lib/x"));
    assert_eq!((x.uid, x.gid, x.mode), (1000, 100, 0o104_755));
    let host = fs::metadata(root.join("usr/lib/x")).unwrap();
    assert_eq!((host.mode() & 0o7777, host.mtime()), (0o600, 1_700_000_000));
    assert_eq!(host.ino(), fs::metadata(root.join("usr/hard")).unwrap().ino());
    assert_eq!(fs::metadata(root.join("usr")).unwrap().mtime(), 1_700_000_000);
    assert_eq!(unpacked.implicit_directories, [b"deep".to_vec(), b"deep/er".to_vec()]);

    let file = temp.path().join("index");
    fs::write(&file, unpacked.index.unwrap().to_vec().unwrap()).unwrap();
    let index = LayerIndex::open(&file).unwrap();
    let entry = index.lookup(b"usr/lib/x").unwrap();
    assert_eq!((entry.inode, entry.size, entry.mode), (host.ino(), 3_000_000, 0o104_755));
    assert_eq!(index.hard_links(host.ino()), [&b"usr/hard"[..], b"usr/lib/x"]);
    assert!(index.lookup(b"gone").unwrap().whiteout);
    assert!(index.directory(b"usr").unwrap().opaque && !index.directory(b"").unwrap().opaque);
    let names: BTreeMap<_, _> =
        (0..index.directory_count()).map(|at| (index.directory_at(at).path.to_vec(), at)).collect();
    assert_eq!(
        names.keys().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>(),
        ["", "deep", "deep/er", "usr", "usr/lib"]
    );
}
