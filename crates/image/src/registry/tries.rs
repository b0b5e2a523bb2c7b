//! Who is asked next, and when: the mirrors in order, each once, then the registry as often as the options allow.

use std::collections::VecDeque;

use crate::{
    error::Result,
    model::Reference,
    progress::{Event, Observer},
    registry::{
        blob::Sources,
        client::Client,
        endpoint::{Endpoint, endpoints},
        retry::{self, Failure},
    },
};

/// The tries of one question.
///
/// ```text
/// loop { let server = tries.server().await; match ask(&server).await { Ok(it) => …, Err(f) => tries.failed(f).await? } }
/// ```
pub(super) struct Tries<'a> {
    client: &'a Client,
    servers: VecDeque<Endpoint>,
    passed: Vec<String>,
    attempts: &'a mut u32,
    observer: &'a dyn Observer,
}

impl<'a> Tries<'a> {
    /// `attempts` counts the failures of the registry itself and outlives this question, where one follows from another.
    pub(super) fn new(
        client: &'a Client,
        reference: &Reference,
        sources: Sources,
        attempts: &'a mut u32,
        observer: &'a dyn Observer,
    ) -> Self {
        let mut servers: VecDeque<_> = endpoints(&client.transport.options, reference).into();
        servers.retain(|server| sources == Sources::All || !server.is_mirror);
        Self { client, servers, passed: Vec::new(), attempts, observer }
    }

    /// The server to ask now.
    pub(super) async fn server(&mut self) -> Endpoint {
        loop {
            let server = &self.servers[0];
            if !server.is_mirror || self.client.transport.is_worth_asking(server).await {
                return server.clone();
            }
            self.pass();
        }
    }

    fn pass(&mut self) {
        self.passed.extend(self.servers.pop_front().map(|server| server.host));
    }

    /// Waits until the next try makes sense, or gives the failure back when none does.
    pub(super) async fn failed(&mut self, failure: Failure) -> Result<()> {
        let server = &self.servers[0];
        if server.is_mirror {
            if failure.retryable {
                self.client.transport.mirrors.rest(&server.host);
            }
            self.pass();
            return Ok(());
        }
        let host = server.host.clone();
        let waited = self.client.wait_to_retry(failure, &host, self.attempts, self.observer).await;
        waited.map_err(|error| retry::with_mirrors(error, &self.passed))
    }
}

impl Client {
    /// Sleeps before another attempt, or gives the failure back when it is no use.
    pub(super) async fn wait_to_retry(
        &self,
        failure: Failure,
        host: &str,
        attempts: &mut u32,
        observer: &dyn Observer,
    ) -> Result<()> {
        let failure = Failure { error: self.transport.sent.mask().error(failure.error), ..failure };
        if !failure.retryable || *attempts >= self.transport.options.retries {
            return Err(retry::with_attempts(failure.error, *attempts + 1));
        }
        *attempts += 1;
        let Some(pause) = retry::pause(*attempts, failure.retry_after) else {
            return Err(retry::with_attempts(failure.error, *attempts));
        };
        observer.notify(Event::Retrying {
            host: host.into(),
            attempt: *attempts,
            delay_ms: pause.as_millis() as u64,
            reason: failure.error.kind().to_string().into(),
        });
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
