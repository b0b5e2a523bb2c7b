//! The numbers of the format (docs/layer-table.md). All integers are little-endian.

pub(super) const MAGIC: [u8; 4] = *b"MSBT";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 64;
pub(super) const ROW: usize = 56;
/// Place of the checksum in the header.
pub(super) const CHECKSUM: usize = 12;
/// Place of the header's own checksum.
pub(super) const HEADER_CHECKSUM: usize = 20;

/// Header flags.
pub(super) const HAS_IMPLIED: u32 = 1;
pub(super) const HAS_CROSS_LAYER: u32 = 2;

/// Row flags.
pub(super) const IMPLIED: u8 = 1;
pub(super) const OPAQUE: u8 = 2;
pub(super) const CROSS_LAYER: u8 = 4;

/// No details, no group.
pub(super) const NONE: u32 = u32::MAX;
/// No content in the stream.
pub(super) const NO_POSITION: u64 = u64::MAX;
/// Bytes before a target in the details of a row: device, length of the target, counts of segments and attributes.
pub(super) const DETAILS: usize = 16;

/// The checksum of a header and of the texts it points at, both checksums counted as zeros: for who reads no more.
pub(super) fn header_checksum(header: &[u8], texts: &[u8]) -> u32 {
    let mut header: [u8; HEADER] = header[..HEADER].try_into().expect("a whole header");
    for at in [CHECKSUM, HEADER_CHECKSUM] {
        header[at..at + 4].fill(0);
    }
    crc32c::crc32c_append(crc32c::crc32c(&header), texts)
}

/// The checksum of a whole file, its own field counted as zeros.
pub(super) fn checksum(file: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&file[..CHECKSUM]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    crc32c::crc32c_append(sum, &file[CHECKSUM + 4..])
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
