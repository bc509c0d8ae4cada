//! Copies of a cluster: the volume, and one instance that serves it.
//!
//! A copy keeps automated backups for one day: Aurora has no less. They go with it.

use async_trait::async_trait;
use aws_sdk_rds::types::{DbCluster, DbInstance};
use jiff::Timestamp;

use super::Cluster;
use crate::{
    aws::{AwsError, Kind},
    engine::{
        managed::{InstanceSettings, RestoreFrom, RestoredInstance},
        rds::{
            caller::{Caller, Which, tag_list, tags_of},
            form::{InstanceCalls, Member, RestoreOrder, Seen},
            own::{Mark, Name, Own},
            refused, settings,
        },
    },
};

/// The least that the API takes.
const RETENTION_DAYS: i32 = 1;

#[async_trait]
impl InstanceCalls for Cluster {
    async fn seen(&self, caller: &Caller, id: Option<&str>) -> Result<Vec<Seen>, AwsError> {
        let mut all = Vec::new();
        for cluster in caller.clusters(id).await? {
            all.push(look(caller, cluster).await?);
        }
        Ok(all)
    }

    async fn restore(&self, caller: &Caller, order: &RestoreOrder<'_>) -> Result<(), AwsError> {
        match &order.order.from {
            RestoreFrom::Snapshot(arn) => of_snapshot(caller, order, arn).await,
            RestoreFrom::Time(at) => to_time(caller, order, Some(*at)).await,
            RestoreFrom::Latest => to_time(caller, order, None).await,
        }
    }

    async fn complete(
        &self,
        caller: &Caller,
        seen: &Seen,
        order: &RestoreOrder<'_>,
        own: &Own,
    ) -> Result<(), AwsError> {
        if !seen.members.is_empty() {
            return Ok(());
        }
        let name = Name::of_member(own.as_str(), order.source.id);
        let name = name.map_err(|why| refused(caller, own.as_str(), &why))?;
        let (request, call) = caller.add_member(&name, own);
        let request = request
            .engine(&seen.instance.settings.engine)
            .db_instance_class(&order.order.instance_class)
            .publicly_accessible(false)
            .auto_minor_version_upgrade(false)
            .set_tags(Some(tag_list(order.tags)));
        match request.send().await.map_err(|error| call.failed(error)) {
            Err(error) if error.kind != Kind::Exists => Err(error),
            _ => Ok(()),
        }
    }

    async fn remove(&self, caller: &Caller, seen: &Seen, own: &Own, mark: Mark<'_>) -> Result<(), AwsError> {
        let staying = seen.members.iter().filter(|member| !member.is_going);
        let proven = |member: &Member| {
            Own::proven(&member.id, &member.tags, mark).map_err(|why| refused(caller, &member.id, &why))
        };
        let members = staying.map(proven).collect::<Result<Vec<_>, _>>()?;
        if seen.instance.settings.is_protected_from_deletion {
            let (request, call) = caller.modify_cluster(own);
            let request = request.deletion_protection(false).apply_immediately(true);
            request.send().await.map_err(|error| call.failed(error))?;
        }
        for member in &members {
            let (request, call) = caller.delete_instance(member);
            match request.skip_final_snapshot(true).send().await.map_err(|error| call.failed(error)) {
                Err(error) if error.kind != Kind::NotFound => return Err(error),
                _ => {}
            }
        }
        let (request, call) = caller.delete_cluster(own);
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
            .db_subnet_group_name(&$order.order.subnet_group)
            .set_vpc_security_group_ids(Some($order.order.security_groups.clone()))
            .set_db_cluster_parameter_group_name($order.order.parameter_group.clone())
            .deletion_protection(false)
            .copy_tags_to_snapshot(false)
            .backup_retention_period(RETENTION_DAYS)
            .set_tags(Some(tag_list($order.tags)))
    };
}

async fn of_snapshot(caller: &Caller, order: &RestoreOrder<'_>, arn: &str) -> Result<(), AwsError> {
    // Its own account's is named; another one's, which it shares, is known by its ARN alone.
    let id = arn.rsplit(':').next().unwrap_or(arn);
    let own = caller.cluster_snapshots(Which::Named(id)).await?;
    let own = own.into_iter().find(|own| own.db_cluster_snapshot_arn.as_deref() == Some(arn));
    let (snapshot, name) = match own {
        Some(own) => (Some(own), id),
        None => (caller.cluster_snapshots(Which::Shared(arn)).await?.pop(), arn),
    };
    let call = caller.call(format!("restore snapshot {arn}"), "rds:DescribeDBClusterSnapshots");
    let snapshot = snapshot.ok_or_else(|| call.known(Kind::NotFound, "there is no such snapshot"))?;
    let (request, call) = caller.restore_cluster(order.name, name);
    let engine = snapshot.engine.ok_or_else(|| call.unreadable("a snapshot without engine"))?;
    isolated!(request.engine(engine), order).send().await.map_err(|error| call.failed(error))?;
    Ok(())
}

/// To the newest instant that can be restored where none is named.
async fn to_time(caller: &Caller, order: &RestoreOrder<'_>, at: Option<Timestamp>) -> Result<(), AwsError> {
    let (request, call) = caller.restore_cluster_to_time(order.name, order.source.id);
    if order.source.region != caller.region() {
        let why = format!("Aurora keeps no automated backups of {} here", order.source.id);
        return Err(call.refused(why, "restore a snapshot that was copied to this region"));
    }
    let request = match at {
        Some(at) => request.restore_to_time(settings::moment(at)),
        None => request.use_latest_restorable_time(true),
    };
    isolated!(request, order).send().await.map_err(|error| call.failed(error))?;
    Ok(())
}

/// A cluster with the instances that serve it.
pub(super) async fn look(caller: &Caller, told: DbCluster) -> Result<Seen, AwsError> {
    let call = caller.call("tell of clusters", "rds:DescribeDBClusters");
    let incomplete = || call.unreadable("a cluster without identifier, ARN or status");
    let id = told.db_cluster_identifier.clone().ok_or_else(incomplete)?;
    let status = told.status.clone().ok_or_else(incomplete)?;
    let instances = caller.members(&id).await?;
    let statuses = || instances.iter().filter_map(|instance| instance.db_instance_status.as_deref());
    let endpoint = told.endpoint.clone().zip(told.port.and_then(|port| u16::try_from(port).ok()));
    let is_served = statuses().any(settings::takes_logins);
    let failed = std::iter::once(status.as_str()).chain(statuses()).find(|status| settings::is_lost(status));
    let instance = RestoredInstance {
        arn: told.db_cluster_arn.clone().ok_or_else(incomplete)?,
        region: caller.region().clone(),
        is_available: settings::takes_logins(&status) && is_served && endpoint.is_some(),
        failed: failed.map(str::to_owned),
        id,
        status,
        endpoint,
        created_at: told.cluster_create_time.and_then(settings::instant),
        settings: settings_of(told, &instances),
    };
    Ok(Seen { instance, members: instances.into_iter().filter_map(member).collect() })
}

fn member(told: DbInstance) -> Option<Member> {
    let is_going = told.db_instance_status.as_deref().is_some_and(settings::is_going);
    Some(Member { id: told.db_instance_identifier?, is_going, tags: tags_of(told.tag_list) })
}

/// The settings of a cluster; what only its instances have is that of the one that writes.
fn settings_of(told: DbCluster, instances: &[DbInstance]) -> InstanceSettings {
    let members = told.db_cluster_members.unwrap_or_default();
    let writer = members.iter().find(|member| member.is_cluster_writer == Some(true));
    let writer = writer.and_then(|writer| writer.db_instance_identifier.as_deref());
    let writer = instances.iter().find(|instance| instance.db_instance_identifier.as_deref() == writer);
    let writer = writer.or(instances.first()).cloned().map(settings::of_instance);
    let options = told.db_cluster_option_group_memberships.unwrap_or_default();
    InstanceSettings {
        engine: told.engine.unwrap_or_default(),
        engine_version: told.engine_version.unwrap_or_default(),
        instance_class: writer.as_ref().map(|writer| writer.instance_class.clone()).unwrap_or_default(),
        // The provider names the plain one in no word.
        storage_type: told.storage_type.unwrap_or_else(|| "aurora".to_owned()),
        allocated_bytes: settings::bytes(told.allocated_storage),
        iops: told.iops.and_then(|iops| u32::try_from(iops).ok()),
        kms_key: told.kms_key_id.filter(|_| told.storage_encrypted.unwrap_or_default()),
        backup_retention_days: settings::count(told.backup_retention_period),
        backup_window: told.preferred_backup_window.unwrap_or_default(),
        is_multi_az: told.multi_az.unwrap_or_default(),
        is_protected_from_deletion: told.deletion_protection.unwrap_or_default(),
        is_publicly_accessible: instances.iter().any(|instance| instance.publicly_accessible == Some(true)),
        has_iam_login: told.iam_database_authentication_enabled.unwrap_or_default(),
        vpc: writer.as_ref().and_then(|writer| writer.vpc.clone()),
        subnet_group: told.db_subnet_group,
        security_groups: settings::group_ids(told.vpc_security_groups),
        parameter_groups: told
            .db_cluster_parameter_group
            .into_iter()
            .chain(writer.iter().flat_map(|writer| writer.parameter_groups.clone()))
            .collect(),
        option_groups: options.into_iter().filter_map(|group| group.db_cluster_option_group_name).collect(),
        ca_certificate: writer.and_then(|writer| writer.ca_certificate),
        tags: tags_of(told.tag_list),
    }
}
