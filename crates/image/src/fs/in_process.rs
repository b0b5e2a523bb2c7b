//! The in-process lock before a lock's file: one task of this process tries the file, the others sleep until it is done.
//!
//! The file alone would do, but can't be waited for: each task would have to try again and again. The file stays what
//! counts, since a path can be written in several ways and other processes know nothing of this.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Held until it is dropped.
pub(super) type InProcessLock = OwnedMutexGuard<()>;

type Locks = HashMap<PathBuf, Weak<AsyncMutex<()>>>;

/// The in-process lock of the lock at `path`; those who wait get it in the order in which they came.
pub(super) fn in_process_lock(path: &Path) -> Arc<AsyncMutex<()>> {
    static LOCKS: LazyLock<Mutex<Locks>> = LazyLock::new(Mutex::default);
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(lock) = locks.get(path).and_then(Weak::upgrade) {
        return lock;
    }
    locks.retain(|_, lock| lock.strong_count() > 0);
    let lock = Arc::default();
    locks.insert(path.to_owned(), Arc::downgrade(&lock));
    lock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_in_process_lock_for_as_long_as_somebody_uses_it() {
        let lock = |path: &str| in_process_lock(Path::new(path));
        let (one, two) = (lock("/lock/a"), lock("/lock/b"));
        assert!(!Arc::ptr_eq(&one, &two) && Arc::ptr_eq(&one, &lock("/lock/a")));
        let held = one.try_lock_owned().unwrap();
        assert!(lock("/lock/a").try_lock_owned().is_err());
        drop(held);
        assert!(lock("/lock/a").try_lock_owned().is_ok());
    }
}
