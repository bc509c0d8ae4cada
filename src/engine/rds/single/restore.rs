//! Copies of a single instance.
//!
//! A copy has no automated backups at all: it is gone in hours, and its source has its own.

use async_trait::async_trait;
use aws_sdk_rds::types::DbInstance;
use jiff::Timestamp;

use super::{Single, snapshot::replica_of};
use crate::{
    aws::{AwsError, Call, Kind},
    domain::Region,
    engine::{
        managed::{RestoreFrom, RestoredInstance},
        rds::{
            caller::{Caller, Origin, tag_list},
            form::{InstanceCalls, RestoreOrder, Seen},
            own::{Mark, Own},
            settings,
        },
    },
};

/// The least that the API takes: none are kept.
const RETENTION_DAYS: i32 = 0;

#[async_trait]
impl InstanceCalls for Single {
    async fn seen(&self, caller: &Caller, id: Option<&str>) -> Result<Vec<Seen>, AwsError> {
        let call = caller.call("tell of instances", "rds:DescribeDBInstances");
        let told = caller.instances(id).await?;
        // Those of a cluster are told of with it.
        let single = told.into_iter().filter(|instance| instance.db_cluster_identifier.is_none());
        single.map(|instance| seen(instance, caller.region(), &call)).collect()
    }

    async fn restore(&self, caller: &Caller, order: &RestoreOrder<'_>) -> Result<(), AwsError> {
        match &order.order.from {
            RestoreFrom::Snapshot(arn) => of_snapshot(caller, order, arn).await,
            RestoreFrom::Time(at) => to_time(caller, order, Some(*at)).await,
            RestoreFrom::Latest => to_time(caller, order, None).await,
        }
    }

    async fn complete(&self, _: &Caller, _: &Seen, _: &RestoreOrder<'_>, _: &Own) -> Result<(), AwsError> {
        Ok(())
    }

    async fn remove(&self, caller: &Caller, seen: &Seen, own: &Own, _: Mark<'_>) -> Result<(), AwsError> {
        if seen.instance.settings.is_protected_from_deletion {
            let (request, call) = caller.modify_instance(own);
            let request = request.deletion_protection(false).apply_immediately(true);
            request.send().await.map_err(|error| call.failed(error))?;
        }
        let (request, call) = caller.delete_instance(own);
        let request = request.skip_final_snapshot(true).delete_automated_backups(true);
        request.send().await.map_err(|error| call.failed(error))?;
        Ok(())
    }
}

/// What every copy is, whatever it is made of: the two requests have the same settings and
/// no type in common.
macro_rules! isolated {
    ($request:expr, $order:expr) => {
        $request
            .db_instance_class(&$order.order.instance_class)
            .db_subnet_group_name(&$order.order.subnet_group)
            .set_vpc_security_group_ids(Some($order.order.security_groups.clone()))
            .set_db_parameter_group_name($order.order.parameter_group.clone())
            .multi_az(false)
            .publicly_accessible(false)
            .deletion_protection(false)
            .copy_tags_to_snapshot(false)
            .auto_minor_version_upgrade(false)
            .backup_retention_period(RETENTION_DAYS)
            .set_tags(Some(tag_list($order.tags)))
    };
}

async fn of_snapshot(caller: &Caller, order: &RestoreOrder<'_>, arn: &str) -> Result<(), AwsError> {
    let (request, call) = caller.restore_instance(order.name, arn);
    isolated!(request, order).send().await.map_err(|error| call.failed(error))?;
    Ok(())
}

/// To the newest instant that can be restored where none is named.
async fn to_time(caller: &Caller, order: &RestoreOrder<'_>, at: Option<Timestamp>) -> Result<(), AwsError> {
    let origin = origin(caller, order).await?;
    let (request, call) = caller.restore_instance_to_time(order.name, &origin);
    let request = match at {
        Some(at) => request.restore_time(settings::moment(at)),
        None => request.use_latest_restorable_time(true),
    };
    isolated!(request, order).send().await.map_err(|error| call.failed(error))?;
    Ok(())
}

async fn origin(caller: &Caller, order: &RestoreOrder<'_>) -> Result<Origin, AwsError> {
    let source = order.source;
    if source.region == caller.region() {
        return Ok(Origin::Source(source.id.to_owned()));
    }
    let backups = caller.automated_backups(source.id).await?;
    let replica = replica_of(&backups, source.id, source.region);
    let arn = replica.and_then(|replica| replica.db_instance_automated_backups_arn.clone());
    let action = format!("restore automated backups of {} of {}", source.id, source.region);
    let call = caller.call(action, "rds:DescribeDBInstanceAutomatedBackups");
    arn.map(Origin::Replica).ok_or_else(|| call.known(Kind::NotFound, "none are replicated to this region"))
}

pub(super) fn endpoint(instance: &DbInstance) -> Option<(String, u16)> {
    let endpoint = instance.endpoint.as_ref()?;
    Some((endpoint.address.clone()?, u16::try_from(endpoint.port?).ok()?))
}

fn seen(told: DbInstance, region: &Region, call: &Call) -> Result<Seen, AwsError> {
    let incomplete = || call.unreadable("an instance without identifier, ARN or status");
    let status = told.db_instance_status.clone().ok_or_else(incomplete)?;
    let endpoint = endpoint(&told);
    let instance = RestoredInstance {
        id: told.db_instance_identifier.clone().ok_or_else(incomplete)?,
        arn: told.db_instance_arn.clone().ok_or_else(incomplete)?,
        region: region.clone(),
        is_available: settings::takes_logins(&status) && endpoint.is_some(),
        failed: settings::is_lost(&status).then(|| status.clone()),
        status,
        endpoint,
        created_at: told.instance_create_time.and_then(settings::instant),
        settings: settings::of_instance(told),
    };
    Ok(Seen { instance, members: Vec::new() })
}
