//! What is told of a layer at work: each change of state once, after it has happened, and counts that never fall back.
//!
//! A layer may be begun anew, because its first bytes were damaged. Whoever watches is not bothered with it: counts stand
//! still until they are overtaken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    model::{Descriptor, Digest},
    progress::{Event, Observer},
};

/// Byte counts are told at most this often for each layer.
const EVENT_PAUSE: Duration = Duration::from_millis(100);

/// The events of one layer, told for each of the places in the image that it stands at.
#[derive(Clone)]
pub(super) struct Told(Arc<Facts>);

struct Facts {
    observer: Arc<dyn Observer>,
    indices: Vec<usize>,
    digest: Arc<str>,
    diff_id: Arc<str>,
    size: u64,
    extract_started: AtomicBool,
    /// The highest counts so far.
    downloaded: AtomicU64,
    extracted: AtomicU64,
}

impl Told {
    pub(super) fn new(observer: &Arc<dyn Observer>, blob: &Descriptor, diff_id: &Digest, indices: &[usize]) -> Self {
        Self(Arc::new(Facts {
            observer: Arc::clone(observer),
            indices: indices.to_vec(),
            digest: blob.digest.to_string().into(),
            diff_id: diff_id.to_string().into(),
            size: blob.size,
            extract_started: AtomicBool::new(false),
            downloaded: AtomicU64::new(0),
            extracted: AtomicU64::new(0),
        }))
    }

    /// Takes the count of bytes that are here, and tells it, not too often. The end is told by
    /// [`downloaded`](Self::downloaded).
    pub(super) fn download_meter(&self) -> impl FnMut(u64) + Send + 'static {
        let (facts, mut pace) = (Arc::clone(&self.0), Pace::default());
        move |bytes| {
            let total = facts.size;
            if !grows(&facts.downloaded, bytes) || bytes == total || !pace.is_due() {
                return;
            }
            facts.tell(|layer_index| Event::LayerDownloadProgress {
                layer_index,
                digest: Arc::clone(&facts.digest),
                downloaded_bytes: bytes,
                total_bytes: Some(total),
            });
        }
    }

    /// All bytes are here, and their digest was right.
    pub(super) fn downloaded(&self) {
        let facts = &self.0;
        facts.tell(|layer_index| Event::LayerDownloadComplete {
            layer_index,
            digest: Arc::clone(&facts.digest),
            downloaded_bytes: facts.size,
        });
    }

    /// The tree is being made.
    pub(super) fn extract_started(&self) {
        let facts = &self.0;
        if !facts.extract_started.swap(true, Ordering::Relaxed) {
            let diff_id = || Arc::clone(&facts.diff_id);
            facts.tell(|layer_index| Event::LayerExtractStarted { layer_index, diff_id: diff_id() });
        }
    }

    /// Takes the count of compressed bytes that were unpacked, and tells it, not too often.
    pub(super) fn extract_meter(&self) -> impl FnMut(u64) + Send + 'static {
        let (facts, mut pace) = (Arc::clone(&self.0), Pace::default());
        move |bytes_read| {
            if grows(&facts.extracted, bytes_read) && pace.is_due() {
                let total_bytes = facts.size;
                facts.tell(|layer_index| Event::LayerExtractProgress { layer_index, bytes_read, total_bytes });
            }
        }
    }

    /// The tree stands under its final name, and so does its index where one was made. Called after publication.
    pub(super) fn published(&self, with_index: bool) {
        let facts = &self.0;
        let diff_id = || Arc::clone(&facts.diff_id);
        facts.tell(|layer_index| Event::LayerExtractComplete { layer_index, diff_id: diff_id() });
        if with_index {
            facts.tell(|layer_index| Event::LayerIndexStarted { layer_index });
            facts.tell(|layer_index| Event::LayerIndexComplete { layer_index });
        }
    }
}

impl Facts {
    fn tell(&self, event: impl Fn(usize) -> Event) {
        self.indices.iter().for_each(|&index| self.observer.notify(event(index)));
    }
}

/// True if the count is the highest so far; it is the mark from now on.
fn grows(mark: &AtomicU64, count: u64) -> bool {
    mark.fetch_max(count, Ordering::Relaxed) < count
}

#[derive(Default)]
struct Pace(Option<Instant>);

impl Pace {
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= EVENT_PAUSE);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::model::Algorithm;

    #[derive(Default)]
    struct Log(Mutex<Vec<Event>>);

    impl Observer for Log {
        fn notify(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    #[test]
    fn a_layer_that_is_begun_anew_is_told_as_one() {
        let log = Arc::new(Log::default());
        let digest = Digest::of(Algorithm::Sha256, b"");
        let blob = Descriptor { media_type: String::new(), digest: digest.clone(), size: 100, data: None };
        let told = Told::new(&(Arc::clone(&log) as Arc<dyn Observer>), &blob, &digest, &[0]);
        for counts in [&[10, 60][..], &[0, 10, 59, 60, 61, 100]] {
            told.extract_started();
            // Each of its own pace, so that none is left out.
            counts.iter().for_each(|&count| told.download_meter()(count));
            counts.iter().for_each(|&count| told.extract_meter()(count));
        }
        told.downloaded();
        told.published(false);
        let (mut downloads, mut reads, mut states) = (Vec::new(), Vec::new(), 0);
        for event in log.0.lock().unwrap().iter() {
            match event {
                Event::LayerDownloadProgress { downloaded_bytes, .. }
                | Event::LayerDownloadComplete { downloaded_bytes, .. } => downloads.push(*downloaded_bytes),
                Event::LayerExtractProgress { bytes_read, .. } => reads.push(*bytes_read),
                Event::LayerExtractStarted { .. } | Event::LayerExtractComplete { .. } => states += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(downloads, [10, 60, 61, 100]);
        assert_eq!(reads, [10, 60, 61, 100]);
        assert_eq!(states, 2);
    }
}
