//! Ways to tell people: each takes a notice and hands it over. Whoever calls keeps
//! the notice until it was handed over, and tries again by the same id.
//!
//! What must never happen: that a secret stands in an error, a log or an address that
//! is shown. Addresses of webhooks are secrets, and so is what an answer repeats of one.

use std::{error::Error, fmt, time::Duration};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::domain::Notice;

pub mod email;
mod http;
pub mod pagerduty;
pub mod slack;
pub mod webhook;

pub use email::Email;
pub use pagerduty::PagerDuty;
pub use slack::Slack;
pub use webhook::Webhook;

/// How long one call may take, with name lookup and TLS.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A way to tell people.
#[async_trait]
pub trait Notify: Send + Sync + fmt::Debug {
    /// Hands the notice over, within [`LIMIT`]. What was handed over before, and not
    /// noted, comes again: it bears the same id.
    async fn send(&self, notice: &Notice) -> Result<(), NotifyError>;

    /// Whether it could be reached, and lets us in where that can be known without
    /// telling anybody anything.
    async fn probe(&self) -> Result<(), NotifyError>;
}

/// Where a secret is found; asked each time, so that a rotated one is found.
#[async_trait]
pub trait SecretSource: Send + Sync + fmt::Debug {
    async fn read(&self) -> Result<SecretString, Unread>;
}

/// Why a secret was not read.
#[derive(Debug)]
pub struct Unread {
    /// Whether it stays so until a person acts.
    pub is_permanent: bool,
    pub source: Box<dyn Error + Send + Sync>,
}

impl From<Unread> for NotifyError {
    fn from(Unread { is_permanent, source }: Unread) -> Self {
        Self::Secret { is_permanent, source }
    }
}

/// Why a notice was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("its secret cannot be had")]
    Secret {
        is_permanent: bool,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// What was configured is of no use.
    #[error("{what}; {remedy}")]
    Unfit { what: String, remedy: &'static str },
    #[error("{server} cannot be reached; check the network, its name, a proxy and its certificate")]
    Unreachable {
        server: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{server} did not answer within {}s; see whether it is overloaded, or a firewall in the way", LIMIT.as_secs())]
    Silent { server: String },
    #[error("{server} answered {answer}; {remedy}")]
    Refused {
        server: String,
        answer: String,
        remedy: &'static str,
        is_permanent: bool,
        /// Not before this has passed, as it says.
        retry_after: Option<Duration>,
    },
}

impl NotifyError {
    /// Whether it stays so until a person acts.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Unfit { .. } => true,
            Self::Unreachable { .. } | Self::Silent { .. } => false,
            Self::Secret { is_permanent, .. } | Self::Refused { is_permanent, .. } => *is_permanent,
        }
    }

    /// How long it asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
