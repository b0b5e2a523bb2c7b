//! Waits for a connection that is about to be free instead of opening one more.
//!
//! The HTTP client asks its pool and dials at once, and a connection is back in the pool a moment after the last byte of
//! its answer was read: who asks in that moment opens a connection too many. So a dial waits a little where, by our
//! count, a connection must be about to be free, and ends where the question has gone out on another one meanwhile.
//! The count is a belief, since nobody tells when a connection dies; a belief that was wrong costs one wait.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use reqwest::{RequestBuilder, Response, Version, header::CONNECTION};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// How long after an answer's end its connection may still be about to be free; a dial waits no longer.
const GRACE: Duration = Duration::from_millis(250);

tokio::task_local! {
    /// The server that the question of this task goes to: set only while the question itself is polled.
    static ASKED: Arc<Server>;
}

/// What is known of each server's connections.
#[derive(Default)]
pub(super) struct Servers(Mutex<HashMap<String, Arc<Server>>>);

impl Servers {
    /// Sends a request. The server counts as busy until the response is dropped.
    pub(super) async fn ask(&self, request: RequestBuilder) -> reqwest::Result<Response> {
        let (client, request) = request.build_split();
        let request = request?;
        let server = {
            // Scheme, host and port: what the client's pool keeps apart.
            let name = request.url().origin().ascii_serialization();
            let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            servers.entry(name).or_default().clone()
        };
        let question = Arc::new(Question::begin(server.clone()));
        let mut response = ASKED.scope(server, client.execute(request)).await.inspect_err(|error| {
            if error.is_connect() {
                question.set(Connection::None);
            }
        })?;
        response.extensions_mut().insert(question);
        Ok(response)
    }
}

/// Says that a response's body was read to its end, so that its connection comes free.
pub(super) fn read_to_end(response: &Response) {
    let says = |what: &str| {
        let value = response.headers().get(CONNECTION).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.eq_ignore_ascii_case(what))
    };
    let closes = if response.version() < Version::HTTP_11 { !says("keep-alive") } else { says("close") };
    if let Some(question) = response.extensions().get::<Arc<Question>>().filter(|_| !closes) {
        question.set(Connection::Free);
    }
}

#[derive(Default)]
struct Server(Mutex<Counts>);

#[derive(Default, Clone, Copy)]
struct Counts {
    /// Questions whose answer has not been read to its end.
    asked: usize,
    /// Connections that are open or being opened, as far as we know.
    open: usize,
    /// When a connection last came free.
    ended: Option<Instant>,
}

impl Server {
    fn change<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the place of a new connection if every open one has a question of its own.
    fn takes_another(&self) -> bool {
        self.change(|counts| {
            let wanted = counts.open < counts.asked;
            counts.open += usize::from(wanted);
            wanted
        })
    }

    fn patience_ends(&self) -> Instant {
        self.change(|counts| counts.ended).map_or_else(Instant::now, |ended| ended + GRACE)
    }

    fn closed(&self) {
        self.change(|counts| counts.open = counts.open.saturating_sub(1));
    }

    /// Takes that place although there should have been a free connection: some must have died.
    fn correct(&self) {
        self.change(|counts| counts.open = counts.asked.max(1));
    }
}

/// One question under way.
struct Question {
    server: Arc<Server>,
    connection: Mutex<Connection>,
}

/// What becomes of a question's connection.
#[derive(Clone, Copy)]
enum Connection {
    /// It is closed: the answer was not read to its end, or the server said so.
    Lost,
    Free,
    /// There never was one.
    None,
}

impl Question {
    fn begin(server: Arc<Server>) -> Self {
        server.change(|counts| counts.asked += 1);
        Self { server, connection: Mutex::new(Connection::Lost) }
    }

    fn set(&self, connection: Connection) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let connection = *self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.server.change(|counts| {
            counts.asked -= 1;
            match connection {
                Connection::Lost => counts.open = counts.open.saturating_sub(1),
                Connection::Free => counts.ended = Some(Instant::now()),
                Connection::None => {}
            }
        });
    }
}

/// Puts [`Patient`] around what dials.
#[derive(Clone)]
pub(super) struct Patience;

impl<S> Layer<S> for Patience {
    type Service = Patient<S>;

    fn layer(&self, dial: S) -> Patient<S> {
        Patient(dial)
    }
}

/// Dials when no connection is about to be free.
#[derive(Clone)]
pub(super) struct Patient<S>(S);

impl<S, R> Service<R> for Patient<S>
where
    S: Service<R, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let Ok(server) = ASKED.try_with(Arc::clone) else { return Box::pin(self.0.call(request)) };
        // The one that was made ready is taken; a fresh clone stays.
        let fresh = self.0.clone();
        let mut dial = std::mem::replace(&mut self.0, fresh);
        Box::pin(async move {
            if !server.takes_another() {
                while_asked(tokio::time::sleep_until(server.patience_ends())).await?;
                if !server.takes_another() {
                    server.correct();
                }
            }
            let place = Place(Some(server));
            // Once begun it goes on: the server has seen it, and somebody will use it.
            let connected = dial.call(request).await?;
            place.keep();
            Ok(connected)
        })
    }
}

/// The place of a connection that is being opened. Dropped, it is free again.
struct Place(Option<Arc<Server>>);

impl Place {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &self.0 {
            server.closed();
        }
    }
}

/// Polls a future as long as the question that wants it does: once that has gone out on another connection, the client
/// goes on dialling in a task of its own, for later.
async fn while_asked<F: Future>(future: F) -> Result<F::Output, BoxError> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| match ASKED.try_with(|_| ()) {
        Ok(()) => future.as_mut().poll(context).map(Ok),
        Err(_) => Poll::Ready(Err("another connection became free".into())),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_opened_where_every_open_one_is_busy() {
        let server = Arc::new(Server::default());
        let first = Question::begin(server.clone());
        assert!(server.takes_another());
        assert!(!server.takes_another());
        let second = Question::begin(server.clone());
        assert!(server.takes_another());
        first.set(Connection::Free);
        drop(first);
        let third = Question::begin(server.clone());
        assert!(!server.takes_another(), "the first one's connection is about to be free");
        // What is not read to its end takes its connection along.
        drop(second);
        let fourth = Question::begin(server.clone());
        assert!(server.takes_another());
        drop((third, fourth));
    }

    #[test]
    fn a_wrong_belief_is_corrected_once() {
        let server = Arc::new(Server::default());
        server.change(|counts| counts.open = 7);
        let _question = Question::begin(server.clone());
        assert!(!server.takes_another());
        server.correct();
        let _another = Question::begin(server.clone());
        assert!(server.takes_another());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_ends_when_its_question_has_gone_out_elsewhere() {
        let server = Arc::new(Server::default());
        let mut dial = Patience.layer(tower::service_fn(|(): ()| async { Ok::<_, BoxError>("connected") }));
        server.change(|counts| *counts = Counts { asked: 1, open: 1, ended: Some(Instant::now()) });
        let mut dialling = ASKED.sync_scope(server.clone(), || dial.call(()));
        // While the question waits, so does the dial.
        let waiting = ASKED.scope(server.clone(), async { futures_util::poll!(&mut dialling).is_pending() });
        assert!(waiting.await);
        // Outside the question's own task the client would go on for later.
        assert!(dialling.await.is_err());
        assert_eq!(server.change(|counts| counts.open), 1);
        // Where none comes free it connects after the grace, and the next time at once.
        for waited in [GRACE, Duration::ZERO] {
            let began = Instant::now();
            let patient = ASKED.sync_scope(server.clone(), || dial.call(()));
            assert_eq!(ASKED.scope(server.clone(), patient).await.unwrap(), "connected");
            assert_eq!((server.change(|counts| counts.open), began.elapsed()), (1, waited));
        }
    }
}
