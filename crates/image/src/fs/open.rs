//! The one way to open what lies in a cache: nothing is followed, nothing is waited for, and what was opened is looked at
//! before it is used.
//!
//! Whoever may write into a cache decides what its readers run. So a directory, and a file whose content is believed, has to
//! be of the right type, owned by somebody who is trusted, and not writable by everybody. A pipe, a device or a link in
//! place of a file is told by its type; opening it neither blocks nor has an effect.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

use crate::error::{ErrorKind, ImageError, Result};

/// Bit of a mode that lets everybody write.
const OTHERS_WRITE: u32 = 0o002;

/// Whose directories and files are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trust {
    user: u32,
    others: Vec<u32>,
}

impl Trust {
    /// Root, the effective user, and these.
    pub(crate) fn new(others: &[u32]) -> Self {
        Self { user: rustix::process::geteuid().as_raw(), others: others.to_vec() }
    }

    /// Root also believes whoever owns the cache: a container uses its host's.
    pub(crate) fn in_cache_of(mut self, owner: u32) -> Self {
        if self.user == 0 {
            self.others.push(owner);
        }
        self
    }

    fn believes(&self, owner: u32) -> bool {
        owner == 0 || owner == self.user || self.others.contains(&owner)
    }

    /// Refuses, with `ERR_CACHE`, what somebody else owns or everybody may write.
    pub(crate) fn check(&self, path: &Path, there: &Metadata) -> Result<()> {
        let (owner, mode) = (there.uid(), there.mode() & 0o7777);
        if !self.believes(owner) {
            let user = self.user;
            return Err(refused(
                path,
                format!(
                    "it belongs to another user (owner {owner}, mode {mode:04o}, this process is user {user}); choose a cache \
                     directory of your own, or name the owner in the option trustedOwners"
                ),
            ));
        }
        if mode & OTHERS_WRITE != 0 && !there.is_symlink() {
            return Err(refused(
                path,
                format!(
                    "everybody may write it (owner {owner}, mode {mode:04o}); look what is in it, then take that right away \
                     with chmod o-w"
                ),
            ));
        }
        Ok(())
    }
}

/// What was found in place of a file.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A regular file.
    File(File, Metadata),
    /// Nothing.
    Nothing,
    /// A link, a directory, a pipe, a device or a socket.
    Other,
}

/// Opens a regular file for reading; never blocks. Does not ask for its owner.
pub(crate) fn open_regular(path: &Path) -> Result<Opened> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a regular file as `options` say; never blocks, follows no link.
pub(crate) fn open_with(options: &mut OpenOptions, path: &Path) -> Result<Opened> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match options.custom_flags(flags.bits() as i32).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Nothing),
        // A socket, a pipe nobody reads, a device nobody drives, a link, a directory that should be written.
        Err(error) if is_other_type(&error) => return Ok(Opened::Other),
        Err(error) => return Err(ImageError::io("open", path, error)),
    };
    let there = file.metadata().map_err(|error| ImageError::io("stat", path, error))?;
    Ok(if there.is_file() { Opened::File(file, there) } else { Opened::Other })
}

fn is_other_type(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let types = [Errno::LOOP, Errno::NXIO, Errno::NODEV, Errno::ISDIR, Errno::MLINK];
    error.raw_os_error().is_some_and(|code| types.map(Errno::raw_os_error).contains(&code))
}

/// [`open_regular`] where anything but a regular file is an error.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    match open_regular(path)? {
        Opened::File(file, _) => Ok(file),
        Opened::Nothing => Err(ImageError::io("open", path, io::Error::from(io::ErrorKind::NotFound))),
        Opened::Other => Err(no_file(path)),
    }
}

/// [`open_regular`], and the file's owner and mode are looked at: `ERR_CACHE` if it can't be trusted.
pub(crate) fn open_trusted(path: &Path, trust: &Trust) -> Result<Opened> {
    let opened = open_regular(path)?;
    if let Opened::File(_, there) = &opened {
        trust.check(path, there)?;
    }
    Ok(opened)
}

/// What was read in place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// All of it.
    Bytes(Vec<u8>),
    /// Nothing is there.
    Nothing,
    /// It is no regular file, or it is longer than it may be.
    Damaged(&'static str),
}

impl Content {
    /// The bytes, where what is damaged counts as an empty file, which no format of ours has; `None` if nothing is there.
    pub(crate) fn or_empty(self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Nothing => None,
            Self::Damaged(_) => Some(Vec::new()),
        }
    }
}

/// Reads a file of at most `max` bytes whose owner is trusted.
pub(crate) fn read_trusted(path: &Path, trust: &Trust, max: u64) -> Result<Content> {
    read(open_trusted(path, trust)?, path, max)
}

fn read(opened: Opened, path: &Path, max: u64) -> Result<Content> {
    let (file, there) = match opened {
        Opened::File(file, there) => (file, there),
        Opened::Nothing => return Ok(Content::Nothing),
        Opened::Other => return Ok(Content::Damaged("it is no regular file")),
    };
    if there.len() > max {
        return Ok(Content::Damaged("it is too long"));
    }
    let mut bytes = Vec::with_capacity(there.len() as usize);
    // It may grow while it is read.
    let read = file.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| ImageError::io("read", path, error))?;
    Ok(if bytes.len() as u64 > max { Content::Damaged("it is too long") } else { Content::Bytes(bytes) })
}

/// Whether a directory that is trusted is there. `ERR_CACHE` if something else is, or somebody else's.
pub(crate) fn directory_is_there(path: &Path, trust: &Trust) -> Result<bool> {
    let Some(there) = stat_if_there(path)? else { return Ok(false) };
    if !there.is_dir() {
        return Err(no_directory(path));
    }
    trust.check(path, &there)?;
    Ok(true)
}

/// What is at `path`, following no link; `None` if nothing is.
pub(crate) fn stat_if_there(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(there) => Ok(Some(there)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(ImageError::io("stat", path, error)),
    }
}

/// Something else in place of a directory.
pub(crate) fn no_directory(path: &Path) -> ImageError {
    refused(path, "it is no directory (a link there is not followed)".to_owned())
}

/// Something else in place of a file.
pub(crate) fn no_file(path: &Path) -> ImageError {
    refused(path, "it is no regular file (a link there is not followed)".to_owned())
}

fn refused(path: &Path, reason: String) -> ImageError {
    ErrorKind::Cache { path: path.display().to_string(), reason }.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn reason(error: ImageError) -> String {
        assert_eq!(error.code(), "ERR_CACHE", "{error}");
        error.to_string()
    }

    fn read_regular(path: &Path, max: u64) -> Result<Content> {
        read(open_regular(path)?, path, max)
    }

    #[test]
    fn pipes_devices_directories_and_links_are_told_by_type_and_never_block() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("planted");
        let is_other = || {
            assert!(matches!(open_regular(&path).unwrap(), Opened::Other));
            assert!(matches!(open_with(OpenOptions::new().write(true), &path).unwrap(), Opened::Other));
            assert_eq!(read_regular(&path, 10).unwrap(), Content::Damaged("it is no regular file"));
            assert_eq!(open_file(&path).unwrap_err().code(), "ERR_CACHE");
        };
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        is_other();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        is_other();
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        is_other();
        fs::remove_file(&path).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        is_other();
        drop(socket);
        fs::remove_file(&path).unwrap();
        if is_root() {
            // A device without a driver.
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), rustix::fs::makedev(240, 77))
                .unwrap();
            is_other();
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_damaged_and_not_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("long");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_regular(&path, 1 << 20).unwrap(), Content::Damaged("it is too long"));
        fs::write(&path, "abc").unwrap();
        assert_eq!(read_regular(&path, 3).unwrap(), Content::Bytes(b"abc".to_vec()));
        assert_eq!(read_regular(&temp.path().join("none"), 3).unwrap(), Content::Nothing);
    }

    #[test]
    fn what_everybody_may_write_is_refused_and_what_a_group_may_write_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let (directory, file) = (temp.path().join("directory"), temp.path().join("file"));
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "x").unwrap();
        let trust = Trust::new(&[]);
        for mode in [0o777, 0o1777, 0o702] {
            for path in [&directory, &file] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            let text = reason(directory_is_there(&directory, &trust).unwrap_err());
            assert!(text.contains(directory.to_str().unwrap()) && text.contains(&format!("mode {mode:04o}")), "{text}");
            assert!(text.contains("chmod o-w"), "{text}");
            reason(read_trusted(&file, &trust, 10).unwrap_err());
        }
        for path in [&directory, &file] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o770)).unwrap();
        }
        assert!(directory_is_there(&directory, &trust).unwrap());
        assert_eq!(read_trusted(&file, &trust, 10).unwrap(), Content::Bytes(b"x".to_vec()));
        assert!(!directory_is_there(&temp.path().join("none"), &trust).unwrap());
        reason(directory_is_there(&file, &trust).unwrap_err());
    }

    #[test]
    fn owners_are_root_the_user_those_named_and_for_root_the_caches_own() {
        let user = |user| Trust { user, others: vec![7] };
        let believed = |trust: &Trust| [0, 5, 7, 9].map(|owner| trust.believes(owner));
        assert_eq!(believed(&user(5)), [true, true, true, false]);
        assert_eq!(believed(&user(5).in_cache_of(9)), [true, true, true, false]);
        assert_eq!(believed(&user(0)), [true, false, true, false]);
        assert_eq!(believed(&user(0).in_cache_of(9)), [true, false, true, true]);
        let temp = tempfile::tempdir().unwrap();
        let there = fs::symlink_metadata(temp.path()).unwrap();
        let stranger = Trust { user: there.uid().wrapping_add(1).max(1), others: Vec::new() };
        if there.uid() != 0 {
            reason(stranger.check(temp.path(), &there).unwrap_err());
        }
    }
}
