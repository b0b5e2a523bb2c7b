//! One layer of a pull: whatever of it the cache lacks is fetched, extracted and published.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::{ErrorKind, ImageError, Result},
    fs::{Lock, remove_file_if_there},
    layer::{Halt, Report, Unpack, Unpacked, unpack},
    model::{Descriptor, Digest, Reference},
    progress::{Event, Observer},
    pull::{
        acquire,
        feed::{Feed, Reader},
        options::{PullOptions, Settings},
        panic_text, publish,
        receive::{self, Held, Receiver, held},
        trash::throw_away,
    },
    registry::{Client, Sources},
    store::{GlobalCache, LayerFile},
};

/// Chunks on their way to the thread that stores them.
const CHUNKS: usize = 16;
/// Byte counts are told at most this often for each layer.
const EVENT_PAUSE: Duration = Duration::from_millis(100);

/// What all layers of a pull share.
pub(super) struct Shared {
    pub(super) cache: GlobalCache,
    pub(super) client: Client,
    pub(super) reference: Reference,
    pub(super) settings: Settings,
    pub(super) options: PullOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) cancel: CancellationToken,
    pub(super) downloads: Semaphore,
    pub(super) extractions: Semaphore,
}

/// A layer to bring in, and where in the image it stands: more than one place if it is listed more than once.
pub(super) struct LayerJob {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) indices: Vec<usize>,
}

/// A layer that is there.
pub(super) struct Done {
    pub(super) digest: Digest,
    pub(super) downloaded: bool,
    pub(super) report: Option<Report>,
}

impl LayerJob {
    pub(super) fn new(blob: &Descriptor, diff_id: &Digest) -> Self {
        Self { blob: blob.clone(), diff_id: diff_id.clone(), indices: Vec::new() }
    }

    pub(super) async fn run(self, shared: Arc<Shared>) -> Result<Done> {
        let digest = self.blob.digest.clone();
        self.bring(&shared).await.map_err(|error| error.for_layer(&digest))
    }

    async fn bring(&self, shared: &Arc<Shared>) -> Result<Done> {
        if !shared.options.force && self.is_ready(shared).await? {
            return Ok(self.there_already(shared));
        }
        let _locks = tokio::select! {
            locks = self.lock(shared) => locks?,
            () = shared.cancel.cancelled() => return Err(ImageError::aborted()),
        };
        if !shared.options.force && self.is_ready(shared).await? {
            return Ok(self.there_already(shared));
        }
        let mut sources = Sources::All;
        let mut fresh = shared.options.force;
        loop {
            let (work, receiver, reader) = Work::start(self, shared, fresh, sources).await?;
            let had_some = work.held != Held::Nothing;
            match work.finish(receiver, reader).await {
                Ok(done) => return Ok(done),
                // What the cache held, or a mirror sent, was damaged: once more, from the registry.
                Err(error) if is_damage(&error) && (had_some || sources == Sources::All) && !fresh => {
                    tracing::warn!(layer = %self.blob.digest, %error, "starting this layer anew");
                    fresh = true;
                    sources = Sources::Origin;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// True if the layer needs no work: its tree is there, and its index if one is wanted.
    async fn is_ready(&self, shared: &Arc<Shared>) -> Result<bool> {
        let (cache, digest, index) = (shared.cache.clone(), self.blob.digest.clone(), shared.options.index);
        blocking(move || {
            let ready = cache.is_extracted(&digest)
                && (!index || cache.layer(&digest, LayerFile::Index).symlink_metadata().is_ok());
            Ok(ready)
        })
        .await
    }

    fn there_already(&self, shared: &Shared) -> Done {
        for &layer_index in &self.indices {
            shared.observer.notify(Event::LayerIndexComplete { layer_index });
        }
        Done { digest: self.blob.digest.clone(), downloaded: false, report: None }
    }

    /// The download's lock, then the extraction's: the original takes the second only after it gave the first back.
    async fn lock(&self, shared: &Shared) -> Result<(Lock, Lock)> {
        let path = |file| shared.cache.layer(&self.blob.digest, file);
        let download = acquire(&path(LayerFile::DownloadLock), &shared.settings, &*shared.observer).await?;
        let extract = acquire(&path(LayerFile::Lock), &shared.settings, &*shared.observer).await?;
        Ok((download, extract))
    }
}

fn is_damage(error: &ImageError) -> bool {
    matches!(error.kind(), ErrorKind::DigestMismatch { .. } | ErrorKind::Extraction { .. })
}

/// The stages of a layer at work: one thread stores, one or more extract, this task fetches.
struct Work<'a> {
    job: &'a LayerJob,
    shared: &'a Arc<Shared>,
    sources: Sources,
    held: Held,
    halt: Halt,
    /// Knows when all threads of this layer have ended.
    threads: TaskTracker,
    feed: Feed,
}

impl<'a> Work<'a> {
    async fn start(
        job: &'a LayerJob,
        shared: &'a Arc<Shared>,
        fresh: bool,
        sources: Sources,
    ) -> Result<(Self, Receiver, Reader)> {
        let path = |file| shared.cache.layer(&job.blob.digest, file);
        let (blob_path, part_path, extracting) =
            (path(LayerFile::Blob), path(LayerFile::Part), path(LayerFile::Extracting));
        let blob = job.blob.clone();
        let (held, receiver, file) = blocking(move || {
            throw_away(&extracting)?;
            make_directory(&extracting)?;
            let held = if fresh { Held::Nothing } else { held(&blob_path, &part_path, blob.size) };
            let receiver = Receiver::open(held, &blob_path, &part_path, &blob)?;
            let file = receiver.file.try_clone().map_err(|error| ImageError::io("open", &receiver.path, error))?;
            Ok((held, receiver, file))
        })
        .await?;
        let (halt, feed) = (Halt::default(), Feed::new());
        let reader = Reader::new(&feed, file, receiver.path.clone(), &halt, extract_meter(job, shared));
        let threads = TaskTracker::new();
        Ok((Self { job, shared, sources, held, halt, threads, feed }, receiver, reader))
    }

    /// Runs to the end, or to the first failure; either way all threads have ended and no unfinished tree is left.
    async fn finish(&self, receiver: Receiver, reader: Reader) -> Result<Done> {
        let work = async {
            if self.shared.options.verify_before_extract {
                let downloaded = self.fetch(receiver).await?;
                Ok((downloaded, self.extract(reader).await?))
            } else {
                tokio::try_join!(self.fetch(receiver), self.extract(reader))
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = self.shared.cancel.cancelled() => Err(ImageError::aborted()),
        };
        let outcome = match outcome {
            Ok((downloaded, unpacked)) => self.publish(unpacked, downloaded).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(done) => Ok(done),
            Err(error) => Err(self.stop(error).await),
        }
    }

    /// Brings the blob's missing bytes to the thread that stores them and gives the blob its final name. Says whether
    /// anything was downloaded.
    async fn fetch(&self, receiver: Receiver) -> Result<bool> {
        let (incoming, chunks) = mpsc::channel(CHUNKS);
        let meter = download_meter(self.job, self.shared, self.held);
        let (feed, halt) = (self.feed.clone(), self.halt.clone());
        let storing = self.threads.spawn_blocking(move || {
            let stored = receiver.run(chunks, &feed, &halt, meter);
            stored.map_err(|error| stopped_by(&halt, error))
        });
        let blob = &self.job.blob;
        let offset = match self.held {
            Held::Blob => blob.size,
            Held::Part(length) => length,
            Held::Nothing => 0,
        };
        let downloaded = offset < blob.size;
        if downloaded {
            let _permit = self.shared.downloads.acquire().await.map_err(|_| ImageError::aborted())?;
            let (client, reference) = (&self.shared.client, &self.shared.reference);
            let observer = Arc::clone(&self.shared.observer);
            let mut stream = client.open_blob(reference, blob, offset, self.sources, observer);
            while let Some(bytes) = stream.next().await? {
                // The storing thread is gone only when it failed; it says why.
                if incoming.send(bytes).await.is_err() {
                    break;
                }
            }
        }
        drop(incoming);
        storing.await.map_err(|panic| ImageError::internal(panic_text(panic)))??;
        if self.held != Held::Blob {
            let (part, place) = (self.path(LayerFile::Part), self.path(LayerFile::Blob));
            blocking(move || {
                std::fs::rename(&part, &place).map_err(|error| ImageError::io("rename into place", &place, error))
            })
            .await?;
        }
        Ok(downloaded)
    }

    /// Extracts as bytes arrive, as soon as there is a place for it. Ends only after the blob's digest was right.
    async fn extract(&self, reader: Reader) -> Result<Unpacked> {
        let _permit = self.shared.extractions.acquire().await.map_err(|_| ImageError::aborted())?;
        for &layer_index in &self.job.indices {
            let diff_id: Arc<str> = self.job.diff_id.to_string().into();
            self.shared.observer.notify(Event::LayerExtractStarted { layer_index, diff_id });
        }
        let how = Unpack {
            diff_id: Some(self.job.diff_id.clone()),
            limits: self.shared.settings.limits,
            writers: self.shared.settings.writers,
            index: self.shared.options.index,
            halt: self.halt.clone(),
        };
        let (directory, halt) = (self.path(LayerFile::Extracting), self.halt.clone());
        let extracting = self.threads.spawn_blocking(move || {
            let unpacked = unpack(reader, &directory, how);
            unpacked.map_err(|error| stopped_by(&halt, error))
        });
        extracting.await.map_err(|panic| ImageError::internal(panic_text(panic)))?
    }

    async fn publish(&self, unpacked: Unpacked, downloaded: bool) -> Result<Done> {
        for &layer_index in &self.job.indices {
            let diff_id: Arc<str> = self.job.diff_id.to_string().into();
            self.shared.observer.notify(Event::LayerExtractComplete { layer_index, diff_id });
            self.shared.observer.notify(Event::LayerIndexStarted { layer_index });
        }
        let (cache, digest) = (self.shared.cache.clone(), self.job.blob.digest.clone());
        let report = blocking(move || {
            publish::publish_tree(&cache, &digest, &unpacked)?;
            Ok(unpacked.report)
        })
        .await?;
        for &layer_index in &self.job.indices {
            self.shared.observer.notify(Event::LayerIndexComplete { layer_index });
        }
        let report = Some(report).filter(|report| !report.is_empty());
        Ok(Done { digest: self.job.blob.digest.clone(), downloaded, report })
    }

    /// Ends all threads, removes the unfinished tree, and says what the reason was.
    async fn stop(&self, error: ImageError) -> ImageError {
        self.halt.fail(error);
        self.threads.close();
        self.threads.wait().await;
        let reason = self.halt.take_error().unwrap_or_else(ImageError::aborted);
        let (extracting, part, blob) =
            (self.path(LayerFile::Extracting), self.path(LayerFile::Part), self.path(LayerFile::Blob));
        let wrong_blob = matches!(reason.kind(), ErrorKind::DigestMismatch { what, .. } if what == receive::WHAT);
        let cleaned = blocking(move || {
            throw_away(&extracting)?;
            if wrong_blob {
                remove_file_if_there(&part)?;
                remove_file_if_there(&blob)?;
            }
            Ok(())
        });
        if let Err(error) = cleaned.await {
            tracing::warn!(%error, "an unfinished layer could not be removed");
        }
        reason
    }

    fn path(&self, file: LayerFile) -> PathBuf {
        self.shared.cache.layer(&self.job.blob.digest, file)
    }
}

/// Stops the other stages because of `error`. What is handed on only says that there was a stop; the reason is kept.
fn stopped_by(halt: &Halt, error: ImageError) -> ImageError {
    halt.fail(error);
    ImageError::aborted()
}

fn make_directory(path: &PathBuf) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| ImageError::io("create", path, error))
}

/// Tells how much has come, not too often, and the end always.
fn download_meter(job: &LayerJob, shared: &Arc<Shared>, held: Held) -> impl FnMut(u64) + Send + 'static {
    let (observer, indices) = (Arc::clone(&shared.observer), job.indices.clone());
    let (digest, size): (Arc<str>, u64) = (job.blob.digest.to_string().into(), job.blob.size);
    let mut last: Option<Instant> = None;
    move |downloaded_bytes| {
        let complete = downloaded_bytes == size;
        if held == Held::Blob || (!complete && last.is_some_and(|last| last.elapsed() < EVENT_PAUSE)) {
            return;
        }
        last = Some(Instant::now());
        for &layer_index in &indices {
            let digest = Arc::clone(&digest);
            observer.notify(if complete {
                Event::LayerDownloadComplete { layer_index, digest, downloaded_bytes }
            } else {
                Event::LayerDownloadProgress { layer_index, digest, downloaded_bytes, total_bytes: Some(size) }
            });
        }
    }
}

fn extract_meter(job: &LayerJob, shared: &Arc<Shared>) -> impl FnMut(u64) + Send + 'static {
    let (observer, indices, total_bytes) = (Arc::clone(&shared.observer), job.indices.clone(), job.blob.size);
    let mut last: Option<Instant> = None;
    move |bytes_read| {
        if last.is_some_and(|last| last.elapsed() < EVENT_PAUSE) {
            return;
        }
        last = Some(Instant::now());
        for &layer_index in &indices {
            observer.notify(Event::LayerExtractProgress { layer_index, bytes_read, total_bytes });
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|panic| ImageError::internal(panic_text(panic)))?
}
