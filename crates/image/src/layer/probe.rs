//! Whether a file system can hold what a layer needs, found out before anything is downloaded.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{CWD, Mode, OFlags, XattrFlags, fsetxattr, openat},
    io::Errno,
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::step,
    layer::stat::OVERRIDE_STAT,
};

/// Tries in `directory` what extraction needs of its file system: a file with a user attribute.
///
/// Fails with `ERR_CACHE` where it has no user attributes, with `ERR_IO` or `ERR_NO_SPACE` where it can't be written.
pub fn probe_host(directory: &Path) -> Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let name = format!(".probe-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = directory.join(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    step("create", &path);
    let file = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| ImageError::io("create a file in", directory, errno))?;
    step("attribute", &path);
    let tried = fsetxattr(&file, OVERRIDE_STAT, &[0; 20], XattrFlags::empty());
    step("remove", &path);
    let _ = std::fs::remove_file(&path);
    match tried {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::OPNOTSUPP | Errno::PERM | Errno::NOSYS)) => {
            let reason = "its file system has no user extended attributes, which hold owners and modes; \
                          put the cache on one that has them, such as ext4, xfs or btrfs";
            let kind = ErrorKind::Cache { path: directory.display().to_string(), reason: reason.to_owned() };
            Err(kind.caused_by(std::io::Error::from(errno)))
        }
        Err(errno) => Err(ImageError::io("set an attribute in", directory, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_serves_is_left_as_it_was() {
        let temp = tempfile::tempdir().unwrap();
        probe_host(temp.path()).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_system_without_user_attributes_is_explained() {
        // procfs takes neither files nor attributes, wherever it is mounted.
        assert_eq!(probe_host(Path::new("/proc")).unwrap_err().code(), "ERR_IO");
    }
}
