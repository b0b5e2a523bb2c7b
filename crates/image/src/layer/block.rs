//! A ring of reused blocks: uncompressed bytes are written once by the decoder and then only pointed at.
//!
//! The pool is the memory bound of an extraction: when all blocks are in use the decoder waits.

use std::{
    ops::{Deref, Range},
    sync::Arc,
    time::Duration,
};

use crate::{
    error::Result,
    layer::halt::Halt,
    sync::{Condvar, Mutex},
};

/// Bytes in a block: a multiple of the 512 bytes of a tar record, so a record never crosses blocks.
pub(crate) const BLOCK_SIZE: usize = 1 << 20;

/// How often a waiting stage looks whether the job was stopped.
const POLL: Duration = Duration::from_millis(20);

pub(crate) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    free: Vec<Box<[u8]>>,
    unmade: usize,
}

impl State {
    fn next(&mut self) -> Option<Box<[u8]>> {
        if let Some(bytes) = self.free.pop() {
            return Some(bytes);
        }
        self.unmade = self.unmade.checked_sub(1)?;
        Some(vec![0; BLOCK_SIZE].into())
    }
}

impl Pool {
    pub(crate) fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { free: Vec::with_capacity(blocks), unmade: blocks }),
            returned: Condvar::new(),
        })
    }

    /// A block to fill, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Block> {
        let mut state = self.state.lock().expect("the pool's lock is never held over a panic");
        state.next().map(|bytes| Block { bytes, length: 0, pool: Arc::clone(self) })
    }

    /// A block to fill; waits for one to come back, or for the job to stop.
    pub(crate) fn take(self: &Arc<Self>, halt: &Halt) -> Result<Block> {
        let mut state = self.state.lock().expect("the pool's lock is never held over a panic");
        loop {
            halt.check()?;
            if let Some(bytes) = state.next() {
                return Ok(Block { bytes, length: 0, pool: Arc::clone(self) });
            }
            (state, _) = self.returned.wait_timeout(state, POLL).expect("the pool's lock is never held over a panic");
        }
    }
}

/// A block in use; it goes back to its pool when the last [`Slice`] of it is gone.
pub(crate) struct Block {
    bytes: Box<[u8]>,
    length: usize,
    pool: Arc<Pool>,
}

impl Block {
    /// The whole room of the block.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Says how much of the room was filled.
    pub(crate) fn set_length(&mut self, length: usize) {
        assert!(length <= self.bytes.len());
        self.length = length;
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Ok(mut state) = self.pool.state.lock() {
            state.free.push(bytes);
        }
        self.pool.returned.notify_one();
    }
}

/// A part of a block that keeps the block alive.
#[derive(Clone)]
pub(crate) struct Slice {
    block: Arc<Block>,
    range: Range<usize>,
}

impl Slice {
    pub(crate) fn new(block: &Arc<Block>, range: Range<usize>) -> Self {
        debug_assert!(range.end <= block.len());
        Self { block: Arc::clone(block), range }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_when_its_last_slice_is_gone() {
        let (pool, halt) = (Pool::new(1), Halt::default());
        let mut block = pool.take(&halt).unwrap();
        block.room()[..3].copy_from_slice(b"abc");
        block.set_length(3);
        let slice = Slice::new(&Arc::new(block), 1..3);
        assert_eq!(&*slice, b"bc");
        let waiting = std::thread::spawn({
            let (pool, halt) = (Arc::clone(&pool), halt.clone());
            move || pool.take(&halt).map(|block| block.len())
        });
        drop(slice);
        assert_eq!(waiting.join().unwrap().unwrap(), 0);
    }

    #[test]
    fn waiting_for_a_block_ends_when_the_job_stops() {
        let (pool, halt) = (Pool::new(0), Halt::default());
        halt.abort();
        assert!(pool.take(&halt).err().unwrap().is_aborted());
    }
}
