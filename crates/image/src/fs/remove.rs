//! Removal of a tree relative to directory handles: a planted link is removed, never followed.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    fs::step,
};

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Any of the names below a tree that is removed.
const IN_A_TREE: &str = "tree/*";

/// Removes what is at `path`, whatever it is; nothing there is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    remove_tree_at(CWD, path, || false).map_err(|errno| ImageError::io("remove", path, errno))
}

/// [`remove_tree`] relative to an open directory. Recursion is by a list, not by the stack: trees may be deep. Ends with
/// `ECANCELED` before the next name once `stop` says so.
pub(crate) fn remove_tree_at(
    parent: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    stop: impl Fn() -> bool,
) -> std::result::Result<(), Errno> {
    let top = match openat(&parent, name, OPEN, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            step("remove", IN_A_TREE);
            return unlinkat(&parent, name, AtFlags::empty());
        }
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut open = vec![(Dir::new(top)?, None::<std::ffi::CString>)];
    while let Some((directory, _)) = open.last_mut() {
        if stop() {
            return Err(Errno::CANCELED);
        }
        match directory.read() {
            None => {
                let (_, name) = open.pop().expect("the list has a last one");
                if let (Some((above, _)), Some(name)) = (open.last(), name) {
                    step("remove", IN_A_TREE);
                    gone(unlinkat(above.fd()?, &*name, AtFlags::REMOVEDIR))?;
                }
            }
            Some(entry) => {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let fd = directory.fd()?;
                if entry.file_type() == FileType::Directory || entry.file_type() == FileType::Unknown {
                    match openat(fd, name, OPEN, Mode::empty()) {
                        Ok(below) => {
                            let below: OwnedFd = below;
                            open.push((Dir::new(below)?, Some(name.to_owned())));
                            continue;
                        }
                        Err(Errno::NOTDIR | Errno::LOOP) => {}
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Err(errno),
                    }
                }
                step("remove", IN_A_TREE);
                gone(unlinkat(fd, name, AtFlags::empty()))?;
            }
        }
    }
    step("remove", "emptied tree");
    gone(unlinkat(&parent, name, AtFlags::REMOVEDIR))
}

/// Two processes may remove the same leftovers: what the other one was faster with is gone as well.
fn gone(removed: std::result::Result<(), Errno>) -> std::result::Result<(), Errno> {
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_ends_when_it_is_to_stop() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("tree")).unwrap();
        for n in 0..10 {
            std::fs::write(temp.path().join(format!("tree/{n}")), "").unwrap();
        }
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) == 5;
        assert_eq!(remove_tree_at(CWD, &temp.path().join("tree"), stop), Err(Errno::CANCELED));
        assert!((1..10).contains(&std::fs::read_dir(temp.path().join("tree")).unwrap().count()));
    }

    #[test]
    fn a_link_in_the_tree_is_removed_and_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let (tree, victim) = (temp.path().join("tree"), temp.path().join("victim"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&victim).unwrap();
        std::fs::write(victim.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&victim, tree.join("a/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && victim.join("file").exists());
        std::os::unix::fs::symlink(&victim, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(tree.symlink_metadata().is_err() && victim.join("file").exists());
        remove_tree(&tree).unwrap();
    }
}
