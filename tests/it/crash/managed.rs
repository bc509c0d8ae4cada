//! Runs over a database that Amazon runs, beside the wallet: on moto, which is the truth
//! of the API and has no rows.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use aws_sdk_rds::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::Tag,
};
use lifeboat::{
    domain::{BackupKind, DatabaseName},
    evidence::Filter,
    flow::NewRun,
    flows::{backup, prune_snapshots},
};
use serde_json::{Value, json};

use super::{
    end::End,
    lab::{Lab, edit},
    list::Case,
};
use crate::support::{
    free_port,
    moto::{KEY_ID, Moto, SECRET},
};

const REGIONS: [&str; 2] = ["eu-south-1", "eu-central-1"];

fn bets() -> DatabaseName {
    "bets".parse().unwrap()
}

/// The provider of a case: a server on a port that the files name.
#[derive(Default)]
struct Provider(Mutex<Option<(u16, Option<Moto>)>>);

impl Provider {
    fn write(&self, folder: &Path) {
        let port = free_port();
        *self.0.lock().unwrap() = Some((port, None));
        let secret = folder.join("aws.secret");
        std::fs::write(&secret, SECRET).unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let aws = format!(
            "aws: {{endpoint: \"http://127.0.0.1:{port}\", credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: aws.secret}}}}}}\n\nvaults:"
        );
        edit(folder, "lifeboat.yaml", &[("\nvaults:", &format!("\n{aws}"))]);
        let schedule = "database: bets\nengine: rds\ninstance: bets-prod\nregion: eu-south-1\n\
             login: {user: lifeboat, dbname: bets}\nobjectives: {rto: 4h, rpo: 15m}\n\
             snapshot_copies: [{region: eu-central-1, share_with: [\"210987654321\"]}]\n\
             backups:\n  - {kind: snapshot, cron: \"0 3 29 2 *\", keep: {daily: 1}}\n";
        std::fs::write(folder.join("schedules/bets.yaml"), schedule).unwrap();
    }

    async fn start(&self) {
        let port = self.port();
        let moto = Moto::start_at(port, &[]).await;
        *self.0.lock().unwrap() = Some((port, Some(moto)));
        let made = self.client(REGIONS[0]).create_db_instance().db_instance_identifier("bets-prod").engine("postgres");
        let made = made.db_instance_class("db.t3.medium").allocated_storage(20).master_username("master");
        made.master_user_password("not-of-interest").backup_retention_period(7).send().await.unwrap();
    }

    fn port(&self) -> u16 {
        self.0.lock().unwrap().as_ref().unwrap().0
    }

    fn client(&self, region: &'static str) -> Client {
        let config = aws_sdk_rds::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
            .endpoint_url(format!("http://127.0.0.1:{}", self.port()))
            .build();
        Client::from_conf(config)
    }

    /// Region and id of all snapshots.
    async fn snapshots(&self) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for region in REGIONS {
            let listed = self.client(region).describe_db_snapshots().send().await.unwrap().db_snapshots;
            let ids = listed.unwrap_or_default().into_iter().filter_map(|one| one.db_snapshot_identifier);
            // The provider's own have a colon.
            let ids = ids.filter(|id| !id.contains(':'));
            all.extend(ids.map(|id| (region.to_owned(), id)));
        }
        all
    }

    async fn take(&self, id: &str, is_ours: bool) {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let tags = [tag("lifeboat:database", "bets"), tag("lifeboat:run_id", "backup/bets/manual/before")];
        let tags = is_ours.then(|| tags.to_vec());
        let taken = self.client(REGIONS[0]).create_db_snapshot().db_instance_identifier("bets-prod");
        taken.db_snapshot_identifier(id).set_tags(tags).send().await.unwrap();
    }
}

/// From the moment that it is available a snapshot is a backup, whatever becomes of the run.
#[derive(Default)]
pub(super) struct Snapshot(Provider);

impl Snapshot {
    /// What the records of all runs tell of: a snapshot, and its copies.
    async fn told(&self, lab: &Lab) -> BTreeSet<(String, String)> {
        let filter = Filter { subject: Some("bets".to_owned()), ..Filter::default() };
        let mut told = BTreeSet::new();
        for entry in lab.app.resources.evidence.records(&filter).await.unwrap() {
            let Some(source) = entry.record.source else { continue };
            told.insert((source.region.to_string(), source.backup_id.clone()));
            for check in entry.record.checks {
                told.extend(check.name.strip_prefix("copy in ").map(|to| (to.to_owned(), source.backup_id.clone())));
            }
        }
        told
    }
}

#[async_trait]
impl Case for Snapshot {
    fn flow(&self) -> &'static str {
        backup::NAME
    }

    fn write(&self, folder: &Path) {
        self.0.write(folder);
    }

    async fn prepare(&self, _lab: &mut Lab) {
        self.0.start().await;
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        let params = backup::Params {
            database: bets(),
            kind: BackupKind::Snapshot,
            standalone: false,
            manner: backup::Manner::default(),
            due_at: None,
        };
        lab.new_run(backup::NAME, "bets", &params)
    }

    /// What no record tells of, and what one tells of that is not there.
    async fn world(&self, lab: &Lab) -> Value {
        let (there, told) = (self.0.snapshots().await, self.told(lab).await);
        json!(there.symmetric_difference(&told).collect::<Vec<_>>())
    }

    async fn holds(&self, lab: &Lab, end: &End, record: &Value) {
        assert_eq!(end.judged["verdicts"], json!({"snapshot": "PASS", "copies": "PASS"}));
        assert_eq!(self.world(lab).await, json!([]), "each is told of, and there");
        let id = record["source"]["backup_id"].as_str().unwrap();
        let there = self.0.snapshots().await;
        for region in REGIONS {
            assert!(there.contains(&(region.to_owned(), id.to_owned())), "{id} in {region}: {there:?}");
        }
    }

    fn keeps_from(&self) -> Option<&'static str> {
        Some("wait")
    }

    fn is_long(&self) -> bool {
        true
    }
}

/// What expires lies behind a point of no return.
#[derive(Default)]
pub(super) struct PruneSnapshots {
    provider: Provider,
    made: AtomicU32,
}

#[async_trait]
impl Case for PruneSnapshots {
    fn flow(&self) -> &'static str {
        prune_snapshots::NAME
    }

    fn undoes(&self) -> bool {
        false
    }

    fn write(&self, folder: &Path) {
        self.provider.write(folder);
    }

    async fn prepare(&self, _lab: &mut Lab) {
        self.provider.start().await;
        self.provider.take("by-hand", false).await;
    }

    /// Two more, of which one expires with what the runs before it have left.
    async fn run(&self, lab: &Lab) -> NewRun {
        for _ in 0..2 {
            let nth = self.made.fetch_add(1, Ordering::SeqCst);
            self.provider.take(&format!("lifeboat-bets-{nth:04}"), true).await;
        }
        let params = prune_snapshots::Params { database: bets(), due_at: None };
        lab.new_run(prune_snapshots::NAME, "bets", &params)
    }

    async fn world(&self, _lab: &Lab) -> Value {
        json!(self.provider.snapshots().await)
    }

    /// Which are numbered through; how many expire depends on the runs before.
    fn alike(&self, _world: &Value, record: String) -> String {
        let mut record: Value = serde_json::from_str(&record).unwrap();
        for check in record["checks"].as_array_mut().into_iter().flatten() {
            let name = check[0].as_str().unwrap_or_default();
            check[0] = name.split(' ').next().unwrap_or_default().into();
        }
        if let Some(checks) = record["checks"].as_array_mut() {
            checks.dedup();
        }
        record.to_string()
    }

    async fn holds(&self, _lab: &Lab, _end: &End, _record: &Value) {
        let last = format!("lifeboat-bets-{:04}", self.made.load(Ordering::SeqCst) - 1);
        let wanted = ["by-hand", &last].map(|id| (REGIONS[0].to_owned(), id.to_owned()));
        assert_eq!(self.provider.snapshots().await, BTreeSet::from(wanted));
    }
}
