//! A bounded queue between threads. Whoever waits sleeps on a condition variable: on a machine with few cores, spinning
//! or yielding while waiting takes the processor from the very thread that is waited for.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    error::{ImageError, Result},
    layer::halt::Halt,
    sync::{Condvar, Mutex, MutexGuard},
};

/// How often a waiting side looks whether the job was stopped.
const POLL: Duration = Duration::from_millis(20);

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something came in, or the sender is gone.
    filled: Condvar,
    /// There is room, or the receiver is gone.
    emptied: Condvar,
    room: usize,
}

struct State<T> {
    items: VecDeque<T>,
    sender_is_gone: bool,
    receiver_is_gone: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The side that puts in.
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The side that takes out.
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// A queue with room for `room` items.
pub(crate) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::with_capacity(room), sender_is_gone: false, receiver_is_gone: false };
    let (filled, emptied) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(Shared { state: Mutex::new(state), filled, emptied, room });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Puts an item in, waiting for room. Fails with `ERR_ABORTED` when the job stops or the receiver is gone.
    pub(crate) fn send(&self, item: T, halt: &Halt) -> Result<()> {
        let mut state = self.0.lock();
        loop {
            if state.receiver_is_gone {
                return Err(ImageError::aborted());
            }
            if state.items.len() < self.0.room {
                state.items.push_back(item);
                drop(state);
                self.0.filled.notify_one();
                return Ok(());
            }
            halt.check()?;
            let waited = self.0.emptied.wait_timeout(state, POLL);
            (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl<T> Sender<T> {
    /// How many items wait to be taken.
    pub(crate) fn length(&self) -> usize {
        self.0.lock().items.len()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().sender_is_gone = true;
        self.0.filled.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Takes the next item out, waiting for one; `None` when the sender is gone and nothing is left.
    pub(crate) fn receive(&self) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                drop(state);
                self.0.emptied.notify_one();
                return Some(item);
            }
            if state.sender_is_gone {
                return None;
            }
            state = self.0.filled.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// Waits for an item, or for the sender to go, but no longer than the job lasts.
    pub(crate) fn receive_or_halt(&self, halt: &Halt) -> Result<Option<T>> {
        let mut state = self.0.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Ok(Some(item));
            }
            if state.sender_is_gone {
                return Ok(None);
            }
            halt.check()?;
            let waited = self.0.filled.wait_timeout(state, POLL);
            (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_is_gone = true;
        // What nobody will take is given back now: it may hold blocks that the sender waits for.
        let left = std::mem::take(&mut state.items);
        drop(state);
        drop(left);
        self.0.emptied.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_order_and_the_end_is_told() {
        let (sender, receiver) = bounded(2);
        let halt = Halt::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sender = sender;
                (0..1000).try_for_each(|number| sender.send(number, &halt)).unwrap();
            });
            let all: Vec<i32> = std::iter::from_fn(|| receiver.receive()).collect();
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_sender_does_not_wait_for_a_receiver_that_is_gone_or_a_job_that_stopped() {
        let (sender, receiver) = bounded(1);
        let halt = Halt::default();
        sender.send(1, &halt).unwrap();
        halt.abort();
        assert!(sender.send(2, &halt).unwrap_err().is_aborted());
        drop(receiver);
        assert!(sender.send(3, &Halt::default()).unwrap_err().is_aborted());
    }
}
