//! TLS or plain HTTP: found out by asking, once for each server, where plain HTTP is allowed at all.
//!
//! Nothing secret is in that question. On loopback plain HTTP is tried first because it is what runs there; elsewhere
//! TLS is, so that a server that has it is not spoken to without.

use reqwest::{StatusCode, Url};

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        endpoint::{Endpoint, is_loopback, may_be_plain},
        response::discard,
        retry::Failure,
        transport::Transport,
    },
};

/// What a server said to the question.
enum Speaks {
    Yes,
    /// It answered, and in another language.
    No,
    /// It did not answer.
    Silent(Failure),
}

impl Transport {
    /// Scheme and host of a server, and its path prefix.
    pub(super) async fn base(&self, endpoint: &Endpoint) -> std::result::Result<Url, Failure> {
        if let Some(base) = &endpoint.base {
            return Ok(base.clone());
        }
        if !may_be_plain(&self.options, &endpoint.host) {
            return Ok(url_of("https", &endpoint.host)?);
        }
        let known = self.schemes.lock().ok().and_then(|known| known.get(&endpoint.host).copied());
        let scheme = match known {
            Some(scheme) => scheme,
            None => self.find_scheme(&endpoint.host).await?,
        };
        if let Ok(mut known) = self.schemes.lock() {
            known.insert(endpoint.host.clone(), scheme);
        }
        Ok(url_of(scheme, &endpoint.host)?)
    }

    async fn find_scheme(&self, host: &str) -> std::result::Result<&'static str, Failure> {
        let [first, second] = if is_loopback(host) { ["http", "https"] } else { ["https", "http"] };
        let first_said = match self.speaks(first, host).await? {
            Speaks::Yes => return Ok(first),
            said => said,
        };
        match (first_said, self.speaks(second, host).await?) {
            (_, Speaks::Yes) => Ok(second),
            // Nobody is there: the first failure tells it.
            (Speaks::Silent(failure), _) => Err(failure),
            // A server that answers everything so.
            (_, _) => Ok(first),
        }
    }

    async fn speaks(&self, scheme: &'static str, host: &str) -> std::result::Result<Speaks, Failure> {
        let mut ping = url_of(scheme, host)?;
        ping.set_path("/v2/");
        let request = self.client(&ping)?.get(ping);
        match self.send(request, host, "its API").await {
            Ok(response) => {
                let hides_tls = scheme == "http" && may_hide_tls(response.status());
                discard(response, host).await;
                Ok(if hides_tls { Speaks::No } else { Speaks::Yes })
            }
            // A certificate that is not trusted ends it: going on in plain HTTP would be worse.
            Err(failure) if !failure.retryable && !failure.not_tls => Err(failure),
            Err(failure) if matches!(failure.error.kind(), ErrorKind::Timeout { .. }) => Err(failure),
            Err(failure) if failure.not_tls => Ok(Speaks::No),
            Err(failure) => Ok(Speaks::Silent(failure)),
        }
    }
}

/// What a TLS server says to plain HTTP, itself or through a proxy.
fn may_hide_tls(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
}

fn url_of(scheme: &str, host: &str) -> Result<Url> {
    Url::parse(&format!("{scheme}://{host}")).map_err(|_| {
        let reason = "the registry's name is no host".to_owned();
        ImageError::from(ErrorKind::InvalidReference { text: host.to_owned(), reason })
    })
}
