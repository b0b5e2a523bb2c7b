//! Where the time of an extraction goes: how long each stage worked, and whom it waited for. Measured always: it costs two
//! looks at the clock for each megabyte.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{error::Result, layer::decode::Source};

/// The stages of one layer. Those of the reading thread add up to about `elapsed`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// The reading thread: waiting for compressed bytes.
    pub waiting_for_source: Duration,
    /// The reading thread: waiting for a block that hasher and writers are done with.
    pub waiting_for_blocks: Duration,
    /// The reading thread: decompressing.
    pub decoding: Duration,
    /// The reading thread: waiting for room in the hasher's queue.
    pub waiting_for_hasher: Duration,
    /// The reading thread: reading headers, planning, making directories.
    pub planning: Duration,
    /// The reading thread: waiting for room in the writers' queues, or for their end where order demands it.
    pub waiting_for_writers: Duration,
    /// After the last entry: until the writers and the hasher had ended.
    pub ending: Duration,
    /// Attributes and times of directories, and their listings.
    pub directories: Duration,
    /// Building the index.
    pub indexing: Duration,
    /// The hashing thread at work.
    pub hashing: Duration,
    /// All writing threads at work, together.
    pub writing: Duration,
    /// From the first to the last of it.
    pub elapsed: Duration,
}

impl fmt::Display for Stages {
    /// A table, a stage a line, in milliseconds and as a part of the whole.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        for (name, time) in [
            ("reading: waiting for the source", self.waiting_for_source),
            ("reading: waiting for free blocks", self.waiting_for_blocks),
            ("reading: decompressing", self.decoding),
            ("reading: waiting for the hasher", self.waiting_for_hasher),
            ("reading: headers, plan, directories", self.planning),
            ("reading: waiting for the writers", self.waiting_for_writers),
            ("then: until writers and hasher ended", self.ending),
            ("then: attributes of directories", self.directories),
            ("then: index", self.indexing),
            ("beside it: hashing", self.hashing),
            ("beside it: writing, all threads", self.writing),
            ("elapsed", self.elapsed),
        ] {
            let part = 100.0 * time.as_secs_f64() / whole;
            writeln!(formatter, "{name:<38}{:>9.1} ms{part:>7.1} %", time.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

/// Adds what something takes to a sum.
pub(super) fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    *sum += began.elapsed();
    done
}

/// A source whose waiting is counted.
pub(super) struct TimedSource<S> {
    source: S,
    waited: Arc<AtomicU64>,
}

impl<S> TimedSource<S> {
    /// The source, and a reading of what it took so far.
    pub(super) fn new(source: S) -> (Self, impl Fn() -> Duration) {
        let waited = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&waited);
        (Self { source, waited }, move || Duration::from_nanos(read.load(Ordering::Relaxed)))
    }
}

impl<S: Source> Source for TimedSource<S> {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let mut taken = Duration::ZERO;
        let piece = timed(&mut taken, || self.source.next_piece());
        self.waited.fetch_add(taken.as_nanos() as u64, Ordering::Relaxed);
        piece
    }
}
