//! RDS with real rows: moto is the truth of the API, and a small proxy before it gives
//! each instance and each Aurora cluster a PostgreSQL server of its own. Snapshots are
//! physical copies of it, and points in time are its archived WAL. What moto answers is
//! mended only where a real server stands behind: endpoint, state, and the instants that
//! can be restored. What moto accepts though Amazon would not, such as a restore from a
//! snapshot that is not made yet, is refused.
//!
//! It proves nothing about what it does not have: networks, subnet groups, parameter
//! groups, IAM, keys and storage are moto's alone.

mod answer;
mod call;
mod copies;
mod databases;
mod faults;
mod kind;
mod members;
mod mend;
mod proxy;
mod server;
mod snapshots;
mod state;
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_rds::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
};
use jiff::Timestamp;
use sqlx::{
    ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

pub(crate) use call::Call;
pub(crate) use faults::{Faults, Refusal, Stuck};
use proxy::Proxy;
use server::Server;

use crate::{
    demo::processes_of,
    support::{authority::certificate, eventually, moto, moto::Moto, scratch},
};

/// The region of what a test does not place elsewhere.
pub(crate) const REGION: &str = moto::REGION;
/// Who owns the databases of an instance that a test does not set up itself.
pub(crate) const MASTER: &str = "master";
pub(crate) const PASSWORD: &str = "a-password-of-the-lab";
/// No server takes longer to be made, copied or removed on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// Ends with all its servers and folders when dropped.
pub(crate) struct RdsLab {
    proxy: Proxy,
    estate: Arc<state::Estate>,
    _moto: Moto,
    folder: tempfile::TempDir,
}

/// Where the server behind an instance or a cluster is.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// In the certificate as `127.0.0.1`; `localhost` is there as well.
    pub host: String,
    pub port: u16,
    server: Arc<Server>,
}

impl RdsLab {
    pub(crate) async fn start() -> Self {
        let folder = scratch();
        certificate(folder.path(), "rds", "IP:127.0.0.1,DNS:localhost").await;
        let moto = Moto::start_with(&[("MOTO_RDS", "1")]).await;
        let estate = Arc::new(state::Estate::new(folder.path().to_owned(), &moto.endpoint));
        let proxy = Proxy::start(Arc::clone(&estate)).await;
        Self { proxy, estate, _moto: moto, folder }
    }

    /// Of all of Amazon's services: what is not RDS goes on to moto as it is.
    pub(crate) fn endpoint(&self) -> &str {
        &self.proxy.endpoint
    }

    /// The certificate of the authority that made those of all servers.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("rds-ca.crt")
    }

    /// Clients with these settings call the lab.
    pub(crate) async fn settings(&self, region: &str) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .credentials_provider(Credentials::new(moto::KEY_ID, moto::SECRET, None, None, "test"))
            .endpoint_url(self.endpoint())
            .load()
            .await
    }

    pub(crate) async fn client(&self, region: &str) -> Client {
        Client::new(&self.settings(region).await)
    }

    /// Makes an instance with an empty database `app` in `REGION`, and waits until it can be
    /// logged in to and restored to a point in time.
    pub(crate) async fn create_instance(&self, id: &str) -> Instance {
        let client = self.client(REGION).await;
        let new = client.create_db_instance().db_instance_identifier(id).db_instance_class("db.t3.micro");
        let new = new.engine("postgres").engine_version("15.8").allocated_storage(20).db_name("app");
        new.master_username(MASTER).master_user_password(PASSWORD).send().await.unwrap();
        self.restorable(REGION, id).await;
        self.instance(REGION, id).unwrap()
    }

    /// Waits until an instance can be logged in to.
    pub(crate) async fn available(&self, region: &str, id: &str) -> Instance {
        eventually(&format!("{id} is available"), LIMIT, async || {
            self.assert_sound();
            self.instance(region, id).is_some()
        })
        .await;
        self.instance(region, id).unwrap()
    }

    /// Waits until an instance can be restored to a point in time.
    pub(crate) async fn restorable(&self, region: &str, id: &str) {
        eventually(&format!("{id} can be restored"), LIMIT, async || {
            self.assert_sound();
            self.server(region, "db", id).is_some_and(|server| server.restorable().is_some())
        })
        .await;
    }

    /// The server behind an instance; none while there is none to log in to.
    pub(crate) fn instance(&self, region: &str, id: &str) -> Option<Instance> {
        self.server(region, "db", id).map(Instance::of)
    }

    /// The server behind an Aurora cluster.
    pub(crate) fn cluster(&self, region: &str, id: &str) -> Option<Instance> {
        self.server(region, "cluster", id).map(Instance::of)
    }

    fn server(&self, region: &str, kind: &str, id: &str) -> Option<Arc<Server>> {
        self.estate.state().server(region, kind, id)
    }

    /// What goes wrong from now on.
    pub(crate) fn faults(&self) -> &Faults {
        &self.estate.faults
    }

    /// What was called so far, also what was refused, in the order of the answers.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.estate.calls()
    }

    /// Forgets what was called so far.
    pub(crate) fn forget_calls(&self) {
        self.estate.forget_calls();
    }

    /// Fails with what went wrong in the lab itself.
    pub(crate) fn assert_sound(&self) {
        let failures = self.estate.failures();
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// Logs in to `app` at an endpoint as clients of Amazon's do: over TLS, with a password,
    /// and only where the certificate names the host.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> sqlx::Result<PgConnection> {
        let login = PgConnectOptions::new().host(host).port(port).username(MASTER).password(PASSWORD).database("app");
        login.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(self.authority()).connect().await
    }

    /// All processes of all servers.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        processes_of(&self.estate.folder)
    }
}

impl Instance {
    fn of(server: Arc<Server>) -> Self {
        Self { host: "127.0.0.1".to_owned(), port: server.port, server }
    }

    /// Runs SQL as a superuser, whom no client of Amazon's ever is, and answers psql's
    /// unaligned output.
    pub(crate) async fn psql(&self, dbname: &str, sql: &str) -> String {
        self.server.psql(dbname, &[sql]).await.unwrap()
    }

    /// Sees to it that all that is committed by now can be restored; answers up to which
    /// instant.
    pub(crate) async fn flush(&self) -> Timestamp {
        self.server.flush().await.unwrap()
    }
}

/// A server that is being started when a test ends is ended too.
impl Drop for RdsLab {
    fn drop(&mut self) {
        self.estate.tasks.stop().cancel();
        self.estate.end();
    }
}
