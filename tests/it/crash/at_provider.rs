//! Restore tests of a database that Amazon runs, beside the wallet: in the lab, where real
//! rows come back. However a run was disturbed, no instance is left.

use std::{path::Path, sync::OnceLock};

use async_trait::async_trait;
use lifeboat::{
    clock::Clock,
    db::heartbeats,
    domain::{Beat, DatabaseName, Lsn, RecoveryTarget, Timeline},
    flow::NewRun,
    flows::restore_test,
};
use serde_json::{Value, json};

use super::{
    end::End,
    lab::{Lab, edit},
    list::Case,
};
use crate::{
    lab::{MASTER, PASSWORD, REGION, RdsLab},
    support::moto::{KEY_ID, SECRET},
};

const SOURCE: &str = "bets-prod";

fn bets() -> DatabaseName {
    "bets".parse().unwrap()
}

/// It changes nothing: what it makes it removes.
#[derive(Default)]
pub(super) struct RestoreTestAtProvider(OnceLock<RdsLab>);

impl RestoreTestAtProvider {
    fn lab(&self) -> &RdsLab {
        self.0.get().unwrap()
    }

    async fn started() -> RdsLab {
        let lab = RdsLab::start().await;
        let source = crate::cli::at_provider::production(&lab, SOURCE).await;
        let rows = format!(
            "SET ROLE {MASTER}; CREATE TABLE bets AS SELECT nth AS id FROM generate_series(1, 100) AS nth; \
             CREATE SCHEMA lifeboat; CREATE TABLE lifeboat.heartbeat \
             (seq bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp()); \
             INSERT INTO lifeboat.heartbeat (seq) VALUES (1), (2), (3)"
        );
        source.psql("app", &rows).await;
        source.flush().await;
        lab
    }
}

#[async_trait]
impl Case for RestoreTestAtProvider {
    fn flow(&self) -> &'static str {
        restore_test::NAME
    }

    /// The files name where the lab listens, so it is there before they are read.
    fn write(&self, folder: &Path) {
        let started = Self::started();
        let lab = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(started));
        for (name, secret) in [("aws.secret", SECRET), ("master.password", PASSWORD)] {
            let file = folder.join(name);
            std::fs::write(&file, secret).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        let aws = format!(
            "\naws: {{endpoint: \"{}\", credentials: {{access_key_id: {KEY_ID}, secret_access_key: {{file: aws.secret}}}}}}\n\nvaults:",
            lab.endpoint()
        );
        edit(folder, "lifeboat.yaml", &[("\nvaults:", &aws)]);
        let schedule = format!(
            r#"database: bets
engine: rds
instance: {SOURCE}
region: {REGION}
login: {{user: {MASTER}, password: {{file: master.password}}, dbname: app, sslrootcert: {}}}
objectives: {{rto: 4h, rpo: 15m}}
backups:
  - {{kind: snapshot, cron: "0 3 29 2 *", keep: {{daily: 1}}}}
restore_test:
  cron: "0 5 29 2 *"
  recovery_point: {{algorithm: latest_at_disaster}}
  limit: 60s
  target: {{kind: rds, subnet_group: isolated, security_groups: [sg-isolated], ttl: 1h}}
  checks: [heartbeat, {{row_counts: {{bets: 100}}, dbname: app}}]
"#,
            lab.authority().display()
        );
        std::fs::write(folder.join("schedules/bets.yaml"), schedule).unwrap();
        assert!(self.0.set(lab).is_ok());
    }

    /// The heartbeats of the source were acknowledged.
    async fn prepare(&self, lab: &mut Lab) {
        let acknowledged_at = Clock::system().now();
        let beat = |seq| Beat { seq, acknowledged_at, commit_lsn: Lsn(0), timeline: Timeline(1) };
        heartbeats::append(&lab.app.resources.db, &bets(), &[beat(1), beat(2), beat(3)]).await.unwrap();
    }

    async fn run(&self, lab: &Lab) -> NewRun {
        let point = restore_test::Point::Asked(RecoveryTarget::Latest);
        lab.new_run(restore_test::NAME, "bets", &restore_test::Params { database: bets(), point, due_at: None })
    }

    /// The instances that there are.
    async fn world(&self, _lab: &Lab) -> Value {
        let listed = self.lab().client(REGION).await.describe_db_instances().send().await.unwrap();
        let ids = listed.db_instances.unwrap_or_default().into_iter().filter_map(|one| one.db_instance_identifier);
        json!(ids.collect::<Vec<_>>())
    }

    async fn holds(&self, lab: &Lab, end: &End, record: &Value) {
        assert!(end.changes.is_empty(), "{:?}", end.changes);
        assert_eq!(self.world(lab).await, json!([SOURCE]), "{record:#}");
        self.lab().assert_sound();
    }

    fn is_long(&self) -> bool {
        true
    }
}
