//! Damaged archives, and archives that mean to be read in two ways (desynchronised parsers, "TARmageddon").

use crate::{
    archive::{Archive, Header, archive},
    harness::{refuses, refuses_bytes, run, unpacks},
};

/// An archive as the content of a file: what a reader that loses its place would unpack.
fn smuggled() -> Vec<u8> {
    archive().file("smuggled", "x").0
}

fn never_smuggles(made: &Archive) {
    let outcome = run(&made.0, Default::default());
    assert!(!outcome.root.join("smuggled").exists(), "{:?}", outcome.unpacked);
}

#[test]
fn a_header_with_a_wrong_checksum_is_refused() {
    let mut header = Header::new(b'0', b"f");
    header.0[0] = b'g';
    refuses(&archive().put(header, b"").end(), "ERR_EXTRACTION", "checksum");
    refuses_bytes(&[b'x'; 512], "ERR_EXTRACTION", "checksum");
}

#[test]
fn the_checksum_of_signed_bytes_is_taken_too() {
    let mut header = Header::new(b'0', b"\xff\xff");
    header.0[148..156].fill(b' ');
    let sum: i32 = header.0.iter().map(|&byte| i32::from(byte as i8)).sum();
    header.0[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    unpacks(&archive().put(header, b"").end(), "f \\xff\\xff");
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused_or_ends_between_entries() {
    let whole =
        archive().dir("d").long_name(b"d/long").file("x", &"y".repeat(700)).pax(&[("uid", b"1")]).file("z", "w").0;
    for cut in 1..whole.len() {
        let outcome = run(&whole[..cut], Default::default());
        match outcome.unpacked {
            Ok(_) => assert!(cut == 512 || cut == 512 * 6, "a cut at {cut} was taken"),
            Err(error) => assert_eq!(error.code(), "ERR_EXTRACTION", "a cut at {cut}"),
        }
    }
}

#[test]
fn content_is_never_read_as_a_header() {
    let inner = smuggled();
    unpacks(&archive().file_bytes(b"f", &inner).file("g", "").end(), "f f 1024 bytes\nf g");
    never_smuggles(&archive().pax(&[("size", b"1024")]).put(Header::new(b'0', b"f").size(0), &inner).end());
    never_smuggles(&archive().put(Header::new(b'V', b"f").size(1024), &inner).end());
    never_smuggles(&archive().put(Header::new(b'0', b"d/").size(1024), &inner).end());
    never_smuggles(&archive().put(Header::new(b'0', b".wh..wh.plnk/f").size(1024), &inner).end());
}

#[test]
fn a_size_in_an_extended_header_does_not_move_other_extended_headers() {
    // The override is for the file, not for the long name that stands between.
    let made =
        archive().pax(&[("size", b"1024")]).long_name(b"named").put(Header::new(b'0', b"f").size(0), &smuggled());
    unpacks(&made.file("g", "").end(), "f g\nf named 1024 bytes");
}

#[test]
fn a_size_in_an_extended_header_does_not_reach_the_entry_after() {
    let made = archive().pax(&[("size", b"3")]).put(Header::new(b'0', b"a").size(0), b"abc").file("b", "four").end();
    unpacks(&made, "f a abc\nf b four");
}

#[test]
fn sizes_that_readers_take_differently_are_refused() {
    for field in [&b"\x000000100"[..], b"12 34", b"1x", b"8", b"-1", b"+1", b"0x10", b"1.5"] {
        let header = Header::new(b'0', b"f").bytes(124, 12, field);
        refuses(&archive().put(header, b"").end(), "ERR_EXTRACTION", "size");
    }
}

#[test]
fn negative_and_huge_sizes_are_refused() {
    refuses(&archive().put(Header::new(b'0', b"f").base256(124, 12, -1), b"").end(), "ERR_EXTRACTION", "negative");
    refuses(
        &archive().put(Header::new(b'0', b"f").base256(124, 12, i128::from(u64::MAX)), b"").end(),
        "ERR_EXTRACTION",
        "size",
    );
    refuses(
        &archive().put(Header::new(b'0', b"f").base256(124, 12, i128::from(i64::MAX)), b"").end(),
        "ERR_LIMIT",
        "fileBytes",
    );
    refuses(
        &archive().put(Header::new(b'V', b"f").base256(124, 12, i128::from(i64::MAX)), b"").end(),
        "ERR_EXTRACTION",
        "middle",
    );
}

#[test]
fn a_size_larger_than_the_layer_ends_in_an_error() {
    refuses(&archive().put(Header::new(b'0', b"f").size(1 << 32), b"little").end(), "ERR_EXTRACTION", "middle");
}

#[test]
fn data_behind_a_lone_record_of_zeros_is_refused() {
    let made = Archive([archive().file("a", "").0, vec![0; 512], archive().file("b", "").end().0].concat());
    refuses(&made, "ERR_EXTRACTION", "zeros");
}

#[test]
fn every_flipped_bit_gives_a_tree_or_an_error_and_touches_nothing_else() {
    let whole = archive()
        .dir("d")
        .pax(&[("path", b"d/f"), ("size", b"3"), ("SCHILY.xattr.user.x", b"y")])
        .file("x", "abc")
        .symlink("l", "../victim")
        .link("h", "d/f")
        .file(".wh.gone", "")
        .end()
        .0;
    // The harness looks at the victim and at what lies beside the tree.
    for at in (0..whole.len() - 1024).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let header = at / 512 * 512;
        // With the checksum mended the damage gets further.
        let sum: u32 = bytes[header..header + 512]
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
            .sum();
        if bytes[header + 257..].starts_with(b"ustar") {
            bytes[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Err(error) = run(&bytes, Default::default()).unpacked {
            assert!(["ERR_EXTRACTION", "ERR_LIMIT"].contains(&error.code()), "byte {at}: {error:?}");
        }
    }
}
