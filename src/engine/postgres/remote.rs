//! A restored copy that somebody else runs, and that is reached over the network alone:
//! by the schedule's login, over TLS unless the schedule says otherwise. It shows no files
//! and gives no superuser away.
//!
//! It must never be taken for isolated: what of that can be told comes from whoever runs it.

use std::collections::BTreeSet;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Connection, Row};

use super::{
    Login, Member, Postgres,
    asked::{EndedRecovery, Session, catalogs, failed},
    catalogs as shared, protect, sql,
};
use crate::{
    decide::{
        answer::Answer,
        collation::Collation,
        indexes::LookedAt,
        reading::{Pages, ReadThrough},
    },
    domain::{AnswerDigest, Check, ClusterParts, DatabaseName, RecoveryPoint},
    engine::{Ask, CopiedBeats, EngineError},
};

mod reading;
mod ties;

const NO_FILES: &str = "a managed instance shows no files; `full_read` and `amcheck` read all that it has";

const NEWEST_BEAT: &str = "select (extract(epoch from max(at)) * 1000000)::bigint from lifeboat.heartbeat";

/// A copy that answers.
#[derive(Debug)]
pub struct RemoteInstance {
    session: Session,
    server_version: String,
    reached: Option<RecoveryPoint>,
}

impl RemoteInstance {
    /// Logs in once, and looks where its recovery ended. Whoever is not let in yet may be
    /// let in later: such an error is not permanent.
    pub async fn open(database: &DatabaseName, login: &Login, member: &Member) -> Result<Self, EngineError> {
        let postgres = of_one(database, login, member);
        let connection = sql::connect(&postgres, member, &login.dbname).await?;
        connection.close().await.map_err(|error| sql::failed(&member.name, "the first login", error))?;
        let session = Session::at_host(member, login).await?;
        let version = session.row("select current_setting('server_version')").await?;
        let server_version = version.try_get(0).map_err(|error| failed(&error))?;
        let reached = reached(&session).await;
        Ok(Self { session, server_version, reached })
    }

    pub fn server_version(&self) -> String {
        self.server_version.clone()
    }

    /// Where recovery ended; none where the server does not tell. Its timeline is the copy's
    /// own: which one it followed is in files that nobody sees, so that no sample of the
    /// source is known to be of its past.
    pub fn reached(&self) -> Option<RecoveryPoint> {
        self.reached.clone()
    }

    /// All heartbeats in the copy.
    pub async fn heartbeats(&self) -> Result<CopiedBeats, EngineError> {
        Ok(CopiedBeats { present: self.session.heartbeats(self.session.dbname()).await? })
    }

    /// When the newest heartbeat in the copy was written, by the source's clock.
    pub async fn newest_beat_at(&self) -> Result<Option<Timestamp>, EngineError> {
        if self.heartbeats().await?.present.is_empty() {
            return Ok(None);
        }
        let row = self.session.row(NEWEST_BEAT).await?;
        let micros: Option<i64> = row.try_get(0).map_err(|error| failed(&error))?;
        Ok(micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()))
    }

    /// What in its catalogs acts by itself, or could reach others.
    pub async fn ties(&self) -> Result<Vec<Check>, EngineError> {
        ties::checks(&self.session).await
    }
}

/// A server as an error of the login names it.
fn of_one(database: &DatabaseName, login: &Login, member: &Member) -> Postgres {
    Postgres {
        database: database.clone(),
        members: vec![member.clone()],
        login: login.clone(),
        account: None,
        beats: protect::BeatSession::default(),
        patience: protect::Patience::default(),
    }
}

/// None where it is not told, as of one that was started again since.
async fn reached(session: &Session) -> Option<RecoveryPoint> {
    match session.recovered().await {
        Ok(EndedRecovery { timeline, replayed, last_commit_at, .. }) => {
            Some(RecoveryPoint { timeline, lsn: replayed?, last_commit_at })
        }
        Err(error) => {
            tracing::debug!(%error, "the copy does not tell where its recovery ended");
            None
        }
    }
}

#[async_trait]
impl Ask for RemoteInstance {
    async fn query(&self, dbname: &str, sql: &str) -> Result<Answer, EngineError> {
        self.session.query(dbname, sql).await
    }

    async fn witness(&self, dbname: &str, sql: &str) -> Result<AnswerDigest, EngineError> {
        self.session.witness(dbname, sql).await
    }

    async fn parts(&self, _settings: &BTreeSet<String>) -> Result<ClusterParts, EngineError> {
        let connect = async |dbname: &str| self.session.connect(dbname).await.map_err(|error| failed(&error));
        let mut found = ClusterParts::default();
        let mut connection = connect(self.session.dbname()).await?;
        shared::of_cluster(&mut connection, &mut found).await.map_err(|error| failed(&error))?;
        shared::settings(&mut connection, self.session.user(), &mut found).await.map_err(|error| failed(&error))?;
        for dbname in catalogs::databases(&self.session).await? {
            let mut inside = connect(&dbname).await?;
            shared::of_database(&mut inside, &dbname, &mut found).await.map_err(|error| failed(&error))?;
        }
        Ok(found)
    }

    async fn count(&self, dbname: &str, table: &str) -> Result<Option<u64>, EngineError> {
        catalogs::count(&self.session, dbname, table).await
    }

    async fn collations(&self) -> Result<Vec<Collation>, EngineError> {
        catalogs::collations(&self.session).await
    }

    async fn indexes(&self) -> Result<Vec<LookedAt>, EngineError> {
        catalogs::indexes(&self.session).await
    }

    async fn read_all(&self) -> Result<Vec<ReadThrough>, EngineError> {
        reading::read_all(&self.session).await
    }

    async fn page_checksums(&self) -> Result<Pages, EngineError> {
        Ok(Pages::Unproven(NO_FILES.to_owned()))
    }
}
