//! A million entries in one layer, really unpacked: in a process of its own, whose memory is looked at in the end.

#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

use std::{
    fs::{self, File},
    io::BufWriter,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use microsandbox_image_core::{
    Digest, Result,
    layer::{BlobFacts, LayerIndex, Source, Unpack, probe_host, unpack},
};

const DIRECTORIES: u64 = 1000;
/// Each directory holds these: files, one in 16 of them with a few bytes, one symbolic and one hard link.
const IN_EACH: u64 = 999;
/// Memory that a pull may take above that of an idle process.
const MAX_GROWTH: u64 = 75 << 20;

/// Makes the archive while it is read: one directory a piece.
struct Archive {
    next: u64,
}

impl Source for Archive {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if self.next == DIRECTORIES {
            return Ok(None);
        }
        let directory = format!("directory-{}", self.next);
        self.next += 1;
        let mut piece = Vec::new();
        append(&mut piece, b'5', &format!("{directory}/"), "", b"");
        for n in 0..IN_EACH {
            // Names in no order.
            let path = format!("{directory}/{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            match n {
                997 => append(&mut piece, b'2', &path, "../target", b""),
                998 => append(&mut piece, b'1', &path, &format!("{directory}/0"), b""),
                n if n % 16 == 0 => append(&mut piece, b'0', &path, "", n.to_string().as_bytes()),
                _ => append(&mut piece, b'0', &path, "", b""),
            }
        }
        Ok(Some(piece.into()))
    }
}

fn append(archive: &mut Vec<u8>, kind: u8, path: &str, target: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..path.len()].copy_from_slice(path.as_bytes());
    bytes[156] = kind;
    bytes[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// A line of this process's status, in bytes.
fn memory(line: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|found| found.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_million_entries_are_unpacked_and_indexed_within_75_mib() {
    let shared = Path::new("/dev/shm");
    let temp = if probe_host(shared).is_ok() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap();
    let root = temp.path().join("tree");
    fs::create_dir(&root).unwrap();
    let (started, idle) = (Instant::now(), memory("VmRSS"));
    let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    let blob = Some(BlobFacts { digest, size: 0, media_type: String::new() });
    let unpacked = unpack(Archive { next: 0 }, &root, Unpack { blob, ..Unpack::default() }).unwrap();
    let file = temp.path().join("index");
    unpacked.index.unwrap().write_to(&mut File::create(&file).unwrap()).unwrap();
    let table = unpacked.table.unwrap();
    table.write_to(&mut BufWriter::new(File::create(temp.path().join("table")).unwrap())).unwrap();
    let (took, grown) = (started.elapsed(), memory("VmHWM") - idle);
    println!(
        "{} entries in {took:?}, {} MiB above idle; a table of {} MiB",
        unpacked.entries,
        grown >> 20,
        table.len() >> 20
    );
    assert_eq!(unpacked.entries, DIRECTORIES * (IN_EACH + 1));
    assert!(unpacked.report.is_empty());
    assert!(took < Duration::from_secs(300), "{took:?}");
    assert!(grown <= MAX_GROWTH, "{} MiB", grown >> 20);

    let index = LayerIndex::open(&file).unwrap();
    assert_eq!(index.entry_count() as u64, unpacked.entries);
    for directory in ["directory-0", "directory-999"] {
        let path = format!("{directory}/0");
        let entry = index.lookup(path.as_bytes()).unwrap();
        let meta = fs::metadata(root.join(&path)).unwrap();
        assert_eq!((entry.inode, entry.size, meta.nlink()), (meta.ino(), meta.len(), 2));
        assert_eq!(index.hard_links(meta.ino()).len(), 2);
        assert_eq!(index.entries(&index.directory(directory.as_bytes()).unwrap()).len() as u64, IN_EACH);
    }
}
