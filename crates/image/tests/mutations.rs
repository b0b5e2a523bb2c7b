//! Thousands of damaged archives and indexes, the same ones in every run: nothing panics, nothing hangs, nothing outside
//! the target changes. A poor man's fuzzer that needs no other compiler.

#![allow(clippy::print_stdout, reason = "a test tells what it reached")]

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use microsandbox_image_core::{
    Reference, Result,
    layer::{BlobFacts, LayerIndex, Limits, Source, Unpack, unpack},
    model::{Document, ParsedConfig},
};

struct Once(Option<Bytes>);

impl Source for Once {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.take())
    }
}

/// xorshift64*: small, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Damages bytes in one to four places.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(7) {
                _ if bytes.is_empty() => bytes.push(self.next() as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => {
                    let length = self.below(600).min(bytes.len() - at);
                    bytes.drain(at..at + length);
                }
                4 => {
                    let length = self.below(600).min(bytes.len() - at);
                    let copy = bytes[at..at + length].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copy);
                }
                5 => {
                    let words: [&[u8]; 8] = [
                        b"../../victim",
                        b"/",
                        b"\0\0\0\0",
                        b"77777777777",
                        b"\xff\xff\xff\xff\xff\xff\xff\xff",
                        b".wh.",
                        b"x",
                        b"1",
                    ];
                    let word = words[self.below(words.len())];
                    let end = (at + word.len()).min(bytes.len());
                    bytes.splice(at..end, word.iter().copied());
                }
                _ => repair_checksum(bytes, at),
            }
        }
    }
}

/// Damage behind a right checksum gets further.
fn repair_checksum(bytes: &mut [u8], at: usize) {
    let start = at / 512 * 512;
    let Some(header) = bytes.get_mut(start..start + 512) else { return };
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn seed() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder.append_data(&mut header, path, content).unwrap();
    };
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    add("usr/", Directory, "", b"");
    add("lib", Symlink, "usr/lib", b"");
    add("lib/x", Regular, "", &[7; 2000]);
    add("hard", Link, "lib/x", b"");
    add("usr/.wh.gone", Regular, "", b"");
    add(&"long/".repeat(30), Directory, "", b"");
    add("dev/null", Char, "", b"");
    let records: [(&str, &[u8]); 6] = [
        ("mtime", b"1.5"),
        ("SCHILY.xattr.user.x", b"v"),
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.size", b"6"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.map", b"0,1,5,1"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_cksum();
    builder.append_data(&mut header, "after", &b"ab"[..]).unwrap();
    builder.into_inner().unwrap()
}

fn limits() -> Limits {
    Limits { layer_bytes: Some(1 << 20), file_bytes: Some(1 << 20), entries: Some(500), depth: Some(64) }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn damaged_archives_end_in_a_tree_or_an_error_and_never_outside() {
    let temp = tempfile::tempdir().unwrap();
    let victim = temp.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "untouched").unwrap();
    let (seed, mut random) = (seed(), Random(0x9e37_79b9_7f4a_7c15));
    let (mut trees, mut errors, mut slowest) = (0, 0, Duration::ZERO);
    for round in 0..800 {
        let mut bytes = seed.clone();
        random.damage(&mut bytes);
        let bytes = match round % 4 {
            0 => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&bytes).unwrap();
                let mut packed = gzip.finish().unwrap();
                if round % 8 == 0 {
                    random.damage(&mut packed);
                }
                packed
            }
            _ => bytes,
        };
        let root = temp.path().join("tree");
        fs::create_dir(&root).unwrap();
        let started = Instant::now();
        let how = Unpack { limits: limits(), blob: Some(blob_facts()), writers: 1, ..Unpack::default() };
        match unpack(Once(Some(bytes.into())), &root, how) {
            Ok(_) => trees += 1,
            Err(error) => {
                assert_ne!(error.code(), "ERR_INTERNAL", "round {round}: {error}");
                errors += 1;
            }
        }
        slowest = slowest.max(started.elapsed());
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(names(temp.path()), ["victim"], "round {round}");
        assert_eq!(names(&victim), ["file"], "round {round}");
    }
    assert_eq!(fs::read(victim.join("file")).unwrap(), b"untouched");
    println!("{trees} trees, {errors} errors, the slowest in {slowest:?}");
    assert!(trees > 40 && errors > 100, "the damage reaches both sides: {trees} trees, {errors} errors");
}

#[test]
fn damaged_indexes_are_refused_or_answer() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("tree");
    fs::create_dir(&root).unwrap();
    let unpacked = unpack(Once(Some(seed().into())), &root, Unpack::default()).unwrap();
    let index = unpacked.index.unwrap().to_vec().unwrap();
    let file = temp.path().join("index");
    let mut random = Random(42);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..1500 {
        let mut bytes = index.clone();
        random.damage(&mut bytes);
        if bytes.len() >= 32 && round % 4 != 0 {
            let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&bytes[..28]), &[0; 4]), &bytes[32..]);
            bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        }
        fs::write(&file, &bytes).unwrap();
        let Ok(index) = LayerIndex::open(&file) else {
            refused += 1;
            continue;
        };
        opened += 1;
        for at in 0..index.directory_count() {
            let directory = index.directory_at(at);
            let _ = (index.entries(&directory).count(), index.tombstones(&directory));
        }
        for path in [&b""[..], b"usr", b"usr/lib/x", b"hard", b"nothing"] {
            let inode = index.lookup(path).map_or(0, |entry| entry.inode);
            let _ = (index.directory(path), index.hard_links(inode));
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 50 && refused > 50, "{opened} opened, {refused} refused");
}

#[test]
fn damaged_documents_and_references_are_refused_or_read() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":3,"data":"YWJj"}}]}}"#
    );
    let config = format!(
        r#"{{"os":"linux","architecture":"arm","config":{{"Env":["A=b"]}},"rootfs":{{"diff_ids":["{digest}"]}}}}"#
    );
    let mut random = Random(7);
    for _ in 0..20_000 {
        let damaged = |text: &str, random: &mut Random| {
            let mut bytes = text.as_bytes().to_vec();
            random.damage(&mut bytes);
            bytes
        };
        let _ = Document::parse(&damaged(&manifest, &mut random), Some("application/json"));
        let _ = ParsedConfig::parse(&damaged(&config, &mut random));
        let text = String::from_utf8_lossy(&damaged("host.example:5000/a/b:tag", &mut random)).into_owned();
        if let Ok(reference) = Reference::parse(&text) {
            assert_eq!(Reference::parse(reference.as_str()).unwrap().as_str(), reference.as_str());
        }
    }
}

/// With these a table is made, and looked through whole in builds with assertions.
fn blob_facts() -> BlobFacts {
    let digest = microsandbox_image_core::Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
    BlobFacts { digest, size: 0, media_type: String::new() }
}
