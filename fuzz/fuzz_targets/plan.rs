//! Entries that get in each other's way: a well-formed archive is made of each input, from few names and many kinds, and
//! unpacked beside a victim.
//!
//! An input is a list of entries. Each is one byte for its kind (low three bits) and how many names its path has (bits 4
//! and 5), then a byte for each name; a link has the same once more for its target, a file a byte for its length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microsandbox_image_fuzz::unpack_beside_victim;

const NAMES: [&str; 16] = [
    "a",
    "b",
    "c",
    "d",
    "..",
    ".",
    "",
    "victim",
    "file",
    ".wh.a",
    ".wh.b",
    ".wh..wh..opq",
    ".wh..wh.plnk",
    ".complete",
    "tree",
    "A",
];

fuzz_target!(|input: &[u8]| {
    let archive = archive(input);
    if let Err(error) = unpack_beside_victim(&archive, 1 << 20) {
        assert!(["ERR_EXTRACTION", "ERR_LIMIT"].contains(&error.code()), "{error:?}");
    }
});

fn archive(input: &[u8]) -> Vec<u8> {
    let mut rest = input.iter().copied();
    let mut archive = Vec::new();
    while let Some(head) = rest.next() {
        let kind = [b'0', b'5', b'2', b'1', b'3', b'6', b'0', b'5'][usize::from(head & 7)];
        let name = path(head, &mut rest);
        let target = matches!(kind, b'1' | b'2').then(|| path(rest.next().unwrap_or(0), &mut rest));
        let length = if kind == b'0' { usize::from(rest.next().unwrap_or(0)) * 7 } else { 0 };
        archive.extend_from_slice(&header(kind, &name, target.as_deref().unwrap_or(""), length));
        archive.resize(archive.len() + length.next_multiple_of(512), b'x');
    }
    archive
}

/// Up to four names; the highest bit makes the path absolute.
fn path(head: u8, rest: &mut impl Iterator<Item = u8>) -> String {
    let names: Vec<&str> =
        rest.take(usize::from(head >> 4 & 3) + 1).map(|name| NAMES[usize::from(name) % NAMES.len()]).collect();
    format!("{}{}", if head & 0x80 != 0 { "/" } else { "" }, names.join("/"))
}

fn header(kind: u8, name: &str, target: &str, length: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(124, format!("{length:011o}\0").as_bytes());
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(148, b"        ");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
