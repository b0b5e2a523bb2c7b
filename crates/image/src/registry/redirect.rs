//! Redirects: where one may lead, and who sees a credential on the way.
//!
//! The HTTP client follows none by itself. A credential goes to the server that was asked and to no other; TLS is never
//! left for plain HTTP; ten are enough.

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE},
};

use crate::{
    error::{ErrorKind, ImageError, Result},
    registry::{
        auth::Secret,
        endpoint::{authority, may_be_plain},
        options::ClientOptions,
        response::discard,
        retry::Failure,
        transport::{Ask, Transport},
    },
};

const MOST_REDIRECTS: usize = 10;

/// An answer, and who gave it.
pub(super) struct Answer {
    pub(super) response: Response,
    /// The server that answered: the last of the redirects.
    pub(super) host: String,
    /// True if that is not the server that was asked; what it says about logins is then not listened to.
    pub(super) foreign: bool,
}

impl Answer {
    /// A success, or the one refusal that the readers of blobs handle themselves.
    pub(super) fn is_taken(&self) -> bool {
        self.response.status().is_success() || self.response.status() == StatusCode::RANGE_NOT_SATISFIABLE
    }
}

impl Transport {
    /// Sends a request and follows its redirects.
    pub(super) async fn follow(
        &self,
        url: &Url,
        ask: &Ask<'_>,
        login: Option<&Secret>,
    ) -> std::result::Result<Answer, Failure> {
        let asked = url;
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let host = authority(&url);
            let foreign = host != authority(asked);
            let method = if ask.head { Method::HEAD } else { Method::GET };
            let mut request = self.client(&url)?.request(method, url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(range) = ask.range() {
                request = request.header(RANGE, range);
            }
            if let Some(login) = login.filter(|_| !foreign) {
                request = request.header(AUTHORIZATION, login.to_header(&host)?);
            }
            let response = self.send(request, &host, ask.what).await?;
            let status = response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Ok(Answer { response, host, foreign });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            url = next_hop(&self.options, &url, location, status.as_u16())?;
            discard(response, &host).await;
        }
        Err(refused(&authority(asked), 302, "it redirects more than ten times").into())
    }
}

/// Where a redirect leads, if it may.
fn next_hop(options: &ClientOptions, from: &Url, location: Option<&str>, status: u16) -> Result<Url> {
    let refused = |reason: &str| refused(&authority(from), status, reason);
    let location = location.ok_or_else(|| refused("it redirects to nowhere"))?;
    let mut to = from.join(location).map_err(|_| refused("it redirects to what is no URL"))?;
    // A name and password in a URL would be sent as a login.
    let stripped = to.set_username("").and_then(|()| to.set_password(None));
    match to.scheme() {
        "http" | "https" if stripped.is_err() || !to.has_host() => {
            Err(refused("it redirects to what is no web address"))
        }
        "https" => Ok(to),
        "http" if from.scheme() == "https" => Err(refused("it redirects from https to plain http, which is refused")),
        "http" if may_be_plain(options, &authority(&to)) => Ok(to),
        "http" => Err(refused(&format!(
            "it redirects to {0} in plain http; if that is meant, name it: insecure: ['{0}']",
            authority(&to)
        ))),
        _ => Err(refused("it redirects to what is no web address")),
    }
}

fn refused(host: &str, status: u16, reason: &str) -> ImageError {
    ErrorKind::Registry { registry: host.to_owned(), status, message: reason.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::options::Insecure;

    #[test]
    fn redirects_lead_only_where_trust_does_not_shrink() {
        let options =
            ClientOptions { insecure: Insecure::Hosts(vec!["lan.example:5000".into()]), ..ClientOptions::default() };
        for (from, location, expected) in [
            ("https://r.example/v2/x", Some("https://cdn.example/y?sig=1"), Some("https://cdn.example/y?sig=1")),
            ("https://r.example/v2/x", Some("/z"), Some("https://r.example/z")),
            ("https://r.example/v2/x", Some("//cdn.example/z"), Some("https://cdn.example/z")),
            ("https://r.example/v2/x", Some("https://me:pw@cdn.example/z"), Some("https://cdn.example/z")),
            ("https://r.example/v2/x", Some("http://r.example/z"), None),
            ("https://r.example/v2/x", Some("http://127.0.0.1/z"), None),
            ("http://127.0.0.1:5000/x", Some("http://127.0.0.1:5001/y"), Some("http://127.0.0.1:5001/y")),
            ("http://127.0.0.1:5000/x", Some("http://lan.example:5000/y"), Some("http://lan.example:5000/y")),
            ("http://127.0.0.1:5000/x", Some("http://other.example/y"), None),
            ("http://127.0.0.1:5000/x", Some("https://other.example/y"), Some("https://other.example/y")),
            ("https://r.example/", Some("file:///etc/passwd"), None),
            ("https://r.example/", Some("ftp://r.example/"), None),
            ("https://r.example/", Some("https://"), None),
            ("https://r.example/", None, None),
        ] {
            let hop = next_hop(&options, &Url::parse(from).unwrap(), location, 307);
            assert_eq!(hop.ok().as_ref().map(Url::as_str), expected, "{from} → {location:?}");
        }
    }
}
