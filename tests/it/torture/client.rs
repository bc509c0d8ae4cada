//! A client that commits numbered rows, one after the other, and remembers
//! outside of the database which of them the server acknowledged.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use lifeboat::{domain::Lsn, process::Tasks};
use sqlx::{
    ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::time::timeout;

use super::node::Node;

/// A server that was killed answers nothing.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// Every so many rows a larger transaction fills the WAL.
const BULK_EVERY: i64 = 25;

/// What was asked of the server, and what it said.
#[derive(Default)]
pub(super) struct Ledger {
    tried: Mutex<i64>,
    /// Each number with a position that its commit lies before.
    acknowledged: Mutex<Vec<(i64, Lsn)>>,
}

impl Ledger {
    pub(super) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Each row that was acknowledged before this position is among `rows`, and
    /// none that nobody committed.
    #[track_caller]
    pub(super) fn assert_held(&self, what: &str, rows: &BTreeSet<i64>, confirmed: Lsn) {
        let acknowledged = self.acknowledged.lock().unwrap();
        let due = acknowledged.iter().filter(|(_, before)| *before <= confirmed);
        let lost: Vec<_> = due.filter(|(number, _)| !rows.contains(number)).collect();
        assert!(lost.is_empty(), "{what}: confirmed up to {confirmed}, and lost: {lost:?}");
        let tried = *self.tried.lock().unwrap();
        assert!(rows.last().is_none_or(|last| *last <= tried), "{what}: {:?} of {tried}", rows.last());
    }

    fn next(&self) -> i64 {
        let mut tried = self.tried.lock().unwrap();
        *tried += 1;
        *tried
    }
}

pub(super) const TABLES: &str = "
CREATE TABLE numbered (n bigint PRIMARY KEY, filler text);
CREATE TABLE noise (g int, v text);";

/// Commits until `tasks` stop, through whatever the server goes through.
pub(super) fn commit(node: &Node, ledger: Arc<Ledger>, tasks: &Tasks) {
    let (socket, port, stop) = (node.cluster.socket_folder(), node.port, tasks.stop().clone());
    tasks.spawn(async move {
        while !stop.is_cancelled() {
            // The server may be dead: the next connection tells.
            let _ended = session(socket.clone(), port, &ledger, &stop).await;
            tokio::time::sleep(PAUSE).await;
        }
    });
}

async fn session(
    socket: PathBuf,
    port: u16,
    ledger: &Ledger,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let options = PgConnectOptions::new_without_pgpass().socket(socket).port(port).username("postgres");
    let options = options.database("wallet").ssl_mode(PgSslMode::Disable);
    let mut session = timeout(LIMIT, options.connect()).await??;
    while !stop.is_cancelled() {
        timeout(LIMIT, one(&mut session, ledger)).await??;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn one(session: &mut PgConnection, ledger: &Ledger) -> Result<(), sqlx::Error> {
    const ROW: &str = "INSERT INTO numbered VALUES ($1, repeat(md5($1::text), 10))";
    const BULK: &str = "INSERT INTO noise SELECT g, md5(random()::text) FROM generate_series(1, 3000) g";
    let number = ledger.next();
    sqlx::query(ROW).bind(number).execute(&mut *session).await?;
    // Acknowledged from here on, and written before what is asked now.
    let before: String =
        sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text").fetch_one(&mut *session).await?;
    ledger.acknowledged.lock().unwrap().push((number, before.parse().unwrap()));
    if number % BULK_EVERY == 0 {
        sqlx::query(BULK).execute(&mut *session).await?;
    }
    if number % (BULK_EVERY * 40) == 0 {
        sqlx::query("TRUNCATE noise").execute(&mut *session).await?;
    }
    Ok(())
}
