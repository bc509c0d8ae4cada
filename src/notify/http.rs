//! What the notifiers over HTTP share: one POST with a time limit, and what its
//! answer means. No redirect is followed, as it would carry a secret elsewhere, and no
//! error names more of an address than its host. The proxies of the environment are
//! used for `https://` alone: what is in clear stays on this machine.

use std::{path::Path, time::Duration};

use reqwest::{
    Certificate, Client, Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
    redirect,
};

use super::{LIMIT, NotifyError};

/// More of an answer is not read.
const ANSWER_MAX: usize = 4096;
/// Whoever asks for more is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A server that is posted to.
#[derive(Debug)]
pub(super) struct Server {
    url: Url,
    client: Client,
}

/// An answer that is no success.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Its first bytes as text.
    pub(super) body: String,
    pub(super) retry_after: Option<Duration>,
}

impl Server {
    /// `ca_file` has whom to trust; the system's list does when absent.
    pub(super) async fn new(url: Url, ca_file: Option<&Path>) -> Result<Self, NotifyError> {
        let builder = Client::builder()
            .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(LIMIT);
        let builder = if url.scheme() == "https" { builder } else { builder.no_proxy() };
        let builder = match ca_file {
            Some(file) => builder.tls_certs_only(authorities(file).await?),
            None => builder,
        };
        let client = builder.build().map_err(|error| NotifyError::Unfit {
            what: format!("TLS cannot be set up: {}", error.without_url()),
            remedy: "see that this machine has a list of authorities (package `ca-certificates`)",
        })?;
        Ok(Self { url, client })
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    /// Posts JSON; answers what it was answered when that is no success.
    pub(super) async fn post(&self, headers: HeaderMap, body: String) -> Result<Option<Refusal>, NotifyError> {
        let request = self.client.post(self.url.clone()).headers(headers);
        let sent = request.header(CONTENT_TYPE, "application/json").body(body).send().await;
        let answer = sent.map_err(|error| self.failed(error))?;
        if answer.status().is_success() {
            return Ok(None);
        }
        Ok(Some(read(answer).await))
    }

    /// Whether anybody answers there at all; asks for nothing of the address but its host.
    pub(super) async fn probe(&self) -> Result<(), NotifyError> {
        let mut root = self.url.clone();
        root.set_path("/");
        root.set_query(None);
        self.client.request(Method::HEAD, root).send().await.map(drop).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: reqwest::Error) -> NotifyError {
        if error.is_timeout() {
            NotifyError::Silent { server: self.name() }
        } else {
            NotifyError::Unreachable { server: self.name(), source: error.without_url().into() }
        }
    }

    /// What a refusal means where the notifier itself knows no better.
    pub(super) fn refused(&self, refusal: &Refusal, said: Option<String>, remedy: &'static str) -> NotifyError {
        let status = refusal.status;
        // A redirect is followed by nobody; what was asked too early or too much passes.
        let passes = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
        NotifyError::Refused {
            server: self.name(),
            answer: match said {
                Some(said) => format!("{} ({said})", status.as_u16()),
                None => status.as_u16().to_string(),
            },
            remedy: if passes { "it is tried again" } else { remedy },
            is_permanent: !passes,
            retry_after: refusal.retry_after,
        }
    }
}

async fn authorities(file: &Path) -> Result<Vec<Certificate>, NotifyError> {
    let unfit = |what: String| NotifyError::Unfit {
        what,
        remedy: "name a PEM file with the authority's certificate in `ca_file`",
    };
    let pem = tokio::fs::read(file).await;
    let pem = pem.map_err(|error| unfit(format!("cannot read {}: {error}", file.display())))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unfit(format!("there is no certificate in {}", file.display()))),
    }
}

async fn read(mut answer: Response) -> Refusal {
    let status = answer.status();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = Vec::new();
    // One that breaks off has told its status.
    while let Ok(Some(more)) = answer.chunk().await {
        body.extend_from_slice(&more);
        if body.len() >= ANSWER_MAX {
            body.truncate(ANSWER_MAX);
            break;
        }
    }
    Refusal {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
        retry_after: retry_after.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)),
    }
}
