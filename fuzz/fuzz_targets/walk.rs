//! The bytes of an archive, unpacked beside a victim. Checksums are put right first, or no damage would come far.
#![no_main]

use libfuzzer_sys::fuzz_target;
use microsandbox_image_fuzz::unpack_beside_victim;

fuzz_target!(|input: &[u8]| {
    let Some((&pieces, archive)) = input.split_first() else { return };
    let mut archive = archive.to_vec();
    for record in archive.chunks_exact_mut(512).filter(|record| record[257..].starts_with(b"ustar")) {
        record[148..156].fill(b' ');
        let sum: u32 = record.iter().map(|&byte| u32::from(byte)).sum();
        record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let _ = unpack_beside_victim(&archive, usize::from(pieces) * 64 + 1);
});
