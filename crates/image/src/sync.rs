//! The parts of `std::sync` that the queue between threads and the pool of blocks are made of, under one name: a test puts
//! those of a deterministic scheduler in their place and tries every order of events.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
