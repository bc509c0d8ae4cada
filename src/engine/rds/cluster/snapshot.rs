//! Snapshots of a cluster, and what is told of it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_rds::types::DbClusterSnapshot;
use jiff::Timestamp;

use super::{Cluster, restore::look};
use crate::{
    aws::{AwsError, Call, Kind},
    domain::{Region, Snapshot, SnapshotOrigin, SnapshotState},
    engine::{
        managed::{SourceFacts, tag},
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
impl SnapshotCalls for Cluster {
    async fn source(&self, caller: &Caller, id: &str) -> Result<SourceFacts, AwsError> {
        let call = caller.call(format!("tell of cluster {id}"), "rds:DescribeDBClusters");
        let absent = || call.known(Kind::NotFound, "there is no cluster with this identifier");
        let cluster = caller.clusters(Some(id)).await?.pop().ok_or_else(absent)?;
        let resource_id = cluster.db_cluster_resource_id.clone();
        let resource_id = resource_id.ok_or_else(|| call.unreadable("a cluster without resource id"))?;
        let latest = cluster.latest_restorable_time.and_then(settings::instant);
        let earliest = cluster.earliest_restorable_time.and_then(settings::instant);
        let seen = look(caller, cluster).await?.instance;
        Ok(SourceFacts {
            resource_id,
            arn: seen.arn,
            status: seen.status,
            settings: seen.settings,
            endpoint: seen.endpoint,
            latest_restorable: latest.into_iter().map(|latest| (caller.region().clone(), latest)).collect(),
            unread: BTreeMap::new(),
            earliest_restorable: earliest,
        })
    }

    /// Aurora replicates no automated backups.
    async fn replicated_until(&self, _: &Caller, _: &SourceFacts, _: &str) -> Result<Option<Timestamp>, AwsError> {
        Ok(None)
    }

    async fn all(&self, caller: &Caller, source: &str) -> Result<Vec<SeenSnapshot>, AwsError> {
        let call = caller.call(format!("tell of the snapshots of {source}"), "rds:DescribeDBClusterSnapshots");
        let told = caller.cluster_snapshots(Which::Of(source)).await?;
        told.into_iter().map(|snapshot| seen(snapshot, caller.region(), &call)).collect()
    }

    async fn one(&self, caller: &Caller, id: &str) -> Result<Option<SeenSnapshot>, AwsError> {
        let call = caller.call(format!("tell of snapshot {id}"), "rds:DescribeDBClusterSnapshots");
        let told = caller.cluster_snapshots(Which::Named(id)).await?.pop();
        told.map(|snapshot| seen(snapshot, caller.region(), &call)).transpose()
    }

    async fn take(
        &self,
        caller: &Caller,
        name: &Name,
        source: &str,
        tags: &BTreeMap<String, String>,
    ) -> Result<SeenSnapshot, AwsError> {
        let (request, call) = caller.take_of_cluster(name, source);
        let answer = request.set_tags(Some(tag_list(tags))).send().await.map_err(|error| call.failed(error))?;
        seen(answer.db_cluster_snapshot.ok_or_else(|| call.unreadable("no snapshot"))?, caller.region(), &call)
    }

    async fn copy(&self, caller: &Caller, order: &CopyOrder<'_>) -> Result<SeenSnapshot, AwsError> {
        let (request, call) = caller.copy_cluster_snapshot(order.name, &order.from.arn);
        let presigned = match order.reader.zip(order.kms_key) {
            Some((reader, kms_key)) => {
                let request = CopyRequest {
                    action: "CopyDBClusterSnapshot",
                    from_parameter: "SourceDBClusterSnapshotIdentifier",
                    to_parameter: "TargetDBClusterSnapshotIdentifier",
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
        seen(answer.db_cluster_snapshot.ok_or_else(|| call.unreadable("no snapshot"))?, caller.region(), &call)
    }

    async fn share(&self, caller: &Caller, own: &Own, accounts: &[String]) -> Result<(), AwsError> {
        let (request, call) = caller.share_cluster_snapshot(own);
        let request = request.attribute_name("restore").set_values_to_add(Some(accounts.to_vec()));
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }

    async fn delete(&self, caller: &Caller, own: &Own) -> Result<(), AwsError> {
        let (request, call) = caller.delete_cluster_snapshot(own);
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }
}

fn seen(told: DbClusterSnapshot, region: &Region, call: &Call) -> Result<SeenSnapshot, AwsError> {
    let incomplete = || call.unreadable("a snapshot without name, ARN or status");
    let status = told.status.ok_or_else(incomplete)?;
    let state = settings::snapshot_state(&status);
    let tags = tags_of(told.tag_list);
    let copy_of = told.source_db_cluster_snapshot_arn.filter(|source| !source.is_empty());
    // A copy bears the instant at which it was copied, and the provider tells no other one.
    let noted = tags.get(tag::TAKEN).and_then(|text| text.parse().ok());
    let created = told.snapshot_create_time.and_then(settings::instant).filter(|_| copy_of.is_none());
    let is_automated = told.snapshot_type.as_deref() == Some("automated");
    let snapshot = Snapshot {
        id: told.db_cluster_snapshot_identifier.ok_or_else(incomplete)?,
        arn: told.db_cluster_snapshot_arn.ok_or_else(incomplete)?,
        region: region.clone(),
        origin: if is_automated { SnapshotOrigin::Automated } else { SnapshotOrigin::Adopted },
        state,
        progress_percent: settings::progress(told.percent_progress, state),
        taken_at: noted.or(created).filter(|_| state != SnapshotState::Creating),
        size_bytes: settings::bytes(told.allocated_storage),
        kms_key: told.kms_key_id.filter(|_| told.storage_encrypted.unwrap_or_default()),
        server_version: told.engine_version.unwrap_or_default(),
        copy_of,
    };
    let source = told.db_cluster_identifier.unwrap_or_default();
    Ok(SeenSnapshot { snapshot, source, tags, is_going: settings::is_going(&status) })
}
