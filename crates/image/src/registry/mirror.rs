//! Which mirrors are worth asking: one that is dead costs two seconds, once, and is then passed over for a while.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::registry::{endpoint::Endpoint, response::discard, transport::Transport};

/// The longest time that a mirror may take to say anything when it is first asked.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// A mirror that failed is passed over this long.
const REST: Duration = Duration::from_secs(60);

/// What is known of mirrors.
#[derive(Default)]
pub(super) struct Mirrors(Mutex<HashMap<String, State>>);

#[derive(Clone, Copy)]
enum State {
    Alive,
    RestsSince(Instant),
}

impl Mirrors {
    /// `None`: not known, or known too long ago.
    fn is_alive(&self, host: &str, now: Instant) -> Option<bool> {
        match self.0.lock().ok()?.get(host)? {
            State::Alive => Some(true),
            State::RestsSince(since) if now.duration_since(*since) < REST => Some(false),
            State::RestsSince(_) => None,
        }
    }

    fn set(&self, host: &str, state: State) {
        if let Ok(mut mirrors) = self.0.lock() {
            mirrors.insert(host.to_owned(), state);
        }
    }

    /// Passes a mirror over for a while.
    pub(super) fn rest(&self, host: &str) {
        self.set(host, State::RestsSince(Instant::now()));
    }
}

impl Transport {
    /// True if a mirror is worth asking. The first time it is asked whether it is there at all; any answer will do.
    pub(super) async fn is_worth_asking(&self, mirror: &Endpoint) -> bool {
        if let Some(alive) = self.mirrors.is_alive(&mirror.host, Instant::now()) {
            return alive;
        }
        let answers = async {
            let mut ping = mirror.base.clone()?;
            ping.set_path(&format!("{}/v2/", ping.path().trim_end_matches('/')));
            let request = self.client(&ping).ok()?.get(ping);
            let answer = self.send(request, &mirror.host, "its API").await.ok()?;
            discard(answer, &mirror.host).await;
            Some(())
        };
        let alive = matches!(tokio::time::timeout(FIRST_WORD, answers).await, Ok(Some(())));
        self.mirrors.set(&mirror.host, if alive { State::Alive } else { State::RestsSince(Instant::now()) });
        alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_failed_rests_and_is_then_asked_again() {
        let mirrors = Mirrors::default();
        let now = Instant::now();
        assert_eq!(mirrors.is_alive("m", now), None);
        mirrors.set("m", State::Alive);
        assert_eq!(mirrors.is_alive("m", now), Some(true));
        mirrors.rest("m");
        assert_eq!(mirrors.is_alive("m", Instant::now()), Some(false));
        assert_eq!(mirrors.is_alive("m", Instant::now() + REST), None);
    }
}
