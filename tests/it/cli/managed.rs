//! A database that Amazon runs, on moto: the truth of the API without rows. What an
//! operator sees of its snapshots, and what never happens to those of others.

mod faults;

use std::{sync::Arc, time::Duration};

use aws_sdk_rds::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::Tag,
};
use lifeboat::{
    app::{App, Role},
    clock::Clock,
    config,
    domain::{RunId, Verdict},
    flow::{Conclusion, NewRun},
    flows::prune_snapshots,
};
use serde_json::Value;

use super::site::{Ran, Site, finished};
use crate::support::{
    eventually,
    moto::{KEY_ID, Moto, SECRET},
};

const HOME: &str = "eu-south-1";
const OTHER: &str = "eu-central-1";
/// What a daemon does by itself is done by then.
const LIMIT: Duration = Duration::from_secs(60);
const SCHEDULE: &str = "schedules/bets.yaml";

/// An estate of one database of a provider.
struct Estate {
    moto: Moto,
    site: Site,
}

impl Estate {
    async fn start() -> Self {
        let estate = Self::empty(SCHEDULED).await;
        let made = estate.client(HOME).create_db_instance().db_instance_identifier("bets-prod").engine("postgres");
        let made = made.db_instance_class("db.t3.medium").allocated_storage(20).master_username("master");
        made.master_user_password("not-of-interest").backup_retention_period(7).send().await.unwrap();
        estate
    }

    /// With nothing at the provider yet.
    async fn empty(schedule: &str) -> Self {
        let (moto, site) = (Moto::start().await, Site::write(5432));
        std::fs::remove_file(site.path("schedules/wallet.yaml")).unwrap();
        site.put_private("aws.secret", SECRET);
        let aws = format!(
            "aws: {{endpoint: \"{}\", credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: aws.secret}}}}}}\n",
            moto.endpoint
        );
        site.edit("lifeboat.yaml", "api:", &format!("{aws}api:"));
        site.put(SCHEDULE, schedule);
        Self { moto, site }
    }

    /// Nobody's code but the SDK's, to prepare, look and meddle with.
    fn client(&self, region: &'static str) -> Client {
        let config = aws_sdk_rds::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
            .endpoint_url(&self.moto.endpoint)
            .build();
        Client::from_conf(config)
    }

    async fn run(&self, args: &[&str]) -> Ran {
        finished(self.site.command(args)).await
    }

    /// What there is of snapshots in a region, whoever made them but the provider itself.
    async fn snapshots(&self, region: &'static str) -> Vec<String> {
        let listed = self.client(region).describe_db_snapshots().send().await.unwrap();
        let ids = listed.db_snapshots.unwrap_or_default().into_iter();
        let mut ids: Vec<String> =
            ids.filter_map(|one| one.db_snapshot_identifier).filter(|id| !id.contains(':')).collect();
        ids.sort();
        ids
    }

    async fn meddled(&self, id: &str, tags: &[(&str, &str)]) {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
        let taken = self.client(HOME).create_db_snapshot().db_instance_identifier("bets-prod");
        taken.db_snapshot_identifier(id).set_tags(Some(tags)).send().await.unwrap();
    }
}

const SCHEDULED: &str = r#"database: bets
engine: rds
instance: bets-prod
region: eu-south-1
login: {user: lifeboat, dbname: bets}
objectives: {rto: 4h, rpo: 15m}
residency: {jurisdiction: MT, regions: [eu-south-1, eu-central-1]}
snapshot_copies:
  - {region: eu-central-1, share_with: ["210987654321"]}
timezone: Europe/Malta
backups:
  - {kind: snapshot, cron: "0 3 29 2 *", keep: {daily: 1}}
"#;

/// Drives a run of the bets in this process; nothing is open afterwards.
async fn driven(app: &App, flow: &str, params: &impl serde::Serialize) -> Conclusion {
    let id = RunId::new(flow, "bets", "manual", &app.stamp());
    app.settle().await.unwrap();
    app.runner.submit(NewRun::new(id.clone(), "bets", params, "tester").unwrap()).await.unwrap();
    let ended = app.runner.drive(&id).await.unwrap().conclusion.unwrap();
    app.runner.shut_down().await;
    app.resources.db.close().await;
    ended
}

fn ids(listed: &Value, region: &str) -> Vec<String> {
    let all = listed.as_array().unwrap().iter().filter(|one| one["region"] == region);
    all.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_copied_shared_and_told_of() {
    let estate = Estate::start().await;
    estate.meddled("by-hand", &[]).await;
    let taken = estate.run(&["backup", "bets"]).await.json(0);
    let id = taken["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&taken["verdict"], &taken["kind"], &taken["region"]),
        (&"PASS".into(), &"snapshot".into(), &HOME.into())
    );
    assert!(id.starts_with("lifeboat-bets-") && taken["copies"][0]["region"] == OTHER, "{taken:#}");

    let found = estate.client(HOME).describe_db_snapshots().db_snapshot_identifier(&id).send().await.unwrap();
    let found = &found.db_snapshots()[0];
    let tag = |key: &str| found.tag_list().iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value);
    assert_eq!(tag("lifeboat:database"), Some("bets"));
    assert_eq!(tag("lifeboat:run_id"), taken["run_id"].as_str());
    assert_eq!(estate.snapshots(OTHER).await, [id.as_str()]);
    let shared =
        estate.client(OTHER).describe_db_snapshot_attributes().db_snapshot_identifier(&id).send().await.unwrap();
    let shared = format!("{:?}", shared.db_snapshot_attributes_result);
    assert!(shared.contains("210987654321"), "{shared}");

    let listed = estate.run(&["backups", "bets"]).await.json(0);
    assert_eq!(ids(&listed, OTHER), [id.as_str()], "{listed:#}");
    let home = |origin: &str| {
        let all = listed.as_array().unwrap().iter().filter(|one| one["region"] == HOME && one["origin"] == origin);
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((home("ours"), home("adopted")), (vec![id.clone()], vec!["by-hand".to_owned()]), "{listed:#}");

    let evidence = estate.run(&["evidence", "show", taken["run_id"].as_str().unwrap()]).await;
    assert!(evidence.stdout.contains(&id) && evidence.stdout.contains("arn:aws:rds:"), "{evidence:?}");
    let status = estate.run(&["status"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let bets = &status["managed"][0];
    assert_eq!((&bets["database"], &bets["claimed_by"]), (&"bets".into(), &"provider".into()), "{status:#}");
    assert_eq!(bets["newest_snapshot"]["id"], id.as_str());
    assert_eq!((&bets["regions"][0]["ours"], &bets["regions"][0]["adopted"]), (&1.into(), &1.into()), "{bets:#}");
}

/// As roles of their own, with the database and the duty in the tags of their sessions.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_backed_up_by_the_role_of_the_duty() {
    let roles = "roles: {backup: \"arn:aws:iam::123456789012:role/lifeboat-backup\"}\nlogin:";
    let schedule = SCHEDULED.replace("engine: rds", "engine: aurora").replace("instance:", "cluster:");
    let estate = Estate::empty(&schedule.replace("login:", roles)).await;
    let made = estate.client(HOME).create_db_cluster().db_cluster_identifier("bets-prod").engine("aurora-postgresql");
    made.master_username("master").master_user_password("not-of-interest").send().await.unwrap();
    let taken = estate.run(&["backup", "bets"]).await.json(0);
    let id = taken["id"].as_str().unwrap();
    for region in [HOME, OTHER] {
        let listed = estate.client(region).describe_db_cluster_snapshots().send().await.unwrap();
        let ids = listed.db_cluster_snapshots().iter().filter_map(|one| one.db_cluster_snapshot_identifier());
        assert!(ids.clone().any(|one| one == id), "{id} is not in {region}: {:?}", ids.collect::<Vec<_>>());
    }
    let shown = estate.run(&["evidence", "show", taken["run_id"].as_str().unwrap()]).await;
    assert!(shown.stdout.contains("assumed-role/lifeboat-backup/lifeboat-backup-bets"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_goes_with_its_copies_and_what_others_made_stays() {
    let estate = Estate::start().await;
    estate.meddled("by-hand", &[]).await;
    // Of another database of this estate.
    estate
        .meddled("lifeboat-other-1", &[("lifeboat:database", "other"), ("lifeboat:run_id", "backup/other/manual/1")])
        .await;
    let first = estate.run(&["backup", "bets"]).await.json(0)["id"].as_str().unwrap().to_owned();
    let second = estate.run(&["backup", "bets"]).await.json(0)["id"].as_str().unwrap().to_owned();
    assert_eq!(estate.snapshots(OTHER).await.len(), 2);

    let loaded = config::load(&estate.site.path("lifeboat.yaml")).unwrap();
    let app = App::open(loaded, Clock::system(), Role::WithoutDns).await.unwrap();
    let database = app.managed(&"bets".parse().unwrap()).unwrap();
    let params = prune_snapshots::Params { database: database.name.clone(), due_at: None };
    let ended = driven(&app, prune_snapshots::NAME, &params).await;
    assert_eq!(ended.verdict, Verdict::Pass, "{:#}", ended.output);
    assert_eq!(ended.output["removed"]["arns"].as_array().unwrap().len(), 2, "{:#}", ended.output);

    let left = estate.snapshots(HOME).await;
    assert!(!left.contains(&first), "{left:?}");
    assert!(["by-hand", "lifeboat-other-1", &second].iter().all(|id| left.contains(&(*id).to_owned())), "{left:?}");
    assert_eq!(estate.snapshots(OTHER).await, [second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_for_vaults_refuse_with_one_error() {
    let estate = Estate::start().await;
    for args in [
        &["restore", "bets", "--to", "/nowhere"][..],
        &["vault", "verify", "bets"],
        &["vault", "prune", "bets"],
        &["self-test", "bets"],
    ] {
        estate.run(args).await.refused(2, &["`bets` is run by its provider", "`backups`"]);
    }
    estate.run(&["backup", "bets", "--kind", "full"]).await.refused(2, &["takes snapshots and nothing else"]);
    estate.run(&["restore-test", "bets"]).await.refused(2, &["no `restore_test`"]);
    let plan = estate.run(&["plan", "--next", "1"]).await.json(0);
    assert_eq!(
        (&plan["runs"][0]["database"], &plan["runs"][0]["kind"]),
        (&"bets".into(), &"snapshot".into()),
        "{plan}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_told_by_its_name_and_leaves_nothing() {
    let estate = Estate::start().await;
    estate.site.edit(SCHEDULE, "instance: bets-prod", "instance: bets-gone");
    let ran = estate.run(&["backup", "bets"]).await;
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_ne!(ran.code, 0);
    assert!(told["findings"].to_string().contains("bets-gone"), "{told:#}");
    let looked = estate.run(&["check", "--connect"]).await.json(2);
    assert!(looked["problems"].to_string().contains("bets-gone"), "{looked}");
    assert!(estate.snapshots(HOME).await.is_empty() && estate.snapshots(OTHER).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_takes_what_is_due_and_tells_what_is_not_set_up() {
    let estate = Estate::start().await;
    estate.site.edit(SCHEDULE, "0 3 29 2 *", "*/5 * * * * *");
    let mut daemon = estate.site.serve(&[]);
    let answers = async |path: &str, wanted: &str| {
        estate.site.get(path).await.is_some_and(|(status, body)| status == 200 && body.contains(wanted))
    };
    let taken = async || answers("/api/v1/snapshots?database=bets", "lifeboat-bets-").await;
    eventually("a snapshot that was due is listed", LIMIT, taken).await;
    let told = async || answers("/api/v1/status", "turn its deletion protection on").await;
    eventually("what is not set up is a finding", LIMIT, told).await;
    let gauge = "lifeboat_claimed_exposure_seconds{database=\"bets\",region=\"eu-south-1\"}";
    assert!(answers("/metrics", gauge).await, "{:?}", estate.site.get("/metrics").await);
    assert!(answers("/", "bets-prod").await, "{:?}", estate.site.get("/").await);
    daemon.kill().await.unwrap();
}

/// What would be refused when the files are read is refused again where data moves.
#[tokio::test(flavor = "multi_thread")]
async fn no_copy_leaves_the_residency_though_no_rule_was_asked() {
    let estate = Estate::start().await;
    let mut loaded = config::load(&estate.site.path("lifeboat.yaml")).unwrap();
    let schedule = Arc::make_mut(&mut loaded.schedules[0]);
    schedule.config.snapshot_copies[0].region = "us-east-1".parse().unwrap();
    let app = App::open(loaded, Clock::system(), Role::WithoutDns).await.unwrap();
    let params = serde_json::json!({"database": "bets", "kind": "snapshot", "due_at": null});
    let ended = driven(&app, "backup", &params).await;
    assert!(ended.output["findings"].to_string().contains("may not go to us-east-1"), "{:#}", ended.output);
    for region in [HOME, OTHER, "us-east-1"] {
        assert!(estate.snapshots(region).await.is_empty(), "{region}");
    }
}
