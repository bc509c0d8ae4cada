//! `lifeboat backup DB` and `lifeboat backups [DB]`.

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Invocation, UsageError, open, progress, vault, who};
use crate::{
    app::{App, Role},
    db::heartbeats,
    decide::exposure,
    domain::{Backup, BackupKind, BackupState, ByteSize, DatabaseName, RunId, Verdict, with_causes},
    flow::NewRun,
    flows::{Database, ManagedDatabase, backup},
    report::managed::ListedSnapshot,
    vault::{CatalogEntry, Inventory},
};

mod snapshots;

#[derive(Debug, Args)]
pub struct Options {
    /// The database, as its schedule names it.
    database: DatabaseName,
    /// What it holds; everything when absent: a full one, or a snapshot of a database that its
    /// provider runs.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Nothing builds upon it; it is counted by the lines that say `standalone: true`.
    #[arg(long)]
    standalone: bool,
}

/// The kinds that this version takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Full,
    /// What has changed since the newest backup; PostgreSQL 17 and later.
    Incremental,
    /// The files that have changed since the newest full backup; any version.
    Differential,
    /// By the provider that runs the database.
    Snapshot,
}

#[derive(Debug, Args)]
pub struct ListOptions {
    /// All databases when none is named.
    database: Option<DatabaseName>,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    if options.standalone && options.kind.is_some_and(|kind| kind != Kind::Full) {
        let what = "only a full backup can stand alone; leave `--standalone` out, or take a full one";
        return Err(UsageError(what.to_owned()).into());
    }
    let app = open(invocation, Role::WithoutDns).await?;
    if let Some(database) = app.managed(&options.database) {
        return snapshot(&app, database, &options, invocation).await;
    }
    let database = app.database(&options.database)?;
    let kind = match options.kind {
        None | Some(Kind::Full) => BackupKind::Full,
        Some(Kind::Incremental) => BackupKind::Incremental,
        Some(Kind::Differential) => BackupKind::Differential,
        Some(Kind::Snapshot) => {
            let what = format!("no provider runs `{}`, so none takes a snapshot; leave `--kind` out", options.database);
            return Err(UsageError(what).into());
        }
    };
    let id = RunId::new(backup::NAME, database.name.as_str(), "manual", &app.stamp());
    let params = backup::Params {
        database: database.name.clone(),
        kind,
        standalone: options.standalone,
        manner: backup::Manner::default(),
        due_at: None,
    };
    let mut summary =
        progress::drive(&app, NewRun::new(id, &database.name, &params, who())?.placed(database.placement_at_first()))
            .await?;
    if let Some(conclusion) = summary.conclusion.as_mut().filter(|ended| ended.verdict == Verdict::Pass) {
        let copies = copied(&app, database, &conclusion.output).await?;
        if let (Some(figures), false) = (conclusion.output.as_object_mut(), copies.is_empty()) {
            figures.insert("copies".to_owned(), Value::Array(copies));
        }
    }
    let heard = heartbeats::newest(&app.resources.db, &database.name).await?.map(|beat| beat.acknowledged_at);
    if let Some(figures) = summary.conclusion.as_mut().and_then(|conclusion| conclusion.output.as_object_mut())
        && exposure::is_silent(app.clock.now(), heard)
    {
        figures.insert("nobody_streams".to_owned(), Value::String(database.engine.left_on_server()));
    }
    super::runs::print_conclusion(invocation, &summary)
}

/// Has the provider take one.
async fn snapshot(app: &App, database: &ManagedDatabase, options: &Options, invocation: &Invocation) -> Result<u8> {
    if options.standalone || options.kind.is_some_and(|kind| kind != Kind::Snapshot) {
        let what = format!(
            "the provider of `{}` takes snapshots and nothing else; leave `--kind` and `--standalone` out",
            options.database
        );
        return Err(UsageError(what).into());
    }
    let id = RunId::new(backup::NAME, database.name.as_str(), "manual", &app.stamp());
    let params = backup::Params {
        database: database.name.clone(),
        kind: BackupKind::Snapshot,
        standalone: false,
        manner: backup::Manner::default(),
        due_at: None,
    };
    let run = NewRun::new(id, &database.name, &params, who())?.placed(database.placement());
    super::runs::print_conclusion(invocation, &progress::drive(app, run).await?)
}

/// Copies a backup to the further vaults of the schedule. One that cannot be
/// brought level does not make the backup a failed one: a daemon tries again.
async fn copied(app: &App, database: &Database, backup: &Value) -> Result<Vec<Value>> {
    let mut copies = Vec::new();
    let id = backup.get("id").and_then(Value::as_str).unwrap_or_default();
    for vault in database.vaults.iter().skip(1) {
        let to = vault.store.place().vault.clone();
        let (ended, _) = vault::copy::driven(app, &database.name, None, to.clone(), id).await?;
        let figure = |name: &str| ended.get(name).cloned().unwrap_or_default();
        copies.push(json!({
            "name": to, "verdict": figure("verdict"), "copied_bytes": figure("copied_bytes"), "run_id": figure("run_id"),
            "finding": figure("findings").get(0).cloned().unwrap_or_default(),
        }));
    }
    Ok(copies)
}

/// One line of the list: the backup and the vaults that hold it.
#[derive(Debug, Serialize)]
struct Listed {
    /// The first one that holds it.
    vault: String,
    /// All of them, with what is known of it there.
    vaults: Vec<HeldIn>,
    /// `state` is the strongest of all vaults.
    #[serde(flatten)]
    backup: Backup,
}

/// A backup in our vaults, or one that a provider keeps.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Row {
    Own(Listed),
    Provider(ListedSnapshot),
}

#[derive(Debug, Serialize)]
struct HeldIn {
    vault: String,
    state: BackupState,
}

pub async fn list(options: ListOptions, invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::WithoutDns).await?;
    let (snapshots, unlisted) = snapshots::listed(&app, options.database.as_ref()).await?;
    let named = options.database.as_ref();
    let own = if named.is_some_and(|name| app.managed(name).is_some()) { Vec::new() } else { app.chosen(named)? };
    let mut listed: Vec<Listed> = Vec::new();
    for database in own {
        for vault in &database.vaults {
            let name = vault.store.place().vault.to_string();
            let histories = match database.histories(vault).await {
                Ok(histories) => histories,
                Err(error) if database.vaults.len() == 1 => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(vault = %name, error = %with_causes(&error), "this vault is not listed");
                    continue;
                }
            };
            for Inventory { catalog, .. } in histories {
                for backup in catalog.entries.iter().map(CatalogEntry::summary) {
                    let held = HeldIn { vault: name.clone(), state: backup.state };
                    let is_same = |listed: &&mut Listed| {
                        listed.backup.id == backup.id && listed.backup.database == backup.database
                    };
                    match listed.iter_mut().find(is_same) {
                        Some(listed) => {
                            listed.backup.state = listed.backup.state.max(backup.state);
                            listed.vaults.push(held);
                        }
                        None => listed.push(Listed { vault: name.clone(), vaults: vec![held], backup }),
                    }
                }
            }
        }
    }
    let now = app.clock.now();
    let rows: Vec<Row> = listed.into_iter().map(Row::Own).chain(snapshots.into_iter().map(Row::Provider)).collect();
    invocation.print(&rows, |rows| {
        let mut table = super::table(["database", "backup", "kind", "state", "size", "stored", "age", "vaults"]);
        for row in rows {
            let Listed { vaults, backup, .. } = match row {
                Row::Own(listed) => listed,
                Row::Provider(snapshot) => {
                    table.add_row(snapshots::cells(snapshot, now));
                    continue;
                }
            };
            let age = now.duration_since(backup.finished_at);
            table.add_row([
                backup.database.to_string(),
                backup.id.to_string(),
                backup.kind.as_str().to_owned(),
                backup.state.as_str().to_owned(),
                ByteSize::from_bytes(backup.size_bytes).to_string(),
                ByteSize::from_bytes(backup.stored_bytes).to_string(),
                super::age(age),
                vaults.iter().map(|held| held_in(held, backup.state)).collect::<Vec<_>>().join("\n"),
            ]);
        }
        let known = match (rows.is_empty(), unlisted.is_empty()) {
            (false, _) => table.to_string(),
            (true, true) => "no backup yet; take one with `lifeboat backup DB`".to_owned(),
            (true, false) => "no backup that is known of".to_owned(),
        };
        [known].into_iter().chain(unlisted.iter().cloned()).collect::<Vec<_>>().join("\n")
    })?;
    Ok(if unlisted.is_empty() { 0 } else { Verdict::Inconclusive.exit_code() })
}

/// The vault, with the state where it is not the one that is shown.
fn held_in(held: &HeldIn, shown: BackupState) -> String {
    if held.state == shown { held.vault.clone() } else { format!("{} ({})", held.vault, held.state.as_str()) }
}
