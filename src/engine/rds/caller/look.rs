//! Calls that look. Those that answer page by page are asked for all pages.

use aws_sdk_rds::types::{DbCluster, DbClusterSnapshot, DbInstance, DbInstanceAutomatedBackup, DbSnapshot, Filter};

use super::Caller;
use crate::aws::{AwsError, Kind};

/// Which snapshots are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Which<'a> {
    /// All of the instance or cluster with this identifier.
    Of(&'a str),
    /// The one with this name.
    Named(&'a str),
    /// The one with this ARN, which another account may have shared.
    Shared(&'a str),
}

impl Which<'_> {
    fn told(self) -> String {
        match self {
            Self::Of(source) => format!("tell of the snapshots of {source}"),
            Self::Named(id) | Self::Shared(id) => format!("tell of snapshot {id}"),
        }
    }
}

/// Where what was asked for by name is not there, there is none of it.
fn none_if_absent<T>(answer: Result<Vec<T>, AwsError>) -> Result<Vec<T>, AwsError> {
    match answer {
        Err(error) if error.kind == Kind::NotFound => Ok(Vec::new()),
        answer => answer,
    }
}

impl Caller {
    /// The instance with this identifier, none where there is none; all instances where none
    /// is named.
    pub(in super::super) async fn instances(&self, id: Option<&str>) -> Result<Vec<DbInstance>, AwsError> {
        let action = format!("tell of {}", id.map_or("all instances".to_owned(), |id| format!("instance {id}")));
        let call = self.call(action, "rds:DescribeDBInstances");
        let request = self.client.describe_db_instances().set_db_instance_identifier(id.map(str::to_owned));
        let answer = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        none_if_absent(answer.map_err(|error| call.failed(error)))
    }

    /// The instances of a cluster.
    pub(in super::super) async fn members(&self, cluster: &str) -> Result<Vec<DbInstance>, AwsError> {
        let call = self.call(format!("tell of the instances of cluster {cluster}"), "rds:DescribeDBInstances");
        let of_cluster = Filter::builder().name("db-cluster-id").values(cluster).build();
        let request = self.client.describe_db_instances().filters(of_cluster);
        let answer = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        none_if_absent(answer.map_err(|error| call.failed(error)))
    }

    /// Like `instances`.
    pub(in super::super) async fn clusters(&self, id: Option<&str>) -> Result<Vec<DbCluster>, AwsError> {
        let action = format!("tell of {}", id.map_or("all clusters".to_owned(), |id| format!("cluster {id}")));
        let call = self.call(action, "rds:DescribeDBClusters");
        let request = self.client.describe_db_clusters().set_db_cluster_identifier(id.map(str::to_owned));
        let answer = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        none_if_absent(answer.map_err(|error| call.failed(error)))
    }

    /// Automated backups that the region keeps of an instance of this identifier, its own or
    /// another region's.
    pub(in super::super) async fn automated_backups(
        &self,
        id: &str,
    ) -> Result<Vec<DbInstanceAutomatedBackup>, AwsError> {
        let call = self.call(format!("tell of automated backups of {id}"), "rds:DescribeDBInstanceAutomatedBackups");
        let request = self.client.describe_db_instance_automated_backups().db_instance_identifier(id);
        let answer = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        none_if_absent(answer.map_err(|error| call.failed(error)))
    }

    pub(in super::super) async fn instance_snapshots(&self, which: Which<'_>) -> Result<Vec<DbSnapshot>, AwsError> {
        let call = self.call(which.told(), "rds:DescribeDBSnapshots");
        let request = self.client.describe_db_snapshots();
        let request = match which {
            Which::Of(source) => request.db_instance_identifier(source),
            Which::Named(id) => request.db_snapshot_identifier(id),
            Which::Shared(arn) => request.db_snapshot_identifier(arn).include_shared(true),
        };
        let answer = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        none_if_absent(answer.map_err(|error| call.failed(error)))
    }

    pub(in super::super) async fn cluster_snapshots(
        &self,
        which: Which<'_>,
    ) -> Result<Vec<DbClusterSnapshot>, AwsError> {
        let call = self.call(which.told(), "rds:DescribeDBClusterSnapshots");
        let request = self.client.describe_db_cluster_snapshots();
        let request = match which {
            Which::Of(source) => request.db_cluster_identifier(source),
            Which::Named(id) => request.db_cluster_snapshot_identifier(id),
            Which::Shared(arn) => request.db_cluster_snapshot_identifier(arn).include_shared(true),
        };
        let answer = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        none_if_absent(answer.map_err(|error| call.failed(error)))
    }
}
