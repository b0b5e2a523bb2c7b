//! A counting semaphore that is fair between owners: each owner's waiters stand in a queue, and the queues are served in
//! turn. A waiter says how much it needs at least and can use at most; nobody overtakes the one whose turn it is, so a large
//! need is met in the end.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use crate::sync::{Mutex, MutexGuard};

/// Whoever waiters belong to: a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u64);

/// The semaphore; clones share it.
#[derive(Clone)]
pub(crate) struct Semaphore(Arc<Mutex<State>>);

struct State {
    capacity: u64,
    free: u64,
    /// The owner whose turn it is stands first. No queue is empty.
    queues: VecDeque<(Owner, VecDeque<Waiter>)>,
}

struct Waiter {
    least: u64,
    most: u64,
    answer: oneshot::Sender<Permit>,
}

/// A share of a semaphore's capacity; it is given back when this is dropped.
pub(crate) struct Permit {
    semaphore: Semaphore,
    count: u64,
}

impl Permit {
    /// How much it is.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.lock().free += self.count;
        self.semaphore.advance();
    }
}

impl Semaphore {
    pub(crate) fn new(capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State { capacity, free: capacity, queues: VecDeque::new() })))
    }

    /// Makes the capacity at least this large.
    pub(crate) fn raise(&self, capacity: u64) {
        let mut state = self.lock();
        let more = capacity.saturating_sub(state.capacity);
        (state.capacity, state.free) = (state.capacity + more, state.free + more);
        drop(state);
        self.advance();
    }

    /// Waits its turn for at least `least`, or all there is if that is less, and takes up to `most`. Dropping the future
    /// ends the wait.
    pub(crate) async fn acquire(&self, owner: Owner, least: u64, most: u64) -> Permit {
        let (answer, granted) = oneshot::channel();
        {
            let mut state = self.lock();
            let least = least.min(state.capacity);
            let waiter = Waiter { least, most: most.max(least), answer };
            match state.queues.iter_mut().find(|(queued, _)| *queued == owner) {
                Some((_, queue)) => queue.push_back(waiter),
                None => state.queues.push_back((owner, VecDeque::from([waiter]))),
            }
        }
        self.advance();
        let mut waiting = Waiting { semaphore: self, granted };
        (&mut waiting.granted).await.expect("a waiter is answered as long as it waits")
    }

    /// Takes so much if it is free and nobody waits.
    pub(crate) fn try_acquire(&self, count: u64) -> Option<Permit> {
        let mut state = self.lock();
        if state.queues.iter().flat_map(|(_, queue)| queue).any(|waiter| !waiter.answer.is_closed()) {
            return None;
        }
        state.free = state.free.checked_sub(count)?;
        Some(Permit { semaphore: self.clone(), count })
    }

    /// Serves whoever can be served.
    fn advance(&self) {
        let mut granted = Vec::new();
        let mut state = self.lock();
        while let Some((owner, mut queue)) = state.queues.pop_front() {
            while queue.front().is_some_and(|waiter| waiter.answer.is_closed()) {
                queue.pop_front();
            }
            let Some(waiter) = queue.pop_front_if(|waiter| waiter.least <= state.free) else {
                if queue.is_empty() {
                    continue;
                }
                state.queues.push_front((owner, queue));
                break;
            };
            if !queue.is_empty() {
                state.queues.push_back((owner, queue));
            }
            let count = waiter.most.min(state.free);
            state.free -= count;
            granted.push((waiter.answer, Permit { semaphore: self.clone(), count }));
        }
        drop(state);
        for (answer, permit) in granted {
            // What nobody waits for any more comes back at once.
            drop(answer.send(permit));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A wait that may end early: whoever stands behind must not wait for it.
struct Waiting<'a> {
    semaphore: &'a Semaphore,
    granted: oneshot::Receiver<Permit>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        // A permit that came too late is in there.
        drop(self.granted.try_recv());
        self.semaphore.advance();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, task::Poll};

    use super::*;

    type Wait<'a> = Pin<Box<dyn Future<Output = Permit> + 'a>>;

    fn asked<'a>(semaphore: &'a Semaphore, owner: u64, least: u64, most: u64) -> Wait<'a> {
        let mut wait: Wait<'a> = Box::pin(semaphore.acquire(Owner(owner), least, most));
        assert!(poll(&mut wait).is_none(), "it is there at once");
        wait
    }

    fn poll(wait: &mut Wait<'_>) -> Option<Permit> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match wait.as_mut().poll(&mut context) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn owners_are_served_in_turn_and_each_in_its_own_order() {
        let semaphore = Semaphore::new(1);
        let mut held = semaphore.try_acquire(1);
        // The first owner asks three times before anybody else does.
        let mut waits: Vec<_> = [1, 1, 1, 2, 2, 3].map(|owner| (owner, asked(&semaphore, owner, 1, 1))).into();
        let mut served = Vec::new();
        while !waits.is_empty() {
            drop(held.take());
            let at = (0..waits.len()).find_map(|at| poll(&mut waits[at].1).map(|permit| (at, permit)));
            let (at, permit) = at.expect("somebody is served");
            served.push(waits.remove(at).0);
            held = Some(permit);
        }
        assert_eq!(served, [1, 2, 3, 1, 2, 1]);
    }

    #[test]
    fn a_large_need_is_not_overtaken_by_small_ones() {
        let semaphore = Semaphore::new(10);
        let (one, other) = (semaphore.try_acquire(6).unwrap(), semaphore.try_acquire(3).unwrap());
        let mut large = asked(&semaphore, 1, 8, 20);
        let mut small = asked(&semaphore, 2, 1, 1);
        assert!(semaphore.try_acquire(1).is_none(), "nobody takes what another waits for");
        drop(other);
        assert!(poll(&mut large).is_none() && poll(&mut small).is_none());
        drop(one);
        assert_eq!(poll(&mut large).unwrap().count(), 10);
        assert_eq!(poll(&mut small).unwrap().count(), 1);
    }

    #[test]
    fn a_wait_that_is_given_up_stands_in_nobodys_way() {
        let semaphore = Semaphore::new(4);
        let held = semaphore.try_acquire(2).unwrap();
        let large = asked(&semaphore, 1, 4, 4);
        let mut small = asked(&semaphore, 2, 1, 1);
        drop(large);
        assert_eq!(poll(&mut small).unwrap().count(), 1);
        // One that was served and never looked.
        let unseen = asked(&semaphore, 3, 4, 4);
        drop(held);
        drop(unseen);
        assert_eq!(semaphore.try_acquire(4).unwrap().count(), 4);
    }

    #[test]
    fn more_than_there_is_means_all_there_is() {
        let semaphore = Semaphore::new(3);
        let held = semaphore.try_acquire(1).unwrap();
        let mut all = asked(&semaphore, 1, 100, 100);
        drop(held);
        assert_eq!(poll(&mut all).unwrap().count(), 3);
        semaphore.raise(5);
        assert_eq!(semaphore.try_acquire(5).unwrap().count(), 5);
    }
}
