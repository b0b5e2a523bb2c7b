//! One switch that stops every stage of a job: thrown by the caller's abort or by the first failure of any stage.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{ImageError, Result};

/// Shared by the stages of one job; cheap to ask, keeps the first error only.
#[derive(Clone, Default)]
pub struct Halt(Arc<Inner>);

#[derive(Default)]
struct Inner {
    thrown: AtomicBool,
    error: Mutex<Option<ImageError>>,
}

impl Halt {
    /// Stops the job because of `error`. The first error that is not itself an echo of the stop is kept.
    pub fn fail(&self, error: ImageError) {
        let mut slot = self.0.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.0.thrown.store(true, Ordering::SeqCst);
        if slot.as_ref().is_none_or(ImageError::is_aborted) {
            *slot = Some(error);
        }
    }

    /// Stops the job because its caller wants so.
    pub fn abort(&self) {
        self.fail(ImageError::aborted());
    }

    /// True once the job is to stop.
    pub fn is_thrown(&self) -> bool {
        self.0.thrown.load(Ordering::Relaxed)
    }

    /// `ERR_ABORTED` once the job is to stop: the way out of a loop. The reason itself is in [`take_error`](Self::take_error).
    pub fn check(&self) -> Result<()> {
        if self.is_thrown() { Err(ImageError::aborted()) } else { Ok(()) }
    }

    /// The first error, once.
    pub fn take_error(&self) -> Option<ImageError> {
        self.0.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_that_is_no_echo_counts() {
        let halt = Halt::default();
        assert!(halt.check().is_ok());
        halt.abort();
        halt.fail(ImageError::internal("first"));
        halt.fail(ImageError::aborted());
        assert!(halt.check().unwrap_err().is_aborted());
        assert_eq!(halt.take_error().unwrap().code(), "ERR_INTERNAL");
    }
}
