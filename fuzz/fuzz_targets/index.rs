//! An index file of any bytes is refused, or answers every question without a panic. The checksum is put right, unless
//! the first byte says otherwise, or no damage would come far.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use microsandbox_image_core::layer::LayerIndex;
use microsandbox_image_fuzz::memory;

/// Where the checksum stands in the header, and where the header ends.
const CHECKSUM: std::ops::Range<usize> = 28..32;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode & 1 == 0 && bytes.len() >= CHECKSUM.end {
        bytes[CHECKSUM].fill(0);
        let sum = crc32c::crc32c(&bytes);
        bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
    let file = memory().join(format!("microsandbox-image-fuzz-index-{}", std::process::id()));
    fs::write(&file, &bytes).expect("the temporary directory can be written");
    match LayerIndex::open(&file) {
        Ok(index) => ask_everything(&index),
        Err(error) => assert_eq!(error.code(), "ERR_INDEX", "{error:?}"),
    }
});

fn ask_everything(index: &LayerIndex) {
    for at in 0..index.directory_count() {
        let directory = index.directory_at(at);
        let _ = (index.tombstones(&directory), index.directory(directory.path));
        for entry in index.entries(&directory).take(64) {
            let path = [directory.path, entry.name].join(&b'/');
            let _ = (index.lookup(&path), index.hard_links(entry.inode));
            assert!(entry.directory.is_none_or(|at| at < index.directory_count()));
        }
    }
    for path in [&b""[..], b"/", b"usr", b"usr/lib/x", b"\xff"] {
        let _ = (index.lookup(path), index.directory(path));
    }
}
