//! A parser that loses its place reads content as headers, and no test of its own parts shows it. So the walk is compared
//! with two others, the crate `tar` and Python's `tarfile`: of any archive all must see the same entries, in name, type,
//! target, length, content and place.
//!
//! Where they differ on purpose is said in the last test.

use std::{io::Read, io::Write, process::Command, sync::Arc};

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use sha2::Digest as _;

#[allow(dead_code, unreachable_pub, reason = "the archives are made as in the tests of layers, which use more")]
#[path = "../../../tests/layers/archive.rs"]
mod archive;

use archive::{Archive, Header};

use crate::{
    error::Result,
    layer::{
        block::{Pool, Slice},
        halt::Halt,
        tar::{EntryKind, Member, Sink, Walker},
    },
};

/// What a reader says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Without slashes at its end.
    path: String,
    /// The type's flag, the flags of a plain file taken for one.
    kind: char,
    /// Of links only.
    target: String,
    /// Of files only, as the rest: length, hash of the content, place of the content where there is some.
    size: u64,
    content: String,
    at: Option<u64>,
}

impl Seen {
    fn new(path: &[u8], flag: u8, target: &[u8]) -> Self {
        let kind = match flag {
            0 if path.ends_with(b"/") => '5',
            0 | b'7' => '0',
            flag => char::from(flag),
        };
        let path = &path[..path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1)];
        let target = if matches!(kind, '1' | '2') { target } else { b"" };
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        Self { path: text(path), kind, target: text(target), size: 0, content: String::new(), at: None }
    }

    fn with_content(mut self, content: &[u8], at: u64) -> Self {
        if self.kind == '0' {
            self.size = content.len() as u64;
            self.content = hex::encode(sha2::Sha256::digest(content));
            self.at = (!content.is_empty()).then_some(at);
        }
        self
    }
}

/// Gathers what our walk finds.
#[derive(Default)]
struct Gather {
    seen: Vec<(Seen, Vec<u8>, u64)>,
    /// Where the block at hand begins, in memory and in the archive.
    block: (usize, u64),
}

impl Sink for Gather {
    fn entry(&mut self, member: &Member<'_>) -> Result<()> {
        let flag = match member.kind {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::Character => b'3',
            EntryKind::Block => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
            EntryKind::Other(flag) => flag,
        };
        self.seen.push((Seen::new(member.path, flag, member.link), Vec::new(), 0));
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: Slice) -> Result<()> {
        let (_, content, at) = self.seen.last_mut().expect("content comes after its entry");
        assert!(offset >= content.len() as u64, "content comes in order");
        if content.is_empty() {
            *at = self.block.1 + (bytes.as_ptr() as usize - self.block.0) as u64;
        }
        content.resize(offset as usize, 0);
        content.extend_from_slice(&bytes);
        Ok(())
    }

    fn skipped(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }
}

/// Our walk, fed blocks of so many records.
fn ours(archive: &[u8], records: usize) -> Result<Vec<Seen>> {
    let (pool, halt) = (Pool::new(1), Halt::default());
    let (mut walker, mut gather) = (Walker::new(), Gather::default());
    let mut fed = 0;
    for part in archive.chunks(records * 512) {
        let mut block = pool.take(&halt)?;
        block.room()[..part.len()].copy_from_slice(part);
        block.set_length(part.len());
        gather.block = (block.as_ptr() as usize, fed);
        walker.feed(&Arc::new(block), &mut gather)?;
        fed += part.len() as u64;
    }
    walker.finish()?;
    Ok(gather.seen.into_iter().map(|(seen, content, at)| seen.with_content(&content, at)).collect())
}

/// The crate `tar`.
fn crate_tar(archive: &[u8]) -> std::io::Result<Vec<Seen>> {
    let mut archive = tar::Archive::new(archive);
    let mut seen = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let flag = entry.header().as_bytes()[156];
        // Headers of a global or, without a magic, of any extension are entries to this crate.
        if matches!(flag, b'g' | b'x' | b'L' | b'K') {
            continue;
        }
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let one = Seen::new(&entry.path_bytes(), flag, &target);
        let (at, mut content) = (entry.raw_file_position(), Vec::new());
        entry.read_to_end(&mut content)?;
        seen.push(one.with_content(&content, at));
    }
    Ok(seen)
}

/// One line for each entry: path, type, target, length, hash, place; texts in hex.
const PYTHON: &str = r#"
import hashlib, os, sys, tarfile
for name in sorted(os.listdir(sys.argv[1])):
    print("=", name)
    with tarfile.open(os.path.join(sys.argv[1], name), "r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            content = archive.extractfile(member).read() if member.isreg() else b""
            print(os.fsencode(member.name).hex() or "-", member.type.hex(), os.fsencode(member.linkname).hex() or "-",
                  content.hex() or "-", member.offset_data)
"#;

/// Python's `tarfile`, on many archives at once. `None` where there is no Python.
fn python(archives: &[Vec<u8>]) -> Option<Vec<Vec<Seen>>> {
    let temp = tempfile::tempdir().unwrap();
    for (at, archive) in archives.iter().enumerate() {
        std::fs::write(temp.path().join(format!("{at:06}")), archive).unwrap();
    }
    let output = Command::new("python3").args(["-X", "utf8", "-c", PYTHON]).arg(temp.path()).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all: Vec<Vec<Seen>> = Vec::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields[0] == "=" {
            all.push(Vec::new());
            continue;
        }
        let bytes = |field: &str| if field == "-" { Vec::new() } else { hex::decode(field).unwrap() };
        let one = Seen::new(&bytes(fields[0]), bytes(fields[1])[0], &bytes(fields[2]));
        let one = one.with_content(&bytes(fields[3]), fields[4].parse().unwrap());
        all.last_mut().unwrap().push(one);
    }
    Some(all)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
    Pax,
}

/// One entry to write.
#[derive(Debug, Clone)]
struct Entry {
    format: Format,
    flag: u8,
    path: Vec<u8>,
    target: Vec<u8>,
    length: usize,
    /// The header says another length, and an extended header the right one.
    lies: bool,
    /// The length is written in base 256, where the format has it.
    base256: bool,
    /// A global header comes before it.
    global: bool,
}

fn entries() -> impl Strategy<Value = Entry> {
    let format = prop_oneof![Just(Format::V7), Just(Format::Ustar), Just(Format::Gnu), Just(Format::Pax)];
    let flag = prop::sample::select(b"0000\x00751234567V".to_vec());
    let name = || prop_oneof![3 => "[a-zA-Z0-9_.]{1,12}", 1 => "[a-z\u{e9}\u{2603} ]{20,60}"];
    let path = || vec(name(), 1..6).prop_map(|names| names.join("/").into_bytes());
    let odd = || prop_oneof![6 => path(), 1 => vec(1u8..=255, 1..90)];
    let length = prop_oneof![Just(0usize), Just(1), Just(511), Just(512), Just(513), 0usize..3000];
    (format, flag, odd(), path(), length, any::<[bool; 3]>()).prop_map(|(format, flag, path, target, length, odd)| {
        Entry { format, flag, path, target, length, lies: odd[0], base256: odd[1], global: odd[2] }
    })
}

/// Writes an entry as programs of its format do.
fn append(mut archive: Archive, entry: &Entry) -> Archive {
    let has_content = matches!(entry.flag, 0 | b'0' | b'7' | b'V');
    let content = vec![entry.path.len() as u8; if has_content { entry.length } else { 0 }];
    // The crate `tar` takes the line's end in a value for that of the record.
    let mut path: Vec<u8> = entry.path.iter().map(|&byte| if byte == b'\n' { b'_' } else { byte }).collect();
    // A slash at the end of a file's name means a directory to some readers only.
    while path.ends_with(b"/") {
        path.pop();
    }
    if path.is_empty() {
        path.push(b'x');
    }
    let cut = |bytes: &[u8]| bytes[..bytes.len().min(100)].iter().copied().take(100).collect::<Vec<u8>>();
    let (mut short_path, mut short_target) = (cut(&path), cut(&entry.target));
    for text in [&mut short_path, &mut short_target] {
        while text.ends_with(b"/") {
            text.pop();
        }
    }
    let mut records: Vec<(&str, &[u8])> = vec![("comment", b"path=not a record")];
    let decimal = content.len().to_string();
    let lies = entry.format == Format::Pax && entry.lies && has_content;
    match entry.format {
        Format::Gnu => {
            if path.len() > 100 {
                archive = archive.long_name(&path);
            }
            if entry.target.len() > 100 {
                archive = archive.long_link(&entry.target);
            }
        }
        Format::Pax => {
            if path.len() > 100 || entry.lies {
                records.push(("path", &path));
            }
            if entry.target.len() > 100 {
                records.push(("linkpath", &entry.target));
            }
            if lies {
                records.push(("size", decimal.as_bytes()));
            }
            if entry.global {
                archive = archive.pax_global(&[("comment", b"a global one")]);
            }
            archive = archive.pax(&records);
        }
        Format::V7 | Format::Ustar => {}
    }
    let magic: &[u8; 8] = match entry.format {
        Format::V7 => &[0; 8],
        Format::Gnu => b"ustar  \0",
        Format::Ustar | Format::Pax => b"ustar\x0000",
    };
    let stated = if lies { 7 } else { content.len() };
    let mut header = Header::new(entry.flag, &short_path).magic(magic).link(&short_target).size(stated as u64);
    if entry.format == Format::Gnu && entry.base256 {
        header = header.base256(124, 12, stated as i128);
    }
    if entry.format == Format::Ustar && entry.global {
        header = header.prefix(b"pre/fix");
    }
    archive.put(header, &content)
}

fn made(entries: &[Entry]) -> Vec<u8> {
    entries.iter().fold(Archive::default(), append).end().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_archive_has_the_entries_that_the_crate_tar_sees(entries in vec(entries(), 0..8), records in 1usize..9) {
        let archive = made(&entries);
        let theirs = crate_tar(&archive).unwrap();
        prop_assert_eq!(theirs.len(), entries.len());
        prop_assert_eq!(ours(&archive, records).unwrap(), theirs);
    }
}

/// Of damaged archives some are refused by one reader and taken by another; what both take is the same. It is the same
/// damage in every run. A NUL, a line's end and the magic are left alone: the last test says what they do.
#[test]
fn of_a_damaged_archive_that_both_take_both_see_the_same() {
    let mut runner = TestRunner::deterministic();
    let damage = vec((any::<prop::sample::Index>(), 1u8..=255), 1..4);
    let strategy = (vec(entries(), 1..5), damage);
    let mut both = 0;
    for case in 0..4000 {
        let (entries, damage) = strategy.new_tree(&mut runner).unwrap().current();
        let mut archive = made(&entries);
        for (at, byte) in damage {
            let at = at.index(archive.len());
            let header = at / 512 * 512;
            if byte == b'\n' || (257..265).contains(&(at - header)) {
                continue;
            }
            archive[at] = byte;
            if archive[header + 257..].starts_with(b"ustar") {
                let mended = Header(archive[header..header + 512].try_into().unwrap()).sum();
                archive[header..header + 512].copy_from_slice(&mended.0);
            }
        }
        if let (Ok(ours), Ok(theirs)) = (ours(&archive, 2), crate_tar(&archive)) {
            assert_eq!(ours, theirs, "case {case}");
            both += 1;
        }
    }
    assert!(both > 1000, "only {both} archives were taken by both");
}

#[test]
fn any_archive_has_the_entries_that_python_sees() {
    let mut runner = TestRunner::deterministic();
    let strategy = vec(entries(), 0..8);
    let archives: Vec<_> = (0..400).map(|_| made(&strategy.new_tree(&mut runner).unwrap().current())).collect();
    let Some(theirs) = python(&archives) else {
        assert!(!std::path::Path::new("/usr/bin/python3").exists(), "python3 is there and can't be run");
        let _ = writeln!(std::io::stderr(), "skipped: there is no python3 to compare with");
        return;
    };
    for (archive, theirs) in archives.iter().zip(theirs) {
        assert_eq!(ours(archive, 3).unwrap(), theirs);
    }
}

/// What one reader sees: paths, types, lengths.
fn short(seen: &[Seen]) -> Vec<(&str, char, u64)> {
    seen.iter().map(|one| (one.path.as_str(), one.kind, one.size)).collect()
}

#[test]
fn what_readers_see_differently_on_purpose() {
    let sees = |archive: &Archive| (ours(&archive.0, 1), crate_tar(&archive.0));

    // A value may hold a line's end (POSIX); the crate goes by lines, loses the record of the size and its place with it.
    let inner = archive::archive().file("smuggled", "").0;
    let lines = archive::archive()
        .pax(&[("comment", b"two\nlines"), ("size", b"1024")])
        .put(Header::new(b'0', b"f").size(0), &[&inner[..], &[0; 512]].concat())
        .end();
    let (ours_of, theirs_of) = sees(&lines);
    assert_eq!(short(&ours_of.unwrap()), [("f", '0', 1024)]);
    assert_eq!(short(&theirs_of.unwrap()), [("f", '0', 0), ("smuggled", '0', 0)]);

    // Of a key that comes twice the last value holds (POSIX); the crate takes the first.
    let twice = archive::archive().pax(&[("path", b"first"), ("path", b"last")]).file("x", "").end();
    let (ours_of, theirs_of) = sees(&twice);
    assert_eq!(short(&ours_of.unwrap())[0].0, "last");
    assert_eq!(short(&theirs_of.unwrap())[0].0, "first");

    // A link has no content, whatever its header says; the crate skips as many bytes.
    let link = archive::archive().put(Header::new(b'1', b"l").link(b"f").size(512), b"").file("next", "").file("f", "");
    let (ours_of, theirs_of) = sees(&link.clone().end());
    assert_eq!(ours_of.unwrap().len(), 3);
    assert_eq!(theirs_of.unwrap().len(), 2);

    // The sparse files of PAX are files with holes; to the crate they are maps with data behind them.
    let sparse = archive::archive().pax(&[("GNU.sparse.size", b"5"), ("GNU.sparse.map", b"4,1")]).file("s", "x").end();
    let (ours_of, theirs_of) = sees(&sparse);
    assert_eq!((ours_of.unwrap()[0].size, theirs_of.unwrap()[0].size), (5, 1));

    // Extended headers count in every format; to the crate they are entries where a magic is missing.
    let old = Header::new(b'x', b"x").magic(&[0; 8]);
    let record = archive::pax(&[("path", b"renamed")]);
    let made = archive::archive().put(old.size(record.len() as u64), &record).file("f", "").end();
    let (ours_of, theirs_of) = sees(&made);
    assert_eq!(short(&ours_of.unwrap())[0].0, "renamed");
    assert_eq!(short(&theirs_of.unwrap())[0].0, "f");

    // A long name ends at its NUL; the crate keeps what is behind.
    let (ours_of, theirs_of) = sees(&archive::archive().long_name(b"a\0b").file("f", "").end());
    assert_eq!(short(&ours_of.unwrap())[0].0, "a");
    assert_eq!(short(&theirs_of.unwrap())[0].0, "a\\x00b");

    // Refused here, since readers disagree: a global name or size, a number behind NULs, data after a record of zeros.
    for made in [
        archive::archive().pax_global(&[("path", b"x")]).file("f", "").end(),
        archive::archive().pax_global(&[("size", b"9")]).file("f", "").end(),
        Archive([archive::archive().file("a", "").0, vec![0; 512], archive::archive().file("b", "").0].concat()),
    ] {
        let (ours_of, theirs_of) = sees(&made);
        assert!(ours_of.is_err() && theirs_of.is_ok());
    }
}
