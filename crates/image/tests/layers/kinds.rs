//! Types, owners, modes, times and device numbers (TRAPS 23).

use crate::{
    archive::{Header, archive},
    harness::{noted, refuses, unpacks},
};

#[test]
fn modes_keep_setuid_setgid_and_sticky() {
    for (mode, text) in
        [(0o4755, " 4755"), (0o2755, " 2755"), (0o1777, " 1777"), (0o7777, " 7777"), (0, " 0"), (0o644, "")]
    {
        unpacks(&archive().put(Header::new(b'0', b"f").mode(mode), b"").end(), &format!("f f{text}"));
    }
    unpacks(&archive().put(Header::new(b'5', b"tmp").mode(0o1777), b"").end(), "d tmp 1777");
    // Some programs put the type bits into the mode.
    unpacks(&archive().put(Header::new(b'0', b"f").mode(0o100_755), b"").end(), "f f 755");
}

#[test]
fn owners_have_32_bits() {
    unpacks(&archive().put(Header::new(b'0', b"f").uid(1000).gid(100), b"").end(), "f f 1000:100");
    let header = Header::new(b'0', b"f").base256(108, 8, 4_294_967_294).base256(116, 8, 70_000);
    unpacks(&archive().put(header, b"").end(), "f f 4294967294:70000");
    for value in [4_294_967_296, -1, i128::from(i64::MAX)] {
        let header = Header::new(b'0', b"f").base256(108, 8, value);
        refuses(&archive().put(header, b"").end(), "ERR_EXTRACTION", if value > 1 << 40 { "uid" } else { "32 bits" });
    }
}

#[test]
fn times_are_kept_also_before_1970_and_after_2038() {
    for seconds in [0, 1, 2_147_483_648, 4_000_000_000] {
        unpacks(&archive().put(Header::new(b'0', b"f").mtime(seconds), b"").end(), &format!("f f @{seconds}"));
    }
    let header = Header::new(b'5', b"d").base256(136, 12, -1_000_000);
    unpacks(&archive().put(header, b"").end(), "d d @-1000000");
}

#[test]
fn a_directory_keeps_its_time_although_files_come_into_it_later() {
    unpacks(&archive().put(Header::new(b'5', b"d").mtime(5), b"").file("d/f", "").end(), "d d @5\nf d/f");
}

#[test]
fn devices_and_pipes_are_kept_as_data() {
    let made = archive()
        .put(Header::new(b'3', b"null").device(1, 3).mode(0o666), b"")
        .put(Header::new(b'4', b"sda").device(8, 0).mode(0o660).gid(6), b"")
        .put(Header::new(b'6', b"pipe"), b"");
    unpacks(&made.clone().end(), "c null 666 dev=103\np pipe\nb sda 660 0:6 dev=800");
    assert_eq!(noted(&made)["special-as-file"], 3);
    let wide = Header::new(b'4', b"d").device(259, 0o200_000);
    unpacks(&archive().put(wide, b"").end(), "b d dev=10010300");
}

#[test]
fn device_numbers_out_of_range_are_refused() {
    let header = Header::new(b'3', b"d").base256(329, 8, 1 << 40);
    refuses(&archive().put(header, b"").end(), "ERR_EXTRACTION", "range");
    let header = Header::new(b'3', b"d").base256(337, 8, -1);
    refuses(&archive().put(header, b"").end(), "ERR_EXTRACTION", "range");
}

#[test]
fn old_archives_mark_directories_by_a_slash() {
    let old = |kind, name: &[u8]| Header::new(kind, name).magic(&[0; 8]);
    unpacks(&archive().put(old(0, b"d/").mode(0o755), b"").put(old(0, b"d/f").size(1), b"x").end(), "d d\nf d/f x");
    unpacks(&archive().put(Header::new(b'0', b"d/").mode(0o755), b"").end(), "d d");
}

#[test]
fn a_contiguous_file_is_a_file() {
    unpacks(&archive().put(Header::new(b'7', b"f").size(1), b"x").end(), "f f x");
}

#[test]
fn types_that_mean_nothing_in_an_image_are_skipped_with_their_payload() {
    let made =
        archive().put(Header::new(b'V', b"label").size(600), &[9; 600]).put(Header::new(b'D', b"dump").size(3), b"abc");
    unpacks(&made.clone().file("f", "x").end(), "f f x");
    assert_eq!(noted(&made)["type-ignored"], 2);
}

#[test]
fn sizes_of_entries_without_content_are_ignored() {
    for kind in [b'2', b'5', b'6'] {
        let header = Header::new(kind, b"e").link(b"t").size(100_000).mode(0o755);
        let first = match kind {
            b'2' => "l e -> t",
            b'5' => "d e",
            _ => "p e 755",
        };
        unpacks(&archive().put(header, b"").file("f", "x").end(), &format!("{first}\nf f x"));
    }
}

#[test]
fn numbers_may_be_padded_with_blanks_or_nuls_and_be_empty() {
    let header =
        Header::new(b'0', b"f").bytes(100, 8, b"   755 ").bytes(108, 8, b"").bytes(124, 12, b"1 ").bytes(136, 12, b"0");
    unpacks(&archive().put(header, b"x").end(), "f f 755 @0 x");
}

#[test]
fn a_bit_of_a_gnu_header_that_is_no_device_number_does_not_matter_for_files() {
    unpacks(&archive().put(Header::new(b'0', b"f").bytes(329, 8, b"junk"), b"").end(), "f f");
}
