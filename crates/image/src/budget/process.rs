//! What all registry clients of this process share.

use std::sync::LazyLock;

use crate::budget::{MIB, semaphore::Semaphore};

const PULLS: u64 = 32;
const LAYERS: u64 = 40;
const MEMORY: u64 = 48 * MIB;
/// Directories that all extractions together keep open.
pub(super) const DIRECTORIES: u64 = 96;

pub(super) struct Process {
    pub(super) pulls: Semaphore,
    pub(super) layers: Semaphore,
    pub(super) memory: Semaphore,
    pub(super) directories: Semaphore,
}

pub(super) fn process() -> &'static Process {
    static PROCESS: LazyLock<Process> = LazyLock::new(|| Process {
        pulls: Semaphore::new(PULLS),
        layers: Semaphore::new(LAYERS),
        memory: Semaphore::new(MEMORY),
        directories: Semaphore::new(DIRECTORIES),
    });
    &PROCESS
}
