//! The application of the demo: places bets, over whatever address the record
//! has, and counts what it saw acknowledged. It is the drill's outside witness.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;

use super::estate::RECORD;
use crate::dns::query::{self, Question, Transport};

/// How long a client waits for anything before it starts afresh.
const PATIENCE: Duration = Duration::from_secs(2);
const QUESTION: Question<'static> = Question { name: RECORD, ipv6: false, recursion: false };
const PAUSE: Duration = Duration::from_millis(20);

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Acknowledged {
    bets: AtomicU64,
}

impl Acknowledged {
    pub fn bets(&self) -> u64 {
        self.bets.load(Ordering::SeqCst)
    }
}

/// How clients find and enter the service.
#[derive(Debug, Clone)]
pub struct Client {
    pub dns: SocketAddr,
    pub port: u16,
    pub password: String,
}

impl Client {
    /// Resolves the record afresh and connects, as a client without a cache does.
    pub async fn connect(&self) -> Option<PgConnection> {
        let answer = query::ask(self.dns, QUESTION, Transport::Udp, PATIENCE).await.ok()?;
        let IpAddr::V4(address) = answer.addresses.first()? else { return None };
        let options = PgConnectOptions::new_without_pgpass()
            .host(&address.to_string())
            .port(self.port)
            .username("lifeboat")
            .password(&self.password)
            .database("wallet")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
            .application_name("bets");
        tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options)).await.ok()?.ok()
    }
}

/// Places bets until told to stop. A bet counts once its commit was acknowledged.
pub async fn run(client: Client, acknowledged: Arc<Acknowledged>, stop: CancellationToken) {
    let mut connection = None;
    while !stop.is_cancelled() {
        if connection.is_none() {
            connection = client.connect().await;
        }
        if let Some(open) = &mut connection {
            match tokio::time::timeout(PATIENCE, place_bet(open)).await {
                Ok(Ok(())) => {
                    acknowledged.bets.fetch_add(1, Ordering::SeqCst);
                }
                Ok(Err(_)) | Err(_) => connection = None,
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// One bet with both sides of its ledger, in one transaction.
async fn place_bet(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH bet AS (INSERT INTO bets (stake) VALUES (5) RETURNING id)
         INSERT INTO ledger (bet, account, amount)
         SELECT id, side.account, side.amount FROM bet, (VALUES ('player', -5), ('house', 5)) AS side (account, amount)",
    )
    .execute(connection)
    .await
    .map(drop)
}

/// How many bets the service holds now.
pub async fn count(client: &Client) -> Option<u64> {
    let mut connection = client.connect().await?;
    let bets: i64 = sqlx::query_scalar("SELECT count(*) FROM bets").fetch_one(&mut connection).await.ok()?;
    u64::try_from(bets).ok()
}
