//! What a copy says of its recovery, once that has ended.

use jiff::Timestamp;
use sqlx::Row;

use super::session::{Session, failed};
use crate::{
    domain::{Lsn, Timeline},
    engine::{EngineError, postgres::restored::unfit},
};

const ENDED: &str = "select left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_last_wal_replay_lsn()::text, \
    (extract(epoch from pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
    current_setting('server_version'), (select system_identifier::text from pg_control_system())";

#[derive(Debug)]
pub(in super::super) struct EndedRecovery {
    pub(in super::super) system_id: String,
    /// The timeline that the promotion opened.
    pub(in super::super) timeline: Timeline,
    /// None where the server was started again since.
    pub(in super::super) replayed: Option<Lsn>,
    pub(in super::super) last_commit_at: Option<Timestamp>,
    pub(in super::super) server_version: String,
}

impl Session {
    pub(in super::super) async fn recovered(&self) -> Result<EndedRecovery, EngineError> {
        let row = self.row(ENDED).await?;
        let text = |column| row.try_get::<Option<String>, _>(column).map_err(|error| failed(&error));
        let micros: Option<i64> = row.try_get(2).map_err(|error| failed(&error))?;
        let timeline = text(0)?.and_then(|digits| u32::from_str_radix(&digits, 16).ok());
        Ok(EndedRecovery {
            timeline: Timeline(timeline.ok_or_else(|| unfit("answer a query", "its timeline is unreadable"))?),
            replayed: text(1)?.and_then(|lsn| lsn.parse::<Lsn>().ok()),
            last_commit_at: micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
            server_version: text(3)?.unwrap_or_default(),
            system_id: text(4)?.unwrap_or_default(),
        })
    }
}
