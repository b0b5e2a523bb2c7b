//! The threads everything asynchronous runs on, started by the first call that needs them.
//!
//! They only wait for sockets and timers; files, hashes and decompression have threads of their own, whose number the
//! caller's options set. Nothing of it keeps the process alive.

use std::{future::Future, sync::OnceLock};

use microsandbox_image_core::Result;
use napi::{Env, bindgen_prelude::Object};
use serde::Serialize;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::outcome::{panicked, to_text};

/// Threads for sockets: TLS of one fast download keeps one of them busy.
const SOCKET_THREADS: usize = 2;

fn runtime() -> napi::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let mut builder = Builder::new_multi_thread();
    let built = builder.worker_threads(SOCKET_THREADS).thread_name("image-io").enable_io().enable_time().build();
    let built = built.map_err(|error| napi::Error::from_reason(format!("no threads can be started: {error}")))?;
    Ok(RUNTIME.get_or_init(|| built))
}

/// Starts work that goes on by itself.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> napi::Result<()> {
    runtime()?.spawn(work);
    Ok(())
}

/// Does synchronous work on a thread for files. It may start more work on the runtime it is given.
pub(crate) fn spawn_blocking(work: impl FnOnce(&Handle) + Send + 'static) -> napi::Result<()> {
    let runtime = runtime()?;
    runtime.spawn_blocking(move || work(&Handle::current()));
    Ok(())
}

/// A promise of the outcome's text.
pub(crate) fn promise<T: Serialize + Send + 'static>(
    env: &Env,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> napi::Result<Object<'_>> {
    promise_of(env, async move { to_text(caught(work).await) })
}

/// A promise of a text that is ready to hand over.
pub(crate) fn promise_of(env: &Env, work: impl Future<Output = String> + Send + 'static) -> napi::Result<Object<'_>> {
    let (deferred, promise) = env.create_deferred()?;
    runtime()?.spawn(async move {
        let text = work.await;
        deferred.resolve(move |_| Ok(text));
    });
    Ok(promise)
}

/// A promise of what synchronous work answers, done off the event loop.
pub(crate) fn promise_blocking<T: Serialize + Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> napi::Result<Object<'_>> {
    promise(env, blocking(work))
}

/// Synchronous work on a thread for files; a panic in it is an error of the call.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(panicked(&*error.into_panic())),
    }
}

/// Work on a task of its own, so that a panic in it is an error of the call.
pub(crate) async fn caught<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(panicked(&*error.into_panic())),
        Err(_) => Err(microsandbox_image_core::ImageError::aborted()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(result: Result<()>) -> &'static str {
        result.expect_err("it failed").code()
    }

    #[test]
    fn a_panic_in_a_task_is_an_error_of_the_call_and_the_threads_go_on() {
        let runtime = runtime().expect("threads start");
        let first = runtime.block_on(caught(async { panic!("in a task") }));
        assert_eq!(code_of(first), "ERR_INTERNAL");
        let nested = runtime.block_on(caught(async {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            panic!("after waiting")
        }));
        assert_eq!(code_of(nested), "ERR_INTERNAL");
        assert_eq!(runtime.block_on(caught(async { Ok(5) })).ok(), Some(5));
    }
}
