//! The end of whoever started work. Each thread of JavaScript has an environment of its own; when a worker ends, by itself
//! or by `terminate()`, the work that it started ends as well: nobody is left to take the answer, and its locks are missed.

use std::{cell::RefCell, collections::HashMap};

use napi::Env;
use tokio_util::sync::CancellationToken;

thread_local! {
    /// By the environment's address: several may take turns on one thread.
    static ENDS: RefCell<HashMap<usize, CancellationToken>> = RefCell::default();
}

/// Is cancelled when the environment ends. Work takes a child of it, so that it can be stopped alone as well.
pub(crate) fn end_of(env: &Env) -> napi::Result<CancellationToken> {
    let key = env.raw() as usize;
    if let Some(end) = ENDS.with_borrow(|ends| ends.get(&key).cloned()) {
        return Ok(end);
    }
    let end = CancellationToken::new();
    env.add_env_cleanup_hook((key, end.clone()), |(key, end)| {
        end.cancel();
        // The thread's own values may be gone by now.
        let _ = ENDS.try_with(|ends| ends.borrow_mut().remove(&key));
    })?;
    ENDS.with_borrow_mut(|ends| ends.insert(key, end.clone()));
    Ok(end)
}
