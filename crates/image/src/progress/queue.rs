//! Events on their way to one reader that may be slow: byte counts are merged, changes of state never are.

use std::{
    collections::VecDeque,
    mem::discriminant,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::Notify;

use crate::progress::{Event, Observer};

/// A queue between a pull and whoever watches it. Putting an event in never waits.
#[derive(Default)]
pub struct EventQueue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    closed: bool,
}

impl EventQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that no more events come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// All events since the last call, in order; waits until there is one. `None` after the last one.
    pub async fn next_batch(&self) -> Option<Vec<Event>> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if !state.events.is_empty() {
                    return Some(std::mem::take(&mut state.events).into());
                }
                if state.closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Observer for EventQueue {
    fn notify(&self, event: Event) {
        let mut state = self.lock();
        if let Some(layer) = counted_layer(&event) {
            // A count that nobody has read yet gives way to the newer one, unless the layer's state changed since. So what
            // nobody reads stays small.
            let of_layer = state.events.iter_mut().rev().filter(|known| layer_of(known) == Some(layer));
            let mut counts = of_layer.take_while(|known| counted_layer(known).is_some());
            if let Some(known) = counts.find(|known| discriminant(*known) == discriminant(&event)) {
                *known = event;
                return;
            }
        }
        state.events.push_back(event);
        drop(state);
        self.changed.notify_one();
    }
}

/// The layer whose bytes an event counts.
fn counted_layer(event: &Event) -> Option<usize> {
    match event {
        Event::LayerDownloadProgress { layer_index, .. } | Event::LayerExtractProgress { layer_index, .. } => {
            Some(*layer_index)
        }
        _ => None,
    }
}

fn layer_of(event: &Event) -> Option<usize> {
    match event {
        Event::LayerDownloadProgress { layer_index, .. }
        | Event::LayerDownloadComplete { layer_index, .. }
        | Event::LayerExtractStarted { layer_index, .. }
        | Event::LayerExtractProgress { layer_index, .. }
        | Event::LayerExtractComplete { layer_index, .. }
        | Event::LayerIndexStarted { layer_index }
        | Event::LayerIndexComplete { layer_index } => Some(*layer_index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(layer_index: usize, bytes_read: u64) -> Event {
        Event::LayerExtractProgress { layer_index, bytes_read, total_bytes: 100 }
    }

    #[tokio::test]
    async fn counts_of_both_kinds_are_merged_side_by_side_so_that_an_unread_queue_stays_small() {
        let queue = EventQueue::new();
        let digest: std::sync::Arc<str> = "sha256:x".into();
        let downloaded = |downloaded_bytes| Event::LayerDownloadProgress {
            layer_index: 0,
            digest: std::sync::Arc::clone(&digest),
            downloaded_bytes,
            total_bytes: None,
        };
        for bytes in 0..1000 {
            queue.notify(downloaded(bytes));
            queue.notify(count(0, bytes));
            queue.notify(count(1, bytes));
        }
        assert_eq!(queue.next_batch().await.unwrap(), [downloaded(999), count(0, 999), count(1, 999)]);
    }

    #[tokio::test]
    async fn counts_are_merged_and_changes_of_state_are_not() {
        let queue = EventQueue::new();
        for event in [
            count(0, 1),
            count(1, 1),
            count(0, 2),
            Event::LayerIndexStarted { layer_index: 0 },
            count(0, 3),
            Event::LayerIndexStarted { layer_index: 0 },
            Event::LayerIndexStarted { layer_index: 0 },
        ] {
            queue.notify(event);
        }
        queue.close();
        let started = Event::LayerIndexStarted { layer_index: 0 };
        let batch = queue.next_batch().await.unwrap();
        assert_eq!(batch, [count(0, 2), count(1, 1), started.clone(), count(0, 3), started.clone(), started]);
        assert_eq!(queue.next_batch().await, None);
    }
}
