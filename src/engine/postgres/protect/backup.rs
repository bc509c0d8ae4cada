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
    INSPECT_LIMIT, configuration, increment, slot, text_at,
};
use crate::{
    domain::{Lsn, Timeline},
    engine::{BackupFacts, BackupOrder, BackupSink, BackupStart, EngineError, ParentManifest},
};

const ACTION: &str = "the base backup";

/// SQLSTATE of "checksum verification failure during base backup".
const DATA_CORRUPTED: &str = "XX001";

/// What brings a standby's restartpoint nearer.
const RESTARTPOINT: &str =
    "wait for its next restartpoint, which follows a checkpoint of the primary, or take the backup from the primary";

pub(super) async fn backup(
    postgres: &Postgres,
    order: &BackupOrder<'_>,
    parent: Option<ParentManifest<'_>>,
    sink: &mut dyn BackupSink,
) -> Result<BackupFacts, EngineError> {
    let (primary, of_primary) = postgres.primary(INSPECT_LIMIT).await?;
    let (member, from) = match order.standby {
        None => (primary, of_primary),
        Some(name) => postgres.standby_of(&of_primary, name).await?,
    };
    let is_standby = order.standby.is_some();
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let required_settings = required_settings(member, &mut session).await?;
    let configuration = configuration::read(postgres, member, &from.server_version, &mut session).await?;
    drop(session);
    // From here on the server keeps the WAL without which the backup is worth nothing.
    let mut connection = Connection::open(postgres, primary).await?;
    slot::drop_useless(postgres, primary, slot::Renew::Lost).await?;
    slot::ensure(&mut connection, &postgres.slot()).await?;
    if is_standby {
        connection.close().await;
        connection = Connection::open(postgres, member).await?;
    }
    let is_incremental = parent.is_some();
    if let Some(manifest) = parent {
        increment::upload_manifest(&mut connection, manifest).await?;
    }
    let head = connection.start_copy(ACTION, &command(order, is_incremental)).await?;
    let start = head.first().and_then(|rows| rows.first()).and_then(position);
    let (start_lsn, timeline) =
        start.ok_or_else(|| connection.broken(ACTION, nonsense("no position where the backup starts")))?;
    if is_standby {
        let kept_from = slot::kept_from(postgres, primary).await?;
        let start = BackupStart { lsn: start_lsn, timeline, kept_from, segment_size: from.segment_size };
        if let Some(what) = sink.begins(&start).await? {
            return Err(EngineError::Unfit { member: member.name.clone(), what, remedy: RESTARTPOINT.to_owned() });
        }
    }
    let size_bytes = copy(&mut connection, sink).await?;
    let Stop { lsn: stop_lsn, timeline: stop_timeline, damage } = finish(&mut connection).await?;
    connection.close().await;
    let stop_lsn = if is_standby { behind(postgres, primary, (stop_lsn, timeline)).await? } else { stop_lsn };
    if stop_timeline != timeline {
        return Err(EngineError::Unfit {
            member: member.name.clone(),
            what: format!("it went over from timeline {timeline} to {stop_timeline} while it sent the backup"),
            remedy: "take the backup again".to_owned(),
        });
    }
    let damaged = damage.is_some();
    let findings = damage.into_iter().chain(configuration.finding).collect();
    Ok(BackupFacts {
        from,
        timeline,
        start_lsn,
        stop_lsn,
        size_bytes,
        damaged,
        findings,
        required_settings,
        config_files: configuration.files,
    })
}

/// The end of a record behind the stop of a standby's backup, which the primary
/// writes for it: a recovery to the end of the backup stops at the next record, and
/// where nobody writes there would be none. The record says nothing to anybody, and
/// nobody's acknowledgement is awaited: it may be ours alone that counts, and no stream
/// of ours may run.
async fn behind(postgres: &Postgres, primary: &Member, (stop, timeline): (Lsn, Timeline)) -> Result<Lsn, EngineError> {
    const WRITE: &str = "SELECT pg_logical_emit_message(true, 'lifeboat', 'a backup ends before this')::text";
    let write = async {
        let mut session = sql::connect(postgres, primary, &postgres.login.dbname).await?;
        let failed = |error| sql::failed(&primary.name, "the record behind the backup", error);
        sql::text(&mut session, "SET synchronous_commit = local").await.map_err(failed)?;
        let written = sql::text(&mut session, WRITE).await.map_err(failed)?;
        drop(session);
        Ok((written, super::facts(postgres, primary).await?.timeline))
    };
    let (written, now) = slot::in_time(primary, write).await?;
    match written.and_then(|lsn| lsn.parse::<Lsn>().ok()).filter(|lsn| *lsn > stop && now == timeline) {
        Some(lsn) => Ok(lsn),
        None => Err(EngineError::Unfit {
            member: primary.name.clone(),
            what: format!(
                "it is on timeline {now}, and the backup of its standby ends on timeline {timeline} at {stop}"
            ),
            remedy: "take the backup again".to_owned(),
        }),
    }
}

fn command(order: &BackupOrder<'_>, is_incremental: bool) -> String {
    let incremental = if is_incremental { ", INCREMENTAL" } else { "" };
    // In kilobytes of 1024 bytes: see the protocol.
    let rate = order.rate_max.map(|rate| format!(", MAX_RATE {}", rate.as_bytes() >> 10)).unwrap_or_default();
    format!(
        "BASE_BACKUP (LABEL {}, CHECKPOINT 'fast', MANIFEST 'yes', TABLESPACE_MAP, WAIT false{rate}{incremental})",
        literal(order.label)
    )
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

/// How a backup ended.
struct Stop {
    lsn: Lsn,
    timeline: Timeline,
    /// The damaged pages that the server met.
    damage: Option<String>,
}

/// Reads what follows the stream: where the backup stops, and whether the
/// server met damaged pages. Everything has been sent in that case, too.
async fn finish(connection: &mut Connection) -> Result<Stop, EngineError> {
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
        (Some((lsn, timeline)), None) => Ok(Stop { lsn, timeline, damage: None }),
        (Some((lsn, timeline)), Some(refusal)) if refusal.code == DATA_CORRUPTED => {
            let damage = damage(connection, &refusal.message);
            tracing::warn!("{damage}");
            Ok(Stop { lsn, timeline, damage: Some(damage) })
        }
        (_, Some(refusal)) => Err(refusal.during(ACTION, connection.member())),
        (None, None) => Err(connection.broken(ACTION, nonsense("no position where the backup stops"))),
    }
}

/// The files and blocks that the server named before it said that there are some.
fn damage(connection: &Connection, last: &str) -> String {
    let named = connection.notices().iter().map(|notice| notice.message.as_str());
    let mut named: Vec<&str> = named.filter(|message| message.contains("checksum verification")).collect();
    if named.is_empty() {
        named.push(last);
    }
    format!(
        "member `{}` has damaged pages, and the backup holds them as they are: {}; bring the rows back from the last backup before, and take another full backup",
        connection.member(),
        named.join("; ")
    )
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
