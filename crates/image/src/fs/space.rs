//! How much room a file system has left, as it tells itself.

use std::path::Path;

use rustix::fs::{StatVfs, statvfs};

/// Room left for this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Inodes; `None` where the file system does not count them.
    pub(crate) inodes: Option<u64>,
}

/// The room left where `path` is, or where it would be made. `None` where that is not told.
pub(crate) fn free_space(path: &Path) -> Option<Space> {
    let there =
        path.ancestors().find_map(|at| statvfs(if at.as_os_str().is_empty() { Path::new(".") } else { at }).ok());
    // The superuser may use what is kept back for it.
    there.and_then(|told| read(&told, rustix::process::geteuid().is_root()))
}

fn read(told: &StatVfs, root: bool) -> Option<Space> {
    // A file system of no blocks, as some in user space are, tells nothing.
    if told.f_blocks == 0 {
        return None;
    }
    let (blocks, inodes) = if root { (told.f_bfree, told.f_ffree) } else { (told.f_bavail, told.f_favail) };
    Some(Space { bytes: blocks.saturating_mul(told.f_frsize), inodes: (told.f_files > 0).then_some(inodes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_yet_is_measured_where_it_would_be_made() {
        let temp = tempfile::tempdir().unwrap();
        let space = free_space(&temp.path().join("not/there/yet")).unwrap();
        let total = statvfs(temp.path()).unwrap();
        assert!(space.bytes > 0 && space.bytes <= total.f_blocks * total.f_frsize, "{space:?}");
    }

    #[test]
    fn a_file_system_that_counts_nothing_tells_nothing() {
        assert_eq!(free_space(Path::new("/proc/self")), None);
    }
}
