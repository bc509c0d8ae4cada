//! `lifeboat.yaml`: the daemon.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    AwsConfig, EstateObjectivesConfig, SecretRef, SecretStoresConfig, notify::NotifierConfig, vault::VaultConfig,
};
use crate::domain::{DatabaseName, NodeRole, NotifierName, Region, Span, VaultName};

/// `lifeboat.yaml`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DaemonConfig {
    /// Who this node is.
    pub node: NodeConfig,
    /// Where runs, catalog and evidence are kept.
    pub state: StateConfig,
    /// Who can open backups, and who signs.
    pub keys: KeysConfig,
    /// Places that hold backups, by name; schedules refer to them.
    #[schemars(extend("propertyNames" = {"format": "VaultName"}))]
    pub vaults: BTreeMap<VaultName, VaultConfig>,
    /// DNS providers by name; runbooks refer to them.
    #[serde(default)]
    pub dns: BTreeMap<String, DnsConfig>,
    /// The status API and pages; none are served when absent.
    pub api: Option<ApiConfig>,
    /// What is promised of all databases, and of those of a jurisdiction: no schedule may
    /// promise less, and it holds where one promises nothing.
    #[serde(default)]
    pub objectives: EstateObjectivesConfig,
    /// Ways to tell people, by name; schedules and maintenance refer to them.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"format": "NotifierName"}))]
    pub notify: BTreeMap<NotifierName, NotifierConfig>,
    /// How Amazon's services are reached.
    #[serde(default)]
    pub aws: AwsConfig,
    /// Stores that keep secrets, besides those of AWS.
    #[serde(default)]
    pub secret_stores: SecretStoresConfig,
    /// Announced times in which no backup and no restore test begins by schedule, and no
    /// drill. WAL never stops.
    #[serde(default)]
    pub maintenance: Vec<MaintenanceConfig>,
}

/// An announced time in which no backup and no restore test begins by schedule, and no drill.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// What is done, for whoever asks why nothing ran.
    #[schemars(extend("format" = "filled"))]
    pub reason: String,
    /// `Sun 02:00` every week, or `2026-12-26 02:00` once.
    #[schemars(extend("format" = "edge"))]
    pub start: String,
    /// In the same form; the minute itself belongs to it no more.
    #[schemars(extend("format" = "edge"))]
    pub end: String,
    /// IANA zone of both.
    #[serde(default = "super::schedule::utc")]
    #[schemars(extend("format" = "timezone"))]
    pub timezone: String,
    /// Whose runs it holds; all databases' when absent.
    #[serde(default)]
    pub databases: Vec<DatabaseName>,
    /// Who is told of it besides those that the schedules of these databases name: 24
    /// hours and 1 hour before it begins, and when it is changed or called off.
    #[serde(default)]
    pub notify: Vec<NotifierName>,
}

/// Who this node is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Appears in runs and evidence.
    #[schemars(extend("format" = "filled"))]
    pub name: String,
    /// Where it stands. It drives the runs of databases whose residency allows it.
    pub region: Region,
    /// What it does while it serves; everything when absent.
    #[serde(default = "all_roles")]
    pub roles: Vec<NodeRole>,
    /// How many runs it drives at a time; 4 when absent.
    #[serde(default = "runs_max")]
    pub runs_max: NonZeroU32,
    /// Where isolated instances are made; the system's temporary folder when absent.
    pub scratch: Option<PathBuf>,
    /// How long a node that vanished keeps its runs from others, and from
    /// itself when it comes back; `15s` when absent.
    #[serde(default = "lease")]
    pub lease: Span,
}

fn all_roles() -> Vec<NodeRole> {
    NodeRole::ALL.to_vec()
}

fn runs_max() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(3)
}

fn lease() -> Span {
    Span::from_secs(15)
}

/// Where runs, catalog and evidence are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// `sqlite:PATH` or `postgres://…`.
    #[schemars(extend("format" = "state-url"))]
    pub url: String,
    /// How long runs that are over, their journals, closed findings and old notices stay;
    /// `400d` when absent. The newest of each series stays longer, and evidence for ever.
    #[serde(default = "keep")]
    pub keep: Span,
}

pub(super) fn keep() -> Span {
    Span::from_secs(400 * 86_400)
}

/// Who can open backups, and who signs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// age public keys; at least two, or `single_recipient_reason`.
    #[schemars(extend("items" = {"type": "string", "format": "age-recipient"}))]
    pub recipients: Vec<String>,
    /// Why one recipient is enough, for whoever loses that key.
    #[schemars(extend("format" = "filled"))]
    pub single_recipient_reason: Option<String>,
    /// An age identity; only on nodes that restore.
    pub identity: Option<SecretRef>,
    /// A second age identity, kept elsewhere; the first restore test of each
    /// quarter opens the backup with it and with nothing else.
    pub escrow: Option<SecretRef>,
    /// How often the keys of backups and WAL are wrapped for the recipients
    /// configured then, such as `90d`; only when asked for when absent.
    pub rotate: Option<Span>,
    /// The Ed25519 signing key in OpenSSH form; made at first start if absent.
    pub signing: SigningConfig,
}

/// Where the signing key is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigningConfig {
    /// An OpenSSH private key file.
    pub file: PathBuf,
}

/// A DNS provider.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DnsConfig {
    /// An authoritative server inside this process; for labs and demos.
    Embedded(EmbeddedDnsConfig),
}

/// The server inside this process and the zone it answers for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedDnsConfig {
    /// Address and port, UDP and TCP.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: SocketAddr,
    /// Fully qualified, with the final dot.
    #[schemars(extend("format" = "fqdn"))]
    pub zone: String,
    /// Full name to first address.
    #[schemars(extend("propertyNames" = {"format": "fqdn"}))]
    pub records: BTreeMap<String, std::net::IpAddr>,
    /// How long resolvers may keep an answer.
    pub ttl_seconds: u32,
    /// Keeps what drills changed, so that a restart gives the same answers; without it
    /// every start begins with `records`. What is kept ends when `records` is edited.
    pub file: Option<PathBuf>,
}

/// The status API and pages.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// A loopback address and a port.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: SocketAddr,
}
