//! Jobs on their way from the reading thread to its writers, gathered into batches, and the one rule that keeps both going:
//! the reader holds nothing back while it waits.
//!
//! A job may point into a block. Blocks come back only when their jobs are done, so a job that lay in an unfinished batch
//! while the reader waits for a block would be waited for in vain. Whoever wants a block therefore asks for it
//! [here](Batches::block): all batches are handed over before the wait, and a writer waits for nothing but its queue.

use std::{sync::Arc, time::Duration};

use crate::{
    error::Result,
    layer::{
        block::{Block, Pool},
        halt::Halt,
        queue::{Receiver, Sender, bounded},
        stages::timed,
    },
};

/// Jobs handed over at once: waking a thread costs more than a small file.
pub(crate) const BATCH_JOBS: usize = 64;
/// Bytes after which a batch is handed over.
pub(crate) const BATCH_BYTES: usize = 256 << 10;
/// Batches that may wait for a thread.
const QUEUE: usize = 8;

/// The reader's side: one queue for each writer.
pub(crate) struct Batches<J> {
    queues: Vec<Queue<J>>,
    halt: Halt,
    /// How long room in the queues was waited for.
    waited: Duration,
}

struct Queue<J> {
    sender: Sender<Vec<J>>,
    batch: Vec<J>,
    bytes: usize,
    /// True when something was handed over since the last fence.
    busy: bool,
    /// How many bytes and files went this way: new directories go where least did.
    load: u64,
}

impl<J> Batches<J> {
    /// Queues for `count` writers, and their ends.
    pub(crate) fn new(count: usize, halt: &Halt) -> (Self, Vec<Receiver<Vec<J>>>) {
        let (mut queues, mut receivers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (sender, receiver) = bounded(QUEUE);
            queues.push(Queue { sender, batch: Vec::new(), bytes: 0, busy: false, load: 0 });
            receivers.push(receiver);
        }
        (Self { queues, halt: halt.clone(), waited: Duration::ZERO }, receivers)
    }

    /// Puts a job into a writer's batch. `bytes` is the memory that it keeps.
    pub(crate) fn collect(&mut self, writer: usize, job: J, bytes: usize) {
        let queue = &mut self.queues[writer];
        queue.batch.push(job);
        queue.bytes += bytes;
        // A file costs about as much as writing 16 KiB.
        queue.load += bytes as u64 + (16 << 10);
    }

    /// Hands a writer's batch over if it is large enough.
    pub(crate) fn flush_if_full(&mut self, writer: usize) -> Result<()> {
        let queue = &self.queues[writer];
        if queue.batch.len() >= BATCH_JOBS || queue.bytes >= BATCH_BYTES { self.flush(writer) } else { Ok(()) }
    }

    /// Hands everything over.
    pub(crate) fn flush_all(&mut self) -> Result<()> {
        (0..self.queues.len()).try_for_each(|writer| self.flush(writer))
    }

    /// A block to fill. Where none is free, all jobs that keep one are handed over before it is waited for. `waited` grows by
    /// the wait.
    pub(crate) fn block(&mut self, pool: &Arc<Pool>, waited: &mut Duration) -> Result<Block> {
        if let Some(block) = pool.try_take() {
            return Ok(block);
        }
        self.flush_all()?;
        timed(waited, || pool.take(&self.halt))
    }

    /// Puts a last job behind what a writer has to do; `false`, and nothing is put, if that is nothing.
    pub(crate) fn fence(&mut self, writer: usize, fence: impl FnOnce() -> J) -> Result<bool> {
        if !self.queues[writer].busy && self.is_empty(writer) {
            return Ok(false);
        }
        self.queues[writer].batch.push(fence());
        self.flush(writer)?;
        self.queues[writer].busy = false;
        Ok(true)
    }

    /// True if nothing waits to be handed over to a writer.
    pub(crate) fn is_empty(&self, writer: usize) -> bool {
        self.queues[writer].batch.is_empty()
    }

    /// The writers.
    pub(crate) fn writers(&self) -> std::ops::Range<usize> {
        0..self.queues.len()
    }

    /// Batches that wait for a writer.
    pub(crate) fn waiting(&self, writer: usize) -> usize {
        self.queues[writer].sender.length()
    }

    /// The writer that has had least to do.
    pub(crate) fn least_loaded(&self) -> usize {
        let loads = self.queues.iter().enumerate();
        loads.min_by_key(|(_, queue)| queue.load).map_or(0, |(at, _)| at)
    }

    pub(crate) fn halt(&self) -> &Halt {
        &self.halt
    }

    /// The sum of all waits.
    pub(crate) fn waited(&mut self) -> &mut Duration {
        &mut self.waited
    }

    fn flush(&mut self, writer: usize) -> Result<()> {
        let queue = &mut self.queues[writer];
        if queue.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut queue.batch, Vec::with_capacity(BATCH_JOBS));
        (queue.bytes, queue.busy) = (0, true);
        timed(&mut self.waited, || queue.sender.send(batch, &self.halt))
    }
}
