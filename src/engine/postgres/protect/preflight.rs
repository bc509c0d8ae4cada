//! Everything that would stop backups or streaming, found before it does. It
//! only looks and changes nothing; each finding carries the exact remedy.

use super::{
    super::{Member, Postgres, cluster::major, failure, sql, wire::Connection},
    INSPECT_LIMIT, beat, choose_primary,
};
use crate::engine::{EngineError, MemberFacts};

const ACTION: &str = "the preflight";

/// Before version 15 backups were sent in another form.
const VERSION_MIN: u32 = 15;

/// The settings and rights of the primary, as one row.
const STATE: &str = "SELECT current_setting('wal_level') AS wal_level,
       current_setting('full_page_writes')::bool AS full_page_writes,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_replicate,
       current_setting('max_wal_senders')::bigint AS senders_max,
       (SELECT count(*) FROM pg_stat_replication) AS senders,
       current_setting('max_replication_slots')::bigint AS slots_max,
       (SELECT count(*) FROM pg_replication_slots) AS slots,
       (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1) > 0 AS has_slot,
       coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = $1), false) AS streams,
       (SELECT slot_type || coalesce(' slot of ' || plugin, ' slot') FROM pg_replication_slots
        WHERE slot_name = $1 AND slot_type <> 'physical') AS other_kind,
       (SELECT coalesce(sender.application_name, 'role ' || sender.usename)
        FROM pg_replication_slots AS slot JOIN pg_stat_replication AS sender ON sender.pid = slot.active_pid
        WHERE slot.slot_name = $1
          AND NOT (sender.usename = current_user AND coalesce(sender.application_name, '') LIKE 'lifeboat%'))
           AS other_client,
       CASE WHEN heart.oid IS NOT NULL
            THEN has_schema_privilege(heart.relnamespace, 'USAGE') AND has_table_privilege(heart.oid, 'SELECT')
                 AND has_table_privilege(heart.oid, 'INSERT') AND has_table_privilege(heart.oid, 'DELETE')
            WHEN to_regnamespace('lifeboat') IS NOT NULL THEN has_schema_privilege('lifeboat', 'CREATE')
            ELSE has_database_privilege(current_database(), 'CREATE') END AS may_beat
FROM (SELECT) AS one
LEFT JOIN pg_class AS heart ON heart.relname = 'heartbeat' AND heart.relnamespace = to_regnamespace('lifeboat')";

#[derive(Debug, sqlx::FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "a row of yes-or-no answers, not a state")]
struct State {
    wal_level: String,
    full_page_writes: bool,
    may_replicate: bool,
    senders_max: i64,
    senders: i64,
    slots_max: i64,
    slots: i64,
    has_slot: bool,
    streams: bool,
    /// Our slot's name is another kind of slot's.
    other_kind: Option<String>,
    /// Who else streams through our slot.
    other_client: Option<String>,
    may_beat: bool,
}

pub(super) async fn preflight(postgres: &Postgres) -> Result<MemberFacts, Vec<EngineError>> {
    let seen = postgres.look(INSPECT_LIMIT).await;
    let others: Vec<MemberFacts> = seen.iter().filter_map(|(_, facts)| facts.as_ref().ok().cloned()).collect();
    let shut_out: Vec<&Member> = seen
        .iter()
        .filter_map(|(member, facts)| matches!(facts, Err(EngineError::Login { .. })).then_some(*member))
        .collect();
    let (member, facts) = match choose_primary(seen) {
        Ok(primary) => primary,
        Err(error) => return Err(without_primary(postgres, &shut_out, error).await),
    };
    if let Some(version) = major(&facts.server_version).filter(|version| *version < VERSION_MIN) {
        return Err(vec![EngineError::Unfit {
            member: member.name.clone(),
            what: format!("PostgreSQL {version} is too old"),
            remedy: format!("upgrade it to version {VERSION_MIN} or later"),
        }]);
    }
    let mut wrong: Vec<EngineError> = others
        .iter()
        .filter(|other| other.system_id != facts.system_id)
        .map(|other| EngineError::Unfit {
            member: other.member.clone(),
            what: format!("its system identifier is {}, that of the primary is {}", other.system_id, facts.system_id),
            remedy: "remove it from `members`: it belongs to another cluster".to_owned(),
        })
        .collect();
    let (may_replicate, is_crowded) = match state(postgres, member).await {
        Ok(state) => {
            wrong.extend(judge(postgres, member, &state));
            (state.may_replicate, state.senders_max < senders_needed(&state))
        }
        Err(error) => {
            wrong.push(error);
            (false, false)
        }
    };
    // Only a login shows whether pg_hba.conf lets replication in.
    if may_replicate {
        match Connection::open(postgres, member).await {
            Ok(connection) => connection.close().await,
            // Told above, with how many are needed.
            Err(EngineError::Server { code, .. }) if is_crowded && code == failure::CROWDED => {}
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() { Ok(facts) } else { Err(wrong) }
}

/// A member that lets us in for nothing is asked for both, so that all that is missing
/// in its `pg_hba.conf` is told at once.
async fn without_primary(postgres: &Postgres, shut_out: &[&Member], error: EngineError) -> Vec<EngineError> {
    let mut wrong = vec![error];
    for member in shut_out {
        match Connection::open(postgres, member).await {
            Ok(connection) => connection.close().await,
            Err(error @ EngineError::Login { .. }) => wrong.push(error),
            Err(_) => {}
        }
    }
    wrong.dedup_by_key(|error| error.to_string());
    wrong
}

async fn state(postgres: &Postgres, member: &Member) -> Result<State, EngineError> {
    let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
    sqlx::query_as(STATE)
        .bind(postgres.slot())
        .fetch_one(&mut session)
        .await
        .map_err(|error| sql::failed(&member.name, ACTION, error))
}

/// One for the stream, unless it runs already, and one for a backup beside it.
fn senders_needed(state: &State) -> i64 {
    state.senders + if state.streams { 1 } else { 2 }
}

fn judge(postgres: &Postgres, member: &Member, state: &State) -> Vec<EngineError> {
    let unfit = |what: String, remedy: String| EngineError::Unfit { member: member.name.clone(), what, remedy };
    let restart = |setting: &str, value: &str| {
        format!("run `ALTER SYSTEM SET {setting} = {value}` as a superuser and restart the server")
    };
    let mut wrong = Vec::new();
    if state.wal_level == "minimal" {
        wrong.push(unfit("`wal_level` is minimal".to_owned(), restart("wal_level", "'replica'")));
    }
    if !state.full_page_writes {
        wrong.push(unfit(
            "`full_page_writes` is off: a backup of the primary forces it on while it runs, but no standby can send one, and a crash can tear the primary's own pages".to_owned(),
            "run `ALTER SYSTEM SET full_page_writes = on` as a superuser and `SELECT pg_reload_conf()`".to_owned(),
        ));
    }
    if !state.may_replicate {
        wrong.push(failure::lacks_replication(postgres, member));
    }
    let senders_needed = senders_needed(state);
    if state.senders_max < senders_needed {
        let what = format!("`max_wal_senders` is {} and {} are in use", state.senders_max, state.senders);
        wrong.push(unfit(what, restart("max_wal_senders", &senders_needed.to_string())));
    }
    if !state.has_slot && state.slots_max <= state.slots {
        let what = format!("`max_replication_slots` is {} and {} are in use", state.slots_max, state.slots);
        wrong.push(unfit(what, restart("max_replication_slots", &(state.slots + 1).to_string())));
    }
    let slot = postgres.slot();
    if let Some(kind) = &state.other_kind {
        wrong.push(super::slot::is_others(postgres, &member.name, kind));
    }
    if let Some(client) = &state.other_client {
        wrong.push(unfit(
            format!("slot `{slot}`, which is ours by its name, is in use by `{client}`"),
            "give that client a slot of its own, or this database another name in its schedule".to_owned(),
        ));
    }
    if !state.may_beat {
        wrong.push(beat::lacks_table(postgres, &member.name));
    }
    wrong
}
