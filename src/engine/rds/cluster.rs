//! Aurora clusters: the calls of `rds:*DBCluster*` and `rds:*DBClusterSnapshot*`, and those
//! of the instances in them.

mod restore;
mod snapshot;

/// The form of a cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster;
