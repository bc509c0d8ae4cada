//! Gathers what status, API, pages and reports show. Reads and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use metrics::gauge;

use super::App;
use crate::{
    config::ScheduleConfig,
    db::{DbError, findings, heartbeats, nodes},
    decide::{
        agenda::Agenda,
        chain::Break,
        copy::{self, Holding, Lag},
        exposure::{self, Tip},
        recovery,
        retention::beats,
    },
    domain::{Backup, Beat, DatabaseName, RecoveryTarget, RunId, Span, VaultName, Verdict, with_causes},
    evidence::{self, Entry, Filter, Month},
    flow::{StepError, runner::FlowError},
    flows::{
        self, Database, chain,
        copy::look::{self, Wanted},
        restore,
    },
    report::{
        self, EstateStatus, Promised, Report,
        points::TestedPoint,
        status::{
            BrokenWindow, DatabaseStatus, Finding, LastDrill, LastRestoreTest, NextRun, PrimaryAway, StreamingState,
            VaultCopies, VaultExposure, WalStreaming,
        },
    },
    telemetry,
    vault::{CatalogEntry, Inventory, Layout, StoreError, visit},
};

mod primary;

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

impl App {
    /// Are we recoverable, to which second, how long would it take, when was it last proven?
    pub async fn status(&self) -> Result<EstateStatus, StatusError> {
        let now = self.clock.now();
        let entries = self.resources.evidence.records(&Filter::default()).await?;
        let findings = self.findings().await?;
        let held = join_all(self.resources.databases.values().map(|database| self.held(database))).await;
        let on_members = self.resources.databases.values().map(|database| primary::on_members(self, database, now));
        let on_members = join_all(on_members).await;
        let mut databases = Vec::new();
        for ((database, held), on_members) in self.resources.databases.values().zip(held).zip(on_members) {
            let held = held?;
            held.publish(&database.name);
            let status = self.status_of(database, (&held, on_members), &entries, &findings, now).await?;
            primary::publish(&status, &database.schedule.config.all_members().keys().cloned().collect());
            databases.push(status);
        }
        let runs = self.runner.list(RUNS_SHOWN).await?;
        let node = &self.estate.daemon.node;
        let status = EstateStatus::new(node.name.clone(), node.region.clone(), now, databases, runs, findings);
        let (nodes, lever) = (nodes::list(&self.resources.db).await?, self.lever().await?);
        let status = EstateStatus { lever, nodes, ..status };
        publish(&status);
        Ok(status)
    }

    /// What a person must fix, oldest first. No vault is asked.
    pub async fn findings(&self) -> Result<Vec<Finding>, StatusError> {
        let open = findings::open_findings(&self.resources.db).await?.into_iter();
        Ok(open
            .map(|finding| Finding { subject: finding.subject, message: finding.message, opened_at: finding.opened_at })
            .collect())
    }

    async fn status_of(
        &self,
        database: &Database,
        (held, on_members): (&Held, OnMembers),
        entries: &[Entry],
        findings: &[Finding],
        now: Timestamp,
    ) -> Result<DatabaseStatus, StatusError> {
        let config = &database.schedule.config;
        let objectives = config.objectives();
        let beats = self.beats(&database.name, now - window(objectives.rpo), now).await?;
        let last_heartbeat = beats.iter().map(|beat| beat.acknowledged_at).max();
        let exposure = held.exposure(&beats, now);
        let primary_away = on_members.away.map(|why| PrimaryAway { answered_at: last_heartbeat, why });
        let is_slot_active = on_members.primary.as_ref().map(|seen| seen.slot_active);
        let last_restore_test = last_test(entries, &database.name, |verdict| verdict != Verdict::Aborted);
        let last_proven = last_test(entries, &database.name, |verdict| verdict == Verdict::Pass);
        let newest_backup = held.backups.iter().max_by_key(|backup| backup.finished_at).cloned();
        Ok(DatabaseStatus {
            database: database.name.clone(),
            engine: format!("{:?}", config.engine).to_lowercase(),
            tier: config.tier,
            objectives,
            // Both are set by `EstateStatus::new`.
            verdict: Verdict::Inconclusive,
            headline: String::new(),
            recoverable_to: newest_backup.as_ref().map(|backup| held.until(&beats).unwrap_or(backup.finished_at)),
            weakest_state: held.backups.iter().map(|backup| backup.state).min(),
            would_take_seconds: estimate(entries, &database.name),
            newest_backup,
            exposure: exposure
                .into_iter()
                .map(|(vault, seconds)| VaultExposure {
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
            recovery_points: tested_points(entries, database),
            last_drill: self.last_drill(&database.name, entries),
            next_runs: next_runs(database, &self.resources.agenda(&database.name), now),
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

    fn last_drill(&self, database: &DatabaseName, entries: &[Entry]) -> Option<LastDrill> {
        let runbooks: Vec<&str> = self
            .estate
            .runbooks
            .iter()
            .filter(|runbook| runbook.config.database == *database)
            .map(|runbook| runbook.config.runbook.as_str())
            .collect();
        let is_drill = |entry: &&Entry| {
            entry.record.kind == flows::drill::NAME && runbooks.contains(&entry.record.subject.as_str())
        };
        entries.iter().rev().find(is_drill).map(|entry| LastDrill {
            run_id: RunId::from(entry.record.run_id.clone()),
            runbook: entry.record.subject.clone(),
            at: entry.record.finished_at,
            verdict: entry.record.verdict,
            rto_seconds: entry.record.measured.rto_seconds,
            rpo_seconds: entry.record.measured.rpo_seconds,
        })
    }

    /// Up to where the latest state can be restored, behind no gap; none when nothing can.
    async fn restorable_tip(&self, vault: &flows::Vault, held: &Inventory) -> Result<Option<Tip>, StatusError> {
        let Some(facts) = restore::facts(&[(vault, held)], self.clock.now()).await? else { return Ok(None) };
        let Ok(latest) = recovery::choose(&facts, &RecoveryTarget::Latest, None) else { return Ok(None) };
        let backup = facts.backups.iter().find(|backup| backup.id == latest.backup);
        Ok(backup.map(|backup| Tip { timeline: latest.timeline, lsn: latest.end, backup_ended_at: backup.finished_at }))
    }

    /// All histories that a vault holds, and up to where the newest can be restored.
    async fn look_into(
        &self,
        database: &Database,
        vault: &flows::Vault,
    ) -> Result<(Vec<Inventory>, Option<Tip>), StatusError> {
        let histories = database.histories(vault).await.map_err(restore::RestoreError::from)?;
        let newest = histories.iter().max_by_key(|held| held.newest_at());
        let tip = match newest.filter(|held| held.newest_at().is_some()) {
            Some(newest) => self.restorable_tip(vault, newest).await?,
            None => None,
        };
        Ok((histories, tip))
    }

    /// What the vaults hold of a database, read from their listings.
    pub(crate) async fn held<'a>(&self, database: &'a Database) -> Result<Held, StatusError> {
        let (mut held, mut found) = (Held::default(), Vec::new());
        let look = |vault: &'a flows::Vault| visit(&vault.store.place().vault, self.look_into(database, vault));
        let looked = join_all(database.vaults.iter().map(look)).await;
        for (vault, looked) in database.vaults.iter().zip(looked) {
            // Of a vault that is away nothing is known; the others still tell.
            let (histories, tip) = match looked {
                Ok(looked) => looked,
                Err(error) => {
                    let vault = &vault.store.place().vault;
                    tracing::warn!(%vault, error = %with_causes(&error), "a vault cannot be looked at");
                    held.tips.push((vault.clone(), None));
                    continue;
                }
            };
            held.vaults.push((
                vault.store.place().vault.clone(),
                histories.iter().map(|held| (held.listing.layout().clone(), look::holding(held))).collect(),
            ));
            for history in &histories {
                held.backups.extend(history.catalog.entries.iter().map(CatalogEntry::summary));
            }
            held.tips.push((vault.store.place().vault.clone(), tip));
            found.push((vault, histories));
        }
        let found: Vec<_> = found.iter().map(|(vault, histories)| (*vault, histories.as_slice())).collect();
        held.breaks = chain::breaks(&self.resources.db, database, &found, self.clock.now()).await?;
        if held.breaks.iter().any(|broken| broken.is_open() && broken.begins_history()) {
            // What the history before it holds says nothing of what is written now.
            held.tips.iter_mut().for_each(|(_, tip)| *tip = None);
        }
        if found.len() > 1
            && let Some(wanted) = Wanted::of(database, &found, self.clock.now()).await?
        {
            let holdings = held.vaults.iter_mut().flat_map(|(_, histories)| histories);
            holdings.for_each(|(layout, holding)| wanted.leave_the_rest(layout, holding));
        }
        Ok(held)
    }
}

/// What the vaults hold of one database.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) backups: Vec<Backup>,
    /// Per vault up to where the latest state can be restored.
    tips: Vec<(VaultName, Option<Tip>)>,
    /// What each vault that can be looked at holds of each history, as far as a rule
    /// keeps it: what waits there for its expiry is not lacking elsewhere.
    vaults: Vec<(VaultName, BTreeMap<Layout, Holding>)>,
    breaks: Vec<Break>,
}

impl Held {
    fn publish(&self, database: &DatabaseName) {
        for (vault, tip) in &self.tips {
            if let Some(Tip { lsn, .. }) = tip {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a monitor compares it with seconds ago, not with a byte"
                )]
                gauge!(telemetry::WAL_DURABLE_LSN, "database" => database.to_string(), "vault" => vault.to_string())
                    .set(lsn.0 as f64);
            }
        }
    }

    fn exposure(&self, beats: &[Beat], now: Timestamp) -> Vec<(VaultName, Option<f64>)> {
        let seconds = |tip| exposure::exposure(now, beats, tip).map(|exposure| exposure.as_secs_f64());
        self.tips.iter().map(|(vault, tip)| (vault.clone(), seconds(tip.as_ref()))).collect()
    }

    /// What each vault lacks that another one has.
    fn copies(&self, lag_max: Span, now: Timestamp) -> Vec<VaultCopies> {
        if self.vaults.len() < 2 {
            return Vec::new();
        }
        let copies = self.vaults.iter().map(|(vault, target)| {
            let lag = self.lag(vault, target);
            let lag_seconds = lag.oldest_backup.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
            VaultCopies {
                vault: vault.clone(),
                lag_seconds,
                missing_backups: lag.backups,
                missing_wal: lag.segments,
                fell_behind: lag_seconds > lag_max.as_secs_f64(),
            }
        });
        copies.collect()
    }

    fn lag(&self, vault: &VaultName, target: &BTreeMap<Layout, Holding>) -> Lag {
        let others = || self.vaults.iter().filter(|(other, _)| other != vault);
        let layouts: BTreeSet<&Layout> = others().flat_map(|(_, histories)| histories.keys()).collect();
        layouts.into_iter().fold(Lag::default(), |sum, layout| {
            let sources: Vec<Holding> = others().filter_map(|(_, histories)| histories.get(layout)).cloned().collect();
            let lag = copy::lag(&sources, target.get(layout).unwrap_or(&Holding::default()));
            Lag {
                oldest_backup: sum.oldest_backup.into_iter().chain(lag.oldest_backup).min(),
                backups: sum.backups + lag.backups,
                segments: sum.segments + lag.segments,
            }
        })
    }

    /// The newest instant up to which some vault is known to hold everything.
    fn until(&self, beats: &[Beat]) -> Option<Timestamp> {
        self.tips.iter().filter_map(|(_, tip)| exposure::held_until(beats, tip.as_ref())).max()
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

/// The last restore test with such a verdict.
fn last_test(entries: &[Entry], database: &DatabaseName, is_such: fn(Verdict) -> bool) -> Option<LastRestoreTest> {
    let is_one = |entry: &&Entry| {
        let record = &entry.record;
        record.kind == flows::restore_test::NAME && record.subject == database.as_str() && is_such(record.verdict)
    };
    entries.iter().rev().find(is_one).map(|entry| LastRestoreTest {
        run_id: RunId::from(entry.record.run_id.clone()),
        at: entry.record.finished_at,
        verdict: entry.record.verdict,
        restore_seconds: entry.record.measured.restore_seconds,
        rpo_seconds: entry.record.measured.rpo_seconds,
    })
}

/// What its restore tests take by turns.
fn tested_points(entries: &[Entry], database: &Database) -> Vec<TestedPoint> {
    let test = database.schedule.config.restore_test.as_ref();
    let algorithms = test.map(|test| test.recovery_point.algorithms()).unwrap_or_default();
    if algorithms.len() < 2 {
        return Vec::new();
    }
    let is_own = |entry: &&Entry| {
        entry.record.kind == flows::restore_test::NAME && entry.record.subject == database.name.as_str()
    };
    let own: Vec<Entry> = entries.iter().filter(is_own).cloned().collect();
    flows::restore_test::standing(&algorithms, &own).into_iter().map(TestedPoint::from).collect()
}

/// What the last restore test took; a restore now takes about as long.
fn estimate(entries: &[Entry], database: &DatabaseName) -> Option<f64> {
    let of_database =
        |entry: &&Entry| entry.record.kind == flows::restore_test::NAME && entry.record.subject == database.as_str();
    entries.iter().rev().filter(of_database).find_map(|entry| entry.record.measured.restore_seconds)
}

fn next_runs(database: &Database, agenda: &Agenda, now: Timestamp) -> Vec<NextRun> {
    let config = &database.schedule.config;
    let scheduled = agenda.lines.iter().enumerate().filter_map(|(place, line)| {
        let what = if line.backup.is_some() { format!("{} backup", line.kind) } else { "restore test".to_owned() };
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

/// The same figures as metrics.
fn publish(status: &EstateStatus) {
    for database in &status.databases {
        let name = database.database.to_string();
        for vault in &database.exposure {
            if let Some(seconds) = vault.seconds {
                gauge!(telemetry::EXPOSURE_SECONDS, "database" => name.clone(), "vault" => vault.vault.to_string())
                    .set(seconds);
            }
        }
        for copies in &database.copies {
            let labels = [("database", name.clone()), ("vault", copies.vault.to_string())];
            gauge!(telemetry::COPY_LAG_SECONDS, &labels).set(copies.lag_seconds);
            #[expect(clippy::cast_precision_loss, reason = "nobody lacks 2^52 segments")]
            gauge!(telemetry::COPY_MISSING_SEGMENTS, &labels).set(copies.missing_wal as f64);
        }
        let age = |at: Timestamp| status.generated_at.duration_since(at).as_secs_f64();
        if let Some(backup) = &database.newest_backup {
            gauge!(telemetry::BACKUP_AGE_SECONDS, "database" => name.clone()).set(age(backup.finished_at));
        }
        if let Some(test) = &database.last_proven {
            gauge!(telemetry::LAST_PROVEN_AGE_SECONDS, "database" => name.clone()).set(age(test.at));
        }
        if let Some(seconds) = database.would_take_seconds {
            gauge!(telemetry::RESTORE_SECONDS, "database" => name.clone()).set(seconds);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 findings")]
    gauge!(telemetry::FINDINGS_OPEN).set(status.findings.len() as f64);
}

impl App {
    /// Objectives against what was achieved, over a month or over all time.
    pub async fn report(&self, month: Option<Month>) -> Result<Report, evidence::EvidenceError> {
        let entries = self.resources.evidence.records(&Filter::default()).await?;
        let promised = |config: &ScheduleConfig| Promised { tier: config.tier, objectives: config.objectives() };
        let databases = self
            .resources
            .databases
            .iter()
            .map(|(name, database)| (name.to_string(), promised(&database.schedule.config)))
            .collect();
        Ok(report::build(&entries, month, &databases, self.clock.now(), self.signer.verifier().fingerprint()))
    }
}
