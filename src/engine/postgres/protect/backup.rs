//! A physical backup over the replication protocol: `BASE_BACKUP` as
//! PostgreSQL 15 and later send it, one COPY stream with all archives and the
//! manifest in it.
//!
//! Messages: <https://www.postgresql.org/docs/15/protocol-replication.html>.
//! The stream is passed on as it comes; nothing is kept in memory. The command
//! is read to its very end, because a server that met damaged pages sends
//! everything and says so last.

use std::io;

use bytes::{Buf, Bytes};

use sqlx::PgConnection;

use super::{
    super::{
        Member, Postgres, sql,
        wire::{
            Connection, literal,
            reply::{Reply, Row, c_string, nonsense},
        },
    },
    INSPECT_LIMIT, increment, slot, text_at,
};
use crate::{
    domain::{Lsn, Timeline},
    engine::{BackupFacts, BackupSink, EngineError, ParentManifest},
};

const ACTION: &str = "the base backup";

/// SQLSTATE of "checksum verification failure during base backup".
const DATA_CORRUPTED: &str = "XX001";

pub(super) async fn backup(
    postgres: &Postgres,
    label: &str,
    parent: Option<ParentManifest<'_>>,
    sink: &mut dyn BackupSink,
) -> Result<BackupFacts, EngineError> {
    let (member, from) = postgres.primary(INSPECT_LIMIT).await?;
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let required_settings = required_settings(member, &mut session).await?;
    let config_files = config_files(member, &mut session).await?;
    drop(session);
    let mut connection = Connection::open(postgres, member).await?;
    // From here on the server keeps the WAL without which the backup is worth nothing.
    slot::drop_useless(postgres, member, slot::Renew::Lost).await?;
    slot::ensure(&mut connection, &postgres.slot()).await?;
    let incremental = if parent.is_some() { ", INCREMENTAL" } else { "" };
    if let Some(manifest) = parent {
        increment::upload_manifest(&mut connection, manifest).await?;
    }
    let command = format!(
        "BASE_BACKUP (LABEL {}, CHECKPOINT 'fast', MANIFEST 'yes', TABLESPACE_MAP, WAIT false{incremental})",
        literal(label)
    );
    let head = connection.start_copy(ACTION, &command).await?;
    let start = head.first().and_then(|rows| rows.first()).and_then(position);
    let (start_lsn, timeline) =
        start.ok_or_else(|| connection.broken(ACTION, nonsense("no position where the backup starts")))?;
    let size_bytes = copy(&mut connection, sink).await?;
    let (stop_lsn, damaged) = finish(&mut connection).await?;
    connection.close().await;
    Ok(BackupFacts { from, timeline, start_lsn, stop_lsn, size_bytes, damaged, required_settings, config_files })
}

/// Hands the stream to the sink; answers the plain bytes of archives and manifest.
async fn copy(connection: &mut Connection, sink: &mut dyn BackupSink) -> Result<u64, EngineError> {
    let mut size_bytes = 0;
    let mut in_manifest = false;
    loop {
        let mut data = match connection.receive().await {
            Ok(Reply::Data(data)) => data,
            Ok(Reply::CopyDone) => return Ok(size_bytes),
            Ok(Reply::Failed(refusal)) => return Err(refusal.during(ACTION, connection.member())),
            Ok(_) => return Err(connection.broken(ACTION, nonsense("an unexpected message in the stream"))),
            Err(source) => return Err(connection.broken(ACTION, source)),
        };
        match data.try_get_u8() {
            Ok(b'n') => {
                let tablespace = archive(&mut data).map_err(|source| connection.broken(ACTION, source))?;
                in_manifest = false;
                sink.archive(tablespace).await?;
            }
            Ok(b'm') => in_manifest = true,
            Ok(b'd') => {
                size_bytes += data.len() as u64;
                if in_manifest { sink.manifest(data).await? } else { sink.data(data).await? }
            }
            Ok(b'p') => {}
            Ok(_) | Err(_) => return Err(connection.broken(ACTION, nonsense("an unknown kind of data"))),
        }
    }
}

/// Which archive begins: `base.tar`, or one named after a tablespace's oid.
fn archive(data: &mut Bytes) -> io::Result<Option<u32>> {
    let name = c_string(data)?;
    match name.strip_suffix(".tar") {
        Some("base") => Ok(None),
        Some(oid) => oid.parse().map(Some).map_err(|_| nonsense("an archive of an unknown name")),
        None => Err(nonsense("an archive of an unknown name")),
    }
}

/// Reads what follows the stream: where the backup stops, and whether the
/// server met damaged pages. Everything has been sent in that case, too.
async fn finish(connection: &mut Connection) -> Result<(Lsn, bool), EngineError> {
    let mut stop = None;
    let mut failed = None;
    loop {
        match connection.receive().await {
            Ok(Reply::Row(row)) => stop = position(&row),
            Ok(Reply::Failed(refusal)) => failed = Some(refusal),
            Ok(Reply::Ready) => break,
            Ok(_) => {}
            Err(source) => return Err(connection.broken(ACTION, source)),
        }
    }
    match (stop, failed) {
        (Some((lsn, _)), None) => Ok((lsn, false)),
        (Some((lsn, _)), Some(refusal)) if refusal.code == DATA_CORRUPTED => {
            tracing::warn!(member = %connection.member(), message = %refusal.message, "the server found damaged pages");
            Ok((lsn, true))
        }
        (_, Some(refusal)) => Err(refusal.during(ACTION, connection.member())),
        (None, None) => Err(connection.broken(ACTION, nonsense("no position where the backup stops"))),
    }
}

/// A row of an LSN and a timeline.
fn position(row: &Row) -> Option<(Lsn, Timeline)> {
    Some((text_at(row, 0)?.parse().ok()?, Timeline(text_at(row, 1)?.parse().ok()?)))
}

/// What a copy must allow at least, or it refuses to replay: see
/// <https://www.postgresql.org/docs/15/hot-standby.html>.
async fn required_settings(member: &Member, session: &mut PgConnection) -> Result<Vec<(String, String)>, EngineError> {
    sqlx::query_as(
        "SELECT name, setting FROM pg_settings WHERE name IN ('max_connections', 'max_worker_processes', \
         'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction') ORDER BY name",
    )
    .fetch_all(session)
    .await
    .map_err(|error| sql::failed(&member.name, "the reading of the settings", error))
}

/// The configuration files, which distributions keep outside of the data
/// folder, where the role may read them. Files inside come with the backup anyway.
async fn config_files(member: &Member, session: &mut PgConnection) -> Result<Vec<(String, String)>, EngineError> {
    let mut files = Vec::new();
    for (name, setting) in
        [("postgresql.conf", "config_file"), ("pg_hba.conf", "hba_file"), ("pg_ident.conf", "ident_file")]
    {
        match sql::text(session, &format!("SELECT pg_read_file(current_setting('{setting}'))")).await {
            Ok(content) => files.extend(content.map(|content| (name.to_owned(), content))),
            // What the role may not read, or is not there, is no reason to have no backup.
            Err(sqlx::Error::Database(error)) => tracing::debug!(name, %error, "not part of the backup"),
            Err(error) => return Err(sql::failed(&member.name, "the reading of the configuration", error)),
        }
    }
    Ok(files)
}
