//! The numbers of the format: sizes and places of fields. All integers are little-endian.

pub(super) const MAGIC: u32 = 0x6942_534d;
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 32;
pub(super) const DIRECTORY: usize = 24;
pub(super) const ENTRY: usize = 40;
pub(super) const HARD_LINK: usize = 16;
/// Place of the checksum in the header.
pub(super) const CHECKSUM: usize = 28;

/// Directory flag: hides all that lower layers have in it.
pub(super) const OPAQUE: u8 = 1;
/// Entry flag: hides this name of lower layers.
pub(super) const WHITEOUT: u8 = 1;
/// For an entry that is no directory: it has no directory record.
pub(super) const NO_RECORD: u32 = u32::MAX;

/// The checksum of a whole file, its own field counted as zeros.
pub(super) fn checksum(file: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&file[..CHECKSUM]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &file[HEADER..])
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
