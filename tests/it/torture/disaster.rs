//! Disasters that happen: while a restore test draws its instant, a client of the
//! database keeps its own account of what the server acknowledged; at that instant
//! the server is killed and its disk thrown away. What the test measured is held
//! against what the client saw.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use lifeboat::{
    clock::Clock,
    process::{Tasks, end_all_of},
};
use serde_json::Value;
use sqlx::{
    ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::ChildStderr,
};

use super::{
    chance::{Chance, minutes},
    estate::{durable, tell_log},
};
use crate::{
    cli::site::{Site, wallet},
    support::{Lab, eventually},
};

const SOON: Duration = Duration::from_secs(120);
/// How often the client commits a row, and looks at the heartbeats.
const PAUSE: Duration = Duration::from_millis(20);
/// Tests in the short form, and in the long one for each ten minutes.
const SHORT: u64 = 2;
const LONG: u64 = 30;
/// How many tests are begun until a command drives one.
const TRIES: usize = 5;
const ROWS: &str = "select coalesce(max(n), 0) from seen";
const HOLES: &str = "select coalesce(max(n), 0) - count(*) from seen";
const BEATS: &str = "select max(seq) from lifeboat.heartbeat";

/// What a client saw acknowledged, by number, and when.
#[derive(Default)]
struct Account {
    rows: BTreeMap<i64, Timestamp>,
    beats: BTreeMap<i64, Timestamp>,
}

#[derive(Clone, Default)]
struct Client(Arc<Mutex<Account>>);

impl Client {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap()
    }

    /// Commits rows and looks at heartbeats until the server is no more.
    fn start(&self, lab: &Lab, tasks: &Tasks) {
        let (socket, port, client) = (lab.cluster.socket_folder(), lab.port, self.clone());
        tasks.spawn(async move {
            let mut session = connected(socket, port).await;
            for number in 1.. {
                let row = sqlx::query("INSERT INTO seen VALUES ($1, repeat(md5($1::text), 100))").bind(number);
                if row.execute(&mut session).await.is_err() {
                    return;
                }
                client.account().rows.insert(number, Clock::system().now());
                tokio::time::sleep(PAUSE).await;
            }
        });
        let (socket, port, client) = (lab.cluster.socket_folder(), lab.port, self.clone());
        tasks.spawn(async move {
            let mut session = connected(socket, port).await;
            let seqs = "SELECT seq FROM lifeboat.heartbeat";
            while let Ok(seqs) = sqlx::query_scalar::<_, i64>(seqs).fetch_all(&mut session).await {
                let now = Clock::system().now();
                for seq in seqs {
                    client.account().beats.entry(seq).or_insert(now);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

async fn connected(socket: PathBuf, port: u16) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass().socket(socket).port(port).username("postgres");
    options.database("wallet").ssl_mode(PgSslMode::Disable).connect().await.unwrap()
}

/// What one test measured, beside what the client saw.
struct Compared {
    flush_seconds: u64,
    rpo_seconds: f64,
    bound_seconds: f64,
    lost_commits: u64,
    /// Between the last row that the copy holds and the first that it lacks.
    client_rpo_seconds: (f64, f64),
    client_lost: u64,
    /// Heartbeats that the client saw within the bound of the disaster.
    close: u64,
}

impl Compared {
    fn of(flush_seconds: u64, test: &Value, account: &Account) -> Self {
        let figure = |name: &str| test[name].as_f64().unwrap_or_else(|| panic!("no {name}: {test}"));
        let disaster_at: Timestamp = test["disaster_at"].as_str().unwrap().parse().unwrap();
        let before = |at: Timestamp| disaster_at.duration_since(at).as_secs_f64();
        let (row, beat) = (public(test, ROWS), public(test, BEATS));
        assert_eq!(public(test, HOLES), 0, "rows are missing below others: {test}");
        let lacked = account.rows.range(row + 1..).next().map_or(disaster_at, |(_, at)| disaster_at.min(*at));
        let bound_seconds = figure("rpo_bound_seconds");
        let bound = SignedDuration::try_from_secs_f64(bound_seconds).unwrap();
        let lost = account.beats.range(beat + 1..).map(|(_, at)| *at);
        Self {
            flush_seconds,
            rpo_seconds: figure("rpo_seconds"),
            bound_seconds,
            lost_commits: test["lost_commits"].as_u64().unwrap(),
            client_rpo_seconds: (before(lacked), before(account.rows[&row])),
            client_lost: lost.clone().filter(|at| *at <= disaster_at).count() as u64,
            close: lost.filter(|at| at.duration_since(disaster_at).abs() <= bound).count() as u64,
        }
    }

    /// Both of one mind, within what the test says of its own precision.
    #[track_caller]
    fn assert_equal(&self) {
        let (least, most) = self.client_rpo_seconds;
        let overlaps = self.rpo_seconds - self.bound_seconds <= most && least <= self.rpo_seconds + self.bound_seconds;
        assert!(overlaps, "{self}");
        // One that was acknowledged as the server died is known to one of them only.
        let differs = self.lost_commits.abs_diff(self.client_lost);
        assert!(differs <= self.close.max(1), "{self}");
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.client_rpo_seconds;
        write!(
            f,
            "flushed every {} s: rpo {:.2} s ± {:.2} s, the client's {least:.2} to {most:.2} s; lost {}, the client's {}",
            self.flush_seconds, self.rpo_seconds, self.bound_seconds, self.lost_commits, self.client_lost
        )
    }
}

/// What the copy answered to a check that shows it.
#[track_caller]
fn public(test: &Value, sql: &str) -> i64 {
    let check = test["checks"].as_array().unwrap().iter().find(|check| check["name"] == sql);
    let actual = check.and_then(|check| check["actual"].as_str());
    actual.and_then(|actual| actual.parse().ok()).unwrap_or_else(|| panic!("`{sql}`: {test}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_at_a_disaster_is_what_a_client_saw_acknowledged() {
    let mut chance = Chance::new("disaster");
    let rounds = minutes().map_or(SHORT, |minutes| (LONG * minutes).div_ceil(10));
    let mut told = Vec::new();
    for _ in 0..rounds {
        let compared = round(&mut chance).await;
        println!("{compared}");
        told.push(compared);
    }
    let exact = told.iter().filter(|round| round.lost_commits == round.client_lost).count();
    println!("{rounds} disasters, the same count of lost commits in {exact}");
    told.iter().for_each(Compared::assert_equal);
}

async fn round(chance: &mut Chance) -> Compared {
    let lab = wallet("").await;
    lab.psql_in("wallet", "CREATE TABLE seen (n bigint PRIMARY KEY, filler text)").await;
    let flush_seconds = chance.between(1, 6);
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", "flush_every: 1s", &format!("flush_every: {flush_seconds}s"));
    let checks = [ROWS, HOLES, BEATS]
        .map(|sql| format!("    - {{sql: \"{sql}\", dbname: wallet, min: 0, public: true}}\n"))
        .concat();
    site.edit("schedules/wallet.yaml", "    - heartbeat\n", &format!("    - heartbeat\n{checks}"));
    site.run(&["backup", "wallet"]).await.json(0);
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || async { durable(&site).await.is_some() }).await;
    let (tasks, client) = (Tasks::new(), Client::default());
    client.start(&lab, &tasks);
    eventually("rows and heartbeats are acknowledged", SOON, || async {
        let account = client.account();
        account.rows.len() > 100 && account.beats.len() > 3
    })
    .await;
    chance.instant(Duration::from_secs(flush_seconds)).await;

    let test = struck(&lab, &site).await;
    tasks.shut_down().await;
    if test["verdict"] != "PASS" {
        tell_log(&site);
    }
    assert_eq!(test["verdict"], "PASS", "{test}");
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    Compared::of(flush_seconds, &test, &client.account())
}

/// A restore test whose disaster happens to the server. The daemon may take a run before
/// the command does, and tells the instant to nobody; then nothing has happened yet.
async fn struck(lab: &Lab, site: &Site) -> Value {
    for _ in 0..TRIES {
        let mut command = site.command(&["restore-test", "wallet"]);
        let mut test = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(test.stderr.take().unwrap()).lines();
        let drawn = drawn(&mut lines).await;
        if let Some(drawn) = drawn {
            if let Ok(ahead) = Duration::try_from(drawn.duration_since(Clock::system().now())) {
                tokio::time::sleep(ahead).await;
            }
            end_all_of(&lab.cluster.folder).await.unwrap();
            std::fs::remove_dir_all(lab.cluster.data()).unwrap();
        }
        let mut told = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            told += &line;
        }
        let mut shown = String::new();
        test.stdout.take().unwrap().read_to_string(&mut shown).await.unwrap();
        test.wait().await.unwrap();
        let test: Value = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{error}: {shown} {told}"));
        if drawn.is_some() {
            return test;
        }
        assert_eq!(test["verdict"], "PASS", "{test} {told}");
    }
    panic!("the daemon took each of {TRIES} tests");
}

/// The instant that a test has drawn; none where another process drives it.
async fn drawn(lines: &mut Lines<BufReader<ChildStderr>>) -> Option<Timestamp> {
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, drawn)) = line.split_once("disaster drawn for ") {
            return Some(drawn.split(',').next().unwrap().parse().unwrap());
        }
    }
    None
}
