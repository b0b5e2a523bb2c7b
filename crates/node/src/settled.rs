//! An outcome that is known some time, and the promises that wait for it. Whoever settles it resolves them itself, so
//! that no thread is woken only to pass it on.

use std::sync::{Arc, Mutex, PoisonError};

use napi::{Env, JsDeferred, bindgen_prelude::Object};
use tokio_util::sync::CancellationToken;

type Resolver = Box<dyn FnOnce(Env) -> napi::Result<String> + Send>;

/// The text of one outcome.
pub(crate) struct Settled {
    state: Mutex<State>,
    known: CancellationToken,
}

enum State {
    Awaited(Vec<JsDeferred<String, Resolver>>),
    Known(Arc<str>),
}

impl Settled {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::Awaited(Vec::new())), known: CancellationToken::new() })
    }

    /// Says what it is. Only the first word counts.
    pub(crate) fn settle(&self, text: String) {
        let text: Arc<str> = text.into();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = match &mut *state {
            State::Known(_) => return,
            State::Awaited(waiting) => std::mem::take(waiting),
        };
        *state = State::Known(Arc::clone(&text));
        drop(state);
        self.known.cancel();
        for deferred in waiting {
            deferred.resolve(resolver(&text));
        }
    }

    /// A promise of the text.
    pub(crate) fn promise<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (deferred, promise) = env.create_deferred()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            State::Known(text) => deferred.resolve(resolver(text)),
            State::Awaited(waiting) => waiting.push(deferred),
        }
        Ok(promise)
    }

    /// Waits until it is known.
    pub(crate) async fn wait(&self) {
        self.known.cancelled().await;
    }
}

fn resolver(text: &Arc<str>) -> Resolver {
    let text = text.to_string();
    Box::new(move |_| Ok(text))
}
