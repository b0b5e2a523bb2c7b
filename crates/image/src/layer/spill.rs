//! Bytes that are written at the end and read and changed anywhere. Few of them stay in memory; when they become many,
//! they go to a file without a name, and memory holds only the pages used last.
//!
//! The file is read and written, never mapped: pages of a map count as memory of the process.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
    io::Errno,
};

use crate::{
    error::{ImageError, Result},
    layer::{halt::Halt, sidecar::Sidecar},
};

const PAGE: usize = 8 << 10;
/// Pages in memory before there is a file: 8 MiB, enough for the layers of real images.
const MAX_PAGES: usize = 1024;
/// Pages in memory once there is a file: 512 KiB.
const PAGES_BESIDE_FILE: usize = 64;

/// Where files without a name are made.
#[derive(Clone, Default)]
pub(crate) struct SpillHome(Option<Arc<OwnedFd>>);

impl SpillHome {
    /// In this directory. A crash leaves nothing in it, or a file that goes with it.
    pub(crate) fn new(directory: Arc<OwnedFd>) -> Self {
        Self(Some(directory))
    }

    fn file(&self) -> Result<Option<File>> {
        let Some(directory) = &self.0 else { return Ok(None) };
        match nameless_file(directory.as_fd()) {
            Ok(file) => Ok(Some(file)),
            Err(errno) => Err(ImageError::io("create a temporary file in", ".", errno)),
        }
    }
}

fn nameless_file(directory: impl AsFd) -> Result<File, Errno> {
    const ACCESS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);
    let owner = Mode::RUSR | Mode::WUSR;
    #[cfg(target_os = "linux")]
    if let Ok(file) = openat(&directory, c".", ACCESS | OFlags::TMPFILE, owner) {
        return Ok(file.into());
    }
    // The name lasts for a moment. An image may have one like it.
    for attempt in 0..u32::MAX {
        let name = format!(".spill-{}-{attempt}", std::process::id());
        match openat(&directory, &name, ACCESS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, owner) {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
            Ok(file) => {
                unlinkat(&directory, &name, AtFlags::empty())?;
                return Ok(file.into());
            }
        }
    }
    Err(Errno::EXIST)
}

/// Bytes in memory, or in a file.
pub(crate) struct Spill {
    home: SpillHome,
    file: Option<File>,
    slots: Vec<Slot>,
    length: u64,
    max_pages: usize,
}

/// Holds the page of the highest number that was used, of those that leave the same rest.
struct Slot {
    page: u64,
    changed: bool,
    bytes: Box<[u8]>,
}

impl Spill {
    pub(crate) fn new(home: &SpillHome) -> Self {
        let max_pages = if home.0.is_some() { MAX_PAGES } else { usize::MAX };
        Self { home: home.clone(), file: None, slots: Vec::new(), length: 0, max_pages }
    }

    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Puts bytes at the end; answers with their place.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.length;
        self.length += bytes.len() as u64;
        self.write_at(at, bytes)?;
        Ok(at)
    }

    pub(crate) fn write_at(&mut self, mut at: u64, mut bytes: &[u8]) -> Result<()> {
        debug_assert!(at + bytes.len() as u64 <= self.length);
        while !bytes.is_empty() {
            let (page, within) = (at / PAGE as u64, at as usize % PAGE);
            let count = bytes.len().min(PAGE - within);
            let slot = self.slot(page)?;
            slot.bytes[within..within + count].copy_from_slice(&bytes[..count]);
            slot.changed = true;
            (at, bytes) = (at + count as u64, &bytes[count..]);
        }
        Ok(())
    }

    pub(crate) fn read_at(&mut self, mut at: u64, mut bytes: &mut [u8]) -> Result<()> {
        debug_assert!(at + bytes.len() as u64 <= self.length);
        while !bytes.is_empty() {
            let (page, within) = (at / PAGE as u64, at as usize % PAGE);
            let count = bytes.len().min(PAGE - within);
            let slot = self.slot(page)?;
            bytes[..count].copy_from_slice(&slot.bytes[within..within + count]);
            (at, bytes) = (at + count as u64, &mut bytes[count..]);
        }
        Ok(())
    }

    pub(crate) fn read_vec(&mut self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Calls `each` with all bytes, in order.
    pub(crate) fn for_each_piece(&mut self, halt: &Halt, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while at < self.length {
            halt.check()?;
            let count = (self.length - at).min(PAGE as u64) as usize;
            each(&self.slot(at / PAGE as u64)?.bytes[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    /// All of it as a finished file, without copying what is on disk.
    pub(crate) fn into_sidecar(mut self, halt: &Halt) -> Result<Sidecar> {
        if self.file.is_none() {
            let mut bytes = Vec::with_capacity(self.length as usize);
            self.for_each_piece(halt, |piece| {
                bytes.extend_from_slice(piece);
                Ok(())
            })?;
            return Ok(bytes.into());
        }
        self.write_back()?;
        let file = self.file.take().expect("it was looked for above");
        file.set_len(self.length).map_err(failed)?;
        Ok(Sidecar::from_file(file, self.length))
    }

    fn slot(&mut self, page: u64) -> Result<&mut Slot> {
        if page >= self.max_pages as u64 && self.file.is_none() {
            self.file = self.home.file()?;
            self.write_back()?;
            self.slots = Vec::new();
            self.max_pages = PAGES_BESIDE_FILE;
        }
        let at = (page % self.max_pages as u64) as usize;
        while self.slots.len() <= at {
            let page = self.slots.len() as u64;
            self.slots.push(Slot { page: u64::MAX, changed: false, bytes: vec![0; PAGE].into() });
            // Without a file a page that was never used is one of zeros.
            if self.file.is_none() {
                self.slots[page as usize].page = page;
            }
        }
        let slot = &mut self.slots[at];
        if slot.page != page {
            let file = self.file.as_ref().expect("without a file each page has its own slot");
            if slot.changed {
                file.write_all_at(&slot.bytes, slot.page * PAGE as u64).map_err(failed)?;
            }
            (slot.page, slot.changed) = (page, false);
            read_page(file, page, &mut slot.bytes).map_err(failed)?;
        }
        Ok(slot)
    }

    fn write_back(&mut self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        for slot in self.slots.iter_mut().filter(|slot| slot.changed) {
            file.write_all_at(&slot.bytes, slot.page * PAGE as u64).map_err(failed)?;
            slot.changed = false;
        }
        Ok(())
    }
}

/// What lies behind the end of the file is zeros.
fn read_page(file: &File, page: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], page * PAGE as u64 + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[filled..].fill(0);
    Ok(())
}

fn failed(error: std::io::Error) -> ImageError {
    ImageError::io("use a temporary file in", ".", error)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn home(folder: &tempfile::TempDir) -> SpillHome {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        SpillHome::new(Arc::new(rustix::fs::open(folder.path(), flags, Mode::empty()).unwrap()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn many_bytes_in_a_file_are_the_bytes_that_few_in_memory_are(
            appended in vec((any::<u8>(), 1..700_000usize), 1..30),
            changes in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 1..100)), 0..100),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let (mut spill, mut model) = (Spill::new(&home(&folder)), Vec::new());
            for (byte, length) in appended {
                let bytes: Vec<u8> = (0..length).map(|n| byte.wrapping_mul(n as u8).wrapping_add((n >> 8) as u8)).collect();
                prop_assert_eq!(spill.append(&bytes).unwrap(), model.len() as u64);
                model.extend_from_slice(&bytes);
            }
            for (at, bytes) in changes {
                let at = at.index(model.len());
                let bytes = &bytes[..bytes.len().min(model.len() - at)];
                spill.write_at(at as u64, bytes).unwrap();
                model[at..at + bytes.len()].copy_from_slice(bytes);
                let around = at.saturating_sub(50)..(at + 200).min(model.len());
                prop_assert_eq!(spill.read_vec(around.start as u64, around.len()).unwrap(), &model[around]);
            }
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            prop_assert!(spill.slots.len() <= MAX_PAGES);
            prop_assert_eq!(spill.file.is_some(), model.len() > MAX_PAGES * PAGE);
            prop_assert!(spill.into_sidecar(&Halt::default()).unwrap().to_vec().unwrap() == model);
        }
    }

    #[test]
    fn without_nameless_files_a_name_lasts_for_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        // As an image's own file of that name.
        std::fs::write(folder.path().join(format!(".spill-{}-0", std::process::id())), b"image").unwrap();
        nameless_file(home(&folder).0.unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
