//! The parts of a blob that several connections fetch side by side, handed over in order.
//!
//! ```text
//! delivered ─▶│ part 1: on its way, handed over as it comes │ part 2 │ part 3 │ … not asked for yet
//! ```
//! A blob is stored in order, since what is stored can be resumed, so a part waits in memory until all before it were
//! handed over; that is why parts are short and few, and each has a permit for its memory. Whether several connections are faster than one is measured: where
//! they are not, the link is the limit, and they would only take it from others.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{
    budget::{FurtherConnections, Permit},
    error::Result,
    registry::range::{PATIENCE, RangeStream},
};

/// When further connections are opened, and when they are given up.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// How long the first connection is watched.
    pub(super) after: Duration,
    /// Bytes a second; a faster connection is fast enough.
    pub(super) slower_than: f64,
    /// Bytes in a part.
    pub(super) part: u64,
    /// Parts that are on their way or wait in memory.
    most: usize,
    /// How long several are watched, and how many times as fast as one they must be then.
    judged_after: Duration,
    gain: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(1),
            slower_than: 64e6,
            part: 8 << 20,
            most: 4,
            judged_after: Duration::from_secs(2),
            gain: 1.3,
        }
    }
}

/// A part on its way, or waiting.
struct Part {
    bytes: mpsc::UnboundedReceiver<Bytes>,
    end: u64,
    /// For all its bytes, until they were handed over.
    _memory: Permit,
}

/// A connection that may be had.
enum Place {
    /// The first one's, which the blob has anyway.
    Own,
    Lent(#[expect(dead_code, reason = "it is held, and given back when it is dropped")] Permit),
}

pub(super) struct Parts {
    parts: VecDeque<Part>,
    /// Each answers with its place when its part has arrived.
    fetching: JoinSet<(Place, Result<()>)>,
    further: FurtherConnections,
    /// Where the first connection, which was there before, is to stop: so that it can go on alone.
    first_end: Arc<AtomicU64>,
    own_is_free: bool,
    /// What ranges are made from.
    template: RangeStream,
    delivered: u64,
    /// First byte that no part covers.
    next: u64,
    end: u64,
    rules: Rules,
    /// Bytes a second over one connection.
    one: f64,
    began: Instant,
    /// Bytes that have come since, handed over or not.
    arrived: Arc<AtomicU64>,
    verdict: Verdict,
}

#[derive(PartialEq)]
enum Verdict {
    /// Not yet known.
    Open,
    Faster,
    /// No faster, or something failed: no more parts.
    Enough,
}

impl Parts {
    /// Goes on from a stream that is open, which is as fast as `one` byte a second. `memory` is for the first part.
    pub(super) fn start(
        mut first: RangeStream,
        memory: Permit,
        one: f64,
        further: FurtherConnections,
        rules: Rules,
    ) -> Self {
        let Range { start, end } = first.left();
        let template = first.another(start..end);
        let first_end = first.end_at(start + rules.part);
        let mut parts = Self {
            parts: VecDeque::new(),
            fetching: JoinSet::new(),
            further,
            first_end,
            own_is_free: false,
            template,
            delivered: start,
            next: start,
            end,
            rules,
            one,
            began: Instant::now(),
            arrived: Arc::default(),
            verdict: Verdict::Open,
        };
        parts.fetch(first, Place::Own, memory);
        parts.fill();
        parts
    }

    /// What has not been handed over.
    pub(super) fn left(&self) -> Range<u64> {
        self.delivered..self.end
    }

    /// The next bytes; `None` when whoever asks should go on with one connection from [`left`](Self::left).
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(part) = self.parts.front_mut() else {
                // All was handed over; another part is asked for when the connection of one of them is free.
                let arrived = self.fetching.join_next().await?;
                self.note(arrived.ok());
                continue;
            };
            tokio::select! {
                biased;
                Some(arrived) = self.fetching.join_next() => self.note(arrived.ok()),
                bytes = part.bytes.recv() => match bytes {
                    Some(bytes) => {
                        self.delivered += bytes.len() as u64;
                        return Some(bytes);
                    }
                    None if part.end == self.delivered => {
                        self.parts.pop_front();
                        self.fill();
                    }
                    // It broke off; those behind it are of no use.
                    None => return None,
                },
            }
        }
    }

    fn note(&mut self, arrived: Option<(Place, Result<()>)>) {
        match arrived {
            Some((Place::Own, Ok(()))) => self.own_is_free = true,
            // Who waits for a connection gets this one's.
            Some((Place::Lent(_), Ok(()))) => {}
            Some((_, Err(error))) => {
                tracing::debug!(%error, "a part of a blob could not be fetched by itself");
                self.give_up();
            }
            None => self.give_up(),
        }
        self.judge();
        self.fill();
    }

    /// Ends the parts: several connections must not cost more than one. The first one, where it is still at work, goes on
    /// to the end instead of being closed and asked for again; who allows one connection might refuse that too.
    fn give_up(&mut self) {
        self.verdict = Verdict::Enough;
        let first = self.first_end.load(Ordering::Relaxed);
        if let Some(part) = self.parts.front_mut().filter(|part| part.end == first && !self.own_is_free) {
            part.end = self.end;
            self.parts.truncate(1);
            self.next = self.end;
            self.first_end.store(self.end, Ordering::Relaxed);
        }
    }

    /// Looks, once, whether it was worth it.
    fn judge(&mut self) {
        let elapsed = self.began.elapsed();
        if self.verdict != Verdict::Open || elapsed < self.rules.judged_after {
            return;
        }
        let several = self.arrived.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64();
        tracing::debug!(one = self.one, several, "bytes a second over one connection and over several");
        self.verdict = if several >= self.rules.gain * self.one { Verdict::Faster } else { Verdict::Enough };
    }

    /// Asks for as many parts as may be on their way.
    fn fill(&mut self) {
        while self.verdict != Verdict::Enough && self.parts.len() < self.rules.most && self.next < self.end {
            let Some(memory) = self.further.memory(self.rules.part) else { return };
            let own = std::mem::take(&mut self.own_is_free).then_some(Place::Own);
            let Some(place) = own.or_else(|| self.further.connection().map(Place::Lent)) else { return };
            let end = self.end.min(self.next + self.rules.part);
            self.fetch(self.template.part(self.next..end, PATIENCE), place, memory);
        }
    }

    fn fetch(&mut self, mut range: RangeStream, place: Place, memory: Permit) {
        let (sender, bytes) = mpsc::unbounded_channel();
        let end = range.left().end;
        self.next = end;
        self.parts.push_back(Part { bytes, end, _memory: memory });
        let arrived = Arc::clone(&self.arrived);
        self.fetching.spawn(async move {
            let outcome = loop {
                match range.next().await {
                    Ok(Some(bytes)) => {
                        arrived.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        if sender.send(bytes).is_err() {
                            break Ok(());
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            (place, outcome)
        });
    }
}
