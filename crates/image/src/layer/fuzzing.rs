//! A door to a stage that has none of its own, for the fuzz targets. It is not there in a normal build.

use crate::{
    error::Result,
    layer::decode::{Decoder, Source},
};

/// Decompresses a blob, at most about `most` bytes of it.
pub fn decode(source: impl Source, most: usize) -> Result<Vec<u8>> {
    let mut decoder = Decoder::new(source)?;
    let mut all = Vec::new();
    let mut room = vec![0; 64 << 10];
    while all.len() < most {
        let filled = decoder.fill(&mut room)?;
        all.extend_from_slice(&room[..filled]);
        if filled < room.len() {
            decoder.drain_source()?;
            break;
        }
    }
    Ok(all)
}
