//! Starts what is due. tokio-cron-scheduler is the ticker, and what is due next wakes
//! sooner; what is due is read from the schedules each time, so that no tick that is
//! missed loses a run (it fires late or not at all under load). A run's id holds its due time:
//! starting it twice runs it once. How far each line was dealt with is stored
//! together with its runs, so that what passed while nobody lived is known.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::agenda::{self, MarkRow},
    decide::agenda::{Agenda, Due, Line, Mark, Missed},
    domain::{RunId, with_causes},
    flow::NewRun,
    flows::{backup, missed, restore_test, self_test},
};

mod late;
mod scheduled;

use late::LateTests;
use scheduled::Scheduled;
pub use scheduled::{has_backup_before, has_snapshot_before};

/// How soon something that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(5);

/// How often is looked at least.
const TICK: Duration = Duration::from_secs(1);

/// Runs stored in one transaction.
const AT_ONCE: usize = 500;

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) -> Result<(), JobSchedulerError> {
    let tick = Arc::new(Notify::new());
    let mut ticker = JobScheduler::new().await?;
    let woken = Arc::clone(&tick);
    ticker.add(Job::new_repeated(TICK, move |_, _| woken.notify_one())?).await?;
    ticker.start().await?;
    let mut scheduler = Scheduler::new(&app);
    let mut late = LateTests::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tick.notified() => {}
            () = tokio::time::sleep(scheduler.rest(app.clock.now())) => {}
        }
        let now = app.clock.now();
        if let Err(error) = scheduler.look(now).await {
            tracing::error!(error, "due runs could not be stored; trying again");
        }
        late.look(&app, &scheduler.tables, now).await;
    }
    ticker.shutdown().await
}

/// The stored marks of each database that has any, by the line's name.
type Stored = BTreeMap<String, BTreeMap<String, Timestamp>>;

/// The schedule of one database, and how far it was dealt with.
struct Table {
    database: Scheduled,
    agenda: Arc<Agenda>,
    marks: Vec<Mark>,
}

/// All schedules, and when each is looked at next.
struct Scheduler {
    app: Arc<App>,
    tables: Vec<Table>,
    queue: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// Whether the marks were read.
    is_ready: bool,
}

impl Scheduler {
    fn new(app: &Arc<App>) -> Self {
        let own = app.resources.databases.values().cloned().map(Scheduled::Own);
        let all = own.chain(app.resources.managed.values().cloned().map(Scheduled::Managed));
        let table = |database: Scheduled| {
            let agenda = app.resources.agenda(database.name());
            Table { database, agenda, marks: Vec::new() }
        };
        let tables = all.map(table).collect();
        Self { app: Arc::clone(app), tables, queue: BinaryHeap::new(), is_ready: false }
    }

    /// How long nothing is due. The ticker looks all the same: a clock may jump.
    fn rest(&self, now: Timestamp) -> Duration {
        let next = self.queue.peek().map(|Reverse((at, _))| at.duration_since(now));
        next.map_or(TICK, |next| Duration::try_from(next).unwrap_or_default())
    }

    /// Stores what is due. What could not be stored is looked at again.
    async fn look(&mut self, now: Timestamp) -> Result<(), String> {
        if !self.is_ready {
            let stored = self.stored().await?;
            let mut begun = Vec::new();
            for table in &mut self.tables {
                let stored = stored.get(table.database.name().as_str());
                table.marks = table.agenda.take_up(stored, now);
                begun.extend(table.begun(stored));
            }
            // What is promised from now on is known from now on, also to who comes after a crash.
            if !begun.is_empty() {
                self.app.runner.submit_due(Vec::new(), &begun).await.map_err(|error| with_causes(&error))?;
            }
            self.queue = (0..self.tables.len()).map(|table| Reverse((now, table))).collect();
            self.is_ready = true;
        }
        let mut due = Vec::new();
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            due.extend(self.queue.pop().map(|Reverse((_, table))| table));
        }
        // Another node may have dealt with what looks missed from here.
        if due.iter().any(|table| self.tables.get(*table).is_some_and(|table| table.looks_missed(now))) {
            match self.stored().await {
                Ok(marks) => due.iter().for_each(|table| {
                    if let Some(table) = self.tables.get_mut(*table) {
                        table.follow(&marks);
                    }
                }),
                Err(error) => {
                    self.queue.extend(due.iter().map(|table| Reverse((now + RETRY, *table))));
                    return Err(error);
                }
            }
        }
        let mut outcome = Ok(());
        for tables in due.chunks(AT_ONCE) {
            if let Err(error) = self.settle(tables, now).await {
                outcome = Err(error);
                self.queue.extend(tables.iter().map(|table| Reverse((now + RETRY, *table))));
            }
        }
        outcome
    }

    async fn stored(&self) -> Result<Stored, String> {
        agenda::marks(&self.app.resources.db).await.map_err(|error| with_causes(&error))
    }

    /// Stores the runs and marks of some schedules, all of them or none. A run that
    /// cannot be made yet keeps its own line from moving on, and nothing else.
    async fn settle(&mut self, tables: &[usize], now: Timestamp) -> Result<(), String> {
        let (mut runs, mut rows, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for place in tables {
            let Some(table) = self.tables.get(*place) else { continue };
            let look = table.agenda.look(&table.marks, now);
            let mut marks: Vec<Mark> =
                look.through.iter().map(|through| Mark { through: *through, is_promised: true }).collect();
            let mut again_at = look.again_at;
            for due in &look.start {
                match table.due_run(due).await {
                    Ok(run) => runs.extend(run),
                    Err(error) => {
                        tracing::warn!(database = %table.database.name(), error, "a due run cannot be stored; trying again");
                        if let (Some(mark), Some(before)) = (marks.get_mut(due.line), table.marks.get(due.line)) {
                            *mark = *before;
                        }
                        again_at = again_at.into_iter().chain([now + RETRY]).min();
                    }
                }
            }
            for missed in &look.missed {
                runs.push(table.missed_run(missed)?);
            }
            rows.extend(table.moved(&marks));
            settled.push((*place, marks, again_at));
        }
        if !runs.is_empty() || !rows.is_empty() {
            self.app.runner.submit_due(runs, &rows).await.map_err(|error| with_causes(&error))?;
        }
        for (place, marks, again_at) in settled {
            if let Some(table) = self.tables.get_mut(place) {
                table.marks = marks;
            }
            self.queue.extend(again_at.map(|again_at| Reverse((again_at, place))));
        }
        Ok(())
    }
}

impl Table {
    /// Moves on to what other nodes have dealt with.
    fn follow(&mut self, stored: &Stored) {
        let stored = stored.get(self.database.name().as_str());
        for (line, mark) in self.agenda.lines.iter().zip(&mut self.marks) {
            if let Some(through) = stored.and_then(|stored| stored.get(&line.name)) {
                mark.through = mark.through.max(*through);
            }
        }
    }

    fn looks_missed(&self, now: Timestamp) -> bool {
        !self.agenda.look(&self.marks, now).missed.is_empty()
    }

    /// The marks of promised lines that are not among the stored ones.
    fn begun(&self, stored: Option<&BTreeMap<String, Timestamp>>) -> Vec<MarkRow> {
        let is_stored = |line: &Line| stored.is_some_and(|stored| stored.contains_key(&line.name));
        let lines = self.agenda.lines.iter().zip(&self.marks);
        lines
            .filter(|(line, mark)| mark.is_promised && !is_stored(line))
            .map(|(line, mark)| self.row(line, mark))
            .collect()
    }

    fn row(&self, line: &Line, mark: &Mark) -> MarkRow {
        MarkRow { database: self.database.name().to_string(), line: line.name.clone(), through: mark.through }
    }

    /// Those of these marks that are further on than before.
    fn moved(&self, marks: &[Mark]) -> Vec<MarkRow> {
        let lines = self.agenda.lines.iter().zip(&self.marks).zip(marks);
        lines
            .filter(|((_, before), mark)| before.through != mark.through)
            .map(|((line, _), mark)| self.row(line, mark))
            .collect()
    }

    /// The run of a due time. A restore test or self-test that was due before there was a
    /// backup has nothing to test.
    async fn due_run(&self, due: &Due<'_>) -> Result<Option<NewRun>, String> {
        let (database, schedule) = (self.database.name(), self.database.config());
        let Some(line) = self.agenda.lines.get(due.line) else { return Ok(None) };
        let id = RunId::new(line.flow, database.as_str(), &line.kind, &due.due_at.to_string());
        let (run, placement) = match schedule.backups.get(due.line) {
            Some(entry) => {
                let params = backup::Params {
                    database: database.clone(),
                    kind: entry.kind,
                    standalone: entry.standalone,
                    manner: backup::Manner { from: entry.backup_from, rate_max: entry.backup_rate_max },
                    due_at: Some(due.due_at),
                };
                (NewRun::new(id, database, &params, "schedule"), self.database.placement())
            }
            None if !self.database.has_backup_before(due.due_at).await? => return Ok(None),
            None if line.flow == self_test::NAME => {
                let params = self_test::Params { database: database.clone(), due_at: Some(due.due_at) };
                (NewRun::new(id, database, &params, "schedule"), self.database.placement())
            }
            None => {
                let params = restore_test::Params {
                    database: database.clone(),
                    point: restore_test::Point::Scheduled,
                    due_at: Some(due.due_at),
                };
                (NewRun::new(id, database, &params, "schedule"), self.database.test_placement())
            }
        };
        let run = run.map_err(|error| with_causes(&error))?;
        Ok(Some(run.placed(placement).by(due.closes_at)))
    }

    fn missed_run(&self, missed: &Missed) -> Result<NewRun, String> {
        let Missed { line, why, due } = missed;
        let (flow, kind) = self.agenda.lines.get(*line).map_or(("", ""), |line| (line.flow, line.kind.as_str()));
        let last = due.last().map(ToString::to_string).unwrap_or_default();
        let params = missed::Params {
            database: self.database.name().clone(),
            flow: flow.to_owned(),
            kind: kind.to_owned(),
            why: *why,
            due: due.clone(),
        };
        let id = RunId::new(missed::NAME, self.database.name().as_str(), &format!("{flow}-{kind}"), &last);
        NewRun::new(id, self.database.name(), &params, "schedule").map_err(|error| with_causes(&error))
    }
}
