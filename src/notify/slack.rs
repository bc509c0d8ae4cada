//! A channel of Slack, through an incoming webhook
//! (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>).
//! Its address is a secret. Slack knows no id of ours: what comes again is there twice.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use reqwest::{StatusCode, Url, header::HeaderMap};
use secrecy::ExposeSecret as _;

use super::{Notify, NotifyError, SecretSource, http::Server};
use crate::domain::Notice;

/// A channel of Slack.
#[derive(Debug)]
pub struct Slack {
    pub url: Arc<dyn SecretSource>,
}

#[async_trait]
impl Notify for Slack {
    async fn send(&self, notice: &Notice) -> Result<(), NotifyError> {
        let server = self.server().await?;
        let body = serde_json::json!({"text": message(notice)}).to_string();
        let Some(refusal) = server.post(HeaderMap::new(), body).await? else { return Ok(()) };
        let remedy = match refusal.status {
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                "the webhook was taken back, or its channel is gone: make a new one and store its address"
            }
            _ => "see what Slack says of it, and make a new webhook",
        };
        Err(server.refused(&refusal, word(&refusal.body), remedy))
    }

    async fn probe(&self) -> Result<(), NotifyError> {
        self.server().await?.probe().await
    }
}

impl Slack {
    async fn server(&self) -> Result<Server, NotifyError> {
        let text = self.url.read().await?;
        let url = Url::parse(text.expose_secret().trim()).ok().filter(is_protected);
        // What it is instead is not shown: it may be another secret.
        let url = url.ok_or_else(|| NotifyError::Unfit {
            what: "what `url` refers to is no address of a webhook".to_owned(),
            remedy: "store the `https://…` address that Slack shows for it there",
        })?;
        Server::new(url, None).await
    }
}

/// Encrypted, unless it stays on this machine.
fn is_protected(url: &Url) -> bool {
    let is_here = || {
        url.host_str().is_some_and(|host| {
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        })
    };
    url.has_host() && (url.scheme() == "https" || (url.scheme() == "http" && is_here()))
}

/// In the markup of Slack, where three characters mean something.
fn message(notice: &Notice) -> String {
    let plain = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("*{}*\n{}", plain(&notice.title), plain(&notice.text))
}

/// Slack says what is wrong in one word, such as `channel_is_archived`; anything else
/// may repeat the address.
fn word(body: &str) -> Option<String> {
    let word = body.trim();
    let is_word = (1..=40).contains(&word.len()) && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_word.then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_clear_is_for_this_machine_alone() {
        for (text, is_right) in [
            ("https://hooks.slack.com/services/T/B/x", true),
            ("http://127.0.0.1:9/x", true),
            ("http://[::1]:9/x", true),
            ("http://hooks.slack.com/services/T/B/x", false),
            ("http://127.0.0.1.example/x", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(is_protected(&Url::parse(text).unwrap()), is_right, "{text}");
        }
    }

    #[test]
    fn an_answer_that_may_repeat_the_address_is_not_shown() {
        assert_eq!(word("channel_is_archived\n").as_deref(), Some("channel_is_archived"));
        for body in ["", "Cannot POST /services/T0/B0/secret", "<html>"] {
            assert_eq!(word(body), None, "{body}");
        }
    }
}
