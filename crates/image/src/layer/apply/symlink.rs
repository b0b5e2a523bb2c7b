//! A symbolic link of the image on the host (SPEC §4): on Linux a file with the target as its content, since a link can't
//! have user attributes there; on macOS, where it can, a link.

use std::{ffi::CStr, os::fd::OwnedFd};

use rustix::io::Errno;

use crate::layer::{
    apply::Handle,
    stat::{OverrideStat, S_IFLNK},
};

const S_IFMT: u32 = 0o170_000;

/// True if the entry is to be a link on this host.
pub(super) fn is_real(stat: &OverrideStat) -> bool {
    cfg!(target_vendor = "apple") && stat.mode & S_IFMT == S_IFLNK
}

/// Makes the link, and opens it: itself, not what it leads to.
#[cfg(target_vendor = "apple")]
pub(super) fn make(directory: &Handle, name: &CStr, target: &[u8]) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, OFlags, openat, symlinkat};
    /// `O_SYMLINK` of `<sys/fcntl.h>`.
    const OPEN_THE_LINK: OFlags = OFlags::from_bits_retain(0x20_0000);
    symlinkat(target, directory.as_fd(), name)?;
    openat(directory.as_fd(), name, OFlags::RDONLY | OPEN_THE_LINK | OFlags::CLOEXEC, Mode::empty())
}

/// See [`is_real`].
#[cfg(not(target_vendor = "apple"))]
pub(super) fn make(_: &Handle, _: &CStr, _: &[u8]) -> Result<OwnedFd, Errno> {
    Err(Errno::OPNOTSUPP)
}
