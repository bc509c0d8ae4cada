//! Gathers what status, API, pages and reports show. Reads and changes nothing.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::App;
use crate::{
    db::{DbError, findings, heartbeats, nodes},
    decide::{agenda::Agenda, chain::Break, exposure, retention::beats, self_test, severity},
    domain::{Beat, DatabaseName, Span, Verdict},
    evidence::{self, Entry, Filter},
    flow::{StepError, runner::FlowError},
    flows::{self, Database, restore},
    report::{
        EstateStatus, Facts,
        groups::{Proven, groups},
        status::{
            BrokenWindow, DatabaseStatus, Finding, NextRun, PrimaryAway, StreamingState, VaultExposure, WalStreaming,
        },
    },
    vault::StoreError,
};

mod held;
mod managed;
mod over;
mod primary;
mod published;
mod reported;
mod tested;

use held::Held;
use over::Over;
use primary::OnMembers;

/// Due times of a line among which the next one that begins is looked for.
const LOOKED_AHEAD: usize = 100;

/// Runs that the status shows.
const RUNS_SHOWN: usize = 20;

/// How far back heartbeats are looked at: well beyond the objective, so that an
/// exposure over it is seen as what it is.
fn window(rpo: Span) -> SignedDuration {
    let objective = SignedDuration::try_from(rpo.as_duration()).unwrap_or(SignedDuration::MAX);
    objective.saturating_mul(2).saturating_add(SignedDuration::from_hours(1)).min(beats::KEPT)
}

/// What could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    State(#[from] DbError),
    #[error(transparent)]
    Run(#[from] FlowError),
    #[error(transparent)]
    Evidence(#[from] evidence::EvidenceError),
    #[error(transparent)]
    Vault(#[from] restore::RestoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rules(#[from] StepError),
}

/// What was read of a database.
struct Known<'a> {
    held: &'a Held,
    on_members: OnMembers,
    last_day: &'a Over,
    entries: &'a [Entry],
    findings: &'a [findings::Finding],
}

impl App {
    /// Are we recoverable, to which second, how long would it take, when was it last proven?
    pub async fn status(&self) -> Result<EstateStatus, StatusError> {
        let now = self.clock.now();
        let entries = self.resources.evidence.records(&Filter::default()).await?;
        let findings = self.open_findings().await?;
        let held = join_all(self.resources.databases.values().map(|database| self.held(database))).await;
        let on_members = self.resources.databases.values().map(|database| primary::on_members(self, database, now));
        let on_members = join_all(on_members).await;
        let last_day = self.last_day(now).await?;
        let (mut databases, mut facts) = (Vec::new(), Facts { bounds: self.bounds(), ..Facts::default() });
        for ((database, held), on_members) in self.resources.databases.values().zip(held).zip(on_members) {
            let held = held?;
            held.publish(&database.name);
            let known = Known { held: &held, on_members, last_day: &last_day, entries: &entries, findings: &findings };
            let status = self.status_of(database, known, now).await?;
            let protected = reported::protected(database, &status, Proven::of(&held.backups));
            facts.databases.insert(database.name.to_string(), protected);
            primary::publish(&status, &database.schedule.config.all_members().keys().cloned().collect());
            databases.push(status);
        }
        let managed = self.managed_statuses(&entries, &findings, now).await?;
        let findings = findings.into_iter().map(shown).collect();
        let runs = self.runner.list(RUNS_SHOWN).await?;
        let node = &self.estate.daemon.node;
        let status = EstateStatus::new(node.name.clone(), node.region.clone(), now, databases, runs, findings);
        let status = status.with_managed(managed);
        let (nodes, lever) = (nodes::list(&self.resources.db).await?, self.lever().await?);
        let groups = groups(&entries, &facts, None, now);
        let status = EstateStatus { groups, lever, nodes, ..status };
        published::publish(&status);
        Ok(status)
    }

    /// What a person must fix, the gravest first and then the oldest. No vault is asked.
    pub async fn findings(&self) -> Result<Vec<Finding>, StatusError> {
        Ok(self.open_findings().await?.into_iter().map(shown).collect())
    }

    async fn open_findings(&self) -> Result<Vec<findings::Finding>, DbError> {
        let mut open = findings::open_findings(&self.resources.db).await?;
        open.sort_by_key(|finding| severity::of(&finding.id));
        Ok(open)
    }

    async fn status_of(
        &self,
        database: &Database,
        Known { held, on_members, last_day, entries, findings }: Known<'_>,
        now: Timestamp,
    ) -> Result<DatabaseStatus, StatusError> {
        let config = &database.schedule.config;
        let objectives = config.objectives();
        let beats = self.beats(&database.name, now - window(objectives.rpo), now).await?;
        let last_heartbeat = beats.iter().map(|beat| beat.acknowledged_at).max();
        let exposure = held.exposure(&beats, now);
        let primary_away = on_members.away.map(|why| PrimaryAway { answered_at: last_heartbeat, why });
        let is_slot_active = on_members.primary.as_ref().map(|seen| seen.slot_active);
        let last_restore_test = tested::last(entries, &database.name, |verdict| verdict != Verdict::Aborted);
        let last_proven = tested::last(entries, &database.name, |verdict| verdict == Verdict::Pass);
        let newest_backup = held.backups.iter().max_by_key(|backup| backup.finished_at).cloned();
        let forecast = tested::forecast(entries, &database.name, held.work());
        Ok(DatabaseStatus {
            database: database.name.clone(),
            engine: format!("{:?}", config.engine).to_lowercase(),
            tier: config.tier,
            objectives,
            // Both are set by `EstateStatus::new`.
            verdict: Verdict::Inconclusive,
            headline: String::new(),
            recoverable_to: held.recoverable_to(&beats),
            weakest_state: held.backups.iter().map(|backup| backup.state).min(),
            would_take_seconds: forecast.as_ref().map(|forecast| forecast.seconds),
            forecast,
            newest_backup,
            exposure: exposure
                .into_iter()
                .map(|(vault, seconds)| VaultExposure {
                    looked_at: !held.away.contains(&vault),
                    last_day: last_day.of(&database.name, &vault),
                    vault,
                    seconds,
                    over_objective: seconds.is_some_and(|seconds| seconds > objectives.rpo.as_secs_f64()),
                })
                .collect(),
            copies: held.copies(config.copy.lag_max, now),
            wal_streaming: streaming(database, exposure::is_unattended(now, last_heartbeat, is_slot_active)),
            wal_on_primary: on_members.primary,
            wal_on_standbys: on_members.others,
            primary_away,
            broken_windows: held.breaks.iter().map(broken_window).collect(),
            last_heartbeat,
            last_restore_test,
            last_proven,
            recovery_points: tested::points(entries, database),
            last_drill: self.last_drill(&database.name, entries),
            next_runs: next_runs(database, &self.resources.agenda(&database.name), now),
            unseen_faults: unseen_faults(&database.name, findings),
            findings: findings
                .iter()
                .filter(|f| f.subject == database.name.as_str())
                .map(|f| f.message.clone())
                .collect(),
        })
    }

    /// The heartbeats acknowledged in this stretch; the newest one in any case.
    async fn beats(&self, database: &DatabaseName, from: Timestamp, to: Timestamp) -> Result<Vec<Beat>, DbError> {
        let beats = heartbeats::between(&self.resources.db, database, from, to).await?;
        if beats.is_empty() {
            return Ok(heartbeats::newest(&self.resources.db, database).await?.into_iter().collect());
        }
        Ok(beats)
    }
}

/// `is_silent` tells that nobody acknowledges heartbeats, here or elsewhere.
fn streaming(database: &Database, is_silent: bool) -> WalStreaming {
    let streaming = &database.streaming;
    let durable_lsn =
        streaming.snapshot().and_then(|snapshot| snapshot.vaults.values().map(|vault| vault.durable).min());
    let error = streaming.error();
    let state = match (streaming.is_connected(), &error) {
        (true, _) => StreamingState::Streaming,
        (false, Some(_)) => StreamingState::CatchingUp,
        (false, None) if is_silent => StreamingState::Stopped,
        (false, None) => StreamingState::Elsewhere,
    };
    WalStreaming { state, durable_lsn, error }
}

fn broken_window(broken: &Break) -> BrokenWindow {
    BrokenWindow {
        cause: broken.cause.as_str().to_owned(),
        system_id: broken.history.system_id.clone(),
        incarnation: broken.history.incarnation,
        timeline: broken.timeline,
        from_lsn: broken.from,
        to_lsn: broken.to,
        after: broken.after,
        until: broken.until,
        message: broken.to_string(),
    }
}

fn shown(finding: findings::Finding) -> Finding {
    let findings::Finding { id, subject, message, opened_at } = finding;
    Finding { severity: severity::of(&id), subject, message, opened_at }
}

/// The planted faults that no self-test has seen since one did not.
fn unseen_faults(database: &DatabaseName, findings: &[findings::Finding]) -> Vec<String> {
    let unseen = findings.iter().filter_map(|finding| self_test::unseen(&finding.id));
    unseen.filter(|(of, _)| *of == database.as_str()).map(|(_, fault)| fault.as_str().to_owned()).collect()
}

fn next_runs(database: &Database, agenda: &Agenda, now: Timestamp) -> Vec<NextRun> {
    let config = &database.schedule.config;
    let scheduled = agenda.lines.iter().enumerate().filter_map(|(place, line)| {
        let what = match line.flow {
            flows::restore_test::NAME => "restore test".to_owned(),
            flows::self_test::NAME => "self-test".to_owned(),
            _ => format!("{} backup", line.kind),
        };
        let at = agenda.coming(place, now).take(LOOKED_AHEAD).find_map(|due| due.begins())?;
        Some(NextRun { what, at })
    });
    let rotation = flows::verify::rotation(&config.verify);
    let verifications = config.vaults.iter().filter_map(|vault| {
        let at = rotation.next(&flows::verify::rotation_name(&database.name, vault), now)?;
        Some(NextRun { what: format!("verification of {vault}"), at })
    });
    let mut runs: Vec<NextRun> = scheduled.chain(verifications).collect();
    runs.sort_by_key(|run| run.at);
    runs
}
