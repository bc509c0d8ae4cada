//! Increments: since version 17 the server knows from its summaries of the WAL
//! which blocks have changed since a parent, whose manifest it is shown.
//!
//! <https://www.postgresql.org/docs/18/continuous-archiving.html#BACKUP-INCREMENTAL-BACKUP>.

use futures::TryStreamExt;
use postgres_protocol::message::frontend;
use sqlx::PgConnection;

use super::{
    super::{
        Member, Postgres,
        cluster::{INCREMENTS_SINCE, major},
        sql,
        wire::Connection,
    },
    INSPECT_LIMIT,
};
use crate::{
    domain::{Lsn, MemberName, Timeline},
    engine::{EngineError, Parent, ParentManifest},
};

/// Shows the server the manifest of the parent, on the connection that takes the increment.
pub(super) async fn upload_manifest(
    connection: &mut Connection,
    mut manifest: ParentManifest<'_>,
) -> Result<(), EngineError> {
    const ACTION: &str = "the upload of the parent's manifest";
    connection.start_copy(ACTION, "UPLOAD_MANIFEST").await?;
    while let Some(bytes) = manifest.try_next().await? {
        let data = frontend::CopyData::new(bytes).map_err(|source| connection.broken(ACTION, source))?;
        let sent = connection.send(|buffer| {
            data.write(buffer);
            Ok(())
        });
        sent.await.map_err(|source| connection.broken(ACTION, source))?;
    }
    let done = connection.send(|buffer| {
        frontend::copy_done(buffer);
        Ok(())
    });
    done.await.map_err(|source| connection.broken(ACTION, source))?;
    connection.rows_until_ready(ACTION).await.map(drop)
}

/// Why the primary, or that standby, can give no increment, with the remedy. Each
/// server has summaries of its own.
pub(super) async fn hindrance(
    postgres: &Postgres,
    standby: Option<&MemberName>,
    parent: Option<Parent>,
) -> Result<Option<String>, EngineError> {
    let (primary, of_primary) = postgres.primary(INSPECT_LIMIT).await?;
    let (member, facts) = match standby {
        None => (primary, of_primary),
        Some(name) => postgres.standby_of(&of_primary, name).await?,
    };
    let name = &member.name;
    if let Some(version) = major(&facts.server_version).filter(|version| *version < INCREMENTS_SINCE) {
        return Ok(Some(format!("PostgreSQL {version} has none; upgrade to version {INCREMENTS_SINCE} or later")));
    }
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let failed = |error| sql::failed(&member.name, "the look at the WAL summaries", error);
    if sql::text(&mut session, "SHOW summarize_wal").await.map_err(failed)?.as_deref() != Some("on") {
        return Ok(Some(format!(
            "`summarize_wal` is off on member `{name}`; run `ALTER SYSTEM SET summarize_wal = on` as a superuser and `SELECT pg_reload_conf()` there"
        )));
    }
    let Some(parent) = parent else { return Ok(None) };
    let summaries = summaries(member, &mut session).await?;
    let at_work = at_work_from(member, &mut session).await?;
    let missing = first_missing(&summaries, at_work, parent);
    Ok(missing.map(|from| {
        format!(
            "member `{name}` has no summary of its WAL from {from} on; keep `summarize_wal` on, and `wal_summary_keep_time` longer than from one backup to the next"
        )
    }))
}

/// Of one timeline, from one position to another.
type Summary = (Timeline, Lsn, Lsn);

async fn summaries(member: &Member, session: &mut PgConnection) -> Result<Vec<Summary>, EngineError> {
    let rows: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT tli, start_lsn::text, end_lsn::text FROM pg_available_wal_summaries()")
            .fetch_all(session)
            .await
            .map_err(|error| sql::failed(&member.name, "the look at the WAL summaries", error))?;
    let read = |(timeline, start, end): (i64, String, String)| {
        Some((Timeline(u32::try_from(timeline).ok()?), start.parse().ok()?, end.parse().ok()?))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// From where on the server makes its next summary; none where nobody makes any. A
/// standby writes one only when it has passed a checkpoint of the primary.
async fn at_work_from(member: &Member, session: &mut PgConnection) -> Result<Option<Lsn>, EngineError> {
    let (from, is_alive): (String, bool) =
        sqlx::query_as("SELECT summarized_lsn::text, summarizer_pid IS NOT NULL FROM pg_get_wal_summarizer_state()")
            .fetch_one(session)
            .await
            .map_err(|error| sql::failed(&member.name, "the look at the WAL summarizer", error))?;
    // Zero before it has looked where to begin.
    Ok(from.parse::<Lsn>().ok().filter(|from| is_alive && from.0 > 0))
}

/// Where the summaries that an increment upon `parent` needs have a gap; the newest
/// may still be written, and the server waits for them.
fn first_missing(summaries: &[Summary], at_work_from: Option<Lsn>, parent: Parent) -> Option<Lsn> {
    let mut ranges: Vec<(Lsn, Lsn)> = summaries
        .iter()
        .filter(|(timeline, _, end)| *timeline >= parent.timeline && *end > parent.start_lsn)
        .map(|(_, start, end)| (*start, *end))
        .collect();
    ranges.sort_unstable();
    let mut reached = parent.start_lsn;
    for (start, end) in &ranges {
        if *start > reached {
            return Some(reached);
        }
        reached = reached.max(*end);
    }
    // None yet: the one that is being made must begin early enough.
    let comes = at_work_from.is_some_and(|from| from <= parent.start_lsn);
    (ranges.is_empty() && !comes).then_some(reached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_must_reach_from_the_parent_on_without_a_gap() {
        let missing = |ranges: &[(u32, u64, u64)], at_work_from: Option<u64>| {
            let summaries: Vec<Summary> =
                ranges.iter().map(|(timeline, start, end)| (Timeline(*timeline), Lsn(*start), Lsn(*end))).collect();
            let parent = Parent { timeline: Timeline(2), start_lsn: Lsn(100) };
            first_missing(&summaries, at_work_from.map(Lsn), parent).map(|lsn| lsn.0)
        };
        assert_eq!(missing(&[(2, 150, 200), (2, 90, 150)], Some(200)), None);
        assert_eq!(missing(&[(2, 90, 150), (3, 150, 200)], Some(200)), None, "another timeline goes on");
        assert_eq!(missing(&[(2, 50, 100)], Some(100)), None, "the next one begins there");
        assert_eq!(missing(&[(2, 50, 90)], Some(90)), None, "the server is behind with them");
        assert_eq!(missing(&[], Some(100)), None, "it writes its first one");
        assert_eq!(missing(&[(2, 50, 90)], None), Some(100), "nobody makes the next one");
        assert_eq!(missing(&[(2, 50, 90)], Some(120)), Some(100), "they were off in between");
        assert_eq!(missing(&[(2, 90, 150), (2, 151, 200)], Some(200)), Some(150));
        assert_eq!(missing(&[(2, 101, 200)], Some(200)), Some(100), "they were removed");
        assert_eq!(missing(&[(1, 90, 200)], Some(200)), Some(100), "not of its line");
        assert_eq!(missing(&[], Some(120)), Some(100), "summaries were turned on just now");
    }
}
