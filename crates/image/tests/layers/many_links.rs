//! More hard links to one file than the host allows: copies stand for it, and are told in the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use microsandbox_image_core::layer::{LayerIndex, Limits, Note, read_stat};

use crate::{
    archive::{Archive, archive},
    harness::{paths, run_in},
};

/// A new file system in a file; unmounted at the end.
struct Disk {
    at: PathBuf,
    _temp: tempfile::TempDir,
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// Makes it. `None`, with the reason printed, where that isn't possible.
fn disk(make: &[&str]) -> Option<Disk> {
    let temp = tempfile::tempdir().unwrap();
    let (file, at) = (temp.path().join("disk"), temp.path().join("at"));
    fs::File::create(&file).unwrap().set_len(512 << 20).unwrap();
    fs::create_dir(&at).unwrap();
    let run = |command: &mut Command| command.output().is_ok_and(|done| done.status.success());
    let made = rustix::process::geteuid().is_root()
        && run(Command::new(make[0]).args(&make[1..]).arg(&file))
        && run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&at));
    if !made {
        #[allow(clippy::print_stdout, reason = "a test that is skipped says why")]
        {
            println!("skipped: root, loop devices and {} are needed", make[0]);
        }
        return None;
    }
    Some(Disk { at, _temp: temp })
}

/// A file with so many further names, in one directory or two.
fn linked(links: usize, name: &str) -> Archive {
    let sparse: [(&str, &[u8]); 3] =
        [("GNU.sparse.size", b"300000"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"290000,3")];
    let mut made = archive().dir("d").pax(&sparse).file("d/file", "abc");
    for at in 0..links {
        made = made.link(&format!("d/{name}{at}"), "d/file");
    }
    made.link("last", "d/file").end()
}

/// Unpacks it; all names have the same content, attribute and time, the index is right. Answers with how many files stand
/// for the one.
fn unpacks(host: &Path, made: &Archive, names: usize) -> usize {
    let outcome = run_in(host, &made.0, Limits::default());
    let unpacked = outcome.unpacked.as_ref().unwrap();
    let file = outcome.root.with_extension("index");
    fs::write(&file, unpacked.index.as_ref().unwrap().to_vec().unwrap()).unwrap();
    let index = LayerIndex::open(&file).unwrap();
    let mut files: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let (first, stat) = (outcome.root.join("d/file"), read_stat(&outcome.root.join("d/file")).unwrap());
    let (content, mtime) = (fs::read(&first).unwrap(), fs::metadata(&first).unwrap().mtime());
    assert_eq!((content.len(), &content[290_000..290_003]), (300_000, &b"abc"[..]));
    for path in paths(&outcome.root).iter().filter(|path| !path.is_dir()) {
        let name = path.strip_prefix(&outcome.root).unwrap().as_os_str().as_bytes().to_vec();
        let there = fs::metadata(path).unwrap();
        let entry = index.lookup(&name).unwrap();
        assert_eq!((entry.inode, entry.size), (there.ino(), 300_000));
        if files.entry(there.ino()).or_default().is_empty() {
            assert!(fs::read(path).unwrap() == content, "a copy has other content");
            assert_eq!((read_stat(path).unwrap(), there.mtime()), (stat, mtime));
            assert!(there.blocks() * 512 < 200_000, "a hole was filled");
        }
        files.get_mut(&there.ino()).unwrap().insert(name);
    }
    assert_eq!(files.values().map(BTreeSet::len).sum::<usize>(), names);
    for (inode, names) in &files {
        let listed: BTreeSet<Vec<u8>> = index.hard_links(*inode).into_iter().map(<[u8]>::to_vec).collect();
        assert_eq!(listed, if names.len() > 1 { names.clone() } else { BTreeSet::new() });
    }
    let copied: Vec<_> = unpacked.report.iter().filter(|(note, _)| *note == Note::LinkCopied).collect();
    assert_eq!(copied.iter().map(|(_, noted)| noted.count).sum::<u64>() as usize, files.len() - 1);
    files.len()
}

#[test]
fn more_than_65000_names_of_a_file_on_ext4_become_two_files() {
    let Some(disk) = disk(&["mkfs.ext4", "-q", "-I", "256"]) else { return };
    assert_eq!(unpacks(&disk.at, &linked(64_000, "n"), 64_002), 1);
    assert_eq!(unpacks(&disk.at, &linked(65_100, "n"), 65_102), 2);
}

#[test]
fn more_names_in_a_directory_than_btrfs_allows_become_several_files() {
    let Some(disk) = disk(&["mkfs.btrfs", "-q", "-O", "^extref"]) else { return };
    let files = unpacks(&disk.at, &linked(2_000, &"n".repeat(80)), 2_002);
    assert!((10..200).contains(&files), "{files}");
}

#[test]
fn copies_count_as_bytes_of_the_layer() {
    let Some(disk) = disk(&["mkfs.btrfs", "-q", "-O", "^extref"]) else { return };
    let content = "x".repeat(100_000);
    let mut made = archive().dir("d").file("d/file", &content);
    for at in 0..2_000 {
        made = made.link(&format!("d/{}{at}", "n".repeat(80)), "d/file");
    }
    let limits = Limits { layer_bytes: Some(1_000_000), ..Limits::default() };
    let error = run_in(&disk.at, &made.end().0, limits).unpacked.unwrap_err();
    assert_eq!(error.code(), "ERR_LIMIT", "{error}");
}
