//! What both forms' answers say in the same words: instants, sizes, states, settings.

use aws_sdk_rds::{
    primitives::DateTime,
    types::{DbInstance, VpcSecurityGroupMembership},
};
use jiff::Timestamp;

use super::caller::tags_of;
use crate::{domain::SnapshotState, engine::managed::InstanceSettings};

const GIB: u64 = 1 << 30;

/// None where it lies outside of what we can name.
pub(super) fn instant(at: DateTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

/// The instant as the service takes it: in whole seconds, none of them later.
pub(super) fn moment(at: Timestamp) -> DateTime {
    DateTime::from_secs(at.as_second())
}

/// Sizes are told in GiB.
pub(super) fn bytes(gib: Option<i32>) -> u64 {
    gib.and_then(|gib| u64::try_from(gib).ok()).unwrap_or_default().saturating_mul(GIB)
}

pub(super) fn count(told: Option<i32>) -> u32 {
    told.and_then(|told| u32::try_from(told).ok()).unwrap_or_default()
}

pub(super) fn snapshot_state(status: &str) -> SnapshotState {
    match status {
        "available" => SnapshotState::Available,
        "failed" => SnapshotState::Failed,
        status if status.starts_with("incompatible") => SnapshotState::Failed,
        _ => SnapshotState::Creating,
    }
}

/// How much of a snapshot is there; it is not always told of one that is whole.
pub(super) fn progress(told: Option<i32>, state: SnapshotState) -> u8 {
    let whole = if state == SnapshotState::Available { 100 } else { 0 };
    told.and_then(|told| u8::try_from(told.clamp(0, 100)).ok()).unwrap_or(whole)
}

/// Whether it is being removed, or was.
pub(super) fn is_going(status: &str) -> bool {
    matches!(status, "deleting" | "deleted" | "pre-delete" | "delete-precheck")
}

/// Whether clients can log in to an instance of this status.
pub(super) fn takes_logins(status: &str) -> bool {
    matches!(
        status,
        "available"
            | "backing-up"
            | "storage-optimization"
            | "storage-initialization"
            | "configuring-enhanced-monitoring"
    )
}

/// Whether an instance or cluster of this status becomes available only if a person acts.
pub(super) fn is_lost(status: &str) -> bool {
    status.starts_with("incompatible-")
        || status.starts_with("inaccessible-encryption-credentials")
        || status.ends_with("failed")
        || matches!(status, "restore-error" | "insufficient-capacity" | "storage-full")
}

pub(super) fn group_ids(groups: Option<Vec<VpcSecurityGroupMembership>>) -> Vec<String> {
    groups.unwrap_or_default().into_iter().filter_map(|group| group.vpc_security_group_id).collect()
}

/// The settings of a single instance.
pub(super) fn of_instance(instance: DbInstance) -> InstanceSettings {
    let subnets = instance.db_subnet_group;
    InstanceSettings {
        engine: instance.engine.unwrap_or_default(),
        engine_version: instance.engine_version.unwrap_or_default(),
        instance_class: instance.db_instance_class.unwrap_or_default(),
        storage_type: instance.storage_type.unwrap_or_default(),
        allocated_bytes: bytes(instance.allocated_storage),
        iops: instance.iops.and_then(|iops| u32::try_from(iops).ok()),
        kms_key: instance.kms_key_id.filter(|_| instance.storage_encrypted.unwrap_or_default()),
        backup_retention_days: count(instance.backup_retention_period),
        backup_window: instance.preferred_backup_window.unwrap_or_default(),
        is_multi_az: instance.multi_az.unwrap_or_default(),
        is_protected_from_deletion: instance.deletion_protection.unwrap_or_default(),
        is_publicly_accessible: instance.publicly_accessible.unwrap_or_default(),
        has_iam_login: instance.iam_database_authentication_enabled.unwrap_or_default(),
        vpc: subnets.as_ref().and_then(|subnets| subnets.vpc_id.clone()),
        subnet_group: subnets.and_then(|subnets| subnets.db_subnet_group_name),
        security_groups: group_ids(instance.vpc_security_groups),
        parameter_groups: instance
            .db_parameter_groups
            .unwrap_or_default()
            .into_iter()
            .filter_map(|group| group.db_parameter_group_name)
            .collect(),
        option_groups: instance
            .option_group_memberships
            .unwrap_or_default()
            .into_iter()
            .filter_map(|group| group.option_group_name)
            .collect(),
        ca_certificate: instance.ca_certificate_identifier,
        tags: tags_of(instance.tag_list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_never_made_later() {
        for (text, whole) in
            [("2026-11-29T12:00:00Z", "2026-11-29T12:00:00Z"), ("2026-11-29T12:00:00.999Z", "2026-11-29T12:00:00Z")]
        {
            assert_eq!(instant(moment(text.parse().unwrap())), Some(whole.parse().unwrap()));
        }
        assert_eq!(instant(DateTime::from_secs(i64::MAX)), None);
    }

    #[test]
    fn states_are_told_apart() {
        for (status, state, told, percent) in [
            ("available", SnapshotState::Available, None, 100),
            ("available", SnapshotState::Available, Some(100), 100),
            ("creating", SnapshotState::Creating, Some(37), 37),
            ("copying", SnapshotState::Creating, None, 0),
            ("creating", SnapshotState::Creating, Some(-1), 0),
            ("failed", SnapshotState::Failed, Some(400), 100),
            ("incompatible-restore", SnapshotState::Failed, None, 0),
            ("a word that is new", SnapshotState::Creating, None, 0),
        ] {
            assert_eq!((snapshot_state(status), progress(told, state)), (state, percent), "{status}");
        }
        for (status, logins, lost, going) in [
            ("available", true, false, false),
            ("backing-up", true, false, false),
            ("creating", false, false, false),
            ("modifying", false, false, false),
            ("incompatible-parameters", false, true, false),
            ("inaccessible-encryption-credentials-recoverable", false, true, false),
            ("restore-error", false, true, false),
            ("failed", false, true, false),
            ("cloning-failed", false, true, false),
            ("deleting", false, false, true),
        ] {
            assert_eq!((takes_logins(status), is_lost(status), is_going(status)), (logins, lost, going), "{status}");
        }
    }
}
