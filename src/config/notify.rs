//! The notifiers of `lifeboat.yaml`. All that differs by kind of what is written
//! stands here; a new kind is a variant here, a file in `notify`, and the line in
//! `app/notifiers.rs` that opens it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::SecretRef;

/// A way to tell people.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NotifierConfig {
    /// JSON to an address of yours, signed as Standard Webhooks says.
    Webhook(WebhookConfig),
    /// A channel of Slack, or of what takes its incoming webhooks.
    Slack(SlackConfig),
    /// A service of `PagerDuty`. Announcements are change events there: they wake nobody.
    Pagerduty(PagerDutyConfig),
    /// Mail through an SMTP server.
    Email(Box<EmailConfig>),
}

impl NotifierConfig {
    /// As it is written.
    pub fn kind(&self) -> &'static str {
        self.kind_and_secret().0
    }

    /// Its secret; none where it has none.
    pub fn secret(&self) -> Option<&SecretRef> {
        self.kind_and_secret().1
    }

    fn kind_and_secret(&self) -> (&'static str, Option<&SecretRef>) {
        match self {
            Self::Webhook(webhook) => ("webhook", Some(&webhook.secret)),
            Self::Slack(slack) => ("slack", Some(&slack.url)),
            Self::Pagerduty(pagerduty) => ("pagerduty", Some(&pagerduty.routing_key)),
            Self::Email(email) => ("email", email.password.as_ref()),
        }
    }

    /// Makes the paths in it absolute; they start from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        let (secret, file) = match self {
            Self::Webhook(webhook) => (Some(&mut webhook.secret), webhook.ca_file.as_mut()),
            Self::Slack(slack) => (Some(&mut slack.url), None),
            Self::Pagerduty(pagerduty) => (Some(&mut pagerduty.routing_key), None),
            Self::Email(email) => (email.password.as_mut(), email.ca_file.as_mut()),
        };
        if let Some(secret) = secret {
            secret.anchor(folder);
        }
        if let Some(file) = file {
            *file = folder.join(&*file);
        }
    }
}

/// JSON to an address of yours.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where it is posted to: `https://…`, or `http://` to this machine alone. What is
    /// secret does not belong in it.
    #[schemars(extend("format" = "hook"))]
    pub url: String,
    /// The key of the signature: `whsec_` and base64 of 24 to 64 bytes.
    pub secret: SecretRef,
    /// PEM file of the authority that signed the server's certificate; the system's when absent.
    pub ca_file: Option<PathBuf>,
}

/// A channel of Slack.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    /// Where the address of the incoming webhook is found; whoever knows it may write there.
    pub url: SecretRef,
}

/// A service of `PagerDuty`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PagerDutyConfig {
    /// Where the integration key of an Events API v2 integration is found.
    pub routing_key: SecretRef,
    /// Where the Events API is; `https://events.pagerduty.com` when absent, and
    /// `https://events.eu.pagerduty.com` for accounts in the EU.
    #[serde(default = "events")]
    #[schemars(extend("format" = "hook"))]
    pub url: String,
}

fn events() -> String {
    "https://events.pagerduty.com".to_owned()
}

/// Mail through an SMTP server.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// Its name, as in its certificate.
    #[schemars(extend("format" = "filled"))]
    pub host: String,
    /// Its port; 587 with `starttls`, 465 with `implicit` and 25 with `none` when absent.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: MailTls,
    /// Why mail may leave this machine in clear, where it is `tls: none` to another one.
    #[schemars(extend("format" = "filled"))]
    pub unencrypted_reason: Option<String>,
    /// PEM file of the authority that signed the server's certificate; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// Who logs in; nobody does when absent.
    #[schemars(extend("format" = "filled"))]
    pub user: Option<String>,
    /// Where the password is found; with `user`.
    pub password: Option<SecretRef>,
    /// The sender.
    #[schemars(extend("format" = "mailbox"))]
    pub from: String,
    /// Who gets it; at least one.
    #[schemars(extend("items" = {"type": "string", "format": "mailbox"}))]
    pub to: Vec<String>,
}

/// How the connection to a mail server is protected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// It begins in clear, and nothing is said before the server has turned to TLS.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// In clear: to this machine, or with `unencrypted_reason`.
    None,
}
