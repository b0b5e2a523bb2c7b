//! What all registry clients of this process share.

use std::sync::{Arc, LazyLock};

use crate::budget::{MIB, semaphore::Semaphore};

const PULLS: u64 = 32;
const READS: u64 = 16;
const LAYERS: u64 = 40;
const MEMORY: u64 = 48 * MIB;
/// Directories that all extractions together keep open.
pub(super) const DIRECTORIES: u64 = 96;

pub(crate) struct Process {
    pub(super) reads: Semaphore,
    pub(super) pulls: Semaphore,
    pub(super) layers: Semaphore,
    pub(super) memory: Semaphore,
    pub(super) directories: Semaphore,
}

impl Process {
    /// A process that has so much.
    pub(crate) fn with(pulls: u64, layers: u64, memory: u64, directories: u64) -> Self {
        let [pulls, layers, memory, directories] = [pulls, layers, memory, directories].map(Semaphore::new);
        Self { reads: Semaphore::new(READS), pulls, layers, memory, directories }
    }

    /// This one.
    pub(super) fn this() -> Arc<Self> {
        static PROCESS: LazyLock<Arc<Process>> =
            LazyLock::new(|| Arc::new(Process::with(PULLS, LAYERS, MEMORY, DIRECTORIES)));
        Arc::clone(&PROCESS)
    }
}
