//! gzip, zstd and plain bytes: damage ends in an error, however the bytes are cut into pieces, and memory stays bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microsandbox_image_core::layer::doors::decode;
use microsandbox_image_fuzz::Pieces;

/// More than this is not decoded of one input.
const MOST: usize = 2 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&length, blob)) = input.split_first() else { return };
    let whole = decode(Pieces::of(blob, usize::MAX), MOST);
    let pieces = decode(Pieces::of(blob, length.into()), MOST);
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => assert!(whole == pieces, "pieces of {length} give other bytes"),
        (Err(whole), Err(pieces)) => assert_eq!(whole.code(), pieces.code()),
        // libzstd compares a frame's length with the stated one where the whole frame is in one piece, and not always
        // elsewhere. Both digests of a layer are checked in any case.
        _ if !blob.starts_with(&[0x1f, 0x8b]) => {}
        (whole, pieces) => panic!("whole: {:?}, in pieces of {length}: {:?}", whole.err(), pieces.err()),
    }
});
