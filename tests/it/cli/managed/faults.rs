//! What goes wrong at the provider while a snapshot is taken: each ends clean, or in a
//! finding that names what it is and what to do. On the lab, with a server behind it.

use std::time::Duration;

use lifeboat::db::{Db, heartbeats};
use serde_json::Value;

use super::super::site::{PASSWORD, Ran, Site, finished};
use crate::{
    lab::{REGION, RdsLab, Refusal, Stuck},
    support::{
        eventually,
        moto::{KEY_ID, SECRET},
    },
};

const OTHER: &str = "eu-south-1";
const LIMIT: Duration = Duration::from_secs(60);

struct Estate {
    lab: RdsLab,
    site: Site,
}

impl Estate {
    async fn start() -> Self {
        let (lab, site) = (RdsLab::start().await, Site::write(5432));
        std::fs::remove_file(site.path("schedules/wallet.yaml")).unwrap();
        site.put_private("aws.secret", SECRET);
        site.put_private("bets.password", PASSWORD);
        let aws = format!(
            "aws: {{endpoint: \"{}\", credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: aws.secret}}}}}}\n",
            lab.endpoint()
        );
        site.edit("lifeboat.yaml", "api:", &format!("{aws}api:"));
        let login = format!(
            "login: {{user: lifeboat, password: {{file: bets.password}}, sslrootcert: {}, dbname: app}}",
            lab.authority().display()
        );
        let schedule = format!(
            "database: bets\nengine: rds\ninstance: bets-prod\nregion: {REGION}\n{login}\n\
             objectives: {{rto: 4h, rpo: 15m}}\nsnapshot_copies: [{{region: {OTHER}}}]\n\
             backups:\n  - {{kind: snapshot, cron: \"0 3 29 2 *\", keep: {{daily: 1}}}}\n"
        );
        site.put("schedules/bets.yaml", &schedule);
        lab.create_instance("bets-prod").await;
        Self { lab, site }
    }

    async fn backup(&self) -> Ran {
        finished(self.site.command(&["backup", "bets"])).await
    }

    /// How it ended, and what is told of it.
    async fn failed(&self) -> String {
        let ran = self.backup().await;
        assert_ne!(ran.code, 0, "{ran:?}");
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET), "{ran:?}");
        told["findings"].to_string()
    }

    async fn snapshots(&self, region: &str) -> usize {
        let listed =
            self.lab.client(region).await.describe_db_snapshots().snapshot_type("manual").send().await.unwrap();
        listed.db_snapshots().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_at_the_provider_ends_clean_or_in_a_finding() {
    let estate = Estate::start().await;
    let faults = estate.lab.faults();
    // What the service has no time for is asked again, and what it did is found.
    faults.refuse("CreateDBSnapshot", Refusal::Throttling, 2);
    faults.lose_answers("CopyDBSnapshot", 1);
    estate.backup().await.json(0);
    faults.clear();
    assert_eq!((estate.snapshots(REGION).await, estate.snapshots(OTHER).await), (1, 1));

    faults.refuse_from("DescribeDBInstances", 1, Refusal::ExpiredToken);
    let told = estate.failed().await;
    assert!(told.contains("renew the credentials"), "{told}");
    faults.clear();

    // Right half-way: the snapshot is there, and its copy is not.
    faults.refuse_from("CopyDBSnapshot", 1, Refusal::AccessDenied);
    let told = estate.failed().await;
    assert!(told.contains("rds:CopyDBSnapshot") && told.contains(OTHER), "{told}");
    faults.clear();
    assert_eq!((estate.snapshots(REGION).await, estate.snapshots(OTHER).await), (2, 1));

    // One that fails is named, and removed.
    faults.stick(Stuck::Failed, "lifeboat-");
    let told = estate.failed().await;
    assert!(told.contains("could not make snapshot `lifeboat-bets-"), "{told}");
    faults.clear();
    assert_eq!((estate.snapshots(REGION).await, estate.snapshots(OTHER).await), (2, 1));
    estate.lab.assert_sound();
}

/// The acknowledged ones are in the state database: there is no vault.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_go_to_the_endpoint_that_the_provider_names() {
    let estate = Estate::start().await;
    let instance = estate.lab.instance(REGION, "bets-prod").unwrap();
    instance.psql("app", &crate::readme::role_sql(PASSWORD)).await;
    let mut daemon = estate.site.serve(&[]);
    let state = format!("sqlite:{}", estate.site.path("lifeboat.db").display());
    let newest = async || {
        let db = Db::open(&state).await.unwrap();
        let newest = heartbeats::newest(&db, &"bets".parse().unwrap()).await.unwrap();
        db.close().await;
        newest
    };
    eventually("heartbeats are acknowledged", LIMIT, async || newest().await.is_some_and(|beat| beat.seq >= 3)).await;
    let kept: i64 = newest().await.unwrap().seq;
    let written = instance.psql("app", "select max(seq) from lifeboat.heartbeat").await;
    assert!(written.trim().parse::<i64>().unwrap() >= kept, "{written}");
    let status = estate.site.get_json("/api/v1/status").await;
    assert!(status["managed"][0]["last_heartbeat"].is_string(), "{status:#}");
    daemon.kill().await.unwrap();
}
