//! Sparse files: old GNU and the three PAX forms, and maps that lie (TRAPS 23, 25).

use std::{fs, os::unix::fs::MetadataExt};

use crate::{
    archive::{Archive, Header, archive},
    harness::{refuses, run, unpacks},
};

const WANTED: [u8; 10_000] = {
    let mut bytes = [0; 10_000];
    let mut at = 0;
    while at < 3 {
        bytes[4096 + at] = b'a' + at as u8;
        at += 1;
    }
    bytes[9_999] = b'z';
    bytes
};

fn has_wanted(made: &Archive) {
    let outcome = run(&made.0, Default::default());
    outcome.unpacked.unwrap();
    assert_eq!(fs::read(outcome.root.join("s")).unwrap(), WANTED);
    assert_eq!(fs::read(outcome.root.join("next")).unwrap(), b"n");
}

fn old(real_size: u64, stored: u64, segments: &[(u64, u64)]) -> Header {
    let mut header = Header::new(b'S', b"s").magic(b"ustar  \0").size(stored).octal(483, 12, real_size as i64);
    for (at, (offset, length)) in segments.iter().enumerate() {
        header = header.octal(386 + at * 24, 12, *offset as i64).octal(398 + at * 24, 12, *length as i64);
    }
    header
}

#[test]
fn all_four_forms_of_a_sparse_file_are_read() {
    has_wanted(&archive().put(old(10_000, 4, &[(4096, 3), (9_999, 1)]), b"abcz").file("next", "n").end());
    let common: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"10000"), ("GNU.sparse.numblocks", b"2")];
    let zero: Vec<(&str, &[u8])> = [
        &common[..],
        &[
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"9999"),
            ("GNU.sparse.numbytes", b"1"),
        ],
    ]
    .concat();
    has_wanted(&archive().pax(&zero).file("s", "abcz").file("next", "n").end());
    let one: Vec<(&str, &[u8])> =
        [&common[..], &[("GNU.sparse.map", b"4096,3,9999,1"), ("GNU.sparse.name", b"s")]].concat();
    has_wanted(&archive().pax(&one).file("GNUSparseFile.0/s", "abcz").file("next", "n").end());
    let map = format!("{:\0<512}abcz", "2\n4096\n3\n9999\n1\n");
    let two: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"10000"),
    ];
    has_wanted(&archive().pax(&two).file("GNUSparseFile.0/s", &map).file("next", "n").end());
}

#[test]
fn holes_take_no_room_on_disk() {
    let outcome = run(&archive().put(old(1 << 30, 1, &[((1 << 30) - 1, 1)]), b"z").end().0, Default::default());
    outcome.unpacked.unwrap();
    let meta = fs::metadata(outcome.root.join("s")).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
}

#[test]
fn a_file_that_is_one_hole_has_its_length() {
    unpacks(&archive().put(old(5000, 0, &[]), b"").file("next", "n").end(), "f next n\nf s 5000 bytes");
    unpacks(&archive().put(old(5000, 0, &[(5000, 0)]), b"").file("next", "n").end(), "f next n\nf s 5000 bytes");
}

#[test]
fn an_old_map_goes_on_in_records_of_its_own() {
    let mut header = old(100, 24, &[(0, 1), (4, 1), (8, 1), (12, 1)]);
    header.0[482] = 1;
    let mut more = [0u8; 512];
    for at in 0..20 {
        let text = format!("{:011o}\0{:011o}\0", 16 + at * 4, 1);
        more[at * 24..at * 24 + 24].copy_from_slice(text.as_bytes());
    }
    let outcome = run(
        &archive().put(header.sum(), &more).raw(b"abcdefghijklmnopqrstuvwx").file("n", "").end().0,
        Default::default(),
    );
    outcome.unpacked.unwrap();
    let content = fs::read(outcome.root.join("s")).unwrap();
    assert_eq!((content.len(), content[0], content[4], content[92]), (100, b'a', b'b', b'x'));
    assert!(outcome.root.join("n").exists());
}

#[test]
fn maps_that_lie_are_refused() {
    for (real, stored, segments) in [
        (100, 10, &[(50, 5), (40, 5)][..]),
        (100, 10, &[(0, 6), (5, 4)]),
        (100, 10, &[(95, 10)]),
        (100, 10, &[(0, 5)]),
        (100, 10, &[(0, 11)]),
        (5, 10, &[(0, 10)]),
        (100, 2, &[(0o77_777_777_777, 2)]),
    ] {
        refuses(&archive().put(old(real, stored, segments), &[b'x'; 10]).end(), "ERR_EXTRACTION", "sparse");
    }
    for records in [
        &[("GNU.sparse.map", &b"0,1"[..])][..],
        &[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1"), ("GNU.sparse.numblocks", b"2")],
        &[("GNU.sparse.map", b"0,x"), ("GNU.sparse.size", b"1")],
        &[("GNU.sparse.map", b"0"), ("GNU.sparse.size", b"1")],
        &[("GNU.sparse.offset", b"0"), ("GNU.sparse.size", b"1")],
        &[("GNU.sparse.numbytes", b"0"), ("GNU.sparse.size", b"1")],
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")],
        &[("GNU.sparse.map", b"18446744073709551615,1"), ("GNU.sparse.size", b"1")],
    ] {
        refuses(&archive().pax(records).file("f", "x").end(), "ERR_EXTRACTION", "");
    }
}

#[test]
fn a_map_of_a_hundred_billion_segments_ends_at_once() {
    let keys: [(&str, &[u8]); 3] =
        [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
    let map = format!("{:\0<512}", "100000000000\n0\n1\n");
    refuses(&archive().pax(&keys).file("f", &map).end(), "ERR_EXTRACTION", "sparse map");
}

#[test]
fn an_old_sparse_header_with_a_second_size_is_refused() {
    refuses(&archive().pax(&[("size", b"512")]).put(old(10, 1, &[(0, 1)]), b"x").end(), "ERR_EXTRACTION", "PAX size");
}

#[test]
fn sparse_keys_do_not_reach_the_next_entry() {
    let keys: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"3"), ("GNU.sparse.map", b"2,1")];
    unpacks(&archive().pax(&keys).file("a", "x").file("b", "y").end(), "f a \\x00\\x00x\nf b y");
}
