//! Instances and Aurora clusters: made, restored and removed behind the calls. One whose
//! password Amazon would make has no server behind it, and stays moto's.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::{
    answer::{Answer, get},
    call::Call,
    copies::Copy,
    faults::Stuck,
    kind::{CLUSTER, INSTANCE, Kind, name},
    members,
    proxy::Asked,
    server::{Master, Server},
    snapshots,
    state::{Database, Estate, Phase, State},
};

/// How often what was committed is made restorable.
const ARCHIVED_EVERY: Duration = Duration::from_secs(1);

/// What a new server is made of.
enum Origin {
    Nothing(Master),
    /// A copy, the server whose WAL follows it where it goes beyond the copy's own, and
    /// up to which instant.
    Copy(Arc<Copy>, Option<Arc<Server>>, Timestamp),
}

impl Origin {
    async fn made(self, lab: &Path, is_reached: bool) -> anyhow::Result<Server> {
        match self {
            Self::Nothing(master) => Server::create(lab, &master, is_reached).await,
            Self::Copy(copy, follows, to) => {
                let wal = follows.as_ref().map_or_else(|| copy.wal(), |server| server.wal());
                Server::restore(lab, &copy, &wal, to, is_reached).await
            }
        }
    }
}

pub(super) async fn create(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let answer = estate.forward(asked).await?;
    let given = |parameter: &str| call.get(parameter).map(str::to_owned);
    if let (Some(name), Some(password)) = (given("MasterUsername"), given("MasterUserPassword")) {
        let master = Master { name, password, dbname: given(kind.dbname) };
        begin(estate, kind, &answer, asked, Origin::Nothing(master)).await?;
    }
    Ok(answer)
}

pub(super) async fn restore_snapshot(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let id = call.get(kind.from).unwrap_or_default();
    let found = {
        let state = estate.state();
        let found = state.snapshot_named(&call.region, kind.snapshot.resource, id);
        found.map(|(_, snapshot)| snapshot.copy.clone().filter(|_| snapshot.phase == Phase::Available))
    };
    let copy = match found {
        // Whatever is the matter, moto says it.
        None => return estate.forward(asked).await,
        Some(None) => return Ok(Answer::refusal(400, kind.snapshot.bad_state, &format!("{id} is not available"))),
        Some(Some(copy)) => copy,
    };
    let answer = estate.forward(asked).await?;
    let to = copy.taken_at;
    begin(estate, kind, &answer, asked, Origin::Copy(copy, None, to)).await?;
    Ok(answer)
}

pub(super) async fn restore_time(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let id = call.get(kind.source).unwrap_or_default();
    let found = {
        let state = estate.state();
        let found = state.database_named(&call.region, kind.resource, id);
        found.map(|(_, database)| (database.phase, database.server.clone(), database.copy.clone()))
    };
    let Some((phase, server, copy)) = found else { return estate.forward(asked).await };
    let refused = |code: &str, what: String| Ok(Answer::refusal(400, code, &what));
    if phase != Phase::Available {
        return refused(kind.bad_state, format!("{id} is not available"));
    }
    let window = server.as_deref().and_then(Server::window);
    let (Some(server), Some(copy), Some((earliest, latest))) = (server, copy, window) else {
        return refused(kind.no_time, format!("{id} has no automated backup"));
    };
    let to = match (call.get(kind.time), call.says("UseLatestRestorableTime")) {
        (None, true) => latest,
        (Some(time), false) => time.parse::<Timestamp>()?,
        _ => return refused("InvalidParameterCombination", "either a time or the latest is needed".to_owned()),
    };
    if to < earliest || to > latest {
        return refused("InvalidParameterValue", format!("{to} is not between {earliest} and {latest}"));
    }
    let answer = estate.forward(asked).await?;
    begin(estate, kind, &answer, asked, Origin::Copy(copy, Some(server), to)).await?;
    Ok(answer)
}

pub(super) async fn modify(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let answer = estate.forward(asked).await?;
    let element = answer.element(kind.element).filter(|_| answer.is_success());
    let (Some(element), Some(password)) = (element, call.get("MasterUserPassword")) else { return Ok(answer) };
    let arn = get(&element, kind.arn);
    let server = estate.state().databases.get(&arn).and_then(|database| database.server.clone());
    if let Some(server) = server {
        server.set_password(&get(&element, "MasterUsername"), password).await?;
    }
    Ok(answer)
}

/// Makes what moto says it made.
async fn begin(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    answer: &Answer,
    asked: &Asked,
    origin: Origin,
) -> anyhow::Result<()> {
    let element = answer.element(kind.element).filter(|_| answer.is_success());
    let Some(element) = element.filter(|element| get(element, "Engine").contains("postgres")) else { return Ok(()) };
    let arn = get(&element, kind.arn);
    let is_backed_up = get(&element, "BackupRetentionPeriod") != "0";
    if is_backed_up {
        snapshots::expect_automated(estate, kind, &arn, asked).await?;
    }
    let work = Arc::<Mutex<()>>::default();
    let database = Database { phase: Phase::Creating, server: None, copy: None, work: Arc::clone(&work) };
    estate.state().databases.insert(arn.clone(), database);
    let what = format!("making {arn}");
    estate.spawn(what, make(Arc::clone(estate), arn, origin, work, is_backed_up));
    Ok(())
}

fn phase(state: &State, arn: &str) -> Option<Phase> {
    let member = || state.members.get(arn).map(|member| member.phase);
    state.databases.get(arn).map(|database| database.phase).or_else(member)
}

async fn make(
    estate: Arc<Estate>,
    arn: String,
    origin: Origin,
    work: Arc<Mutex<()>>,
    is_backed_up: bool,
) -> anyhow::Result<()> {
    let id = name(&arn);
    let alone = work.lock().await;
    if phase(&estate.state(), &arn) != Some(Phase::Creating) {
        return Ok(());
    }
    let made = origin.made(&estate.folder, Kind::of(&arn) == &INSTANCE).await.map(Arc::new);
    let server = made.inspect_err(|_| advance(&estate, &arn, Phase::Failed))?;
    if let Some(database) = estate.state().databases.get_mut(&arn) {
        database.server = Some(Arc::clone(&server));
    }
    drop(alone);
    estate.faults.let_go(Stuck::Creating, id).await;
    let is_failed = estate.faults.is_stuck(Stuck::Failed, id);
    advance(&estate, &arn, if is_failed { Phase::Failed } else { Phase::Available });
    if is_failed || !is_backed_up {
        return Ok(());
    }
    let alone = work.lock().await;
    if phase(&estate.state(), &arn) != Some(Phase::Available) {
        return Ok(());
    }
    let copy = Arc::new(Copy::of(&server, &estate.folder).await?);
    server.set_earliest(copy.taken_at);
    snapshots::set_automated(&estate, &arn, &copy);
    drop(alone);
    keep_restorable(&estate, &arn, &server).await
}

/// Nothing but what is being made changes; what is removed meanwhile stays so.
fn advance(estate: &Estate, arn: &str, to: Phase) {
    if let Some(database) = estate.state().databases.get_mut(arn).filter(|one| one.phase == Phase::Creating) {
        database.phase = to;
    }
}

/// Goes on making restorable what is committed, until it is removed.
async fn keep_restorable(estate: &Estate, arn: &str, server: &Server) -> anyhow::Result<()> {
    let is_there = || phase(&estate.state(), arn) == Some(Phase::Available);
    while is_there() {
        tokio::time::sleep(ARCHIVED_EVERY).await;
        if estate.faults.is_stuck(Stuck::Archiving, name(arn)) {
            continue;
        }
        if let Err(error) = server.flush().await
            && is_there()
        {
            return Err(error);
        }
    }
    Ok(())
}

/// moto removes at once what takes its time, so it is told only when it is gone.
pub(super) async fn delete(
    estate: &Arc<Estate>,
    kind: &'static Kind,
    call: &Call,
    asked: &Asked,
) -> anyhow::Result<Answer> {
    let id = call.get(kind.id).unwrap_or_default();
    let shown = estate.forward(&asked.instead(kind.describe, &[(kind.id, id)])).await?;
    let element = shown.element(kind.element).filter(|_| shown.is_success());
    let Some(element) = element else { return estate.forward(asked).await };
    let arn = get(&element, kind.arn);
    let Some(phase) = phase(&estate.state(), &arn) else { return estate.forward(asked).await };
    if phase == Phase::Deleting {
        return Ok(Answer::refusal(400, kind.bad_state, &format!("{id} is already being deleted")));
    }
    let stays = |state: &State| state.members_of(&arn).any(|member| member.phase != Phase::Deleting);
    if get(&element, "DeletionProtection") == "true" || stays(&estate.state()) {
        return estate.forward(asked).await;
    }
    let last = call.get("FinalDBSnapshotIdentifier").map(str::to_owned);
    let is_member = estate.state().members.contains_key(&arn);
    match &last {
        None if is_member || call.says("SkipFinalSnapshot") => {}
        None => {
            let what = "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified.";
            return Ok(Answer::refusal(400, "InvalidParameterCombination", what));
        }
        Some(last) => {
            let parameters = [(kind.id, id), (kind.snapshot.id, last)];
            let taken = snapshots::take(estate, kind, &arn, &asked.instead(kind.snapshot.create, &parameters)).await?;
            if !taken.is_success() {
                return Ok(taken);
            }
        }
    }
    let keeps_backups = call.get("DeleteAutomatedBackups") == Some("false");
    set_deleting(estate, &arn);
    estate.spawn(format!("removing {arn}"), remove(Arc::clone(estate), arn, asked.clone(), keeps_backups));
    Ok(shown.result_of(kind.delete, element))
}

fn set_deleting(estate: &Estate, arn: &str) {
    let mut state = estate.state();
    if let Some(database) = state.databases.get_mut(arn) {
        database.phase = Phase::Deleting;
    }
    if let Some(member) = state.members.get_mut(arn) {
        member.phase = Phase::Deleting;
    }
}

async fn remove(estate: Arc<Estate>, arn: String, asked: Asked, keeps_backups: bool) -> anyhow::Result<()> {
    let (id, kind) = (name(&arn).to_owned(), Kind::of(&arn));
    let is_free = |state: &State| {
        let is_being_copied = |one: &snapshots::Snapshot| one.of == arn && one.is_being_made();
        state.members_of(&arn).next().is_none() && !state.snapshots.values().any(is_being_copied)
    };
    estate.until(is_free).await;
    estate.faults.let_go(Stuck::Deleting, &id).await;
    let work = estate.state().databases.get(&arn).map(|database| Arc::clone(&database.work));
    if let Some(work) = work {
        let _alone = work.lock().await;
        let server = estate.state().databases.get_mut(&arn).and_then(|database| database.server.take());
        if let Some(server) = server {
            server.stop().await?;
        }
    }
    let _alone = estate.gate.write().await;
    let keeps = if keeps_backups { "false" } else { "true" };
    let parameters = [(kind.id, id.as_str()), ("SkipFinalSnapshot", "true"), ("DeleteAutomatedBackups", keeps)];
    let answer = estate.forward(&asked.instead(kind.delete, &parameters)).await?;
    anyhow::ensure!(answer.is_success(), "moto did not remove {arn}: {}", answer.code());
    if !keeps_backups {
        snapshots::remove_automated(&estate, kind, &arn, &asked).await?;
    }
    let member = {
        let mut state = estate.state();
        state.databases.remove(&arn);
        state.members.remove(&arn)
    };
    if let Some(member) = member {
        members::left(&estate, &member.cluster).await?;
    }
    Ok(())
}

/// Whether there is such a cluster, and how far it is.
pub(super) fn cluster_named(estate: &Estate, region: &str, id: &str) -> Option<String> {
    estate.state().database_named(region, CLUSTER.resource, id).map(|(arn, _)| arn)
}
