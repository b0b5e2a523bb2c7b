//! Copies and filled trees, looked at as the host has them.

use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, symlink},
    },
    path::Path,
};

use rustix::fs::{CWD, Mode, Timespec, Timestamps, XattrFlags, getxattr, setxattr, utimensat};

use super::{Walker, copy_tree, fill, open_file};
use crate::{
    error::Result,
    layer::{Halt, LayerIndex, OVERRIDE_STAT, OverrideStat, Source, Unpack, unpack},
    model::{Algorithm, Digest},
    store::{Holder, Inherited},
};

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn attribute(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 1000];
    let length = getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

fn time(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

/// Files descriptors of this process that lead into a directory.
fn open_below(directory: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).filter(|path| path.starts_with(directory)).count()
}

#[test]
fn a_copy_has_the_content_attributes_times_and_links_and_no_inode_of_the_tree() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/one"), "content").unwrap();
    fs::write(from.join("empty"), "").unwrap();
    fs::hard_link(from.join("a/one"), from.join("a/b/two")).unwrap();
    fs::hard_link(from.join("a/one"), from.join("three")).unwrap();
    set_attribute(&from.join("a/one"), "user.containers.override_stat", &[1; 20]);
    set_attribute(&from.join("a/one"), "user.other", b"");
    set_attribute(&from.join("a"), "user.of-directory", b"x\0y");
    for (path, seconds) in [("a/one", 7), ("empty", -5), ("a/b", 3), ("a", 2), ("", 1)] {
        set_time(&from.join(path), seconds, 123_456_789);
    }
    copy_tree(&from, &to, &Halt::default()).unwrap();
    for (path, seconds) in [("a/one", 7), ("empty", -5), ("a/b", 3), ("a", 2), ("", 1)] {
        assert_eq!(time(&to.join(path)), (seconds, 123_456_789), "{path}");
        assert_ne!(fs::metadata(to.join(path)).unwrap().ino(), fs::metadata(from.join(path)).unwrap().ino());
    }
    assert_eq!(fs::read(to.join("three")).unwrap(), b"content");
    let inodes = ["a/one", "a/b/two", "three"].map(|path| fs::metadata(to.join(path)).unwrap().ino());
    assert!(inodes.iter().all(|inode| *inode == inodes[0]));
    assert_eq!(fs::metadata(to.join("three")).unwrap().nlink(), 3);
    assert_eq!(attribute(&to.join("three"), "user.containers.override_stat"), [1; 20]);
    assert_eq!(attribute(&to.join("three"), "user.other"), b"");
    assert_eq!(attribute(&to.join("a"), "user.of-directory"), b"x\0y");
    assert_eq!(fs::metadata(to.join("empty")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(to.join("a/b")).unwrap().mode() & 0o7777, 0o700);
    fs::write(to.join("three"), "changed").unwrap();
    assert_eq!(fs::read(from.join("a/one")).unwrap(), b"content", "no write goes through");
}

#[test]
fn a_copy_keeps_the_holes_of_a_sparse_file() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    fs::create_dir(&from).unwrap();
    let file = File::create(from.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 1 << 30).unwrap();
    file.set_len(4 << 30).unwrap();
    copy_tree(&from, &to, &Halt::default()).unwrap();
    let meta = fs::metadata(to.join("sparse")).unwrap();
    assert!(meta.len() == 4 << 30 && meta.blocks() < 1000, "{} blocks", meta.blocks());
    let mut read = [0; 8];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(to.join("sparse")).unwrap(), &mut read, (1 << 30) - 1)
        .unwrap();
    assert_eq!(&read, b"\0middle\0");
}

#[test]
fn a_deep_tree_is_copied_with_few_descriptors() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    // Deeper than a path may be long for the host.
    let name = "d".repeat(100);
    fs::create_dir(&from).unwrap();
    let mut at = rustix::fs::open(&from, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..150 {
        for name in [name.as_str(), "beside"] {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
        }
        at = rustix::fs::openat(&at, name.as_str(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    drop(at);
    copy_tree(&from, &to, &Halt::default()).unwrap();
    assert_eq!(open_below(temp.path()), 0);
    let mut made = Walker::new(&to).unwrap();
    let deepest = [name.as_str(); 150].join("/");
    made.directory(deepest.as_bytes()).unwrap();
    assert!(open_below(temp.path()) <= 20);
    crate::fs::remove_tree(&from).unwrap();
    crate::fs::remove_tree(&to).unwrap();
}

#[test]
fn what_is_no_file_and_no_directory_is_refused_and_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    for plant in ["link", "pipe"] {
        let from = temp.path().join(plant);
        fs::create_dir(&from).unwrap();
        match plant {
            "link" => symlink("/etc/passwd", from.join("x")).unwrap(),
            _ => rustix::fs::mknodat(CWD, from.join("x"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap(),
        }
        let error = copy_tree(&from, &temp.path().join("to").join(plant), &Halt::default());
        assert!(error.is_err(), "where it is to go is not there");
        let error = copy_tree(&from, &temp.path().join(format!("to-{plant}")), &Halt::default()).unwrap_err();
        assert_eq!(error.code(), "ERR_CACHE");
        assert!(open_file(&mut Walker::new(&from).unwrap(), b"x").is_err());
    }
    symlink(temp.path().join("link"), temp.path().join("tree")).unwrap();
    assert!(Walker::new(&temp.path().join("tree")).is_err());
    assert!(copy_tree(&temp.path().join("tree"), &temp.path().join("to"), &Halt::default()).is_err());
    assert!(
        copy_tree(&temp.path().join("link"), &temp.path().join("to-link"), &Halt::default()).is_err(),
        "it is there"
    );
}

#[test]
fn an_abort_stops_a_copy_and_a_filling() {
    let temp = tempfile::tempdir().unwrap();
    let (from, halt) = (temp.path().join("from"), Halt::default());
    fs::create_dir_all(from.join("a")).unwrap();
    halt.abort();
    assert!(copy_tree(&from, &temp.path().join("to"), &halt).unwrap_err().is_aborted());
    let inherited = Inherited { directories: vec![(b"a".to_vec(), stat(1))], links: Vec::new() };
    assert!(fill(&from, None, &inherited, |_| unreachable!(), &halt).unwrap_err().is_aborted());
}

fn stat(uid: u32) -> OverrideStat {
    OverrideStat { uid, gid: 3, mode: 0o040_711, rdev: 0 }
}

struct Once(Option<bytes::Bytes>);

impl Source for Once {
    fn next_piece(&mut self) -> Result<Option<bytes::Bytes>> {
        Ok(self.0.take())
    }
}

/// A layer with an implied directory and two cross-layer links, unpacked, with its index.
fn layer(directory: &Path) -> LayerIndex {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header.set_mtime(1_000);
        header.set_size(size);
        header
    };
    builder.append_data(&mut header(tar::EntryType::Directory, 0), "d/", &b""[..]).unwrap();
    builder.append_data(&mut header(tar::EntryType::Regular, 3), "a/b/own", &b"own"[..]).unwrap();
    builder.append_link(&mut header(tar::EntryType::Link, 0), "a/link", "usr/x").unwrap();
    builder.append_link(&mut header(tar::EntryType::Link, 0), "d/link", "usr/x").unwrap();
    let bytes = builder.into_inner().unwrap();
    let tree = directory.join("tree");
    fs::create_dir(&tree).unwrap();
    let unpacked = unpack(Once(Some(bytes.into())), &tree, Unpack::default()).unwrap();
    fs::write(directory.join("index"), unpacked.index.unwrap().to_vec().unwrap()).unwrap();
    LayerIndex::open(&directory.join("index")).unwrap()
}

#[test]
fn a_tree_is_filled_with_what_it_inherits_and_its_index_agrees() {
    let temp = tempfile::tempdir().unwrap();
    let index = layer(temp.path());
    let (tree, held) = (temp.path().join("tree"), temp.path().join("held"));
    fs::write(&held, "bytes of the holder").unwrap();
    let held_stat = OverrideStat { uid: 9, gid: 8, mode: 0o104_755, rdev: 0 };
    set_attribute(&held, OVERRIDE_STAT.to_str().unwrap(), &held_stat.to_bytes());
    set_attribute(&held, "user.more", b"more");
    set_time(&held, 55, 5);
    let holder = Holder { digest: Digest::of(Algorithm::Sha256, b""), path: b"usr/x".to_vec() };
    let inherited = Inherited {
        directories: vec![(b"a".to_vec(), stat(1)), (b"a/b".to_vec(), stat(2))],
        links: vec![(b"a/link".to_vec(), holder.clone()), (b"d/link".to_vec(), holder.clone())],
    };
    let open = |asked: &Holder| {
        assert_eq!(*asked, holder);
        Ok(OwnedFd::from(File::open(&held).unwrap()))
    };
    let bytes = fill(&tree, Some(&index), &inherited, open, &Halt::default()).unwrap().unwrap();
    fs::write(temp.path().join("filled"), bytes).unwrap();
    let filled = LayerIndex::open(&temp.path().join("filled")).unwrap();
    for (path, expected) in [("a", stat(1)), ("a/b", stat(2)), ("a/link", held_stat), ("d/link", held_stat)] {
        let host = fs::metadata(tree.join(path)).unwrap();
        assert_eq!(attribute(&tree.join(path), OVERRIDE_STAT.to_str().unwrap()), expected.to_bytes(), "{path}");
        let entry = filled.lookup(path.as_bytes()).unwrap();
        assert_eq!(
            (entry.uid, entry.gid, entry.mode, entry.inode),
            (expected.uid, expected.gid, expected.mode, host.ino())
        );
        if path.ends_with("link") {
            assert_eq!((entry.size, host.nlink(), time(&tree.join(path))), (19, 1, (55, 5)), "{path}");
            assert_eq!(fs::read(tree.join(path)).unwrap(), b"bytes of the holder");
            assert_eq!(attribute(&tree.join(path), "user.more"), b"more");
            assert_ne!(host.ino(), fs::metadata(&held).unwrap().ino());
        }
    }
    assert_eq!(time(&tree.join("d")), (1_000, 0), "the directory's own time is kept");
    let own = index.lookup(b"a/b/own").unwrap();
    assert_eq!(filled.lookup(b"a/b/own").unwrap(), own);
    // Another image's copy of it is filled anew.
    let other = Inherited { directories: vec![(b"a".to_vec(), stat(4))], links: inherited.links.clone() };
    copy_tree(&tree, &temp.path().join("copy"), &Halt::default()).unwrap();
    fs::write(&held, "other").unwrap();
    fill(&temp.path().join("copy"), None, &other, open, &Halt::default()).unwrap();
    assert_eq!(fs::read(temp.path().join("copy/a/link")).unwrap(), b"other");
    assert_eq!(fs::read(tree.join("a/link")).unwrap(), b"bytes of the holder");
}

#[test]
fn a_list_that_is_not_the_trees_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let index = layer(temp.path());
    let tree = temp.path().join("tree");
    let run = |directories: &[&str], links: &[&str]| {
        let holder = Holder { digest: Digest::of(Algorithm::Sha256, b""), path: b"x".to_vec() };
        let inherited = Inherited {
            directories: directories.iter().map(|path| (path.as_bytes().to_vec(), stat(1))).collect(),
            links: links.iter().map(|path| (path.as_bytes().to_vec(), holder.clone())).collect(),
        };
        let open = |_: &Holder| Ok(OwnedFd::from(File::open(tree.join("a/b/own")).unwrap()));
        fill(&tree, Some(&index), &inherited, open, &Halt::default()).map(drop)
    };
    for (directories, links) in
        [(&["q"][..], &[][..]), (&["a/link"], &[]), (&["../x"], &[]), (&[], &["a/b"]), (&[], &["a/q"])]
    {
        assert!(run(directories, links).is_err(), "{directories:?} {links:?}");
    }
    fs::remove_file(tree.join("a/link")).unwrap();
    symlink("/etc/passwd", tree.join("a/link")).unwrap();
    assert_eq!(run(&[], &["a/link"]).unwrap_err().code(), "ERR_CACHE");
}
