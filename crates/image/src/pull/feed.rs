//! The way of a blob's bytes from whoever stores them to whoever extracts them.
//!
//! Bytes are handed over in memory while the extractor keeps up. When it does not, or has not begun, they are left in the
//! file they were written to and read back from there, so a slow disk never holds up a download and memory stays bounded: by
//! what the extraction's permit has for them, and by nothing before it has one.

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    error::{ImageError, Result},
    layer::{Halt, Source},
};

const READ_BACK: u64 = 256 << 10;
const POLL: Duration = Duration::from_millis(20);

enum Piece {
    Memory(Bytes),
    File { from: u64, to: u64 },
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Piece>,
    in_memory: usize,
    /// Bytes that may wait in memory: none until somebody reads.
    capacity: usize,
    /// All bytes have come and their digest is right.
    complete: bool,
}

/// The storing side.
#[derive(Clone)]
pub(super) struct Feed(Arc<(Mutex<State>, Condvar)>);

impl Feed {
    pub(super) fn new() -> Self {
        Self(Arc::new((Mutex::default(), Condvar::new())))
    }

    /// Hands bytes over that stand in the file at `offset`.
    pub(super) fn push(&self, offset: u64, bytes: Bytes) {
        let mut state = self.lock();
        if state.in_memory + bytes.len() <= state.capacity {
            state.in_memory += bytes.len();
            state.pieces.push_back(Piece::Memory(bytes));
        } else {
            let end = offset + bytes.len() as u64;
            match state.pieces.back_mut() {
                Some(Piece::File { to, .. }) if *to == offset => *to = end,
                _ => state.pieces.push_back(Piece::File { from: offset, to: end }),
            }
        }
        self.0.1.notify_one();
    }

    /// Lets so many bytes wait in memory, from now on: an extraction has begun.
    pub(super) fn set_capacity(&self, bytes: usize) {
        self.lock().capacity = bytes;
    }

    /// Says that all bytes have come and hash to their digest. Until then the reader does not see an end.
    pub(super) fn complete(&self) {
        self.lock().complete = true;
        self.0.1.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The extracting side.
pub(super) struct Reader {
    feed: Feed,
    file: File,
    path: PathBuf,
    halt: Halt,
    read: u64,
    progress: Box<dyn FnMut(u64) + Send>,
}

impl Reader {
    /// `file` is where the stored bytes stand; `progress` is told how many were read.
    pub(super) fn new(
        feed: &Feed,
        file: File,
        path: PathBuf,
        halt: &Halt,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Self {
        Self { feed: feed.clone(), file, path, halt: halt.clone(), read: 0, progress: Box::new(progress) }
    }

    fn wait(&mut self) -> Result<Option<Piece>> {
        let mut state = self.feed.lock();
        loop {
            self.halt.check()?;
            match state.pieces.pop_front() {
                Some(Piece::Memory(bytes)) => {
                    state.in_memory -= bytes.len();
                    return Ok(Some(Piece::Memory(bytes)));
                }
                Some(Piece::File { from, to }) => {
                    let end = to.min(from + READ_BACK);
                    if end < to {
                        state.pieces.push_front(Piece::File { from: end, to });
                    }
                    return Ok(Some(Piece::File { from, to: end }));
                }
                None if state.complete => return Ok(None),
                None => {
                    let waited = self.feed.0.1.wait_timeout(state, POLL);
                    (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
                }
            }
        }
    }
}

impl Source for Reader {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let bytes = match self.wait()? {
            None => return Ok(None),
            Some(Piece::Memory(bytes)) => bytes,
            Some(Piece::File { from, to }) => {
                let mut bytes = vec![0; (to - from) as usize];
                let read = self.file.read_exact_at(&mut bytes, from);
                read.map_err(|error| ImageError::io("read back", &self.path, error))?;
                bytes.into()
            }
        };
        self.read += bytes.len() as u64;
        (self.progress)(self.read);
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MEMORY: usize = 8 << 20;

    #[test]
    fn nothing_waits_in_memory_until_an_extraction_begins() {
        let feed = Feed::new();
        feed.push(0, Bytes::from_static(b"before"));
        assert_eq!(feed.lock().in_memory, 0);
        feed.set_capacity(10);
        feed.push(6, Bytes::from_static(b"after"));
        assert_eq!(feed.lock().in_memory, 5);
    }

    #[test]
    fn what_does_not_fit_in_memory_is_read_back_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        let whole: Vec<u8> = (0..MEMORY + 3_000_000).map(|at| (at * 7 % 251) as u8).collect();
        file.write_all(&whole).unwrap();
        let (feed, halt) = (Feed::new(), Halt::default());
        feed.set_capacity(MEMORY);
        for (at, chunk) in whole.chunks(1 << 20).enumerate() {
            feed.push((at as u64) << 20, Bytes::copy_from_slice(chunk));
        }
        assert!(feed.lock().in_memory <= MEMORY);
        feed.complete();
        let mut reader = Reader::new(&feed, file, PathBuf::new(), &halt, |_| {});
        let mut read = Vec::new();
        while let Some(bytes) = reader.next_piece().unwrap() {
            read.extend_from_slice(&bytes);
        }
        assert!(read == whole);
    }

    #[test]
    fn a_reader_that_waits_is_stopped() {
        let (feed, halt) = (Feed::new(), Halt::default());
        let mut reader = Reader::new(&feed, tempfile::tempfile().unwrap(), PathBuf::new(), &halt, |_| {});
        halt.abort();
        assert!(reader.next_piece().unwrap_err().is_aborted());
    }
}
