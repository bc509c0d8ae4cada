//! Restore tests of a database that Amazon runs, in the lab: the calls are moto's, the rows
//! are those of real servers. Real rows come back; wrong ones turn red; whatever goes wrong,
//! no instance is left, or a finding names the one that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws_sdk_rds::types::Tag;
use jiff::Timestamp;
use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    db::{findings, heartbeats},
    domain::{Beat, DatabaseName, Lsn, RecoveryAlgorithm, RecoveryTarget, RunId, Timeline},
    flow::{NewRun, RunState, RunSummary},
    flows::restore_test::{self, Point},
    tasks::sweep::Sweeper,
};
use serde_json::Value;

use super::site::Site;
use crate::{
    lab::{Instance, MASTER, PASSWORD, REGION, RdsLab, Refusal, Stuck},
    support::{
        eventually,
        moto::{KEY_ID, SECRET},
    },
};

pub(crate) use network::production;

mod faults;
mod network;
mod policy;
mod rows;
mod sweeping;

const SOURCE: &str = "wallet-prod";
const SCHEDULE: &str = "schedules/wallet.yaml";
const LIMIT: Duration = Duration::from_secs(60);
const LATEST: Point = Point::By(RecoveryAlgorithm::LatestAtDisaster);

fn wallet() -> DatabaseName {
    "wallet".parse().unwrap()
}

/// An estate of one database of a provider, with three bets in it.
struct Estate {
    lab: RdsLab,
    /// Goes with the estate.
    _site: Site,
    source: Instance,
    app: std::sync::Arc<App>,
}

impl Estate {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with passages of the schedule replaced.
    async fn start_with(edits: &[(&str, &str)]) -> Self {
        let (lab, site) = (RdsLab::start().await, Site::write(5432));
        let source = production(&lab, SOURCE).await;
        let owned = format!(
            "SET ROLE {MASTER}; CREATE TABLE bets (id int PRIMARY KEY, stake int NOT NULL); \
             INSERT INTO bets SELECT nth, nth * 10 FROM generate_series(1, 3) AS nth; CREATE SCHEMA lifeboat; \
             CREATE TABLE lifeboat.heartbeat (seq bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
        );
        source.psql("app", &owned).await;
        let app = opened(&site, &lab, edits).await;
        let estate = Self { lab, _site: site, source, app };
        estate.beat(1..=5).await;
        estate.source.flush().await;
        estate
    }

    /// Heartbeats that are acknowledged now.
    async fn beat(&self, seqs: std::ops::RangeInclusive<i64>) {
        for seq in seqs {
            let sql = format!("INSERT INTO lifeboat.heartbeat (seq) VALUES ({seq})");
            self.source.psql("app", &sql).await;
            let lsn: Lsn = self.source.psql("app", "SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
            let beat = Beat { seq, acknowledged_at: Clock::system().now(), commit_lsn: lsn, timeline: Timeline(1) };
            heartbeats::append(&self.app.resources.db, &wallet(), &[beat]).await.unwrap();
        }
    }

    /// A restore test to its end; its record.
    async fn tested(&self, point: Point) -> (RunSummary, Value) {
        self.lab.forget_calls();
        let id = RunId::new(restore_test::NAME, "wallet", "manual", &self.app.stamp());
        let params = restore_test::Params { database: wallet(), point, due_at: None };
        self.app.runner.submit(NewRun::new(id.clone(), "wallet", &params, "tester").unwrap()).await.unwrap();
        let run = self.app.runner.drive(&id).await.unwrap();
        let entry = self.app.resources.evidence.get(id.as_str()).await.unwrap().unwrap();
        self.lab.assert_sound();
        (run, serde_json::to_value(entry.record).unwrap())
    }

    /// The instances in the lab, but for the source.
    async fn copies(&self) -> Vec<String> {
        let listed = self.lab.client(REGION).await.describe_db_instances().send().await.unwrap();
        let ids = listed.db_instances.unwrap_or_default().into_iter().filter_map(|one| one.db_instance_identifier);
        ids.filter(|id| id != SOURCE).collect()
    }

    async fn findings(&self) -> BTreeMap<String, String> {
        let open = findings::open_findings(&self.app.resources.db).await.unwrap();
        open.into_iter().map(|finding| (finding.id, finding.message)).collect()
    }

    /// The actions that were called, each once.
    fn called(&self) -> BTreeSet<String> {
        self.lab.calls().into_iter().map(|call| call.action).collect()
    }

    /// Nothing is left of a test, and nothing but looking was done to the source.
    async fn nothing_left(&self, what: &str) {
        assert_eq!(self.copies().await, [""; 0], "{what}");
        assert!(self.lab.instance(REGION, SOURCE).is_some(), "{what}");
        for call in self.lab.calls() {
            let is_look = ["Describe", "List", "Get", "Assume"].iter().any(|begin| call.action.starts_with(begin));
            let is_restore = call.action.starts_with("RestoreDBInstance");
            let is_of_source = call.get("DBInstanceIdentifier") == Some(SOURCE);
            assert!(is_look || is_restore || !is_of_source, "{what}: {call:?}");
        }
    }
}

async fn opened(site: &Site, lab: &RdsLab, edits: &[(&str, &str)]) -> std::sync::Arc<App> {
    site.put_private("aws.secret", SECRET);
    site.put_private("master.password", PASSWORD);
    let aws = format!(
        "aws: {{endpoint: \"{}\", credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: aws.secret}}}}}}\n",
        lab.endpoint()
    );
    site.edit("lifeboat.yaml", "api:", &format!("{aws}api:"));
    let mut schedule = schedule(lab);
    for (from, to) in edits {
        assert!(schedule.contains(from), "{from}");
        schedule = schedule.replace(from, to);
    }
    site.put(SCHEDULE, &schedule);
    let loaded = config::load(&site.path("lifeboat.yaml")).unwrap();
    let app = App::open(loaded, Clock::system(), Role::WithoutDns).await.unwrap();
    app.settle().await.unwrap();
    app
}

fn schedule(lab: &RdsLab) -> String {
    format!(
        r#"database: wallet
engine: rds
instance: {SOURCE}
region: {REGION}
login: {{user: {MASTER}, password: {{file: master.password}}, dbname: app, sslrootcert: {}}}
objectives: {{rto: 4h, rpo: 15m}}
residency: {{jurisdiction: MT, regions: [eu-south-1, {REGION}]}}
timezone: Europe/Malta
backups:
  - {{kind: snapshot, cron: "0 3 29 2 *", keep: {{daily: 1}}}}
restore_test:
  cron: "0 5 29 2 *"
  recovery_point: {{algorithm: latest_at_disaster}}
  limit: 90s
  target: {{kind: rds, subnet_group: isolated, security_groups: [sg-isolated], ttl: 1h}}
  checks:
    - heartbeat
    - full_read
    - {{sql: "select string_agg(stake::text, ',' order by id) from bets", dbname: app, expect: "10,20,30"}}
    - {{row_counts: {{bets: 3}}, dbname: app}}
"#,
        lab.authority().display()
    )
}

fn check<'a>(record: &'a Value, part: &str, name: &str) -> &'a Value {
    let all = record[part].as_array().unwrap();
    all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {record:#}"))
}

/// The verdicts of an objective, and of the whole.
fn verdict<'a>(record: &'a Value, part: &str) -> (&'a str, &'a str) {
    (record["verdicts"][part].as_str().unwrap_or("none"), record["verdict"].as_str().unwrap())
}
