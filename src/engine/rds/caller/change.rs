//! Calls that make, change or remove something. The identifier of what they act on is an
//! argument here, of a type that the source can not have; the rest is filled in by the
//! caller, which sets no identifier (`tests/it/rds/guard.rs` looks).

use aws_sdk_rds::operation::{
    copy_db_cluster_snapshot::builders::CopyDBClusterSnapshotFluentBuilder,
    copy_db_snapshot::builders::CopyDBSnapshotFluentBuilder,
    create_db_cluster_snapshot::builders::CreateDBClusterSnapshotFluentBuilder,
    create_db_instance::builders::CreateDBInstanceFluentBuilder,
    create_db_snapshot::builders::CreateDBSnapshotFluentBuilder,
    delete_db_cluster::builders::DeleteDBClusterFluentBuilder,
    delete_db_cluster_snapshot::builders::DeleteDBClusterSnapshotFluentBuilder,
    delete_db_instance::builders::DeleteDBInstanceFluentBuilder,
    delete_db_snapshot::builders::DeleteDBSnapshotFluentBuilder,
    modify_db_cluster::builders::ModifyDBClusterFluentBuilder,
    modify_db_cluster_snapshot_attribute::builders::ModifyDBClusterSnapshotAttributeFluentBuilder,
    modify_db_instance::builders::ModifyDBInstanceFluentBuilder,
    modify_db_snapshot_attribute::builders::ModifyDBSnapshotAttributeFluentBuilder,
    restore_db_cluster_from_snapshot::builders::RestoreDBClusterFromSnapshotFluentBuilder,
    restore_db_cluster_to_point_in_time::builders::RestoreDBClusterToPointInTimeFluentBuilder,
    restore_db_instance_from_db_snapshot::builders::RestoreDBInstanceFromDBSnapshotFluentBuilder,
    restore_db_instance_to_point_in_time::builders::RestoreDBInstanceToPointInTimeFluentBuilder,
};

use super::Caller;
use crate::{
    aws::Call,
    engine::rds::own::{Name, Own},
};

/// Where the data of a point in time comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Origin {
    /// The database itself, by its identifier, in its own region.
    Source(String),
    /// Automated backups that are replicated to the region, by their ARN.
    Replica(String),
}

/// A request that waits for its details, and what is told of its call.
type Request<B> = (B, Call);

/// Snapshots.
impl Caller {
    pub(in super::super) fn take_of_instance(
        &self,
        name: &Name,
        source: &str,
    ) -> Request<CreateDBSnapshotFluentBuilder> {
        let request =
            self.client.create_db_snapshot().db_snapshot_identifier(name.as_str()).db_instance_identifier(source);
        (request, self.call(format!("take snapshot {}", name.as_str()), "rds:CreateDBSnapshot"))
    }

    pub(in super::super) fn take_of_cluster(
        &self,
        name: &Name,
        source: &str,
    ) -> Request<CreateDBClusterSnapshotFluentBuilder> {
        let request = self
            .client
            .create_db_cluster_snapshot()
            .db_cluster_snapshot_identifier(name.as_str())
            .db_cluster_identifier(source);
        (request, self.call(format!("take snapshot {}", name.as_str()), "rds:CreateDBClusterSnapshot"))
    }

    /// `from` is the snapshot's ARN.
    pub(in super::super) fn copy_instance_snapshot(
        &self,
        name: &Name,
        from: &str,
    ) -> Request<CopyDBSnapshotFluentBuilder> {
        let request = self
            .client
            .copy_db_snapshot()
            .target_db_snapshot_identifier(name.as_str())
            .source_db_snapshot_identifier(from);
        (request, self.call(format!("copy snapshot {from} to {}", name.as_str()), "rds:CopyDBSnapshot"))
    }

    /// `from` is the snapshot's ARN.
    pub(in super::super) fn copy_cluster_snapshot(
        &self,
        name: &Name,
        from: &str,
    ) -> Request<CopyDBClusterSnapshotFluentBuilder> {
        let request = self
            .client
            .copy_db_cluster_snapshot()
            .target_db_cluster_snapshot_identifier(name.as_str())
            .source_db_cluster_snapshot_identifier(from);
        (request, self.call(format!("copy snapshot {from} to {}", name.as_str()), "rds:CopyDBClusterSnapshot"))
    }

    pub(in super::super) fn share_instance_snapshot(
        &self,
        own: &Own,
    ) -> Request<ModifyDBSnapshotAttributeFluentBuilder> {
        let request = self.client.modify_db_snapshot_attribute().db_snapshot_identifier(own.as_str());
        (request, self.call(format!("share snapshot {}", own.as_str()), "rds:ModifyDBSnapshotAttribute"))
    }

    pub(in super::super) fn share_cluster_snapshot(
        &self,
        own: &Own,
    ) -> Request<ModifyDBClusterSnapshotAttributeFluentBuilder> {
        let request = self.client.modify_db_cluster_snapshot_attribute().db_cluster_snapshot_identifier(own.as_str());
        (request, self.call(format!("share snapshot {}", own.as_str()), "rds:ModifyDBClusterSnapshotAttribute"))
    }

    pub(in super::super) fn delete_instance_snapshot(&self, own: &Own) -> Request<DeleteDBSnapshotFluentBuilder> {
        let request = self.client.delete_db_snapshot().db_snapshot_identifier(own.as_str());
        (request, self.call(format!("delete snapshot {}", own.as_str()), "rds:DeleteDBSnapshot"))
    }

    pub(in super::super) fn delete_cluster_snapshot(&self, own: &Own) -> Request<DeleteDBClusterSnapshotFluentBuilder> {
        let request = self.client.delete_db_cluster_snapshot().db_cluster_snapshot_identifier(own.as_str());
        (request, self.call(format!("delete snapshot {}", own.as_str()), "rds:DeleteDBClusterSnapshot"))
    }
}

/// Instances and clusters.
impl Caller {
    /// `snapshot` is an ARN.
    pub(in super::super) fn restore_instance(
        &self,
        name: &Name,
        snapshot: &str,
    ) -> Request<RestoreDBInstanceFromDBSnapshotFluentBuilder> {
        let request = self
            .client
            .restore_db_instance_from_db_snapshot()
            .db_instance_identifier(name.as_str())
            .db_snapshot_identifier(snapshot);
        let action = format!("restore snapshot {snapshot} into instance {}", name.as_str());
        (request, self.call(action, "rds:RestoreDBInstanceFromDBSnapshot"))
    }

    pub(in super::super) fn restore_instance_to_time(
        &self,
        name: &Name,
        origin: &Origin,
    ) -> Request<RestoreDBInstanceToPointInTimeFluentBuilder> {
        let request = self.client.restore_db_instance_to_point_in_time().target_db_instance_identifier(name.as_str());
        let (request, from) = match origin {
            Origin::Source(id) => (request.source_db_instance_identifier(id), id),
            Origin::Replica(arn) => (request.source_db_instance_automated_backups_arn(arn), arn),
        };
        let action = format!("restore {from} into instance {}", name.as_str());
        (request, self.call(action, "rds:RestoreDBInstanceToPointInTime"))
    }

    /// `snapshot` is a name, or the ARN of one that another account shares.
    pub(in super::super) fn restore_cluster(
        &self,
        name: &Name,
        snapshot: &str,
    ) -> Request<RestoreDBClusterFromSnapshotFluentBuilder> {
        let request = self
            .client
            .restore_db_cluster_from_snapshot()
            .db_cluster_identifier(name.as_str())
            .snapshot_identifier(snapshot);
        let action = format!("restore snapshot {snapshot} into cluster {}", name.as_str());
        (request, self.call(action, "rds:RestoreDBClusterFromSnapshot"))
    }

    pub(in super::super) fn restore_cluster_to_time(
        &self,
        name: &Name,
        source: &str,
    ) -> Request<RestoreDBClusterToPointInTimeFluentBuilder> {
        let request = self
            .client
            .restore_db_cluster_to_point_in_time()
            .db_cluster_identifier(name.as_str())
            .source_db_cluster_identifier(source);
        let action = format!("restore {source} into cluster {}", name.as_str());
        (request, self.call(action, "rds:RestoreDBClusterToPointInTime"))
    }

    /// An instance in a cluster of ours.
    pub(in super::super) fn add_member(&self, name: &Name, cluster: &Own) -> Request<CreateDBInstanceFluentBuilder> {
        let request = self
            .client
            .create_db_instance()
            .db_instance_identifier(name.as_str())
            .db_cluster_identifier(cluster.as_str());
        let action = format!("make instance {} in cluster {}", name.as_str(), cluster.as_str());
        (request, self.call(action, "rds:CreateDBInstance"))
    }

    pub(in super::super) fn modify_instance(&self, own: &Own) -> Request<ModifyDBInstanceFluentBuilder> {
        let request = self.client.modify_db_instance().db_instance_identifier(own.as_str());
        (request, self.call(format!("unprotect instance {}", own.as_str()), "rds:ModifyDBInstance"))
    }

    pub(in super::super) fn modify_cluster(&self, own: &Own) -> Request<ModifyDBClusterFluentBuilder> {
        let request = self.client.modify_db_cluster().db_cluster_identifier(own.as_str());
        (request, self.call(format!("unprotect cluster {}", own.as_str()), "rds:ModifyDBCluster"))
    }

    pub(in super::super) fn delete_instance(&self, own: &Own) -> Request<DeleteDBInstanceFluentBuilder> {
        let request = self.client.delete_db_instance().db_instance_identifier(own.as_str());
        (request, self.call(format!("remove instance {}", own.as_str()), "rds:DeleteDBInstance"))
    }

    pub(in super::super) fn delete_cluster(&self, own: &Own) -> Request<DeleteDBClusterFluentBuilder> {
        let request = self.client.delete_db_cluster().db_cluster_identifier(own.as_str());
        (request, self.call(format!("remove cluster {}", own.as_str()), "rds:DeleteDBCluster"))
    }
}
