//! Handles to directories, counted while anything keeps them: the table of open ones, and each job that waits to use one.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{error::Result, layer::halt::Halt};

/// How often whoever waits looks whether the job was stopped.
const POLL: Duration = Duration::from_millis(20);

/// How many handles are open.
#[derive(Default)]
pub(super) struct Count {
    open: Mutex<usize>,
    closed: Condvar,
}

impl Count {
    /// Counts a handle for as long as it is open.
    pub(super) fn handle(self: &Arc<Self>, directory: OwnedFd) -> Arc<Handle> {
        *self.lock() += 1;
        Arc::new(Handle { directory: Some(directory), count: Some(Arc::clone(self)) })
    }

    pub(super) fn open(&self) -> usize {
        *self.lock()
    }

    /// Waits until no more than `most` are open. Whoever waits keeps none, nor jobs that nobody is at work on.
    pub(super) fn wait(&self, most: usize, halt: &Halt) -> Result<()> {
        let mut open = self.lock();
        while *open > most {
            halt.check()?;
            (open, _) = self.closed.wait_timeout(open, POLL).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open directory.
pub(crate) struct Handle {
    /// `None` only while it is dropped.
    directory: Option<OwnedFd>,
    count: Option<Arc<Count>>,
}

impl Handle {
    /// One that is open anyway.
    pub(crate) fn uncounted(directory: OwnedFd) -> Arc<Self> {
        Arc::new(Self { directory: Some(directory), count: None })
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().expect("it is open until it is dropped").as_fd()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Closed first, counted then: the count never says less than there are.
        self.directory = None;
        if let Some(count) = &self.count {
            *count.lock() -= 1;
            count.closed.notify_one();
        }
    }
}
