//! A copy of a whole tree that shares no inode with it.

use std::{collections::HashMap, os::fd::AsFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, Stat, fstat, linkat, mkdirat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    fs::step,
    layer::Halt,
    store::tree::{
        file::{Copier, IN_A_TREE, open_in, set_times, unexpected},
        walker::{Walker, join},
    },
};

/// Copies the tree at `from` to `to`, which must not be there: content, attributes, times, hard links inside it. Blocks
/// of content are shared where the file system can (reflink). What was made by an error or a stop stays at `to`.
///
/// Fails with `ERR_CACHE` where `from` holds anything but files and directories, `ERR_IO`, `ERR_NO_SPACE`, or
/// `ERR_ABORTED` once `halt` is thrown.
pub(crate) fn copy_tree(from: &Path, to: &Path, halt: &Halt) -> Result<()> {
    let source = Walker::new(from)?;
    step("create", to);
    mkdirat(CWD, to, Mode::RWXU).map_err(|errno| ImageError::io("create", to, errno))?;
    let copy = Copy {
        source,
        made: Walker::new(to)?,
        copier: Copier::new(halt),
        halt,
        directories: Vec::new(),
        shared: HashMap::new(),
    };
    copy.run()
}

/// A directory on the way.
struct Level {
    /// Its number, and its attributes and times as the source has them.
    number: u32,
    stat: Stat,
    /// Directories in it that are still to be copied.
    pending: Vec<Box<[u8]>>,
    path_length: usize,
}

struct Copy<'a> {
    source: Walker,
    made: Walker,
    copier: Copier<'a>,
    halt: &'a Halt,
    /// All directories so far: the number of the one above, and the name.
    directories: Vec<(u32, Box<[u8]>)>,
    /// Inodes of several names: where the first was made.
    shared: HashMap<u64, (u32, Box<[u8]>)>,
}

impl Copy<'_> {
    fn run(mut self) -> Result<()> {
        let mut path = Vec::new();
        let mut levels = vec![self.enter(0, b"", &path)?];
        while let Some(level) = levels.last_mut() {
            self.halt.check()?;
            path.truncate(level.path_length);
            match level.pending.pop() {
                Some(name) => {
                    path = join(&path, &name);
                    let number = level.number;
                    levels.push(self.enter(number, &name, &path)?);
                }
                // All that is in it is made: nothing changes its time any more.
                None => {
                    let full = self.made.full(&path);
                    set_times(self.made.directory(&path)?, &level.stat, &full)?;
                    levels.pop();
                }
            }
        }
        Ok(())
    }

    /// Copies a directory's attributes and files, and makes the directories in it.
    fn enter(&mut self, above: u32, name: &[u8], path: &[u8]) -> Result<Level> {
        let number = u32::try_from(self.directories.len()).map_err(|_| ImageError::internal("too many directories"))?;
        self.directories.push((above, name.into()));
        let full = self.source.full(path);
        let failed = |errno| ImageError::io("list", &full, errno);
        let from = self.source.directory(path)?;
        let stat = fstat(from).map_err(failed)?;
        let mut listing = Dir::read_from(from).map_err(failed)?;
        self.copier.attributes(from, self.made.directory(path)?, &full)?;
        let mut pending: Vec<Box<[u8]>> = Vec::new();
        while let Some(entry) = listing.read() {
            self.halt.check()?;
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match self.kind(path, name, entry.file_type())? {
                FileType::Directory => {
                    step("create", IN_A_TREE);
                    mkdirat(self.made.directory(path)?, name, Mode::RWXU)
                        .map_err(|errno| ImageError::io("create", self.made.full(&join(path, name)), errno))?;
                    pending.push(name.into());
                }
                FileType::RegularFile => self.file(number, path, name)?,
                _ => return Err(unexpected(&self.source.full(&join(path, name)))),
            }
        }
        Ok(Level { number, stat, pending, path_length: path.len() })
    }

    /// Some file systems list names without types.
    fn kind(&mut self, path: &[u8], name: &[u8], listed: FileType) -> Result<FileType> {
        if listed != FileType::Unknown {
            return Ok(listed);
        }
        let full = self.source.full(&join(path, name));
        let stat = rustix::fs::statat(self.source.directory(path)?, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| ImageError::io("stat", full, errno))?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn file(&mut self, number: u32, path: &[u8], name: &[u8]) -> Result<()> {
        let full = self.made.full(&join(path, name));
        let (from, stat) = open_in(self.source.directory(path)?, name, &full)?;
        let is_shared = stat.st_nlink > 1;
        if is_shared && self.link(stat.st_ino, path, name, &full)? {
            return Ok(());
        }
        self.copier.copy((&from, &stat), self.made.directory(path)?, name, &full)?;
        if is_shared {
            self.shared.insert(stat.st_ino, (number, name.into()));
        }
        Ok(())
    }

    /// Gives an inode that was copied one more name; says whether that went. Where the host's limit of names is met,
    /// another copy is made.
    fn link(&mut self, inode: u64, path: &[u8], name: &[u8], full: &Path) -> Result<bool> {
        let Some((directory, first)) = self.shared.get(&inode) else { return Ok(false) };
        let first_directory = self.path_of(*directory);
        let holds = self.made.directory(&first_directory)?;
        let holds = rustix::io::fcntl_dupfd_cloexec(holds, 0).map_err(|errno| ImageError::io("open", full, errno))?;
        step("link", IN_A_TREE);
        match linkat(holds.as_fd(), &**first, self.made.directory(path)?, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::MLINK) => Ok(false),
            Err(errno) => Err(ImageError::io("link", full, errno)),
        }
    }

    fn path_of(&self, mut directory: u32) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        while directory != 0 {
            let (above, name) = &self.directories[directory as usize];
            names.push(name);
            directory = *above;
        }
        names.reverse();
        names.join(&b'/')
    }
}
