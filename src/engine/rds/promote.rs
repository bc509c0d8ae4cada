//! Moving the primary of what Amazon replicates. These calls act on production, and are
//! meant to: they stand apart from all others, with a client and a role of their own.
//!
//! What must never happen: a promotion of a replica whose lag is unknown; data lost
//! without limit, reason and approver. `decide::promotion` says so, and is asked here
//! again right before the call.

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_rds::{
    Client,
    types::{DbCluster, DbInstance, GlobalCluster},
};

use crate::{
    aws::{Access, AwsError, Call},
    clock::Clock,
    decide::promotion::{AcceptedLoss, Lag, loss_refusal, refusal},
    domain::Region,
    engine::managed::Handover,
};

/// Whoever may move primaries.
#[derive(Debug)]
pub struct RdsHandover {
    access: Access,
    clock: Clock,
}

/// A client of one region.
struct There {
    client: Client,
    settings: SdkConfig,
}

impl There {
    fn call(&self, action: impl Into<String>, right: &'static str) -> Call {
        Call::of("rds", &self.settings, action, right)
    }
}

impl RdsHandover {
    /// Connects nowhere yet.
    pub fn new(access: Access, clock: Clock) -> Self {
        Self { access, clock }
    }

    async fn there(&self, region: &Region) -> There {
        let settings = self.access.in_region(region).settings().await;
        There { client: Client::new(&settings), settings }
    }
}

#[async_trait]
impl Handover for RdsHandover {
    async fn promote_replica(
        &self,
        region: &Region,
        replica: &str,
        lag: Option<Lag>,
        lag_seconds_max: u64,
    ) -> Result<(), AwsError> {
        let there = self.there(region).await;
        if there.instance(replica).await?.read_replica_source_db_instance_identifier.is_none() {
            return Ok(());
        }
        let call = there.call(format!("promote replica {replica}"), "rds:PromoteReadReplica");
        allowed(&call, refusal(lag, lag_seconds_max, self.clock.now()))?;
        let request = there.client.promote_read_replica().db_instance_identifier(replica);
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }

    async fn fail_over_cluster(&self, region: &Region, cluster: &str, member: &str) -> Result<(), AwsError> {
        let there = self.there(region).await;
        let call = there.call(format!("fail cluster {cluster} over to {member}"), "rds:FailoverDBCluster");
        let members = there.cluster(cluster).await?.db_cluster_members.unwrap_or_default();
        let target = members.into_iter().find(|one| one.db_instance_identifier.as_deref() == Some(member));
        let Some(target) = target else {
            return Err(call.refused("that is none of its instances", "name a member of the cluster"));
        };
        if target.is_cluster_writer == Some(true) {
            return Ok(());
        }
        let request = there.client.failover_db_cluster().db_cluster_identifier(cluster);
        request.target_db_instance_identifier(member).send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }

    async fn switch_over_global(&self, region: &Region, global: &str, to: &str) -> Result<(), AwsError> {
        let there = self.there(region).await;
        let call = there.call(format!("switch {global} over to {to}"), "rds:SwitchoverGlobalCluster");
        if has_moved(&there.global(global).await?, to, &call)? {
            return Ok(());
        }
        let request = there.client.switchover_global_cluster().global_cluster_identifier(global);
        request.target_db_cluster_identifier(to).send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }

    async fn fail_over_global(
        &self,
        region: &Region,
        global: &str,
        to: &str,
        lag: Option<Lag>,
        loss: &AcceptedLoss,
    ) -> Result<(), AwsError> {
        let there = self.there(region).await;
        let call = there.call(format!("fail {global} over to {to} with a loss of data"), "rds:FailoverGlobalCluster");
        if has_moved(&there.global(global).await?, to, &call)? {
            return Ok(());
        }
        allowed(&call, loss_refusal(loss, lag, self.clock.now()))?;
        let request = there.client.failover_global_cluster().global_cluster_identifier(global);
        let request = request.target_db_cluster_identifier(to).allow_data_loss(true);
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }
}

impl There {
    async fn instance(&self, id: &str) -> Result<DbInstance, AwsError> {
        let call = self.call(format!("tell of instance {id}"), "rds:DescribeDBInstances");
        let answer = self.client.describe_db_instances().db_instance_identifier(id).send().await;
        let all = answer.map_err(|error| call.failed(error))?.db_instances.unwrap_or_default();
        all.into_iter().next().ok_or_else(|| call.unreadable("no instance"))
    }

    async fn cluster(&self, id: &str) -> Result<DbCluster, AwsError> {
        let call = self.call(format!("tell of cluster {id}"), "rds:DescribeDBClusters");
        let answer = self.client.describe_db_clusters().db_cluster_identifier(id).send().await;
        let all = answer.map_err(|error| call.failed(error))?.db_clusters.unwrap_or_default();
        all.into_iter().next().ok_or_else(|| call.unreadable("no cluster"))
    }

    async fn global(&self, id: &str) -> Result<GlobalCluster, AwsError> {
        let call = self.call(format!("tell of global cluster {id}"), "rds:DescribeGlobalClusters");
        let answer = self.client.describe_global_clusters().global_cluster_identifier(id).send().await;
        let all = answer.map_err(|error| call.failed(error))?.global_clusters.unwrap_or_default();
        let mut all = all.into_iter().filter(|one| one.global_cluster_identifier.as_deref() == Some(id));
        all.next().ok_or_else(|| call.unreadable("no such global cluster"))
    }
}

fn allowed(call: &Call, refusal: Option<String>) -> Result<(), AwsError> {
    refusal.map_or(Ok(()), |why| Err(call.refused(why, "nothing was changed")))
}

/// Whether the cluster with this ARN writes already, or is being made to.
fn has_moved(global: &GlobalCluster, to: &str, call: &Call) -> Result<bool, AwsError> {
    let members = global.global_cluster_members.as_deref().unwrap_or_default();
    let Some(target) = members.iter().find(|member| member.db_cluster_arn.as_deref() == Some(to)) else {
        return Err(call.refused("that is none of its clusters", "name a member of the global cluster by its ARN"));
    };
    let moving = global.failover_state.as_ref().and_then(|state| state.to_db_cluster_arn.as_deref());
    Ok(target.is_writer == Some(true) || moving == Some(to))
}
