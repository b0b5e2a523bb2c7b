//! Turns at a lock within this process: one of its tasks tries the file, the others sleep until it is done with it.
//!
//! The file alone would do, but can't be waited for: each task would have to try again and again. It stays what counts, since
//! a path can be written in several ways and other processes know nothing of this.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// Whose turn it is, until it is dropped.
pub(super) type Turn = OwnedMutexGuard<()>;

type Queues = HashMap<PathBuf, Weak<Queue<()>>>;

/// Those who wait for the lock at `path`, in the order in which they came.
pub(super) fn queue(path: &Path) -> Arc<Queue<()>> {
    static QUEUES: LazyLock<Mutex<Queues>> = LazyLock::new(Mutex::default);
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = queues.get(path).and_then(Weak::upgrade) {
        return queue;
    }
    queues.retain(|_, queue| queue.strong_count() > 0);
    let queue = Arc::default();
    queues.insert(path.to_owned(), Arc::downgrade(&queue));
    queue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_queue_for_as_long_as_somebody_uses_it() {
        let (one, two) = (queue(Path::new("/turn/a")), queue(Path::new("/turn/b")));
        assert!(!Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&one, &queue(Path::new("/turn/a"))));
        let turn = one.try_lock_owned().unwrap();
        assert!(queue(Path::new("/turn/a")).try_lock_owned().is_err());
        drop(turn);
        assert!(queue(Path::new("/turn/a")).try_lock_owned().is_ok());
    }
}
