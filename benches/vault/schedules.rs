//! The schedules of very many databases in one daemon: how soon it is ready, how
//! late what is due is stored, and what it costs while nothing is due. The runs
//! are stored and nobody drives them: a node that lives is told of, and works not.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use lifeboat::{
    clock::Clock,
    db::{Db, agenda, nodes},
    domain::{NodeRole, RunId},
    flow::{DEFAULT_TTL, Runner},
    process::Tasks,
};
use tokio_util::sync::CancellationToken;

use super::{
    daemon::{Daemon, Site},
    estate::{Estate, PEERS_MAJOR},
    table::Figure,
};

const MANY: usize = 10_000;
const SOME: usize = 100;
/// In which all databases are due once, evenly spread.
const ROUND: SignedDuration = SignedDuration::from_secs(300);
/// How long idling is measured.
const IDLE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(300);
/// Clock ticks of a process's times per second.
const TICKS: f64 = 100.0;

pub(crate) async fn measure() -> Vec<Figure> {
    let estate =
        Estate::start_with(PEERS_MAJOR, "max_connections = 500\nmax_wal_senders = 120\nmax_replication_slots = 120\n")
            .await;
    let mut figures = many(&estate).await;
    figures.extend(some(&estate, "scheduler, api", "none of them protected by this node").await);
    figures.extend(some(&estate, "scheduler, worker, api", "heartbeats each second, WAL flushed each second").await);
    estate.end().await;
    figures
}

/// A folder with so many schedules. `cron` says when each takes its backups.
fn write(estate: &Estate, count: usize, roles: &str, cron: impl Fn(usize) -> String) -> Site {
    let site =
        Site::new(estate, &format!("schedules-{count}-{}", roles.len()), "{kind: directory, path: vault, region: lab}");
    site.edit("lifeboat.yaml", "name: bench,", &format!("name: bench, roles: [{roles}],"));
    let schedule = site.text("schedules/wallet.yaml");
    for nth in 0..count {
        let own =
            schedule.replace("wallet", &name(nth)).replace("0 2 29 2 *", &cron(nth)).replace("0 5 29 2 *", "0 5 1 * *");
        site.put(&format!("schedules/{}.yaml", name(nth)), &own);
    }
    std::fs::remove_file(site.folder.join("schedules/wallet.yaml")).unwrap();
    site
}

fn name(nth: usize) -> String {
    format!("db{nth:05}")
}

async fn state(site: &Site) -> Db {
    Db::open(&format!("sqlite:{}", site.folder.join("lifeboat.db").display())).await.unwrap()
}

fn now() -> Timestamp {
    Clock::system().now()
}

async fn until(what: &str, site: &Site, mut holds: impl AsyncFnMut() -> bool) -> f64 {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "{what}: {}", site.log());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    begun.elapsed().as_secs_f64()
}

/// When the run was due that this id is of.
fn due_at(id: &RunId) -> Timestamp {
    id.as_str().rsplit('/').next().unwrap().parse().unwrap()
}

/// Seconds from due to stored, of the runs that were due in this time; ascending.
async fn lateness(runner: &Runner, from: Timestamp, to: Timestamp) -> Vec<f64> {
    let runs = runner.list(4 * MANY).await.unwrap();
    let due = runs.iter().map(|run| (due_at(&run.run_id), run.created_at));
    let due = due.filter(|(due_at, _)| (from..to).contains(due_at));
    let mut late: Vec<f64> = due.map(|(due_at, stored_at)| stored_at.duration_since(due_at).as_secs_f64()).collect();
    late.sort_by(f64::total_cmp);
    late
}

fn told(late: &[f64]) -> String {
    let at = |share: usize| late[(late.len() * share / 100).min(late.len() - 1)];
    format!(
        "{} runs: {:.2} s in the median, {:.2} s at the 99th percentile, {:.2} s at most",
        late.len(),
        at(50),
        at(99),
        at(100)
    )
}

/// Seconds until all lines of new schedules are stored.
async fn first_start(site: &Site) -> f64 {
    let (daemon, begun) = (site.serve(), Instant::now());
    until("the state is there", site, async || site.folder.join("lifeboat.db").exists()).await;
    let db = state(site).await;
    let are_stored = async || agenda::marks(&db).await.is_ok_and(|marks| marks.len() == MANY);
    until("all lines have a mark", site, are_stored).await;
    let taken = begun.elapsed().as_secs_f64();
    daemon.stop().await;
    taken
}

async fn many(estate: &Estate) -> Vec<Figure> {
    // Each is due once in every round, and all of them at one instant as well.
    let midnight = (now() + ROUND).round(jiff::Unit::Minute).unwrap();
    let wall = midnight.to_zoned(TimeZone::UTC);
    let minutes = usize::try_from(ROUND.as_mins()).unwrap();
    let site = write(estate, MANY, "scheduler", |nth| format!("{} {}/{minutes} * * * *", nth % 60, nth / 60 % minutes));
    for nth in 0..MANY {
        let at_once = format!(
            "backups: [{{kind: full, standalone: true, cron: \"0 {} {} * * *\", keep: {{daily: 1}}}}, ",
            wall.minute(),
            wall.hour()
        );
        site.edit(&format!("schedules/{}.yaml", name(nth)), "backups: [", &at_once);
    }
    let first = first_start(&site).await;
    let db = state(&site).await;
    let runner = Runner::new(db.clone(), "looking", Clock::system(), DEFAULT_TTL);
    let known: BTreeSet<RunId> = runner.list(4 * MANY).await.unwrap().into_iter().map(|run| run.run_id).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tasks = Tasks::new();
    tasks.spawn(alive(db, tasks.stop().clone()));
    let started = now();
    let daemon = site.serve();
    // Of what was due meanwhile.
    let again = until("the first run after a start", &site, async || {
        runner.list(50).await.unwrap().iter().any(|run| !known.contains(&run.run_id))
    })
    .await;
    let settled = started + SignedDuration::from_secs(10);
    let idle = idle(&daemon).await;
    tokio::time::sleep_until((Instant::now() + until_past(midnight)).into()).await;
    let memory = daemon.resident_bytes();
    let spread = lateness(&runner, settled, midnight).await;
    let at_once = lateness(&runner, midnight, midnight + SignedDuration::from_secs(1)).await;
    tasks.shut_down().await;
    daemon.stop().await;
    let what = format!("{MANY} databases, each in a file of its own");
    let figure = |work: &str, what: String, measured: String, goal: &str| Figure {
        work: work.to_owned(),
        what,
        measured,
        goal: goal.to_owned(),
    };
    vec![
        figure(
            "daemon started → schedules ready",
            what.clone(),
            format!("{again:.1} s; {first:.1} s the first time, until all are stored"),
            "≤ 2 s",
        ),
        figure("due → stored", format!("{what}, due once in 5 minutes"), told(&spread), "≤ 1 s at the 99th percentile"),
        figure(
            "due → stored",
            format!("{what}, all due at one instant"),
            told(&at_once),
            "≤ 1 s at the 99th percentile",
        ),
        figure(
            "memory and processor",
            what,
            format!("{}; {:.0} MiB after {} runs", idle.told(), mib(memory), spread.len() + at_once.len()),
            "≤ 150 MB",
        ),
    ]
}

fn until_past(instant: Timestamp) -> Duration {
    let left = (instant + SignedDuration::from_secs(30)).duration_since(now());
    Duration::try_from(left).unwrap_or_default()
}

/// Tells that a node lives which could drive the runs.
async fn alive(db: Db, stop: CancellationToken) {
    while !stop.is_cancelled() {
        nodes::tell(&db, "worker", &"lab".parse().unwrap(), &[NodeRole::Worker], "0").await.unwrap();
        let _stopped = tokio::time::timeout(Duration::from_secs(5), stop.cancelled()).await;
    }
}

async fn some(estate: &Estate, roles: &str, what: &str) -> Vec<Figure> {
    let site = write(estate, SOME, roles, |_| "0 2 1 * *".to_owned());
    for nth in 0..SOME {
        // What was due last month would be made up for, and nothing idle be measured.
        site.edit(&format!("schedules/{}.yaml", name(nth)), "{kind: full, ", "{kind: full, catch_up: skip, ");
    }
    let daemon = site.serve();
    if roles.contains("worker") {
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        until("all are streamed", &site, async || estate.psql(streaming).await == SOME.to_string()).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let idle = idle(&daemon).await;
    daemon.stop().await;
    let goal = if roles.contains("worker") { "" } else { "≤ 60 MB, ≤ 1 % of a core" };
    let what = format!("{SOME} databases, {what}");
    vec![Figure { work: "memory and processor".to_owned(), what, measured: idle.told(), goal: goal.to_owned() }]
}

/// What a daemon costs while nothing is due.
struct Idle {
    bytes: u64,
    /// Of one core.
    share: f64,
}

impl Idle {
    fn told(&self) -> String {
        format!("{:.0} MiB, {:.1} % of a core", mib(self.bytes), self.share * 100.0)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

async fn idle(daemon: &Daemon) -> Idle {
    let (before, begun) = (busy_seconds(daemon.pid()), Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = (busy_seconds(daemon.pid()) - before) / begun.elapsed().as_secs_f64();
    Idle { bytes: daemon.resident_bytes(), share }
}

/// How long a process has worked, in its own and the kernel's code.
fn busy_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let ticks: f64 = rest.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / TICKS
}
