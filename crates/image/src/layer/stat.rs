//! The attribute that says who an entry belongs to in the image (SPEC §4): owner, mode with type bits, device.

use std::ffi::CStr;

/// Name of the attribute.
pub(crate) const OVERRIDE_STAT: &CStr = c"user.containers.override_stat";

/// Regular file.
pub(crate) const S_IFREG: u32 = 0o100_000;
/// Directory.
pub(crate) const S_IFDIR: u32 = 0o040_000;
/// Symbolic link.
pub(crate) const S_IFLNK: u32 = 0o120_000;
/// Block device.
pub(crate) const S_IFBLK: u32 = 0o060_000;
/// Character device.
pub(crate) const S_IFCHR: u32 = 0o020_000;
/// Named pipe.
pub(crate) const S_IFIFO: u32 = 0o010_000;

const VERSION: u8 = 1;

/// What the image says of an entry: the 20 bytes of the attribute `user.containers.override_stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverrideStat {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions with the type bits.
    pub mode: u32,
    /// Device number, in glibc's packing; 0 for what is no device.
    pub rdev: u32,
}

impl OverrideStat {
    /// The attribute's bytes.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[0] = VERSION;
        bytes[4..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.gid.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.mode.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.rdev.to_le_bytes());
        bytes
    }

    /// Reads the attribute's bytes; `None` for another length or version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 20] = bytes.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (bytes[0] == VERSION).then(|| Self { uid: word(4), gid: word(8), mode: word(12), rdev: word(16) })
    }
}

/// Reads the attribute of a file or directory, not following a link. `None` if it has none or not a valid one.
pub fn read_stat(path: &std::path::Path) -> crate::error::Result<Option<OverrideStat>> {
    use rustix::io::Errno;
    #[cfg(target_vendor = "apple")]
    const NO_ATTRIBUTE: Errno = Errno::NOATTR;
    #[cfg(not(target_vendor = "apple"))]
    const NO_ATTRIBUTE: Errno = Errno::NODATA;
    let mut bytes = [0; 24];
    match rustix::fs::lgetxattr(path, OVERRIDE_STAT, &mut bytes[..]) {
        Ok(length) => Ok(OverrideStat::from_bytes(&bytes[..length])),
        Err(NO_ATTRIBUTE | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(crate::error::ImageError::io("read the attribute of", path, errno)),
    }
}

/// Packs a device number as glibc's `makedev` does, cut to 32 bits.
pub(crate) fn makedev(major: u32, minor: u32) -> u32 {
    ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & 0x0fff_ff00) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_has_the_layout_of_the_contract() {
        let stat = OverrideStat { uid: 0x0102_0304, gid: 5, mode: S_IFCHR | 0o644, rdev: makedev(1, 3) };
        let bytes = stat.to_bytes();
        assert_eq!(&bytes[..8], &[1, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(&bytes[16..], &[3, 1, 0, 0]);
        assert_eq!(OverrideStat::from_bytes(&bytes), Some(stat));
        assert_eq!(OverrideStat::from_bytes(&bytes[..19]), None);
        assert_eq!(OverrideStat::from_bytes(&[2; 20]), None);
    }
}
