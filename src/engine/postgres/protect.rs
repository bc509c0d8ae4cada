//! Protecting a PostgreSQL cluster: looking at it, backing it up, streaming its
//! WAL, writing its heartbeat.
//!
//! Everything works on the primary that is found at the time, but for the slots of
//! standbys; a role that moved is found again at the next call. Nothing here
//! changes the cluster except for our replication slot on its members and the
//! heartbeat's schema.

use std::{io, time::Duration};

use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Member, Postgres, sql, wire::reply::Row};
use crate::{
    decide::slot::Durable,
    domain::{Beat, Lsn, MemberName, Moment, Question, SegmentSize, Timeline, Told, WalKept},
    engine::{
        BackupFacts, BackupOrder, BackupSink, EngineError, Look, MemberFacts, Parent, ParentManifest, Protect, Role,
        WalEnd, WalSink,
    },
};

mod awaited;
mod backup;
mod beat;
mod configuration;
mod history;
mod increment;
mod kept;
mod notes;
mod preflight;
mod sample;
mod sender;
mod slot;
mod standby;
mod stream;

pub use beat::BeatSession;
pub use stream::Patience;

/// How long a member may take to tell about itself.
const INSPECT_LIMIT: Duration = Duration::from_secs(15);

/// `pg_control_checkpoint` lags behind a promotion until the next checkpoint,
/// hence the name of the current WAL file on a primary.
const FACTS: &str = "SELECT pg_is_in_recovery(),
       (SELECT system_identifier::text FROM pg_control_system()),
       current_setting('server_version'),
       CASE WHEN pg_is_in_recovery()
            THEN (SELECT greatest(timeline_id, (SELECT received_tli FROM pg_stat_wal_receiver))::bigint
                  FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END,
       CASE WHEN pg_is_in_recovery()
            THEN coalesce(pg_last_wal_replay_lsn(), '0/0')::text
            ELSE pg_current_wal_lsn()::text END,
       (SELECT bytes_per_wal_segment::bigint FROM pg_control_init())";

#[async_trait]
impl Look for Postgres {
    async fn inspect(&self) -> Vec<(MemberName, Result<MemberFacts, EngineError>)> {
        self.look(INSPECT_LIMIT).await.into_iter().map(|(member, facts)| (member.name.clone(), facts)).collect()
    }

    async fn preflight(&self) -> Result<MemberFacts, Vec<EngineError>> {
        preflight::preflight(self).await
    }

    async fn increment_hindrance(
        &self,
        standby: Option<&MemberName>,
        parent: Option<Parent>,
    ) -> Result<Option<String>, EngineError> {
        increment::hindrance(self, standby, parent).await
    }

    async fn notes(&self) -> Result<Vec<String>, EngineError> {
        notes::notes(self).await
    }

    async fn commits_wait(&self) -> Result<bool, EngineError> {
        awaited::commits_wait(self).await
    }

    async fn wal_kept(&self) -> Vec<(MemberName, Result<WalKept, EngineError>)> {
        kept::kept(self).await
    }

    async fn sample(&self, question: &Question) -> Result<(Moment, Told), EngineError> {
        sample::sample(self, question).await
    }
}

#[async_trait]
impl Protect for Postgres {
    async fn backup(
        &self,
        order: &BackupOrder<'_>,
        parent: Option<ParentManifest<'_>>,
        sink: &mut dyn BackupSink,
    ) -> Result<BackupFacts, EngineError> {
        backup::backup(self, order, parent, sink).await
    }

    fn left_on_server(&self) -> String {
        let slot = self.slot();
        format!(
            "the slot `{slot}` on the primary keeps all WAL from now on until `lifeboat serve` streams it; where none will, run `SELECT pg_drop_replication_slot('{slot}')` there"
        )
    }

    async fn stream_wal(
        &self,
        sink: &mut dyn WalSink,
        flush_every: Duration,
        stop: CancellationToken,
    ) -> Result<WalEnd, EngineError> {
        stream::stream_wal(self, sink, flush_every, &stop).await
    }

    async fn keep_on_standbys(&self, durable: Option<Durable>) -> Vec<(MemberName, Result<(), EngineError>)> {
        standby::keep_on_all(self, durable).await
    }

    async fn beat(&self, seq: i64) -> Result<Beat, EngineError> {
        beat::beat(self, seq).await
    }
}

impl Postgres {
    /// Asks all members at once; one that takes longer than `limit` counts as out of reach.
    async fn look(&self, limit: Duration) -> Vec<(&Member, Result<MemberFacts, EngineError>)> {
        join_all(self.members.iter().map(|member| async move {
            let facts = timeout(limit, facts(self, member)).await;
            (member, facts.unwrap_or_else(|_| Err(super::failure::unreachable(member, io::ErrorKind::TimedOut.into()))))
        }))
        .await
    }

    /// The member of this name, which must be a standby of that primary.
    async fn standby_of(
        &self,
        primary: &MemberFacts,
        name: &MemberName,
    ) -> Result<(&Member, MemberFacts), EngineError> {
        let unfit = |what: &str, remedy: &str| EngineError::Unfit {
            member: name.clone(),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        };
        let found = self.members.iter().find(|member| member.name == *name);
        let member = found.ok_or_else(|| unfit("the schedule names no such member", "take the backup again"))?;
        let facts = timeout(INSPECT_LIMIT, facts(self, member)).await;
        let facts =
            facts.unwrap_or_else(|_| Err(super::failure::unreachable(member, io::ErrorKind::TimedOut.into())))?;
        if facts.role != Role::Standby {
            return Err(unfit("it is a standby no more", "take the backup again"));
        }
        if facts.system_id != primary.system_id {
            return Err(unfit("it belongs to another cluster than the primary", "remove it from `members`"));
        }
        Ok((member, facts))
    }

    /// The member that takes writes. Each member has `limit` to answer.
    pub(super) async fn primary(&self, limit: Duration) -> Result<(&Member, MemberFacts), EngineError> {
        choose_primary(self.look(limit).await)
    }
}

/// The one primary. Of two, the one on the newer timeline was promoted and is
/// meant; on the same timeline nobody can tell, and we do not guess.
fn choose_primary(
    seen: Vec<(&Member, Result<MemberFacts, EngineError>)>,
) -> Result<(&Member, MemberFacts), EngineError> {
    let is_alone = seen.len() == 1;
    let mut primaries = Vec::new();
    let mut others = Vec::new();
    for (member, facts) in seen {
        match facts {
            Ok(facts) if facts.role == Role::Primary => primaries.push((member, facts)),
            Ok(_) => others.push(format!("`{}` is a standby", member.name)),
            Err(error) if is_alone => return Err(error),
            Err(error) => others.push(error.to_string()),
        }
    }
    primaries.sort_by_key(|(_, facts)| facts.timeline);
    match (primaries.pop(), primaries.pop()) {
        (Some((one, a)), Some((two, b))) if a.system_id != b.system_id => Err(EngineError::Unfit {
            member: one.name.clone(),
            what: format!(
                "it takes writes, and so does `{}`, which is another cluster (system identifiers {} and {})",
                two.name, a.system_id, b.system_id
            ),
            remedy: "remove the one that does not belong to this database from `members`".to_owned(),
        }),
        (Some((one, a)), Some((two, b))) if a.timeline == b.timeline => Err(EngineError::Unfit {
            member: one.name.clone(),
            what: format!("it takes writes on timeline {}, and so does `{}`", a.timeline, two.name),
            remedy: "stop the one that is not meant to be the primary".to_owned(),
        }),
        (Some(primary), _) => Ok(primary),
        (None, _) => Err(EngineError::NoPrimary { seen: others.join("; ") }),
    }
}

/// What one member says of itself.
pub(super) async fn facts(postgres: &Postgres, member: &Member) -> Result<MemberFacts, EngineError> {
    const ACTION: &str = "the look at the server";
    let mut connection = sql::connect(postgres, member, &postgres.login.dbname).await?;
    let (in_recovery, system_id, server_version, timeline, lsn, segment_size) =
        sqlx::query_as::<_, (bool, String, String, i64, String, i64)>(FACTS)
            .fetch_one(&mut connection)
            .await
            .map_err(|error| sql::failed(&member.name, ACTION, error))?;
    let nonsense = |what| EngineError::Broken {
        member: member.name.clone(),
        action: ACTION,
        source: io::Error::new(io::ErrorKind::InvalidData, what),
    };
    Ok(MemberFacts {
        member: member.name.clone(),
        site: member.site.clone(),
        role: if in_recovery { Role::Standby } else { Role::Primary },
        system_id,
        server_version,
        timeline: Timeline(u32::try_from(timeline).map_err(|_| nonsense("an impossible timeline"))?),
        lsn: lsn.parse::<Lsn>().map_err(|_| nonsense("an impossible LSN"))?,
        segment_size: u64::try_from(segment_size)
            .ok()
            .and_then(|bytes| SegmentSize::try_from(bytes).ok())
            .ok_or_else(|| nonsense("an impossible WAL segment size"))?,
    })
}

/// A column of a row as text.
fn text_at(row: &Row, column: usize) -> Option<&str> {
    std::str::from_utf8(row.get(column)?.as_ref()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        let site = "mt-a".parse().unwrap();
        Member { name: name.parse().unwrap(), host: "db".to_owned(), port: 5432, site }
    }

    fn facts(member: &Member, role: Role, timeline: u32) -> MemberFacts {
        MemberFacts {
            member: member.name.clone(),
            site: member.site.clone(),
            role,
            system_id: "1".to_owned(),
            server_version: "15.14".to_owned(),
            timeline: Timeline(timeline),
            lsn: Lsn(0),
            segment_size: SegmentSize::DEFAULT,
        }
    }

    #[test]
    fn of_two_primaries_the_promoted_one_is_meant_and_twins_are_refused() {
        let (a, b) = (member("a"), member("b"));
        let choose = |left, right| choose_primary(vec![(&a, left), (&b, right)]).map(|(member, _)| member.name.clone());
        let down = |member| Err(super::super::failure::unreachable(member, io::ErrorKind::TimedOut.into()));

        assert_eq!(choose(Ok(facts(&a, Role::Standby, 1)), Ok(facts(&b, Role::Primary, 1))).unwrap(), b.name);
        assert_eq!(choose(Ok(facts(&a, Role::Primary, 2)), Ok(facts(&b, Role::Primary, 1))).unwrap(), a.name);
        assert_eq!(choose(Ok(facts(&a, Role::Primary, 1)), down(&b)).unwrap(), a.name);
        let twins = choose(Ok(facts(&a, Role::Primary, 1)), Ok(facts(&b, Role::Primary, 1)));
        assert!(matches!(twins, Err(EngineError::Unfit { .. })), "{twins:?}");
        let other = MemberFacts { system_id: "2".to_owned(), ..facts(&b, Role::Primary, 9) };
        let strangers = choose(Ok(facts(&a, Role::Primary, 1)), Ok(other)).unwrap_err().to_string();
        assert!(strangers.contains("another cluster (system identifiers 2 and 1)"), "{strangers}");
        let none = choose(Ok(facts(&a, Role::Standby, 1)), down(&b));
        let Err(EngineError::NoPrimary { seen }) = none else { panic!("{none:?}") };
        assert!(seen.contains("`a` is a standby") && seen.contains("`b`"), "{seen}");
        let alone = choose_primary(vec![(&b, down(&b))]);
        assert!(matches!(alone, Err(EngineError::Unreachable { .. })), "{alone:?}");
    }
}
