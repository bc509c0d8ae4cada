//! The agenda that a schedule writes down, together with the maintenance that
//! `lifeboat.yaml` announces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::SignedDuration;

use super::{
    DaemonConfig, Estate, ScheduleConfig,
    daemon::MaintenanceConfig,
    schedule::{HeldFlow, SelfTestConfig},
};
use crate::{
    decide::{
        agenda::{Agenda, CatchUp, Line, Size, jitter},
        announce::{Concerned, Window},
        due::{InvalidSchedule, Schedule},
        hold::{Cause, Edge, Hold, InvalidEdge, InvalidHold},
    },
    domain::{DatabaseName, NotifierName, Span, record::kind},
};

/// Why a schedule has no agenda. What was loaded has none of these.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAgenda {
    #[error(transparent)]
    Schedule(#[from] InvalidSchedule),
    #[error(transparent)]
    Edge(#[from] InvalidEdge),
    #[error(transparent)]
    Hold(#[from] InvalidHold),
}

/// When runs of a line keep to their times.
struct Timing<'a> {
    cron: &'a str,
    jitter: Option<Span>,
    start_window: Option<Span>,
    catch_up: CatchUp,
}

impl Estate {
    /// The agenda of each database. What was loaded has one for each.
    pub fn agendas(&self) -> BTreeMap<DatabaseName, Arc<Agenda>> {
        let schedules = self.schedules.iter().map(|schedule| &schedule.config);
        schedules
            .filter_map(|schedule| Some((schedule.database.clone(), Arc::new(schedule.agenda(&self.daemon).ok()?))))
            .collect()
    }
}

impl Estate {
    /// The maintenance that is announced, and who is told of it: of each database those
    /// that its schedule names, and of all of them those that the maintenance names.
    pub fn windows(&self) -> Vec<Window> {
        let windows = self.daemon.maintenance.iter().filter_map(|maintenance| {
            let mut told: BTreeMap<NotifierName, Vec<Concerned>> = BTreeMap::new();
            let schedules = self.schedules.iter().map(|schedule| &schedule.config);
            for schedule in schedules.filter(|schedule| maintenance.concerns(&schedule.database)) {
                let named: BTreeSet<_> = schedule.notify.iter().chain(&maintenance.notify).collect();
                for notifier in named {
                    let (database, timezone) = (schedule.database.clone(), schedule.timezone.clone());
                    told.entry(notifier.clone()).or_default().push(Concerned { database, timezone });
                }
            }
            let mut scope = maintenance.databases.clone();
            scope.sort();
            scope.dedup();
            // What was loaded has a hold.
            Some(Window { reason: maintenance.reason.clone(), scope, hold: maintenance.hold().ok()?, told })
        });
        windows.collect()
    }
}

impl ScheduleConfig {
    /// What of it runs when. The first lines are those of `backups`, in their
    /// order; the restore test and its self-test follow them, where there are vaults.
    pub fn agenda(&self, daemon: &DaemonConfig) -> Result<Agenda, InvalidAgenda> {
        let mut agenda = Agenda::default();
        for entry in &self.backups {
            // Two lines of which one stands alone are two kinds of run.
            let kind = if entry.standalone { "standalone" } else { entry.kind.as_str() };
            let timing = Timing {
                cron: &entry.cron,
                jitter: entry.jitter,
                start_window: entry.start_window,
                catch_up: entry.catch_up,
            };
            let size = Size { kind: entry.kind, standalone: entry.standalone };
            agenda.lines.push(self.line(HeldFlow::Backup.as_str(), kind, Some(size), &timing)?);
        }
        if let Some(test) = &self.restore_test {
            let timing = Timing {
                cron: &test.cron,
                jitter: test.jitter,
                start_window: test.start_window,
                catch_up: test.catch_up,
            };
            let kind = if self.managed().is_some() { "rds" } else { "local" };
            agenda.lines.push(self.line(HeldFlow::RestoreTest.as_str(), kind, None, &timing)?);
            let SelfTestConfig { cron, jitter, start_window, catch_up } = &test.self_test;
            let timing = Timing { cron, jitter: Some(*jitter), start_window: *start_window, catch_up: *catch_up };
            // Faults are planted into what vaults hold.
            if self.managed().is_none() {
                agenda.lines.push(self.line(kind::SELF_TEST, "planted_faults", None, &timing)?);
            }
        }
        agenda.holds = self.holds(daemon)?;
        Ok(agenda)
    }

    fn line(
        &self,
        flow: &'static str,
        kind: &str,
        backup: Option<Size>,
        timing: &Timing<'_>,
    ) -> Result<Line, InvalidAgenda> {
        let most = timing.jitter.map_or(SignedDuration::ZERO, signed);
        Ok(Line {
            name: format!("{flow}/{kind} `{}` {}", timing.cron, self.timezone),
            flow,
            kind: kind.to_owned(),
            backup,
            due: Schedule::parse(timing.cron, &self.timezone)?,
            jitter: jitter(&format!("{}/{flow}/{kind}", self.database), most),
            start_window: timing.start_window.map(signed),
            catch_up: timing.catch_up,
        })
    }

    fn holds(&self, daemon: &DaemonConfig) -> Result<Vec<Hold>, InvalidAgenda> {
        let mut holds = Vec::new();
        for blackout in &self.blackouts {
            let edges: (Edge, Edge) = (blackout.start.parse()?, blackout.end.parse()?);
            let flows = blackout.holds.iter().flat_map(|flow| flow.flows()).collect();
            holds.push(Hold::new(Cause::Blackout, (&edges.0, &edges.1), &self.timezone, flows)?);
        }
        for maintenance in daemon.maintenance.iter().filter(|maintenance| maintenance.concerns(&self.database)) {
            holds.push(maintenance.hold()?);
        }
        Ok(holds)
    }
}

impl MaintenanceConfig {
    pub fn concerns(&self, database: &DatabaseName) -> bool {
        self.databases.is_empty() || self.databases.contains(database)
    }

    pub fn hold(&self) -> Result<Hold, InvalidAgenda> {
        let edges: (Edge, Edge) = (self.start.parse()?, self.end.parse()?);
        let hold = Hold::new(Cause::Maintenance, (&edges.0, &edges.1), &self.timezone, Vec::new())?;
        Ok(hold.named(&self.reason))
    }
}

fn signed(span: Span) -> SignedDuration {
    SignedDuration::try_from(span.as_duration()).unwrap_or(SignedDuration::MAX)
}
