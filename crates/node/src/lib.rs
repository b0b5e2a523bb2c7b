//! The addon: the core's types as data that JavaScript can take.
//!
//! Results, events and options cross as JSON text, errors among them; one place in TypeScript turns a failure into an
//! exception. Work that takes time runs on the core's own threads and settles a promise; nothing here blocks the event
//! loop but `pullCached` and the helpers that say so.

#![allow(unreachable_pub, dead_code, reason = "what the addon exports is found by its macro, not by path")]

mod cache;
mod environment;
mod layer_index;
mod model;
mod outcome;
mod registry;
mod room;
mod runtime;
mod settled;
mod task;
mod types;
