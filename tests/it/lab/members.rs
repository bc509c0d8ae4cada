//! Instances of Aurora clusters. They have no server of their own: the cluster's one is
//! reached while the cluster has an instance, and only then.

use std::sync::Arc;

use super::{
    answer::{Answer, get},
    call::Call,
    databases::cluster_named,
    faults::Stuck,
    kind::{CLUSTER, INSTANCE, name},
    proxy::Asked,
    state::{Estate, Member, Phase},
};

pub(super) async fn create(estate: &Arc<Estate>, call: &Call, asked: &Asked) -> anyhow::Result<Answer> {
    let answer = estate.forward(asked).await?;
    let cluster = cluster_named(estate, &call.region, call.get(CLUSTER.id).unwrap_or_default());
    let element = answer.element(INSTANCE.element).filter(|_| answer.is_success());
    if let (Some(element), Some(cluster)) = (element, cluster) {
        let arn = get(&element, INSTANCE.arn);
        let member = Member { phase: Phase::Creating, cluster: cluster.clone() };
        estate.state().members.insert(arn.clone(), member);
        estate.spawn(format!("making {arn}"), make(Arc::clone(estate), arn, cluster));
    }
    Ok(answer)
}

async fn make(estate: Arc<Estate>, arn: String, cluster: String) -> anyhow::Result<()> {
    let is_made = |phase| phase != Phase::Creating;
    estate.until(|state| state.databases.get(&cluster).is_none_or(|cluster| is_made(cluster.phase))).await;
    estate.faults.let_go(Stuck::Creating, name(&arn)).await;
    let is_failed = estate.faults.is_stuck(Stuck::Failed, name(&arn));
    let found =
        estate.state().databases.get(&cluster).map(|one| (one.phase, one.server.clone(), Arc::clone(&one.work)));
    let reached = match found {
        Some((Phase::Available, Some(server), work)) if !is_failed => {
            let _alone = work.lock().await;
            server.set_reached(true).await.map(|()| true)
        }
        _ => Ok(false),
    };
    let phase = if matches!(reached, Ok(true)) { Phase::Available } else { Phase::Failed };
    if let Some(member) = estate.state().members.get_mut(&arn).filter(|member| member.phase == Phase::Creating) {
        member.phase = phase;
    }
    reached.map(drop)
}

/// Closes a cluster that has no instance any more, and stays.
pub(super) async fn left(estate: &Estate, cluster: &str) -> anyhow::Result<()> {
    let work = estate.state().databases.get(cluster).map(|one| Arc::clone(&one.work));
    let Some(work) = work else { return Ok(()) };
    let _alone = work.lock().await;
    let server = {
        let state = estate.state();
        let is_empty = state.members_of(cluster).next().is_none();
        let stays = state.databases.get(cluster).filter(|one| is_empty && one.phase == Phase::Available);
        stays.and_then(|one| one.server.clone())
    };
    match server {
        Some(server) => server.set_reached(false).await,
        None => Ok(()),
    }
}
