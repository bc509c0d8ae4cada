//! Instances and Aurora clusters are asked for in the same way, with other words.

/// The words for one of both.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub element: &'static str,
    pub arn: &'static str,
    /// The parameter and element with its name.
    pub id: &'static str,
    pub status: &'static str,
    /// What its ARN has before its name.
    pub resource: &'static str,
    pub bad_state: &'static str,
    pub describe: &'static str,
    pub delete: &'static str,
    /// The parameter with the name of its first database.
    pub dbname: &'static str,
    /// Of a restore to a point in time.
    pub source: &'static str,
    pub target: &'static str,
    pub time: &'static str,
    /// What it is refused with where there are no automated backups.
    pub no_time: &'static str,
    /// Of a restore from a snapshot.
    pub from: &'static str,
    pub snapshot: &'static SnapshotKind,
}

/// The words for a snapshot of one of both.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SnapshotKind {
    pub element: &'static str,
    pub arn: &'static str,
    pub id: &'static str,
    pub resource: &'static str,
    pub bad_state: &'static str,
    pub describe: &'static str,
    pub create: &'static str,
    pub delete: &'static str,
    /// The element that says so.
    pub is_encrypted: &'static str,
    /// Of a copy.
    pub source: &'static str,
    /// The element that tells of the source.
    pub told_source: &'static str,
}

pub(super) const INSTANCE: Kind = Kind {
    element: "DBInstance",
    arn: "DBInstanceArn",
    id: "DBInstanceIdentifier",
    status: "DBInstanceStatus",
    resource: "db",
    bad_state: "InvalidDBInstanceState",
    describe: "DescribeDBInstances",
    delete: "DeleteDBInstance",
    dbname: "DBName",
    source: "SourceDBInstanceIdentifier",
    target: "TargetDBInstanceIdentifier",
    time: "RestoreTime",
    no_time: "PointInTimeRestoreNotEnabled",
    from: "DBSnapshotIdentifier",
    snapshot: &SNAPSHOT,
};

pub(super) const CLUSTER: Kind = Kind {
    element: "DBCluster",
    arn: "DBClusterArn",
    id: "DBClusterIdentifier",
    status: "Status",
    resource: "cluster",
    bad_state: "InvalidDBClusterStateFault",
    describe: "DescribeDBClusters",
    delete: "DeleteDBCluster",
    dbname: "DatabaseName",
    source: "SourceDBClusterIdentifier",
    target: "DBClusterIdentifier",
    time: "RestoreToTime",
    no_time: "InvalidDBClusterStateFault",
    from: "SnapshotIdentifier",
    snapshot: &CLUSTER_SNAPSHOT,
};

pub(super) const SNAPSHOT: SnapshotKind = SnapshotKind {
    element: "DBSnapshot",
    arn: "DBSnapshotArn",
    id: "DBSnapshotIdentifier",
    resource: "snapshot",
    bad_state: "InvalidDBSnapshotState",
    describe: "DescribeDBSnapshots",
    create: "CreateDBSnapshot",
    delete: "DeleteDBSnapshot",
    is_encrypted: "Encrypted",
    source: "SourceDBSnapshotIdentifier",
    told_source: "SourceDBSnapshotIdentifier",
};

pub(super) const CLUSTER_SNAPSHOT: SnapshotKind = SnapshotKind {
    element: "DBClusterSnapshot",
    arn: "DBClusterSnapshotArn",
    id: "DBClusterSnapshotIdentifier",
    resource: "cluster-snapshot",
    bad_state: "InvalidDBClusterSnapshotStateFault",
    describe: "DescribeDBClusterSnapshots",
    create: "CreateDBClusterSnapshot",
    delete: "DeleteDBClusterSnapshot",
    is_encrypted: "StorageEncrypted",
    source: "SourceDBClusterSnapshotIdentifier",
    told_source: "SourceDBClusterSnapshotArn",
};

impl Kind {
    /// Of which kind an ARN is.
    pub(super) fn of(arn: &str) -> &'static Self {
        if part(arn, 5) == CLUSTER.resource { &CLUSTER } else { &INSTANCE }
    }
}

/// A part of an ARN; its last one is the name.
pub(super) fn part(arn: &str, at: usize) -> &str {
    arn.splitn(7, ':').nth(at).unwrap_or_default()
}

/// Its name, in its region and account.
pub(super) fn name(arn: &str) -> &str {
    part(arn, 6)
}

/// Whether an ARN is of a resource of this name in a region; the account is the caller's.
pub(super) fn is_named(arn: &str, region: &str, resource: &str, id: &str) -> bool {
    part(arn, 3) == region && part(arn, 5) == resource && name(arn) == id
}
