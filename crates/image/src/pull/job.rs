//! One layer of a pull: whatever of it the cache lacks is fetched, extracted and published.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    budget::{LayerPermit, Share},
    error::{ErrorKind, ImageError, Result},
    fs::{Lock, free_space, remove_file_if_there, rename},
    layer::{BlobFacts, Halt, Report, TableFacts, Unpack, Unpacked, unpack},
    model::{Descriptor, Digest, Reference},
    progress::Observer,
    pull::{
        access::Access,
        feed::{Feed, Reader},
        lock_wait,
        options::{PullOptions, Settings},
        panic_text,
        receive::{self, Held, Receiver, held},
        told::Told,
        waiting::stoppable,
    },
    registry::{Client, Sources},
    store::{GlobalCache, Inherited, LayerFile, Scratch, TreeName, Wants, publish_table, throw_away},
};

/// Chunks on their way to the thread that stores them.
const CHUNKS: usize = 16;

/// What all layers of a pull share.
pub(super) struct Shared {
    pub(super) cache: GlobalCache,
    pub(super) client: Client,
    pub(super) access: Access,
    pub(super) reference: Reference,
    pub(super) settings: Settings,
    pub(super) options: PullOptions,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) cancel: CancellationToken,
    pub(super) share: Share,
    /// Name of the pull's lease, which keeps the trees it makes.
    pub(super) lease: String,
}

/// A layer to bring in, and where in the image it stands: more than one place if it is listed more than once.
pub(super) struct LayerJob {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) indices: Vec<usize>,
    /// Extract, whatever trees are there.
    pub(super) must_extract: bool,
}

/// A layer that is there.
pub(super) struct Done {
    pub(super) digest: Digest,
    pub(super) downloaded: bool,
    pub(super) report: Option<Report>,
    /// The tree, where it inherits nothing.
    pub(super) tree: Option<TreeName>,
    /// A tree that waits for what it inherits.
    pub(super) waiting: Option<Waiting>,
}

/// A tree that was extracted and verified, and has no final name yet.
pub(super) struct Waiting {
    pub(super) scratch: Scratch,
    /// The layer had no table before: nobody has compared what is there with its blob.
    pub(super) is_new: bool,
    pub(super) with_index: bool,
    /// Whom to tell that it is published; nobody of a copy.
    pub(super) told: Option<Told>,
}

impl LayerJob {
    pub(super) fn new(blob: &Descriptor, diff_id: &Digest) -> Self {
        Self { blob: blob.clone(), diff_id: diff_id.clone(), indices: Vec::new(), must_extract: false }
    }

    /// `permit` says that the layer is at work.
    pub(super) async fn run(self, shared: Arc<Shared>, permit: LayerPermit) -> Result<Done> {
        let digest = self.blob.digest.clone();
        self.bring(&shared, permit).await.map_err(|error| error.for_layer(&digest))
    }

    async fn bring(&self, shared: &Arc<Shared>, permit: LayerPermit) -> Result<Done> {
        if let Some(done) = self.there_already(shared).await? {
            return Ok(done);
        }
        let _locks = self.lock(shared, permit).await?;
        if let Some(done) = self.there_already(shared).await? {
            return Ok(done);
        }
        let told = Told::new(&shared.observer, &self.blob, &self.diff_id, &self.indices);
        let mut sources = Sources::All;
        let mut fresh = shared.options.force;
        let mut may_retry = true;
        loop {
            let (work, receiver, reader) = Work::start(self, shared, &told, fresh, sources).await?;
            let other_bytes = work.held != Held::Nothing || shared.client.has_mirrors(&shared.reference);
            let finished = work.finish(receiver, reader).await;
            let other_bytes = other_bytes || work.parted.load(Ordering::Relaxed);
            match finished {
                Ok(done) => return Ok(done),
                // What the cache held, a mirror sent, or came in parts was damaged: once more, from the registry, in one go.
                Err(error) if is_wrong_blob(&error) && other_bytes && may_retry => {
                    tracing::warn!(layer = %self.blob.digest, %error, "starting this layer anew");
                    (fresh, sources, may_retry) = (true, Sources::Origin, false);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The layer, if it needs no work here: it was verified, and an undamaged tree of it is there, with its index if one
    /// is wanted. Fails where manifest or config claim what the verified blob is not.
    async fn there_already(&self, shared: &Arc<Shared>) -> Result<Option<Done>> {
        tokio::select! {
            proven = shared.access.ensure(&self.blob, &*shared.observer) => proven?,
            () = shared.cancel.cancelled() => return Err(ImageError::aborted()),
        }
        let (cache, blob, index) = (shared.cache.clone(), self.blob.clone(), shared.options.index);
        let (diff_id, force) = (self.diff_id.clone(), shared.options.force);
        let status = stoppable(&shared.cancel, move |halt| {
            let status = cache.layer_status(&blob.digest, index, halt)?;
            // What is fetched again is judged by its bytes.
            let is_told = !force && status.check_claims(blob.size, &diff_id)?;
            Ok(Some(status).filter(|status| is_told && status.is_known()))
        })
        .await?;
        let Some(status) = status.filter(|_| !self.must_extract) else {
            return Ok(None);
        };
        let tree = (!status.inherits()).then(|| TreeName::base(&self.blob.digest));
        Ok(Some(Done { digest: self.blob.digest.clone(), downloaded: false, report: None, tree, waiting: None }))
    }

    /// The download's lock, then the extraction's: the original takes the second only after it gave the first back. While
    /// the first is waited for this layer is not at work.
    async fn lock(&self, shared: &Shared, permit: LayerPermit) -> Result<(Lock, Lock, LayerPermit)> {
        let path = |file| shared.cache.layer(&self.blob.digest, file);
        let wait = lock_wait(&shared.settings, &shared.observer, &shared.cancel);
        let again = || shared.share.layer();
        let download = path(LayerFile::DownloadLock);
        let (download, permit) = Lock::acquire_with(&download, &wait, Some(permit), again).await?;
        let extract = Lock::acquire(&path(LayerFile::Lock), &wait).await?;
        Ok((download, extract, permit))
    }
}

/// True if the blob's bytes did not hash to its digest.
fn is_wrong_blob(error: &ImageError) -> bool {
    matches!(error.kind(), ErrorKind::DigestMismatch { what, .. } if what == receive::WHAT)
}

/// The stages of a layer at work: one thread stores, one or more extract, this task fetches.
struct Work<'a> {
    job: &'a LayerJob,
    shared: &'a Arc<Shared>,
    told: &'a Told,
    /// Where the tree is made; `None` once it was handed on.
    scratch: Mutex<Option<Scratch>>,
    sources: Sources,
    held: Held,
    /// The blob was asked for in parts.
    parted: AtomicBool,
    feed: Feed,
    /// The download has what it needs, or has failed: an extraction may begin.
    began: CancellationToken,
    /// Stops the thread that stores, and the download.
    storing: Halt,
    download: CancellationToken,
    /// Stops the threads that extract.
    extracting: Halt,
    /// Knows when all threads of this layer have ended.
    threads: TaskTracker,
}

impl<'a> Work<'a> {
    async fn start(
        job: &'a LayerJob,
        shared: &'a Arc<Shared>,
        told: &'a Told,
        fresh: bool,
        sources: Sources,
    ) -> Result<(Self, Receiver, Reader)> {
        let path = |file| shared.cache.layer(&job.blob.digest, file);
        let (blob_path, part_path, extracting) =
            (path(LayerFile::Blob), path(LayerFile::Part), path(LayerFile::Extracting));
        let (cache, lease) = (shared.cache.clone(), shared.lease.clone());
        let (blob, trust) = (job.blob.clone(), shared.cache.trust()?);
        let (scratch, held, receiver, file) = blocking(move || {
            // The original's leftover, whose lock is ours.
            throw_away(&extracting)?;
            let scratch = Scratch::new(&cache, &blob.digest, &lease)?;
            let held = if fresh { Held::Nothing } else { held(&blob_path, &part_path, blob.size, &trust) };
            let receiver = Receiver::open(held, &blob_path, &part_path, &blob)?;
            let file = receiver.file.try_clone().map_err(|error| ImageError::io("open", &receiver.path, error))?;
            Ok((scratch, held, receiver, file))
        })
        .await?;
        let (feed, storing, extracting) = (Feed::new(), Halt::default(), Halt::default());
        let reader = Reader::new(&feed, file, receiver.path.clone(), &extracting, told.extract_meter());
        let (download, threads) = (shared.cancel.child_token(), TaskTracker::new());
        let (parted, began) = (AtomicBool::new(false), CancellationToken::new());
        let work = Self {
            job,
            shared,
            told,
            scratch: Mutex::new(Some(scratch)),
            sources,
            held,
            parted,
            feed,
            began,
            storing,
            download,
            extracting,
            threads,
        };
        Ok((work, receiver, reader))
    }

    /// Runs to the end, or to the first failure; either way all threads have ended and no unfinished tree is left.
    async fn finish(&self, receiver: Receiver, reader: Reader) -> Result<Done> {
        let work = async {
            if self.shared.options.verify_before_extract {
                let downloaded = self.fetch(receiver).await?;
                return Ok((downloaded, self.extract(reader).await?));
            }
            match tokio::join!(self.fetch(receiver), self.extract(reader)) {
                (Ok(downloaded), Ok(unpacked)) => Ok((downloaded, unpacked)),
                // One of the two was only stopped because of the other.
                (Err(error), Err(other)) if error.is_aborted() => Err(other),
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
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
        // How much room is left is told before cleaning up makes some.
        let left = || free_space(self.shared.cache.layers_dir()).map(|space| (space.bytes, space.inodes));
        let outcome = outcome.map_err(|error| error.with_space(left));
        if let Err(error) = &outcome {
            self.clean_up(is_wrong_blob(error)).await;
        }
        outcome
    }

    /// [`fetch_all`](Self::fetch_all), until the extraction's failure makes it useless. Its own failure ends the
    /// extraction.
    async fn fetch(&self, receiver: Receiver) -> Result<bool> {
        let fetched = tokio::select! {
            fetched = self.fetch_all(receiver) => fetched,
            () = self.download.cancelled() => Err(ImageError::aborted()),
        };
        fetched.inspect_err(|_| {
            self.extracting.abort();
            self.began.cancel();
        })
    }

    /// Brings the blob's missing bytes to the thread that stores them and gives the blob its final name. Says whether
    /// anything was downloaded.
    async fn fetch_all(&self, receiver: Receiver) -> Result<bool> {
        let blob = &self.job.blob;
        let offset = match self.held {
            Held::Blob => blob.size,
            Held::Part(length) => length,
            Held::Nothing => 0,
        };
        let downloaded = offset < blob.size;
        let permit = if downloaded { Some(self.shared.share.download().await) } else { None };
        self.began.cancel();
        let (incoming, chunks) = mpsc::channel(CHUNKS);
        let mut meter = self.told.download_meter();
        let count = move |bytes| {
            if downloaded {
                meter(bytes)
            }
        };
        let (feed, halt) = (self.feed.clone(), self.storing.clone());
        let storing = self.threads.spawn_blocking(move || receiver.run(chunks, &feed, &halt, count));
        if downloaded {
            let (client, reference) = (&self.shared.client, &self.shared.reference);
            let observer = Arc::clone(&self.shared.observer);
            let mut stream = client.open_blob(reference, blob, offset, self.sources, observer);
            // The second try takes no more chances: one server, one connection.
            if self.sources == Sources::All {
                stream = stream.with_further_connections(self.shared.share.further_connections());
            }
            while let Some(bytes) = stream.next().await? {
                self.parted.store(stream.was_parted(), Ordering::Relaxed);
                // The storing thread is gone only when it failed; it says why.
                if incoming.send(bytes).await.is_err() {
                    break;
                }
            }
        }
        drop(permit);
        drop(incoming);
        storing.await.map_err(|panic| ImageError::internal(panic_text(panic)))??;
        self.shared.access.record(&blob.digest).await?;
        if downloaded {
            self.told.downloaded();
        }
        if self.held != Held::Blob {
            let (part, place) = (self.path(LayerFile::Part), self.path(LayerFile::Blob));
            blocking(move || rename(&part, &place)).await?;
        }
        Ok(downloaded)
    }

    /// Extracts as bytes arrive, as soon as the download has begun and there is a place for it. Ends only after the blob's digest was right.
    async fn extract(&self, reader: Reader) -> Result<Unpacked> {
        self.began.cancelled().await;
        self.extracting.check()?;
        let place = self.shared.share.extraction().await;
        self.feed.set_capacity(place.feed_bytes());
        self.told.extract_started();
        let how = Unpack {
            diff_id: Some(self.job.diff_id.clone()),
            blob: Some(BlobFacts {
                digest: self.job.blob.digest.clone(),
                size: self.job.blob.size,
                media_type: self.job.blob.media_type.clone(),
            }),
            limits: self.shared.settings.limits,
            writers: self.shared.settings.writers,
            index: self.shared.options.index,
            halt: self.extracting.clone(),
            blocks: place.blocks(),
            directories: place.directories(),
        };
        let directory = self.shared.cache.scratch(&self.job.blob.digest, &self.shared.lease);
        let extracting = self.threads.spawn_blocking(move || unpack(reader, &directory, how));
        let unpacked = extracting.await.map_err(|panic| ImageError::internal(panic_text(panic)))?;
        unpacked.inspect_err(|error| {
            // A damaged archive may be a damaged blob: then the digest, at the end of the download, is the true reason.
            // Anything else is final.
            if !matches!(error.kind(), ErrorKind::Extraction { .. }) {
                self.download.cancel();
            }
        })
    }

    async fn publish(&self, mut unpacked: Unpacked, downloaded: bool) -> Result<Done> {
        let with_index = unpacked.index.is_some();
        let (cache, digest) = (self.shared.cache.clone(), self.job.blob.digest.clone());
        let (keep_blob, index, force) =
            (self.shared.options.keep_blobs, self.shared.options.index, self.shared.options.force);
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut scratch = scratch.ok_or_else(|| ImageError::internal("a tree was handed on twice"))?;
        let (report, tree, waiting) = stoppable(&self.shared.cancel, move |halt| {
            tracing::debug!(layer = %digest, stages = ?unpacked.stages, "extracted");
            scratch.index = unpacked.index.take();
            let made = unpacked.table.as_ref().ok_or_else(|| ImageError::internal("a layer without its table"))?;
            let facts = TableFacts::of(made)?;
            // The same blob has the same table; one of another version is as good as none.
            let is_new = cache.table_facts(&digest)?.is_none();
            if is_new && !cache.prove_base(&facts, &unpacked.implicit_directories, scratch.path(), halt)? {
                let path = cache.layer(&digest, LayerFile::Tree).display().to_string();
                let reason = "it is damaged, and a lease keeps it from being exchanged".to_owned();
                return Err(ErrorKind::Cache { path, reason }.into());
            }
            publish_table(&cache, &digest, made, force)?;
            if facts.inherits() {
                return Ok((unpacked.report, None, Some((scratch, is_new))));
            }
            let mut scratch = Some(scratch);
            let nothing = Inherited::default();
            let wants = Wants { index, comparison: force };
            let no_holder = |_: &_| Err(ImageError::internal("a layer without links has no holders"));
            let tree = cache.place(&facts, &nothing, &mut scratch, wants, no_holder, halt)?;
            if !keep_blob {
                remove_file_if_there(&cache.layer(&digest, LayerFile::Blob))?;
            }
            Ok((unpacked.report, tree, None))
        })
        .await?;
        if waiting.is_none() {
            self.told.published(with_index);
        }
        let report = Some(report).filter(|report| !report.is_empty());
        let told = Some(self.told.clone());
        let waiting = waiting.map(|(scratch, is_new)| Waiting { scratch, is_new, with_index, told });
        Ok(Done { digest: self.job.blob.digest.clone(), downloaded, report, tree, waiting })
    }

    /// Ends all threads and removes the unfinished tree, and a blob whose bytes are wrong.
    async fn clean_up(&self, wrong_blob: bool) {
        self.storing.abort();
        self.extracting.abort();
        self.threads.close();
        self.threads.wait().await;
        let (part, blob) = (self.path(LayerFile::Part), self.path(LayerFile::Blob));
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take();
        let cleaned = blocking(move || {
            drop(scratch);
            if wrong_blob {
                remove_file_if_there(&part)?;
                remove_file_if_there(&blob)?;
            }
            Ok(())
        });
        if let Err(error) = cleaned.await {
            tracing::warn!(%error, "an unfinished layer could not be removed");
        }
    }

    fn path(&self, file: LayerFile) -> PathBuf {
        self.shared.cache.layer(&self.job.blob.digest, file)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|panic| ImageError::internal(panic_text(panic)))?
}
