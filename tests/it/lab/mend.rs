//! What an answer says of what the lab has: where it is, how far it is, and what of it
//! can be restored.

use jiff::Timestamp;
use xmltree::Element;

use super::{
    answer::{Answer, each, get, remove, set, set_all},
    kind::{CLUSTER, CLUSTER_SNAPSHOT, INSTANCE, SNAPSHOT, SnapshotKind},
    server::Server,
    state::{Database, Estate, Member, Phase, Snapshot, State},
};

const HOST: &str = "127.0.0.1";

pub(super) fn mend(state: &State, region: &str, answer: &mut Answer) {
    let Some(mut root) = answer.document().filter(|_| answer.is_success()) else { return };
    each(&mut root, &mut |element| match element.name.as_str() {
        "DBInstance" => instance(state, element),
        "DBCluster" => cluster(state, element),
        "DBSnapshot" => snapshot(state, &SNAPSHOT, element),
        "DBClusterSnapshot" => snapshot(state, &CLUSTER_SNAPSHOT, element),
        "DBInstanceAutomatedBackup" => automated_backup(state, region, element),
        _ => {}
    });
    answer.set_document(&root);
}

fn word(phase: Phase, failed: &'static str) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Available => "available",
        Phase::Deleting => "deleting",
        Phase::Failed => failed,
    }
}

fn instance(state: &State, element: &mut Element) {
    let arn = get(element, INSTANCE.arn);
    let (phase, database) = match (state.databases.get(&arn), state.members.get(&arn)) {
        (Some(database), _) => (database.phase, Some(database)),
        (None, Some(Member { phase, cluster })) => (*phase, state.databases.get(cluster)),
        (None, None) => return,
    };
    set(element, INSTANCE.status, word(phase, "incompatible-restore"));
    let server = database.and_then(|database| database.server.as_ref());
    match server.filter(|_| [Phase::Available, Phase::Deleting].contains(&phase)) {
        Some(server) => set_all(element, "Endpoint", &[("Address", HOST), ("Port", &server.port.to_string())]),
        None => remove(element, "Endpoint"),
    }
    match window(state.databases.get(&arn)) {
        Some((_, latest)) => set(element, "LatestRestorableTime", &latest.to_string()),
        None => remove(element, "LatestRestorableTime"),
    }
}

fn window(database: Option<&Database>) -> Option<(Timestamp, Timestamp)> {
    database?.server.as_deref().and_then(Server::window)
}

fn cluster(state: &State, element: &mut Element) {
    let Some(database) = state.databases.get(&get(element, CLUSTER.arn)) else { return };
    set(element, CLUSTER.status, word(database.phase, "incompatible-restore"));
    if let Some(server) = &database.server {
        set(element, "Endpoint", HOST);
        set(element, "ReaderEndpoint", HOST);
        set(element, "Port", &server.port.to_string());
    }
    match window(Some(database)) {
        Some((earliest, latest)) => {
            set(element, "EarliestRestorableTime", &earliest.to_string());
            set(element, "LatestRestorableTime", &latest.to_string());
        }
        None => ["EarliestRestorableTime", "LatestRestorableTime"].iter().for_each(|name| remove(element, name)),
    }
}

fn snapshot(state: &State, kind: &SnapshotKind, element: &mut Element) {
    let arn = get(element, kind.arn);
    let Some(snapshot) = state.snapshots.get(&arn) else { return };
    let Snapshot { phase, source, copy, made_at, .. } = snapshot;
    set(element, "Status", word(*phase, "failed"));
    set(element, "PercentProgress", if *phase == Phase::Available { "100" } else { "0" });
    let original = copy.as_ref().map(|copy| copy.taken_at);
    let times = [("SnapshotCreateTime", *made_at), ("OriginalSnapshotCreateTime", original)];
    for (name, instant) in times.into_iter().take(if kind == &SNAPSHOT { 2 } else { 1 }) {
        match instant {
            Some(instant) => set(element, name, &instant.to_string()),
            None => remove(element, name),
        }
    }
    let Some(source) = source else { return };
    set(element, kind.told_source, source);
    let (from, here) = (Estate::region(source), Estate::region(&arn));
    if kind == &SNAPSHOT && from != here {
        set(element, "SourceRegion", from);
    }
}

/// moto tells little more of these than their names.
fn automated_backup(state: &State, region: &str, element: &mut Element) {
    let Some((arn, database)) = state.database_named(region, INSTANCE.resource, &get(element, INSTANCE.id)) else {
        return;
    };
    set(element, INSTANCE.arn, &arn);
    set(element, "Region", region);
    if let Some((earliest, latest)) = window(Some(database)) {
        let window = [("EarliestTime", earliest.to_string()), ("LatestTime", latest.to_string())];
        set_all(element, "RestoreWindow", &window.each_ref().map(|(name, text)| (*name, text.as_str())));
    }
}
