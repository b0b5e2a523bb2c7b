//! What a process spends on pulls: one budget for each [`Registry`](crate::Registry), over one for the process.
//!
//! | what | whose | how much |
//! |---|---|---|
//! | looks at the cache for an answer | process | 16, each with a thread |
//! | pulls at work | process | 32, each with a lock, a lease and a connection |
//! | layers at work (the window) | registry | downloads + 2 × extractions + 2 |
//! | layers at work | process | 40, or the largest window; each with two locks, a file opened twice and a thread |
//! | downloads | registry | `concurrency`, further connections for parts of a blob included |
//! | extractions | registry | `extractions` |
//! | memory of extractions and of parts | process | 48 MiB |
//! | directories that extractions keep open | process | 96 |
//!
//! Waiters are served fairly: a queue for each pull, the queues in turn. Nothing is opened, spawned or buffered before its
//! permit is there.
//!
//! # Order
//! Permits, and the locks of the cache between them, are taken in this order only:
//!
//! 0. a look at the cache, for which nothing else is held but what its pull has, and which waits for nothing;
//! 1. the lock of the image within this process → a pull → the file of that lock;
//! 2. the lock of the layer within this process → a layer, of the registry's window, then of the process → the files of its
//!    locks;
//! 3. a download, and with it the thread that stores;
//! 4. an extraction → its memory → its directories.
//!
//! Whoever finds a lock's file held by another gives the permit back before it waits (a pull or a layer at work never waits
//! for what another process does). What is held at one step is given back without anything of a later step of another
//! owner: a download ends without an extraction, since what is not extracted yet is left in the file it is stored in; an
//! extraction begins only when its download has, and waits for nothing but that. Memory for parts of a blob and further
//! connections are never waited for: where there is none, a blob comes over one connection. So there is no circle, and what
//! somebody waits for is given back.

mod process;
mod semaphore;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub(crate) use process::Process;
pub(crate) use semaphore::Permit;
use semaphore::{Owner, Semaphore};

const MIB: u64 = 1 << 20;
/// Memory of all extractions together, as they divide it: what is left of the process's is for parts of blobs.
const EXTRACTION_MEMORY: u64 = 36 * MIB;
/// Memory of an extraction: a ring of blocks of 1 MiB, and a quarter of it for compressed bytes that wait.
const EXTRACTION_LEAST: u64 = 5 * MIB;
const EXTRACTION_MOST: u64 = 16 * MIB;
/// Directories that an extraction keeps open.
const DIRECTORIES_LEAST: u64 = 16;
const DIRECTORIES_MOST: u64 = 64;

/// What one registry client may use. Clones share it.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Limits>);

struct Limits {
    process: Arc<Process>,
    window: Semaphore,
    downloads: Semaphore,
    extractions: Semaphore,
    /// Extractions at a time.
    slots: u64,
}

impl Budget {
    /// `downloads` and `extractions` at a time; at least one of each.
    pub(crate) fn new(downloads: usize, extractions: usize) -> Self {
        Self::over(Process::this(), downloads, extractions)
    }

    /// The same over what a process has.
    pub(crate) fn over(process: Arc<Process>, downloads: usize, extractions: usize) -> Self {
        let (downloads, slots) = (downloads.max(1) as u64, extractions.max(1) as u64);
        let window = downloads.saturating_add(slots.saturating_mul(2)).saturating_add(2);
        process.layers.raise(window);
        Self(Arc::new(Limits {
            process,
            window: Semaphore::new(window),
            downloads: Semaphore::new(downloads),
            extractions: Semaphore::new(slots),
            slots,
        }))
    }

    /// The share of one pull.
    pub(crate) fn share(&self) -> Share {
        Share { limits: Arc::clone(&self.0), owner: next_owner() }
    }
}

fn next_owner() -> Owner {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Owner(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A pull's door to the budget. Dropping a wait ends it; dropping a permit gives it back.
#[derive(Clone)]
pub(crate) struct Share {
    limits: Arc<Limits>,
    owner: Owner,
}

/// A layer at work: of the registry's window, and of the process.
pub(crate) struct LayerPermit(#[expect(dead_code, reason = "held")] [Permit; 2]);

/// A place to extract, with what it needs.
pub(crate) struct Extraction {
    _slot: Option<Permit>,
    memory: Permit,
    directories: Permit,
}

impl Share {
    /// A look at the cache.
    pub(crate) async fn read(&self) -> Permit {
        self.limits.process.reads.acquire(self.owner, 1, 1).await
    }

    /// A pull at work.
    pub(crate) async fn pull(&self) -> Permit {
        self.limits.process.pulls.acquire(self.owner, 1, 1).await
    }

    /// A layer at work.
    pub(crate) async fn layer(&self) -> LayerPermit {
        let window = self.limits.window.acquire(self.owner, 1, 1).await;
        LayerPermit([window, self.limits.process.layers.acquire(self.owner, 1, 1).await])
    }

    /// A download.
    pub(crate) async fn download(&self) -> Permit {
        self.limits.downloads.acquire(self.owner, 1, 1).await
    }

    /// Downloads that nobody waits for, and memory for what they bring.
    pub(crate) fn further_connections(&self) -> FurtherConnections {
        FurtherConnections { downloads: self.limits.downloads.clone(), memory: self.limits.process.memory.clone() }
    }

    /// A place to extract.
    pub(crate) async fn extraction(&self) -> Extraction {
        let slot = self.limits.extractions.acquire(self.owner, 1, 1).await;
        let slots = self.limits.slots;
        let memory = (EXTRACTION_MEMORY / slots).clamp(EXTRACTION_LEAST, EXTRACTION_MOST);
        let memory = self.limits.process.memory.acquire(self.owner, EXTRACTION_LEAST, memory).await;
        let directories = (process::DIRECTORIES / slots).clamp(DIRECTORIES_LEAST, DIRECTORIES_MOST);
        let directories = self.limits.process.directories.acquire(self.owner, DIRECTORIES_LEAST, directories).await;
        Extraction { _slot: Some(slot), memory, directories }
    }
}

impl Extraction {
    /// What one extraction outside of a pull needs: while a cache is verified or repaired.
    pub(crate) async fn outside_of_pulls() -> Self {
        let (process, owner) = (Process::this(), next_owner());
        let memory = process.memory.acquire(owner, EXTRACTION_LEAST, EXTRACTION_LEAST).await;
        let directories = process.directories.acquire(owner, DIRECTORIES_LEAST, DIRECTORIES_LEAST).await;
        Self { _slot: None, memory, directories }
    }

    /// Blocks of 1 MiB for the ring.
    pub(crate) fn blocks(&self) -> usize {
        ((self.memory.count() - self.feed_bytes() as u64) / MIB) as usize
    }

    /// Compressed bytes that may wait in memory.
    pub(crate) fn feed_bytes(&self) -> usize {
        (self.memory.count() / 4 / MIB * MIB) as usize
    }

    /// Directories to keep open.
    pub(crate) fn directories(&self) -> usize {
        self.directories.count() as usize
    }
}

/// Connections, and memory, that a blob may use beyond its one connection: as many as nobody waits for.
#[derive(Clone)]
pub struct FurtherConnections {
    downloads: Semaphore,
    memory: Semaphore,
}

impl FurtherConnections {
    /// So many connections and bytes of memory.
    pub fn new(connections: u64, memory: u64) -> Self {
        Self { downloads: Semaphore::new(connections), memory: Semaphore::new(memory) }
    }

    /// True if nothing of them is lent.
    pub fn are_free(&self, connections: u64, memory: u64) -> bool {
        self.downloads.try_acquire(connections).is_some() && self.memory.try_acquire(memory).is_some()
    }

    /// A connection that nobody waits for.
    pub(crate) fn connection(&self) -> Option<Permit> {
        self.downloads.try_acquire(1)
    }

    /// Memory that nobody waits for.
    pub(crate) fn memory(&self, bytes: u64) -> Option<Permit> {
        self.memory.try_acquire(bytes)
    }
}
