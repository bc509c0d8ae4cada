//! Snapshots of a single instance, and what is told of it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_rds::types::{DbInstanceAutomatedBackup, DbSnapshot};
use jiff::Timestamp;

use super::Single;
use crate::{
    aws::{AwsError, Call, Kind},
    domain::{Region, Snapshot, SnapshotOrigin, SnapshotState},
    engine::{
        managed::SourceFacts,
        rds::{
            caller::{Caller, Which, tag_list, tags_of},
            form::{CopyOrder, SeenSnapshot, SnapshotCalls},
            own::{Name, Own},
            presign::{CopyRequest, presigned},
            settings,
        },
    },
};

#[async_trait]
impl SnapshotCalls for Single {
    async fn source(&self, caller: &Caller, id: &str) -> Result<SourceFacts, AwsError> {
        let call = caller.call(format!("tell of instance {id}"), "rds:DescribeDBInstances");
        let absent = || call.known(Kind::NotFound, "there is no instance with this identifier");
        let instance = caller.instances(Some(id)).await?.pop().ok_or_else(absent)?;
        let incomplete = || call.unreadable("an instance without id, ARN or status");
        let resource_id = instance.dbi_resource_id.clone().ok_or_else(incomplete)?;
        let arn = instance.db_instance_arn.clone().ok_or_else(incomplete)?;
        let latest = instance.latest_restorable_time.and_then(settings::instant);
        // One that had the same name before may have left backups, too.
        let is_own = |backup: &DbInstanceAutomatedBackup| match &backup.dbi_resource_id {
            Some(id) => *id == resource_id,
            None => backup.db_instance_arn.as_ref() == Some(&arn),
        };
        let own = caller.automated_backups(id).await?.into_iter().find(is_own);
        let window = own.and_then(|own| own.restore_window);
        Ok(SourceFacts {
            resource_id,
            arn,
            status: instance.db_instance_status.clone().ok_or_else(incomplete)?,
            endpoint: super::restore::endpoint(&instance),
            settings: settings::of_instance(instance),
            latest_restorable: latest.into_iter().map(|latest| (caller.region().clone(), latest)).collect(),
            unread: BTreeMap::new(),
            earliest_restorable: window.and_then(|window| window.earliest_time).and_then(settings::instant),
        })
    }

    async fn replicated_until(
        &self,
        caller: &Caller,
        source: &SourceFacts,
        id: &str,
    ) -> Result<Option<Timestamp>, AwsError> {
        let backups = caller.automated_backups(id).await?;
        let replica = backups.into_iter().find(|backup| backup.dbi_resource_id.as_ref() == Some(&source.resource_id));
        let window = replica.and_then(|replica| replica.restore_window);
        Ok(window.and_then(|window| window.latest_time).and_then(settings::instant))
    }

    async fn all(&self, caller: &Caller, source: &str) -> Result<Vec<SeenSnapshot>, AwsError> {
        let call = caller.call(format!("tell of the snapshots of {source}"), "rds:DescribeDBSnapshots");
        let told = caller.instance_snapshots(Which::Of(source)).await?;
        told.into_iter().map(|snapshot| seen(snapshot, caller.region(), &call)).collect()
    }

    async fn one(&self, caller: &Caller, id: &str) -> Result<Option<SeenSnapshot>, AwsError> {
        let call = caller.call(format!("tell of snapshot {id}"), "rds:DescribeDBSnapshots");
        let told = caller.instance_snapshots(Which::Named(id)).await?.pop();
        told.map(|snapshot| seen(snapshot, caller.region(), &call)).transpose()
    }

    async fn take(
        &self,
        caller: &Caller,
        name: &Name,
        source: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<SeenSnapshot, AwsError> {
        let (request, call) = caller.take_of_instance(name, source);
        let answer = request.set_tags(Some(tag_list(tags))).send().await.map_err(|error| call.failed(error))?;
        seen(answer.db_snapshot.ok_or_else(|| call.unreadable("no snapshot"))?, caller.region(), &call)
    }

    async fn copy(&self, caller: &Caller, order: &CopyOrder<'_>) -> Result<SeenSnapshot, AwsError> {
        let (request, call) = caller.copy_instance_snapshot(order.name, &order.from.arn);
        let presigned = match order.reader.zip(order.kms_key) {
            Some((reader, kms_key)) => {
                let request = CopyRequest {
                    action: "CopyDBSnapshot",
                    from_parameter: "SourceDBSnapshotIdentifier",
                    to_parameter: "TargetDBSnapshotIdentifier",
                    from: order.from,
                    to: order.name.as_str(),
                    region: caller.region(),
                    kms_key,
                };
                Some(presigned(reader, &request).await?)
            }
            None => None,
        };
        let request = request
            .set_kms_key_id(order.kms_key.map(str::to_owned))
            .set_pre_signed_url(presigned)
            .copy_tags(false)
            .set_tags(Some(tag_list(order.tags)));
        let answer = request.send().await.map_err(|error| call.failed(error))?;
        seen(answer.db_snapshot.ok_or_else(|| call.unreadable("no snapshot"))?, caller.region(), &call)
    }

    async fn share(&self, caller: &Caller, own: &Own, accounts: &[String]) -> Result<(), AwsError> {
        let (request, call) = caller.share_instance_snapshot(own);
        let request = request.attribute_name("restore").set_values_to_add(Some(accounts.to_vec()));
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }

    async fn delete(&self, caller: &Caller, own: &Own) -> Result<(), AwsError> {
        let (request, call) = caller.delete_instance_snapshot(own);
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }
}

/// The automated backups that a region keeps of the instance `id` of `source`; those that one
/// of this name has left, which is gone, are another's.
pub(super) fn replica_of<'a>(
    backups: &'a [DbInstanceAutomatedBackup],
    id: &str,
    source: &Region,
) -> Option<&'a DbInstanceAutomatedBackup> {
    // arn:PARTITION:rds:REGION:ACCOUNT:db:ID
    let is_of = |arn: &str| {
        let mut parts = arn.split(':').skip(3);
        parts.next() == Some(source.as_str()) && parts.nth(2) == Some(id)
    };
    let mut living = backups.iter().filter(|backup| backup.status.as_deref() != Some("retained"));
    living.find(|backup| backup.db_instance_arn.as_deref().is_some_and(is_of))
}

fn seen(told: DbSnapshot, region: &Region, call: &Call) -> Result<SeenSnapshot, AwsError> {
    let incomplete = || call.unreadable("a snapshot without name, ARN or status");
    let status = told.status.ok_or_else(incomplete)?;
    let state = settings::snapshot_state(&status);
    // A copy bears the instant at which it was copied; what it holds is older.
    let taken_at = told.snapshot_database_time.or(told.original_snapshot_create_time).or(told.snapshot_create_time);
    let is_automated = told.snapshot_type.as_deref() == Some("automated");
    let snapshot = Snapshot {
        id: told.db_snapshot_identifier.ok_or_else(incomplete)?,
        arn: told.db_snapshot_arn.ok_or_else(incomplete)?,
        region: region.clone(),
        origin: if is_automated { SnapshotOrigin::Automated } else { SnapshotOrigin::Adopted },
        state,
        progress_percent: settings::progress(told.percent_progress, state),
        taken_at: taken_at.and_then(settings::instant).filter(|_| state != SnapshotState::Creating),
        size_bytes: settings::bytes(told.allocated_storage),
        kms_key: told.kms_key_id.filter(|_| told.encrypted.unwrap_or_default()),
        server_version: told.engine_version.unwrap_or_default(),
        copy_of: told.source_db_snapshot_identifier.filter(|source| !source.is_empty()),
    };
    let source = told.db_instance_identifier.unwrap_or_default();
    Ok(SeenSnapshot { snapshot, source, tags: tags_of(told.tag_list), is_going: settings::is_going(&status) })
}
