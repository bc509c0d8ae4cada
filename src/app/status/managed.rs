//! Gathers the status of the databases that a provider runs.

use futures::future::join_all;
use jiff::Timestamp;

use super::{App, LOOKED_AHEAD, StatusError, tested};
use crate::{
    app::looks::Look,
    config::schedule::EngineKind,
    db::{DbError, findings, heartbeats},
    decide::agenda::Agenda,
    domain::{BackupKind, DatabaseName, Region, Snapshot, SnapshotState, Verdict},
    evidence::Entry,
    flows::{self, ManagedDatabase, prune_snapshots},
    report::{
        managed::{ListedSnapshot, ManagedStatus, RegionStatus},
        status::NextRun,
    },
};

/// What providers keep.
#[derive(Debug, Default)]
pub struct Kept {
    /// Oldest first of each database.
    pub snapshots: Vec<ListedSnapshot>,
    /// Database, region and why of what does not answer.
    pub away: Vec<(DatabaseName, Region, String)>,
}

impl App {
    /// The snapshots of one database or of all.
    pub async fn snapshots(&self, name: Option<&DatabaseName>) -> Result<Kept, StatusError> {
        let mut kept = Kept::default();
        let chosen = self.resources.managed.values().filter(|database| name.is_none_or(|name| *name == database.name));
        for database in chosen {
            let proven = prune_snapshots::proven(&self.resources, &database.name).await?;
            let look = self.looks.just_now(database, &self.clock).await;
            for (region, listed) in &look.snapshots {
                match listed {
                    Ok(snapshots) => kept.snapshots.extend(snapshots.iter().map(|snapshot| ListedSnapshot {
                        database: database.name.clone(),
                        kind: BackupKind::Snapshot,
                        is_proven: proven.contains(&snapshot.arn),
                        snapshot: snapshot.clone(),
                    })),
                    Err(error) => kept.away.push((database.name.clone(), region.clone(), error.clone())),
                }
            }
        }
        kept.snapshots.sort_by(|a, b| (&a.database, a.snapshot.taken_at).cmp(&(&b.database, b.snapshot.taken_at)));
        Ok(kept)
    }

    /// What each provider told at most a minute ago.
    pub(super) async fn managed_statuses(
        &self,
        entries: &[Entry],
        findings: &[findings::Finding],
        now: Timestamp,
    ) -> Result<Vec<ManagedStatus>, DbError> {
        let databases = || self.resources.managed.values();
        let looks = join_all(databases().map(|database| self.looks.at(database, &self.clock))).await;
        let mut statuses = Vec::new();
        for (database, look) in databases().zip(looks) {
            let heard = heartbeats::newest(&self.resources.db, &database.name).await?;
            let status = self.status_of_managed(database, &look, (entries, findings), now);
            let status = ManagedStatus { last_heartbeat: heard.map(|beat| beat.acknowledged_at), ..status };
            statuses.push(status.judged(now));
        }
        Ok(statuses)
    }

    fn status_of_managed(
        &self,
        database: &ManagedDatabase,
        look: &Look,
        (entries, findings): (&[Entry], &[findings::Finding]),
        now: Timestamp,
    ) -> ManagedStatus {
        let config = &database.schedule.config;
        let source = config.managed();
        let name = &database.name;
        let latest = look.source.as_ref().map(|facts| facts.latest_restorable.clone()).unwrap_or_default();
        let is_home = |region: &Region| source.is_some_and(|source| source.region == region);
        let none = Ok(Vec::new());
        let all = latest.keys().chain(look.snapshots.keys()).collect::<std::collections::BTreeSet<_>>();
        let of = |region: &&Region| {
            let listed = look.snapshots.get(*region).unwrap_or(&none);
            RegionStatus::of((*region).clone(), latest.get(*region).copied(), listed)
        };
        let mut regions: Vec<RegionStatus> = all.iter().map(of).collect();
        regions.sort_by_key(|region| !is_home(&region.region));
        ManagedStatus {
            database: name.clone(),
            engine: if config.engine == EngineKind::Aurora { "aurora" } else { "rds" }.to_owned(),
            source: source.map(|source| source.id.to_owned()).unwrap_or_default(),
            objectives: config.objectives(),
            // Both are set by `judged`.
            verdict: Verdict::Inconclusive,
            headline: String::new(),
            claimed_by: "provider",
            recoverable_to: source.and_then(|source| latest.get(source.region).copied()),
            looked_at: look.at,
            away: look.source.as_ref().err().cloned(),
            regions,
            newest_snapshot: newest(look).cloned(),
            last_restore_test: tested::last(entries, name, |verdict| verdict != Verdict::Aborted),
            last_proven: tested::last(entries, name, |verdict| verdict == Verdict::Pass),
            next_runs: next_runs(&self.resources.agenda(name), now),
            findings: findings.iter().filter(|f| f.subject == name.as_str()).map(|f| f.message.clone()).collect(),
            last_heartbeat: None,
        }
    }
}

/// The newest of all regions that can be restored from.
fn newest(look: &Look) -> Option<&Snapshot> {
    let all = look.snapshots.values().flatten().flatten();
    all.filter(|one| one.state == SnapshotState::Available).max_by_key(|one| (one.taken_at, one.copy_of.is_none()))
}

fn next_runs(agenda: &Agenda, now: Timestamp) -> Vec<NextRun> {
    let runs = agenda.lines.iter().enumerate().filter_map(|(place, line)| {
        let what = if line.flow == flows::restore_test::NAME { "restore test" } else { "snapshot" }.to_owned();
        let at = agenda.coming(place, now).take(LOOKED_AHEAD).find_map(|due| due.begins())?;
        Some(NextRun { what, at })
    });
    let mut runs: Vec<NextRun> = runs.collect();
    runs.sort_by_key(|run| run.at);
    runs
}
