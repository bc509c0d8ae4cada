//! What of a run must be the same however it was disturbed: how it ended, what its one
//! record says, what it changed in the vaults and around them. And what must never be
//! left: a copy, a process, a run that nobody ends, an object of no backup.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use lifeboat::{
    db::findings,
    flow::{RunState, RunSummary},
    vault::Inventory,
};
use serde_json::{Value, json};

use super::{
    lab::{Lab, files_in, wallet},
    list::Case,
};

/// The folders of the vaults that an estate may have.
pub(super) const VAULTS: [&str; 2] = ["vault", "dr"];

/// How a run ended. Names of runs and backups are told by what they are to the run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct End {
    pub(super) state: RunState,
    /// What the record says.
    pub(super) judged: Value,
    /// The objects of the vaults that came and went: `+NAME`, `-NAME`.
    pub(super) changes: Vec<String>,
    /// The open findings of the flow.
    findings: Vec<String>,
    /// Whether what the case looks at is another than before.
    pub(super) is_world_changed: bool,
}

/// What there was before a run.
pub(super) struct Before {
    objects: BTreeSet<String>,
    /// The backups that the vaults offer, in the order of the history: their ids have
    /// seconds, in which two may begin.
    backups: Vec<String>,
    world: Value,
}

impl Before {
    pub(super) async fn look(case: &dyn Case, lab: &Lab) -> Self {
        Self { objects: objects(case, lab), backups: lab.backups_in_order().await, world: case.world(lab).await }
    }

    /// The end of a run; fails where something is left behind.
    pub(super) async fn end(&self, case: &dyn Case, lab: &Lab, what: &str, run: &RunSummary) -> End {
        nothing_is_left(lab, what).await;
        began_once(lab, what, run).await;
        let after = objects(case, lab);
        let names = names((&self.objects, &self.backups), &after, run);
        let gone = self.objects.difference(&after).map(|name| format!("-{}", named(name, &names)));
        let new = after.difference(&self.objects).map(|name| format!("+{}", named(name, &names)));
        let mut changes: Vec<String> = gone.chain(new).map(|name| without_instant(&name)).collect();
        changes.sort();
        let record = lab.record(&run.run_id).await;
        let judged = case.alike(&self.world, named(&judged(&record).to_string(), &names));
        let open = findings::open_findings(&lab.app.resources.db).await.unwrap();
        let prefix = format!("{}/", case.flow());
        End {
            state: run.state,
            judged: serde_json::from_str(&judged).unwrap(),
            changes,
            findings: open.into_iter().map(|open| open.id).filter(|id| id.starts_with(&prefix)).collect(),
            is_world_changed: case.world(lab).await != self.world,
        }
    }
}

/// The names of all objects that only runs write; where nothing else goes on, of all.
fn objects(case: &dyn Case, lab: &Lab) -> BTreeSet<String> {
    let folder = lab.estate.folder();
    let files = VAULTS.iter().flat_map(|vault| files_in(&folder.join(vault).join("wallet")));
    let names = files.map(|path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
    let is_streamed = |name: &String| name.contains("/wal/") || name.contains("/heartbeats/");
    names.filter(|name| !(case.is_live() && is_streamed(name))).collect()
}

/// What names become that differ from run to run: a backup that is new is `new`, and the
/// others are `old1`, `old2` and so on, beginning with the newest.
fn names(
    (before, in_order): (&BTreeSet<String>, &[String]),
    after: &BTreeSet<String>,
    run: &RunSummary,
) -> BTreeMap<String, String> {
    let backup = |name: &String| Some(name.split_once("/backups/")?.1.split('/').next()?.to_owned());
    let old: BTreeSet<String> = before.iter().filter_map(backup).collect();
    let mut old: Vec<String> = old.into_iter().collect();
    old.sort_by_key(|id| in_order.iter().position(|other| other == id));
    let new = after.iter().filter_map(backup).filter(|backup| !old.contains(backup)).map(|id| (id, "new".to_owned()));
    let old = old.iter().rev().enumerate().map(|(nth, id)| (id.clone(), format!("old{}", nth + 1)));
    let run = run.run_id.as_str();
    let of_run = [run.to_owned(), run.replace(['/', ':'], "_")].map(|id| (id, "RUN".to_owned()));
    new.chain(old).chain(of_run).collect()
}

fn named(text: &str, names: &BTreeMap<String, String>) -> String {
    names.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id, name))
}

/// Verifications bear the instant at which they were made.
fn without_instant(name: &str) -> String {
    match (name.split_once("/verifications/"), name.rsplit_once("z-")) {
        (Some((before, rest)), Some((_, run))) => {
            format!("{before}/verifications/{}/{run}", rest.split('/').next().unwrap())
        }
        _ => name.to_owned(),
    }
}

fn judged(record: &Value) -> Value {
    let verdicts = |list: &str| -> Vec<Value> {
        let checks = record[list].as_array().into_iter().flatten();
        checks.map(|check| json!([check["name"], check["verdict"]])).collect()
    };
    json!({
        "verdict": record["verdict"], "verdicts": record["verdicts"], "findings": record["findings"],
        "backup_kind": record["source"]["backup_kind"], "checks": verdicts("checks"),
        "safety": verdicts("safety"), "isolation": verdicts("isolation"),
    })
}

async fn nothing_is_left(lab: &Lab, what: &str) {
    lab.assert_no_copy_is_left(what);
    let unfinished = lab.app.runner.unfinished().await.unwrap();
    assert!(unfinished.is_empty(), "{what}: {unfinished:?}");
    let seen = visible_backups_are_whole(lab, what).await;
    assert_eq!(lab.stored_backups(), seen, "{what}: what is stored under backups/ is a committed backup");
}

/// The undo of each step was written down once, before it acted.
async fn began_once(lab: &Lab, what: &str, run: &RunSummary) {
    let mut begun = BTreeSet::new();
    for event in lab.journal(&run.run_id).await {
        if event["event"] == "step_started" {
            assert!(begun.insert(event["step"].to_string()), "{what}: began twice: {event}");
        }
    }
}

/// Whoever looks at a vault, also in the middle of a run, is offered no half backup.
/// Answers which backups the first vault offers.
pub(super) async fn visible_backups_are_whole(lab: &Lab, what: &str) -> Vec<String> {
    let database = lab.app.database(&wallet()).unwrap();
    let mut of_first = Vec::new();
    for (nth, vault) in database.vaults.iter().enumerate() {
        for Inventory { listing, catalog } in database.histories(vault).await.unwrap() {
            assert!(catalog.problems.is_empty(), "{what}: {:?}", catalog.problems);
            for manifest in catalog.entries.iter().map(|entry| &entry.manifest) {
                for object in &manifest.objects {
                    let key = listing.layout().backup_object(&manifest.backup, &object.name).unwrap();
                    assert!(listing.holds(&key), "{what}: `{key}` is missing in {}", vault.store.place().vault);
                }
                if nth == 0 {
                    of_first.push(manifest.backup.to_string());
                }
            }
        }
    }
    of_first.sort();
    of_first
}

/// A second name for every file below a folder. Objects are never written to, so that
/// either stays as it is when the other goes.
pub(super) fn linked(from: &Path, to: &Path) {
    for file in files_in(from) {
        let name = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(name.parent().unwrap()).unwrap();
        std::fs::hard_link(&file, &name).unwrap();
    }
}
