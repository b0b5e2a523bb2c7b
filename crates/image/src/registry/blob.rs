//! A blob as a stream of its bytes, in order, over one connection or, where that one is slower than the link, several.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    budget::FurtherConnections,
    error::Result,
    model::{Descriptor, Reference},
    progress::Observer,
    registry::{
        client::Client,
        parts::{Parts, Rules},
        range::RangeStream,
    },
};

/// Which servers may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sources {
    /// Mirrors first, then the registry.
    All,
    /// The registry alone: a mirror's bytes were wrong.
    Origin,
}

/// The bytes of a blob from an offset to its end; just as many as the descriptor says, or an error.
///
/// Dropping the stream closes its connections.
pub struct BlobStream {
    /// The rest of the blob, as one range; while there are parts, only what it was made from.
    whole: RangeStream,
    parts: Option<Parts>,
    /// What decides about parts; `None` where one connection will do.
    pace: Option<Pace>,
    rules: Rules,
    was_parted: bool,
}

impl BlobStream {
    pub(super) fn new(
        client: Client,
        reference: Reference,
        blob: Descriptor,
        offset: u64,
        sources: Sources,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let whole = RangeStream::new(client, reference, blob, offset, sources, observer);
        Self { whole, parts: None, pace: None, rules: Rules::default(), was_parted: false }
    }

    /// Lets it open further connections. It takes only what nobody waits for, and only if one connection turns out to be
    /// slow and several are faster.
    #[must_use]
    pub fn with_further_connections(mut self, further: FurtherConnections) -> Self {
        self.pace = Some(Pace::new(further));
        self
    }

    /// True if it was asked for in parts. A server that sends other bytes than those of a part shows only in the digest.
    pub fn was_parted(&self) -> bool {
        self.was_parted
    }

    /// The next bytes; `None` when the blob is complete.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(parts) = &mut self.parts {
            if let Some(bytes) = parts.next().await {
                return Ok(Some(bytes));
            }
            // They are done, were no use, or failed: then one connection, which tries again, finds out whether it can.
            self.whole = self.whole.another(parts.left());
            self.parts = None;
        }
        let asked = Instant::now();
        let bytes = self.whole.next().await?;
        if let (Some(pace), Some(bytes)) = (&mut self.pace, &bytes) {
            pace.count(asked, bytes.len());
            if pace.is_slow(&self.rules) && self.whole.may_be_parted() {
                self.part();
            }
        }
        Ok(bytes)
    }

    /// Goes on over several connections, if there is enough left to be worth it and a connection to be had.
    fn part(&mut self) {
        let left = self.whole.left();
        if left.end - left.start < 2 * self.rules.part {
            self.pace = None;
            return;
        }
        let Some(pace) = &self.pace else { return };
        // Looked for before the pace is given up: there may be some later.
        let (Some(_), Some(memory)) = (pace.further.connection(), pace.further.memory(self.rules.part)) else { return };
        let Some(pace) = self.pace.take() else { return };
        self.was_parted = true;
        let template = self.whole.another(left);
        let whole = std::mem::replace(&mut self.whole, template);
        self.parts = Some(Parts::start(whole, memory, pace.bytes_per_second(), pace.further, self.rules));
    }
}

/// How fast one connection is, and whether it is what everybody waits for.
struct Pace {
    further: FurtherConnections,
    began: Option<Instant>,
    /// Seconds that were spent on waiting for bytes.
    waited: f64,
    bytes: u64,
}

impl Pace {
    fn new(further: FurtherConnections) -> Self {
        Self { further, began: None, waited: 0.0, bytes: 0 }
    }

    /// Counts bytes that were asked for then. The first ones only start the clock: they waited for the connection.
    fn count(&mut self, asked: Instant, bytes: usize) {
        if self.began.is_none() {
            self.began = Some(Instant::now());
            return;
        }
        self.waited += asked.elapsed().as_secs_f64();
        self.bytes += bytes as u64;
    }

    fn seconds(&self) -> f64 {
        self.began.map_or(0.0, |began| began.elapsed().as_secs_f64())
    }

    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds().max(f64::MIN_POSITIVE)
    }

    fn is_slow(&self, rules: &Rules) -> bool {
        let seconds = self.seconds();
        seconds >= rules.after.as_secs_f64()
            && self.waited >= 0.8 * seconds
            && self.bytes_per_second() < rules.slower_than
    }
}
