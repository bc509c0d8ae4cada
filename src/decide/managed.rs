//! Whether a database that a provider runs is set up as its policy asks, and how a restored
//! copy differs from it.

use std::collections::BTreeMap;

use crate::domain::InstanceSettings;

/// What the schedule asks of the source. What it does not name is not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsPolicy {
    /// Days that automated backups are kept at least.
    pub retention_days_min: Option<u32>,
    /// As the provider writes it, in UTC: `02:00-03:00`.
    pub backup_window: Option<String>,
    pub encryption: Option<EncryptionPolicy>,
    pub asks_multi_az: bool,
    pub asks_deletion_protection: bool,
    pub forbids_public_access: bool,
}

/// How storage is to be encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncryptionPolicy {
    /// With whatever key.
    AnyKey,
    /// With this one, by its ARN or id. An alias is another name that can be moved, and is
    /// never what the provider tells.
    Key(String),
}

/// What of the settings is not as the policy asks, each with the remedy.
pub fn findings(settings: &InstanceSettings, policy: &SettingsPolicy) -> Vec<String> {
    let retention = policy.retention_days_min.and_then(|days| retention(settings.backup_retention_days, days));
    let window = policy.backup_window.as_deref().and_then(|wanted| window(settings, wanted));
    let encryption = policy.encryption.as_ref().and_then(|wanted| encryption(settings, wanted));
    let multi_az = (policy.asks_multi_az && !settings.is_multi_az).then(|| {
        "it stands in one zone, and the policy asks for a standby in another: turn Multi-AZ on, or add a reader in \
         another zone to a cluster"
            .to_owned()
    });
    let protection = (policy.asks_deletion_protection && !settings.is_protected_from_deletion)
        .then(|| "anybody who may delete it can do so in one call: turn its deletion protection on".to_owned());
    let public = (policy.forbids_public_access && settings.is_publicly_accessible)
        .then(|| "it has an address on the internet: turn its public access off".to_owned());
    [retention, window, encryption, multi_az, protection, public].into_iter().flatten().collect()
}

fn retention(days: u32, days_min: u32) -> Option<String> {
    let remedy = format!("raise its backup retention period to {days_min}");
    match days {
        days if days >= days_min => None,
        0 => Some(format!("it has no automated backups, so that no point in time can be restored: {remedy}")),
        days => {
            Some(format!("automated backups are kept for {days} days, and the policy asks for {days_min}: {remedy}"))
        }
    }
}

fn window(settings: &InstanceSettings, wanted: &str) -> Option<String> {
    let found = &settings.backup_window;
    (found != wanted).then(|| {
        format!("its backup window is {found} UTC, and the policy asks for {wanted}: set its preferred backup window")
    })
}

fn encryption(settings: &InstanceSettings, wanted: &EncryptionPolicy) -> Option<String> {
    let remedy = "restore a snapshot that is copied with that key, and move clients there: the key of a database \
                  cannot be changed";
    match (&settings.kms_key, wanted) {
        (None, EncryptionPolicy::AnyKey) => Some(format!("its storage is not encrypted: {remedy}")),
        (None, EncryptionPolicy::Key(key)) => {
            Some(format!("its storage is not encrypted, and the policy asks for key {key}: {remedy}"))
        }
        (Some(_), EncryptionPolicy::AnyKey) => None,
        (Some(found), EncryptionPolicy::Key(key)) if is_key(found, key) => None,
        (Some(found), EncryptionPolicy::Key(key)) => {
            Some(format!("its storage is encrypted with key {found}, and the policy asks for {key}: {remedy}"))
        }
    }
}

/// Whether the key that the provider tells by its ARN is the one that is named.
fn is_key(found: &str, named: &str) -> bool {
    found == named || found.rsplit_once(":key/").is_some_and(|(_, id)| id == named)
}

/// A setting of a restored copy that is another one than the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub setting: &'static str,
    pub source: String,
    pub restored: String,
    /// Copies are made so, or the order of the restore names it.
    pub is_intended: bool,
}

/// How a restored copy is set up otherwise than its source: what is intended, and what
/// whoever restores in earnest would have to set right.
///
/// Names of parameter groups differ where the order names one. Their family cannot: the
/// provider attaches only groups of the engine's own major version, and that is compared.
pub fn differences(source: &InstanceSettings, restored: &InstanceSettings) -> Vec<Difference> {
    let (is_intended, is_not) = (true, false);
    let list = |values: &[String]| {
        let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
        values.sort_unstable();
        values.join(", ")
    };
    let named = |name: &Option<String>| name.clone().unwrap_or_else(|| "none".to_owned());
    let number = |number: Option<u32>| number.map_or_else(|| "none".to_owned(), |number| number.to_string());
    let of = |setting, is_intended, value: &dyn Fn(&InstanceSettings) -> String| {
        let (source, restored) = (value(source), value(restored));
        (source != restored).then_some(Difference { setting, source, restored, is_intended })
    };
    // No order asks for it.
    let is_private = !restored.is_publicly_accessible;
    // With another key the data is as safe; without one it is not.
    let is_rekeyed = source.kms_key.is_some() && restored.kms_key.is_some();
    [
        of("engine", is_not, &|of| of.engine.clone()),
        of("engine version", is_not, &|of| of.engine_version.clone()),
        of("storage type", is_not, &|of| of.storage_type.clone()),
        of("provisioned IOPS", is_not, &|of| number(of.iops)),
        of("allocated bytes", is_not, &|of| of.allocated_bytes.to_string()),
        of("KMS key", is_rekeyed, &|of| named(&of.kms_key)),
        of("IAM login", is_not, &|of| of.has_iam_login.to_string()),
        of("CA certificate", is_not, &|of| named(&of.ca_certificate)),
        of("option groups", is_not, &|of| list(&of.option_groups)),
        of("parameter groups", is_intended, &|of| list(&of.parameter_groups)),
        of("instance class", is_intended, &|of| of.instance_class.clone()),
        of("VPC", is_intended, &|of| named(&of.vpc)),
        of("subnet group", is_intended, &|of| named(&of.subnet_group)),
        of("security groups", is_intended, &|of| list(&of.security_groups)),
        of("public access", is_private, &|of| of.is_publicly_accessible.to_string()),
        of("deletion protection", is_intended, &|of| of.is_protected_from_deletion.to_string()),
        of("Multi-AZ", is_intended, &|of| of.is_multi_az.to_string()),
        of("backup retention days", is_intended, &|of| of.backup_retention_days.to_string()),
        of("backup window", is_intended, &|of| of.backup_window.clone()),
        of("tags", is_intended, &|of| tags(&of.tags)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn tags(tags: &BTreeMap<String, String>) -> String {
    tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
