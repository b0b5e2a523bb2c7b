//! The small core of an extraction, its pool of blocks, its batches and its queues, and the budget of pulls, under a deterministic scheduler that
//! tries orders of events: none stops for ever. The sources are those of the library; only the mutex and the condition
//! variable underneath are the scheduler's, which ends no wait by time, so that no time-out hides a lost wake-up.
//!
//! It has no test harness: the sources' own tests, which need real threads, must not be compiled with them.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "parts of the library, compiled again")]

mod error {
    pub use microsandbox_image_core::{ImageError, Result};
}
#[path = "../src/budget/mod.rs"]
mod budget;
mod sync {
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
}
#[path = "../src/layer"]
mod layer {
    pub mod batch;
    pub mod block;
    pub mod halt {
        pub use microsandbox_image_core::layer::Halt;
    }
    pub mod queue;
    pub mod stages {
        pub fn timed<T>(_: &mut std::time::Duration, work: impl FnOnce() -> T) -> T {
            work()
        }
    }
}

use std::{sync::Arc, time::Duration};

use budget::Budget;
use layer::{
    batch::Batches,
    block::{Pool, Slice},
    halt::Halt,
    queue::bounded,
};
use shuttle::{
    future::{block_on, yield_now},
    rand::{Rng, thread_rng},
    sync::Mutex,
    thread,
};

enum Job {
    Content(Slice),
    Fence(layer::queue::Sender<()>),
}

/// An extraction of random content: each block is hashed, and cut into slices for random writers.
fn extract(blocks: usize, writers: usize, length: usize) {
    let halt = Halt::default();
    let (to_hasher, hashed) = bounded(blocks);
    let hasher = thread::spawn(move || std::iter::from_fn(|| hashed.receive()).count());
    let (mut batches, receivers) = Batches::new(writers, &halt);
    let work = |receiver: layer::queue::Receiver<Vec<Job>>| {
        thread::spawn(move || {
            let batches = std::iter::from_fn(|| receiver.receive());
            batches.flatten().filter(|job| matches!(job, Job::Content(slice) if !slice.is_empty())).count()
        })
    };
    let threads: Vec<_> = receivers.into_iter().map(work).collect();
    let (pool, mut waited, mut slices) = (Pool::new(blocks), Duration::ZERO, 0);
    for _ in 0..length {
        let mut block = batches.block(&pool, &mut waited).unwrap();
        block.set_length(1000);
        let block = Arc::new(block);
        to_hasher.send(Arc::clone(&block), &halt).unwrap();
        for _ in 0..thread_rng().gen_range(1usize..4) {
            let writer = thread_rng().gen_range(0..writers);
            // What counts as large is handed over at once, what is small waits for others.
            let bytes = if thread_rng().gen_bool(0.3) { 1 << 20 } else { 10 };
            batches.collect(writer, Job::Content(Slice::new(&block, 0..10)), bytes);
            batches.flush_if_full(writer).unwrap();
            slices += 1;
        }
        // Now and then something is removed, for which all writers must have ended.
        if thread_rng().gen_bool(0.1) {
            drop(block);
            for writer in batches.writers() {
                let (done, fence) = bounded(1);
                if batches.fence(writer, || Job::Fence(done)).unwrap() {
                    assert!(fence.receive().is_none());
                }
            }
        }
    }
    batches.flush_all().unwrap();
    drop((batches, to_hasher));
    assert_eq!(hasher.join().unwrap(), length);
    assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>(), slices);
}

fn no_order_of_events_stops_an_extraction_for_ever() {
    for (blocks, writers) in [(1, 1), (1, 2), (2, 2), (3, 2), (2, 3)] {
        shuttle::check_random(move || extract(blocks, writers, 8), 300);
        shuttle::check_pct(move || extract(blocks, writers, 8), 300, 3);
    }
}

fn a_reader_whose_writer_is_gone_does_not_wait_for_its_blocks() {
    let stop = || {
        let halt = Halt::default();
        let (mut batches, mut receivers) = Batches::new(1, &halt);
        let receiver = receivers.remove(0);
        let (pool, mut waited) = (Pool::new(1), Duration::ZERO);
        let block = Arc::new(batches.block(&pool, &mut waited).unwrap());
        batches.collect(0, Slice::new(&block, 0..0), 10);
        drop(block);
        let failed = thread::spawn({
            let halt = halt.clone();
            move || {
                halt.abort();
                drop(receiver);
            }
        });
        assert!(batches.block(&pool, &mut waited).is_err());
        failed.join().unwrap();
    };
    shuttle::check_random(stop, 500);
}

/// Locks of layers between processes: tried, never waited for.
type Locks = Arc<Vec<Mutex<bool>>>;

/// A layer of a pull, step by step as the budget's order has it.
async fn pull_layer(share: budget::Share, locks: Locks, layer: usize) {
    let mut permit = share.layer().await;
    while std::mem::replace(&mut *locks[layer].lock().unwrap(), true) {
        drop(permit);
        yield_now().await;
        permit = share.layer().await;
    }
    let download = share.download().await;
    let further = share.further_connections();
    let parts = (further.connection(), further.memory(8 << 20));
    // The download ends without the extraction, which begins while it is under way.
    let fetching = shuttle::future::spawn(async move {
        yield_now().await;
        drop((download, parts));
    });
    let extraction = share.extraction().await;
    assert!(extraction.blocks() >= 4 && extraction.feed_bytes() >= 1 << 20 && extraction.directories() >= 16);
    fetching.await.unwrap();
    yield_now().await;
    drop(extraction);
    *locks[layer].lock().unwrap() = false;
    drop(permit);
}

/// Several pulls of two registries over one process that has hardly anything.
fn pulls() {
    let process = Arc::new(budget::Process::with(2, 3, 12 << 20, 20));
    let registries = [Budget::over(Arc::clone(&process), 1, 2), Budget::over(process, 2, 1)];
    let locks: Locks = Arc::new((0..3).map(|_| Mutex::new(false)).collect());
    let pull = |at: usize| {
        let (share, locks) = (registries[at % 2].share(), Arc::clone(&locks));
        thread::spawn(move || {
            block_on(async {
                let _pull = share.pull().await;
                let layer = |layer| shuttle::future::spawn(pull_layer(share.clone(), Arc::clone(&locks), layer));
                let layers: Vec<_> = (0..3).map(|number| layer((number + at) % 3)).collect();
                for layer in layers {
                    layer.await.unwrap();
                }
            });
        })
    };
    for pull in (0..3).map(pull).collect::<Vec<_>>() {
        pull.join().unwrap();
    }
}

fn no_order_of_permits_and_locks_stops_a_pull_for_ever() {
    shuttle::check_random(pulls, 400);
    shuttle::check_pct(pulls, 200, 3);
}

fn main() {
    no_order_of_permits_and_locks_stops_a_pull_for_ever();
    no_order_of_events_stops_an_extraction_for_ever();
    a_reader_whose_writer_is_gone_does_not_wait_for_its_blocks();
}
