//! How a database that a provider runs is set up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How an instance is set up: what a policy asks of the source, and what a restored one is
/// held against.
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceSettings {
    /// `postgres`, `aurora-postgresql` …
    pub engine: String,
    pub engine_version: String,
    pub instance_class: String,
    pub storage_type: String,
    pub allocated_bytes: u64,
    pub iops: Option<u32>,
    /// None where it is not encrypted.
    pub kms_key: Option<String>,
    /// Days of automated backups; 0 where there are none.
    pub backup_retention_days: u32,
    /// As the provider writes it, in UTC: `02:00-03:00`.
    pub backup_window: String,
    pub is_multi_az: bool,
    pub is_protected_from_deletion: bool,
    pub is_publicly_accessible: bool,
    pub has_iam_login: bool,
    pub vpc: Option<String>,
    pub subnet_group: Option<String>,
    pub security_groups: Vec<String>,
    pub parameter_groups: Vec<String>,
    pub option_groups: Vec<String>,
    pub ca_certificate: Option<String>,
    pub tags: BTreeMap<String, String>,
}
