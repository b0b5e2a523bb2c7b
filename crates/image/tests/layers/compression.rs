//! gzip, zstd and plain bytes (TRAPS 11, 13, 31).

use std::io::Write;

use microsandbox_image_core::{
    Digest,
    layer::{Unpack, unpack},
};
use sha2::Digest as _;

use crate::{
    archive::archive,
    harness::{Pieces, refuses_bytes, unpacks_bytes},
};

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn plain() -> Vec<u8> {
    archive().file("a", "one").file("b", "two").end().0
}

const TREE: &str = "f a one\nf b two";
const SKIPPABLE: [u8; 11] = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];

#[test]
fn gzip_of_several_members_is_read_to_the_end() {
    let plain = plain();
    let members: Vec<u8> = plain.chunks(700).flat_map(gzip).collect();
    unpacks_bytes(&members, TREE);
    unpacks_bytes(&[gzip(&plain), gzip(b"")].concat(), TREE);
}

#[test]
fn zstd_of_several_and_skippable_frames_is_read_to_the_end() {
    let plain = plain();
    let frames: Vec<u8> = plain.chunks(700).flat_map(|part| [&zstd(part)[..], &SKIPPABLE].concat()).collect();
    unpacks_bytes(&frames, TREE);
    unpacks_bytes(&[&SKIPPABLE[..], &zstd(&plain)].concat(), TREE);
}

#[test]
fn a_plain_archive_needs_no_label() {
    unpacks_bytes(&plain(), TREE);
}

#[test]
fn a_bare_archive_may_begin_with_the_name_of_another_format() {
    unpacks_bytes(&archive().file("BZh9", "x").end().0, "f BZh9 x");
    unpacks_bytes(&archive().file("PK", "x").end().0, "f PK x");
}

#[test]
fn damaged_streams_are_refused() {
    let (good, zst) = (gzip(&plain()), zstd(&plain()));
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        bytes
    };
    for bytes in [
        flipped(good.len() - 1),
        flipped(good.len() - 6),
        good[..good.len() - 1].to_vec(),
        good[..good.len() / 2].to_vec(),
        [&good[..], b"trailing junk"].concat(),
        zst[..zst.len() - 1].to_vec(),
        zst[..zst.len() / 2].to_vec(),
        [&zst[..], b"trailing junk"].concat(),
        [&SKIPPABLE[..8]].concat(),
        vec![0x1f, 0x8b],
    ] {
        refuses_bytes(&bytes, "ERR_EXTRACTION", "");
    }
}

#[test]
fn formats_nobody_expects_are_named() {
    refuses_bytes(b"BZh91AY&SY and so on", "ERR_UNSUPPORTED_MEDIA_TYPE", "bzip2");
    refuses_bytes(b"\xfd7zXZ\0\0 and so on", "ERR_UNSUPPORTED_MEDIA_TYPE", "xz");
    refuses_bytes(&[b'{'; 600], "ERR_EXTRACTION", "checksum");
    refuses_bytes(b"{}", "ERR_EXTRACTION", "");
}

#[test]
fn an_empty_layer_is_fine_in_every_form() {
    for bytes in [vec![], vec![0; 1024], vec![0; 10_240], vec![0; 512], gzip(&[0; 1024]), zstd(&[0; 1024]), gzip(b"")] {
        unpacks_bytes(&bytes, "");
    }
}

#[test]
fn a_layer_without_end_blocks_is_fine() {
    unpacks_bytes(&archive().file("a", "x").0, "f a x");
    unpacks_bytes(&archive().dir("d").0, "d d");
    unpacks_bytes(&[archive().file("a", "x").0, vec![0; 512]].concat(), "f a x");
}

#[test]
fn bytes_after_the_end_are_hashed_and_never_read_as_entries() {
    let bytes = [plain(), archive().file("c", "three").end().0, b"odd".to_vec()].concat();
    unpacks_bytes(&bytes, TREE);
    let wanted = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&bytes)));
    for (diff_id, code) in [(wanted, None), (format!("sha256:{}", "0".repeat(64)), Some("ERR_DIGEST_MISMATCH"))] {
        let temp = tempfile::tempdir().unwrap();
        let how = Unpack { diff_id: Some(Digest::parse(&diff_id).unwrap()), ..Unpack::default() };
        let done = unpack(Pieces(gzip(&bytes).into(), 100), temp.path(), how);
        assert_eq!(done.err().map(|error| error.code()), code);
    }
}

#[test]
fn a_diff_id_of_sha512_is_checked_too() {
    let bytes = plain();
    let wanted = format!("sha512:{}", hex::encode(sha2::Sha512::digest(&bytes)));
    let temp = tempfile::tempdir().unwrap();
    let how = Unpack { diff_id: Some(Digest::parse(&wanted).unwrap()), ..Unpack::default() };
    assert_eq!(unpack(Pieces(bytes.into(), 999), temp.path(), how).unwrap().diff_id.to_string(), wanted);
}
