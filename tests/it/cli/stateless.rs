//! Protection outlives control: WAL goes on into the vaults while the state
//! database is gone.

use lifeboat::domain::Lsn;

use super::{
    journey::{backed_up, restored},
    site::{DIGEST, Site, wallet},
    streaming::{SOON, bet, caught_up, wal},
};
use crate::support::{Lab, eventually};

/// Waits until the server was told that all it has flushed by now is in the vaults.
async fn confirmed(lab: &Lab) {
    let end: Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    let told = "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'lifeboat'";
    eventually("all WAL is in the vaults", SOON, async || {
        lab.psql(told).await.parse::<Lsn>().is_ok_and(|told| told >= end)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_is_streamed_on_while_the_state_database_is_gone() {
    let (lab, state) = (wallet("").await, Lab::start("").await);
    state.psql("CREATE DATABASE state").await;
    let site = Site::write(lab.port);
    let socket = state.cluster.socket_folder().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/state", state.port);
    site.edit("lifeboat.yaml", "sqlite:lifeboat.db", &url);
    let mut daemon = site.serve(&["-vv"]);
    caught_up(&lab, &site).await;
    backed_up(&site).await;
    state.cluster.stop("immediate").await.unwrap();

    let before = wal(&site, "vault", "/wal/").len();
    bet(&lab, 10).await;
    confirmed(&lab).await;
    assert!(wal(&site, "vault", "/wal/").len() > before);
    // Nor does a new stretch need it.
    lab.cluster.stop("fast").await.unwrap();
    lab.cluster.start(SOON).await.unwrap();
    bet(&lab, 10).await;
    confirmed(&lab).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    confirmed(&lab).await;
    assert!(!state.cluster.is_running());
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();
    restored(&lab, &site, "latest", ["--latest"], &rows).await;
}
