//! A service of `PagerDuty`, through the Events API v2
//! (<https://developer.pagerduty.com/docs/send-change-event>). What is announced is a
//! *change event*: it stands beside incidents, and wakes nobody. Change events know no
//! key by which they would be told apart: what comes again is there twice, with the
//! same `id` in its details.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{StatusCode, Url, header::HeaderMap};
use secrecy::ExposeSecret as _;

use super::{
    Notify, NotifyError, SecretSource,
    http::{Refusal, Server},
};
use crate::domain::Notice;

/// `PagerDuty` takes no longer summary.
const SUMMARY_MAX: usize = 1024;
/// More of what it says is not shown.
const SAID_MAX: usize = 200;

/// A service of `PagerDuty`.
#[derive(Debug)]
pub struct PagerDuty {
    pub routing_key: Arc<dyn SecretSource>,
    /// Where the Events API is, such as `https://events.pagerduty.com`.
    pub url: String,
    /// Who tells: the node's name.
    pub source: String,
}

#[async_trait]
impl Notify for PagerDuty {
    async fn send(&self, notice: &Notice) -> Result<(), NotifyError> {
        let server = self.server().await?;
        let key = self.routing_key.read().await?;
        let key = key.expose_secret().trim();
        let body = serde_json::json!({
            "routing_key": key,
            "payload": {
                "summary": notice.title.chars().take(SUMMARY_MAX).collect::<String>(),
                "timestamp": notice.at,
                "source": self.source,
                "custom_details": {
                    "id": notice.id,
                    "type": notice.topic,
                    "text": notice.text,
                    "databases": notice.databases,
                },
            },
        });
        let Some(refusal) = server.post(HeaderMap::new(), body.to_string()).await? else { return Ok(()) };
        let remedy = match refusal.status {
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "store the integration key of an Events API v2 integration where `routing_key` refers to"
            }
            _ => "check `url`: accounts in the EU have `https://events.eu.pagerduty.com`",
        };
        Err(server.refused(&refusal, said(&refusal, key), remedy))
    }

    async fn probe(&self) -> Result<(), NotifyError> {
        self.routing_key.read().await?;
        self.server().await?.probe().await
    }
}

impl PagerDuty {
    async fn server(&self) -> Result<Server, NotifyError> {
        let url = Url::parse(&format!("{}/v2/change/enqueue", self.url.trim_end_matches('/')));
        let url = url.map_err(|error| NotifyError::Unfit {
            what: format!("its `url` is no address ({error})"),
            remedy: "write `https://events.pagerduty.com`, or the EU's `https://events.eu.pagerduty.com`",
        })?;
        Server::new(url, None).await
    }
}

/// What it says is wrong, where the key is not repeated in it.
fn said(refusal: &Refusal, key: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(&refusal.body).ok()?;
    let errors = document.get("errors")?.as_array()?.iter().filter_map(serde_json::Value::as_str);
    let text = errors.collect::<Vec<_>>().join(", ").replace(char::is_control, " ");
    let shown: String = text.chars().take(SAID_MAX).collect();
    (!shown.is_empty() && (key.is_empty() || !text.contains(key))).then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_the_key_is_not_shown() {
        let refusal =
            |body: &str| Refusal { status: StatusCode::BAD_REQUEST, body: body.to_owned(), retry_after: None };
        let told = said(&refusal(r#"{"status": "invalid event", "errors": ["'payload' is missing"]}"#), "k3y");
        assert_eq!(told.as_deref(), Some("'payload' is missing"));
        for body in [r#"{"errors": ["no such key: k3y"]}"#, "no JSON", r#"{"errors": []}"#, "{}"] {
            assert_eq!(said(&refusal(body), "k3y"), None, "{body}");
        }
    }
}
