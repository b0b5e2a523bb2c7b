//! A pull or a resolve at work: its result, its events, the credentials it asks for, and the switch that stops it.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use microsandbox_image_core::{
    Result,
    progress::EventQueue,
    registry::{CredentialProvider, RegistryAuth},
};
use napi::{Env, bindgen_prelude::Object};
use napi_derive::napi;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    environment::end_of,
    model::parse_json,
    outcome::{guarded, to_text, without_panic},
    runtime::{self, caught},
    settled::Settled,
    types::{AuthText, EventText},
};

/// Work that was started from JavaScript.
#[napi]
pub struct NativeTask {
    events: Arc<EventQueue>,
    outcome: Arc<Settled>,
    questions: Arc<Questions>,
    cancel: CancellationToken,
}

/// Credentials that JavaScript is asked for: one queue for a client. Whichever of its tasks is at work takes the next
/// question to the callback, since they all have the same.
pub(crate) struct Questions {
    next: AtomicU32,
    asked: mpsc::UnboundedSender<(u32, String)>,
    to_ask: tokio::sync::Mutex<mpsc::UnboundedReceiver<(u32, String)>>,
    /// Questions without an answer; those of a task that was cancelled stay until the next one is asked.
    waiting: Mutex<HashMap<u32, oneshot::Sender<Result<Option<RegistryAuth>>>>>,
}

impl Questions {
    pub(crate) fn new() -> Arc<Self> {
        let (asked, to_ask) = mpsc::unbounded_channel();
        Arc::new(Self {
            next: AtomicU32::new(0),
            asked,
            to_ask: tokio::sync::Mutex::new(to_ask),
            waiting: Mutex::default(),
        })
    }

    /// The next question that is still waited for.
    async fn next(&self) -> Option<(u32, String)> {
        let mut to_ask = self.to_ask.lock().await;
        loop {
            let (id, host) = to_ask.recv().await?;
            let waits = |waiting: &HashMap<u32, oneshot::Sender<_>>| waiting.get(&id).is_some_and(|to| !to.is_closed());
            if self.waiting.lock().is_ok_and(|waiting| waits(&waiting)) {
                return Some((id, host));
            }
        }
    }
}

/// The provider that the core asks.
pub(crate) struct Asker(pub(crate) Arc<Questions>);

impl CredentialProvider for Asker {
    fn credential(&self, host: &str) -> Pin<Box<dyn Future<Output = Result<Option<RegistryAuth>>> + Send>> {
        let questions = Arc::clone(&self.0);
        let host = host.to_owned();
        Box::pin(async move {
            let id = questions.next.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            if let Ok(mut waiting) = questions.waiting.lock() {
                waiting.retain(|_, answer| !answer.is_closed());
                waiting.insert(id, answer);
            }
            let _ = questions.asked.send((id, host));
            answered.await.unwrap_or(Ok(None))
        })
    }
}

impl NativeTask {
    /// Starts `work` with a switch and a queue of its own. The switch is thrown when the environment ends, too.
    pub(crate) fn start<T, W>(
        env: &Env,
        questions: Arc<Questions>,
        work: impl FnOnce(Arc<EventQueue>, CancellationToken) -> W,
    ) -> napi::Result<Self>
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let task = Self::new(questions, end_of(env)?.child_token());
        let work = work(Arc::clone(&task.events), task.cancel.clone());
        runtime::spawn(settle(work, Arc::clone(&task.outcome), Arc::clone(&task.events)))?;
        Ok(task)
    }

    /// Starts `work` unless `at_once` has an answer. That runs on one thread for files, which then settles the promise
    /// itself: an answer from the cache takes one way there and one back.
    pub(crate) fn start_or_answer<T, W>(
        env: &Env,
        questions: Arc<Questions>,
        at_once: impl FnOnce(&EventQueue) -> Result<Option<T>> + Send + 'static,
        work: impl FnOnce(Arc<EventQueue>, CancellationToken) -> W + Send + 'static,
    ) -> napi::Result<Self>
    where
        T: Serialize + Send + 'static,
        W: Future<Output = Result<T>> + Send + 'static,
    {
        let task = Self::new(questions, end_of(env)?.child_token());
        let (events, outcome, cancel) = (Arc::clone(&task.events), Arc::clone(&task.outcome), task.cancel.clone());
        runtime::spawn_blocking(move |runtime| match without_panic(|| at_once(&events)) {
            Ok(None) => {
                let work = work(Arc::clone(&events), cancel);
                runtime.spawn(settle(work, outcome, events));
            }
            Ok(Some(answer)) => {
                outcome.settle(to_text(Ok(answer)));
                events.close();
            }
            Err(error) => {
                outcome.settle(to_text::<T>(Err(error)));
                events.close();
            }
        })?;
        Ok(task)
    }

    fn new(questions: Arc<Questions>, cancel: CancellationToken) -> Self {
        Self { events: Arc::new(EventQueue::new()), outcome: Settled::new(), questions, cancel }
    }
}

async fn settle<T: Serialize + Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    outcome: Arc<Settled>,
    events: Arc<EventQueue>,
) {
    outcome.settle(to_text(caught(work).await));
    events.close();
}

#[napi]
impl NativeTask {
    /// The outcome, as text.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn result<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        self.outcome.promise(env)
    }

    /// The next events, as the text of a list; an empty text after the last one.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn next_events<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let events = Arc::clone(&self.events);
        runtime::promise_of(env, async move {
            match events.next_batch().await {
                Some(batch) => {
                    let batch: Vec<EventText> = batch.into_iter().filter_map(EventText::new).collect();
                    serde_json::to_string(&batch).unwrap_or_default()
                }
                None => String::new(),
            }
        })
    }

    /// The next credential that is asked for, as the text of `{ id, host }`; an empty text when the work has ended.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn next_question<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (questions, outcome) = (Arc::clone(&self.questions), Arc::clone(&self.outcome));
        runtime::promise_of(env, async move {
            tokio::select! {
                question = questions.next() => match question {
                    Some((id, host)) => serde_json::json!({ "id": id, "host": host }).to_string(),
                    None => String::new(),
                },
                () = outcome.wait() => String::new(),
            }
        })
    }

    /// Answers a question: the text of a credential, or of null. `error` says that there is none to be had.
    #[napi]
    pub fn answer(&self, id: u32, credential: String, error: Option<String>) -> String {
        guarded(|| {
            let waiting = self.questions.waiting.lock().ok().and_then(|mut waiting| waiting.remove(&id));
            let answer = match error {
                Some(reason) => Err(microsandbox_image_core::ErrorKind::Unauthorized {
                    registry: "the option auth".to_owned(),
                    reason,
                }
                .into()),
                None => parse_json::<Option<AuthText>>("auth", &credential).map(|auth| auth.map(Into::into)),
            };
            if let Some(waiting) = waiting {
                let _ = waiting.send(answer);
            }
            Ok(())
        })
    }

    /// Stops the work; the result is then an `ERR_ABORTED`.
    #[napi]
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}
