//! The API through its real router over a real socket, in plain HTTP/1.1.

mod control;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lifeboat::{
    api::{self, Control, ControlError, Source, SourceError, control::Word},
    domain::{Attribution, Backup, DatabaseName, Lever, RunId},
    evidence::{Entry, Filter, Month},
    flow::RunSummary,
    process::Tasks,
    report::{EstateStatus, Report, managed::ListedSnapshot},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{report::report_over, sample};

/// Answers from samples; everything fails when `down`.
struct Samples {
    report: Report,
    down: bool,
}

impl Samples {
    fn up(&self) -> Result<(), SourceError> {
        if self.down {
            let cause = std::io::Error::other("password of /run/secrets/state refused by db-7");
            Err(SourceError::reading("the state database")(cause))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Source for Samples {
    async fn ready(&self) -> Result<(), SourceError> {
        self.up()
    }

    async fn status(&self) -> Result<EstateStatus, SourceError> {
        self.up()?;
        let mut estate = sample::estate();
        estate.findings[0].message = "<script>alert(1)</script>".into();
        Ok(estate)
    }

    async fn runs(&self, limit: usize) -> Result<Vec<RunSummary>, SourceError> {
        Ok(sample::estate().runs.into_iter().take(limit).collect())
    }

    async fn run(&self, id: &RunId) -> Result<Option<RunSummary>, SourceError> {
        Ok(sample::estate().runs.into_iter().find(|run| run.run_id == *id))
    }

    async fn backups(&self, database: Option<&DatabaseName>) -> Result<Vec<Backup>, SourceError> {
        let all = ["wallet", "ledger"].map(sample::backup);
        Ok(all.into_iter().filter(|backup| database.is_none_or(|name| backup.database == *name)).collect())
    }

    async fn snapshots(&self, _database: Option<&DatabaseName>) -> Result<Vec<ListedSnapshot>, SourceError> {
        Ok(Vec::new())
    }

    async fn evidence(&self, filter: &Filter) -> Result<Vec<Entry>, SourceError> {
        let fits = |entry: &&Entry| filter.kind.as_ref().is_none_or(|kind| entry.record.kind == *kind);
        Ok(self.report.details.iter().filter(fits).cloned().collect())
    }

    async fn report(&self, month: Option<Month>) -> Result<Report, SourceError> {
        Ok(Report { month, ..self.report.clone() })
    }

    fn metrics_text(&self) -> String {
        lifeboat::telemetry::metrics_handle().unwrap().render()
    }
}

/// Does nothing, and tells what it was asked to do.
#[derive(Default)]
struct Deeds {
    told: Mutex<Vec<String>>,
    lever: Mutex<Lever>,
}

#[async_trait]
impl Control for Deeds {
    async fn signal(&self, run: &RunId, word: Word, by: &Attribution) -> Result<(), ControlError> {
        let runs = sample::estate().runs;
        let run = runs.iter().find(|known| known.run_id == *run).ok_or(ControlError::NoSuchRun(run.clone()))?;
        if run.state.is_final() {
            return Err(ControlError::Ended(run.run_id.clone()));
        }
        self.told.lock().unwrap().push(format!("{} {}: {}", word.as_str(), by.who, by.reason));
        Ok(())
    }

    async fn lever(&self) -> Result<Lever, ControlError> {
        Ok(self.lever.lock().unwrap().clone())
    }

    async fn turn_lever(&self, to_on: bool, by: &Attribution) -> Result<Lever, ControlError> {
        let since = Some("2026-11-21T05:41:12Z".parse().unwrap());
        let lever = Lever { on: to_on, who: Some(by.who.clone()), reason: Some(by.reason.clone()), since };
        *self.lever.lock().unwrap() = lever.clone();
        Ok(lever)
    }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn problem(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem
    }
}

struct Server {
    address: std::net::SocketAddr,
    tasks: Tasks,
    deeds: Arc<Deeds>,
}

impl Server {
    async fn start(down: bool) -> Self {
        let report = report_over(&sample::month(), None).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let deeds = Arc::new(Deeds::default());
        let router = api::router(Arc::new(Samples { report, down }), Arc::clone(&deeds) as Arc<_>);
        tasks.spawn(api::serve(listener, router, tasks.stop().clone()));
        Self { address, tasks, deeds }
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[("Host", "localhost")], "").await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = headers.concat();
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Answer { status, headers, body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        let answer = self.ask("GET", path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer
    }
}

#[tokio::test]
async fn every_route_answers_in_its_form() {
    let server = Server::start(false).await;
    assert_eq!(server.get("/healthz").await.json()["status"], "ok");
    assert_eq!(server.get("/readyz").await.json()["status"], "ok");

    let status = server.get("/api/v1/status").await.json();
    assert_eq!((&status["verdict"], &status["node"]), (&"FAIL".into(), &"mt-1".into()));
    assert_eq!(status["databases"][0]["verdict"], "PASS");
    assert_eq!(status["databases"][1]["exposure"][1]["over_objective"], true);
    assert!(status["databases"][2]["last_restore_test"].is_null());
    assert_eq!(server.get("/api/v1/databases").await.json()["items"].as_array().unwrap().len(), 3);

    let backups = server.get("/api/v1/backups?database=ledger").await.json();
    assert_eq!(backups["items"].as_array().unwrap().len(), 1);
    assert_eq!(backups["items"][0]["stop_lsn"], "4/28004108");

    let runs = server.get("/api/v1/runs?limit=2").await.json();
    assert_eq!(runs["items"].as_array().unwrap().len(), 2);
    let run = server.get("/api/v1/runs/restore_test/wallet/scheduled/20261121t050000z").await.json();
    assert_eq!(run["conclusion"]["verdict"], "PASS");

    let evidence = server.get("/api/v1/evidence?kind=drill").await.json();
    assert_eq!(evidence["items"].as_array().unwrap().len(), 1);
    assert_eq!(evidence["items"][0]["evidence"]["index"], 5);
    assert_eq!(evidence["items"][0]["measured"]["dns"]["d2"], Value::Null);

    lifeboat::telemetry::metrics_handle().unwrap();
    metrics::counter!(lifeboat::telemetry::RUNS_TOTAL, "flow" => "backup", "verdict" => "PASS").increment(2);
    let metrics = server.get("/metrics").await;
    assert!(metrics.headers["content-type"].starts_with("text/plain"));
    assert!(metrics.body.contains("lifeboat_runs_total{flow=\"backup\",verdict=\"PASS\"} 2"), "{}", metrics.body);
}

#[tokio::test]
async fn pages_hold_no_script_and_nothing_unescaped() {
    let server = Server::start(false).await;
    let page = server.get("/").await;
    assert!(page.headers["content-type"].starts_with("text/html"));
    assert!(page.body.contains("In danger") && page.body.contains("http-equiv=\"refresh\""));
    assert!(page.body.contains("&#60;script&#62;alert(1)"), "the planted finding is not shown");
    let report = server.get("/reports?month=2026-11").await;
    assert!(report.body.contains("November 2026"));
    assert!(server.get("/style.css").await.headers["content-type"].starts_with("text/css"));
    for page in [&page, &report] {
        assert!(!page.body.contains("<script"));
        // What the policy would forbid must not be used.
        assert!(!page.body.contains(" style=") && !page.body.contains(" onclick"));
    }
    assert!(server.get("/reports?format=csv").await.body.starts_with("index,leaf_hash,run_id"));
    assert_eq!(server.get("/reports?format=json").await.json()["coverage"]["proven"][0], "wallet");
}

#[tokio::test]
async fn every_answer_forbids_caching_guessing_and_scripts() {
    let server = Server::start(false).await;
    for path in ["/", "/reports", "/lever", "/style.css", "/api/v1/status", "/metrics", "/nothing"] {
        let headers = server.ask("GET", path).await.headers;
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let policy = &headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'; style-src 'self' 'sha256-"), "{policy}");
        assert!(!policy.contains("script-src") && !policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_a_problem_with_its_status() {
    let server = Server::start(false).await;
    for (method, path, status, detail) in [
        ("GET", "/nothing/here", 404, "there is nothing at /nothing/here"),
        ("GET", "/api/v1/runs/no/such/run", 404, "there is no run `no/such/run`"),
        ("POST", "/api/v1/status", 405, "POST cannot be done"),
        ("GET", "/runs/no/such/run", 404, "there is no run `no/such/run`"),
        ("GET", "/api/v1/runs?limit=many", 400, "limit"),
        ("GET", "/api/v1/runs?colour=red", 400, "colour"),
        ("GET", "/reports?month=november", 400, "write it like `2026-11`"),
        ("GET", "/api/v1/backups?database=No%20Name", 400, "not a valid database name"),
    ] {
        let answer = server.ask(method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        let problem = answer.problem();
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{path}: {problem}");
    }
}

#[tokio::test]
async fn a_failing_node_is_alive_not_ready_and_tells_no_secrets() {
    let server = Server::start(true).await;
    server.get("/healthz").await;
    for path in ["/readyz", "/api/v1/status", "/"] {
        let answer = server.ask("GET", path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.problem()["detail"].as_str().unwrap().contains("cannot read the state database now"));
        assert!(!answer.body.contains("secrets") && !answer.body.contains("db-7"), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_stop_ends_the_server_though_a_client_stays() {
    let server = Server::start(false).await;
    let _idle = TcpStream::connect(server.address).await.unwrap();
    server.get("/healthz").await;
    tokio::time::timeout(Duration::from_secs(10), server.tasks.shut_down()).await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
