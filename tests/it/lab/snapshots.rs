//! Snapshots: taken, copied between regions, removed, and those that are made by
//! themselves.

use std::sync::Arc;

use lifeboat::{clock::Clock, process::Account};

use super::{
    answer::{Answer, get},
    call::Call,
    copies::Copy,
    faults::Stuck,
    kind::{CLUSTER, Kind, SnapshotKind, name},
    proxy::Asked,
    state::{Estate, Phase},
};

pub(super) use super::state::Snapshot;

impl Snapshot {
    /// A manual one; an automated one is made together with its database.
    pub(super) fn is_being_made(&self) -> bool {
        self.phase == Phase::Creating && !self.is_automated && self.source.is_none()
    }
}

pub(super) async fn create(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let id = call.get(kind.id).unwrap_or_default();
    let found = {
        let state = estate.state();
        state.database_named(&call.region, kind.resource, id).map(|(arn, database)| (arn, database.phase))
    };
    match found {
        Some((arn, Phase::Available)) => take(estate, kind, &arn, asked).await,
        Some(_) => Ok(Answer::refusal(400, kind.bad_state, &format!("{id} is not available"))),
        None => estate.forward(asked).await,
    }
}

/// Copies what moto says that a snapshot was made of.
pub(super) async fn take(estate: &Arc<Estate>, kind: &'static Kind, of: &str, asked: &Asked) -> anyhow::Result<Answer> {
    let answer = estate.forward(asked).await?;
    let server = estate.state().databases.get(of).and_then(|database| database.server.clone());
    if let (Some(arn), Some(server)) = (expect(estate, kind.snapshot, &answer, of, None), server) {
        let (folder, all) = (estate.folder.clone(), Arc::clone(estate));
        let copy = async move { Copy::of(&server, &folder).await };
        estate.spawn(format!("taking {arn}"), async move { finish(&all, &arn, copy.await).await });
    }
    Ok(answer)
}

pub(super) async fn copy(
    estate: &Arc<Estate>,
    kind: &'static SnapshotKind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let id = call.get(kind.source).unwrap_or_default();
    let found = {
        let state = estate.state();
        let found = state.snapshot_named(&call.region, kind.resource, id);
        found.map(|(arn, one)| {
            let copy = one.copy.clone().filter(|_| one.phase == Phase::Available);
            (arn, one.of.clone(), one.is_encrypted, copy)
        })
    };
    let Some((source, of, is_encrypted, copy)) = found else { return estate.forward(asked).await };
    let Some(copy) = copy else {
        return Ok(Answer::refusal(400, kind.bad_state, &format!("{id} is not available")));
    };
    if is_encrypted && Estate::region(&source) != call.region && call.get("PreSignedUrl").is_none() {
        return Ok(Answer::refusal(400, "InvalidParameterValue", "PreSignedUrl could not be authenticated."));
    }
    let answer = estate.forward(asked).await?;
    if let Some(arn) = expect(estate, kind, &answer, &of, Some(source)) {
        let (folder, all) = (estate.folder.clone(), Arc::clone(estate));
        let copied = async move { copy.copied(&folder, Account::for_postgres()?).await };
        estate.spawn(format!("copying to {arn}"), async move { finish(&all, &arn, copied.await).await });
    }
    Ok(answer)
}

pub(super) async fn delete(
    estate: &Arc<Estate>,
    kind: &'static SnapshotKind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let id = call.get(kind.id).unwrap_or_default();
    let found = {
        let state = estate.state();
        state.snapshot_named(&call.region, kind.resource, id).map(|(arn, snapshot)| (arn, snapshot.phase))
    };
    let Some((arn, phase)) = found else { return estate.forward(asked).await };
    if phase == Phase::Creating {
        return Ok(Answer::refusal(400, kind.bad_state, &format!("{id} is being created")));
    }
    let answer = estate.forward(asked).await?;
    if answer.is_success() {
        estate.state().snapshots.remove(&arn);
    }
    Ok(answer)
}

/// Takes note of a snapshot that moto made; answers its ARN.
fn expect(estate: &Estate, kind: &SnapshotKind, answer: &Answer, of: &str, source: Option<String>) -> Option<String> {
    let element = answer.element(kind.element).filter(|_| answer.is_success())?;
    let arn = get(&element, kind.arn);
    let snapshot = Snapshot {
        phase: Phase::Creating,
        of: of.to_owned(),
        is_automated: get(&element, "SnapshotType") == "automated",
        is_encrypted: get(&element, kind.is_encrypted) == "true",
        source,
        copy: None,
        made_at: None,
    };
    estate.state().snapshots.insert(arn.clone(), snapshot);
    Some(arn)
}

async fn finish(estate: &Estate, arn: &str, copied: anyhow::Result<Copy>) -> anyhow::Result<()> {
    if copied.is_ok() {
        estate.faults.let_go(Stuck::Creating, name(arn)).await;
    }
    let is_failed = copied.is_err() || estate.faults.is_stuck(Stuck::Failed, name(arn));
    let now = Clock::system().now();
    if let Some(snapshot) = estate.state().snapshots.get_mut(arn) {
        let copy = copied.as_ref().ok();
        snapshot.made_at = copy.map(|copy| if snapshot.source.is_some() { now } else { copy.taken_at });
        snapshot.phase = if is_failed { Phase::Failed } else { Phase::Available };
    }
    let copy = Arc::new(copied?);
    if let Some(snapshot) = estate.state().snapshots.get_mut(arn).filter(|_| !is_failed) {
        snapshot.copy = Some(copy);
    }
    Ok(())
}

/// Takes note of the snapshots that moto made together with a database.
pub(super) async fn expect_automated(
    estate: &Estate,
    kind: &'static Kind,
    of: &str,
    asked: &Asked,
) -> anyhow::Result<()> {
    let parameters = [(kind.id, name(of)), ("SnapshotType", "automated")];
    let answer = estate.forward(&asked.instead(kind.snapshot.describe, &parameters)).await?;
    expect(estate, kind.snapshot, &answer, of, None);
    Ok(())
}

/// A database's first copy is its automated snapshot.
pub(super) fn set_automated(estate: &Estate, of: &str, copy: &Arc<Copy>) {
    let mut state = estate.state();
    if let Some(database) = state.databases.get_mut(of) {
        database.copy = Some(Arc::clone(copy));
    }
    for snapshot in state.snapshots.values_mut().filter(|one| one.of == of && one.is_automated) {
        snapshot.phase = Phase::Available;
        snapshot.made_at = Some(copy.taken_at);
        snapshot.copy = Some(Arc::clone(copy));
    }
}

/// moto removes those of an instance with it, and forgets those of a cluster.
pub(super) async fn remove_automated(
    estate: &Estate,
    kind: &'static Kind,
    of: &str,
    asked: &Asked,
) -> anyhow::Result<()> {
    let gone: Vec<String> = {
        let mut state = estate.state();
        let is_one = |snapshot: &Snapshot| snapshot.is_automated && snapshot.of == of;
        let gone = state.snapshots.iter().filter(|(_, one)| is_one(one)).map(|(arn, _)| arn.clone()).collect();
        state.snapshots.retain(|_, one| !is_one(one));
        gone
    };
    for arn in gone.iter().filter(|_| kind == &CLUSTER) {
        let parameters = [(kind.snapshot.id, name(arn))];
        let answer = estate.forward(&asked.instead(kind.snapshot.delete, &parameters)).await?;
        anyhow::ensure!(answer.is_success(), "moto did not remove {arn}: {}", answer.code());
    }
    Ok(())
}
