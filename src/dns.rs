//! DNS as a drill sees it: a provider that changes one record set by
//! compare-and-set, and an observer that asks everybody who answers.
//!
//! No change is ever a delete followed by a create in separate calls: a name
//! that exists keeps an answer at every instant.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub mod embedded;
pub mod observer;
pub mod query;

pub use embedded::EmbeddedDns;
pub use observer::Observer;

/// The addresses that one name has, with their time to live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSet {
    /// Fully qualified, with the final dot.
    pub name: String,
    pub ttl_seconds: u32,
    /// Sorted; all A or all AAAA.
    pub addresses: Vec<IpAddr>,
}

/// What can go wrong at a DNS provider.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("the zone has no record set `{name}`; create it before the drill")]
    NoSuchRecord { name: String },
    #[error("record set `{name}` changed under us: expected {expected}, found {found}; plan the drill again")]
    Changed { name: String, expected: String, found: String },
    #[error("refused to give `{name}` an empty answer")]
    Empty { name: String },
    #[error("`{name}` is not a valid DNS name; write it fully qualified, such as `wallet.example.`")]
    BadName { name: String },
    #[error("{action} failed at DNS server {server}")]
    Io {
        server: String,
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The run that asked has lost its lease; another node owns the work now.
    #[error("refused to change `{name}`: this node no longer owns the run")]
    Fenced { name: String },
}

impl DnsError {
    /// Whether the same call can only fail again.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// A change that the provider accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The provider's name for it.
    pub id: String,
    pub accepted_at: Timestamp,
}

/// A DNS provider.
#[async_trait]
pub trait Dns: Send + Sync + fmt::Debug {
    /// The record set as the provider has it now.
    async fn read(&self, name: &str) -> Result<RecordSet, DnsError>;

    /// Replaces `old` by `new` in one step, and only if `old` is still what is
    /// there; when `new` is there already it is a success retried.
    async fn swap(&self, old: &RecordSet, new: &RecordSet) -> Result<Change, DnsError>;

    /// Whether the provider says that all its servers have the change.
    async fn is_in_sync(&self, change: &Change) -> Result<bool, DnsError>;

    /// Every address of every authoritative server of the zone of `name`.
    async fn authoritative_servers(&self, name: &str) -> Result<Vec<SocketAddr>, DnsError>;
}
