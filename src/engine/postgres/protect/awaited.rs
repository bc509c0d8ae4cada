//! Whether the commits of a server wait for us, by its `synchronous_standby_names`.
//!
//! The setting may change at any time, so it is looked up while a stream runs; in
//! a session of its own, as the stream's connection takes no other question.

use std::{convert::Infallible, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::{
    super::{APPLICATION, Member, Postgres, sql},
    INSPECT_LIMIT, slot,
};
use crate::{
    decide::synchronous::{Awaited, awaited},
    domain::MemberName,
    engine::EngineError,
};

/// How often is looked. Until a change is seen commits wait for the next flush.
const LOOK_EVERY: Duration = Duration::from_secs(10);

const SETTINGS: &str = "SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit')";

/// Keeps `is_awaited` true to what the server says. What was known last stays
/// where it does not answer.
pub(super) async fn watch(postgres: &Postgres, member: &Member, is_awaited: &watch::Sender<bool>) -> Infallible {
    loop {
        match settings(postgres, member).await {
            Ok((names, _)) => {
                let waits = awaited(&names, APPLICATION) != Awaited::Never;
                if is_awaited.send_replace(waits) != waits {
                    tracing::info!(database = %postgres.database, member = %member.name, waits, "commits wait for the vaults");
                }
            }
            Err(error) => tracing::debug!(member = %member.name, %error, "whether commits wait is not known"),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What it means that commits wait for us, where they do.
pub(super) async fn notes(postgres: &Postgres, member: &Member) -> Result<Vec<String>, EngineError> {
    let (names, commit) = settings(postgres, member).await?;
    Ok(tell(&member.name, &names, &commit))
}

/// Whether no commit of the primary is acknowledged without us.
pub(super) async fn commits_wait(postgres: &Postgres) -> Result<bool, EngineError> {
    let (primary, _) = postgres.primary(INSPECT_LIMIT).await?;
    let (names, commit) = settings(postgres, primary).await?;
    Ok(is_sure(&names, &commit))
}

fn is_sure(names: &str, commit: &str) -> bool {
    awaited(names, APPLICATION) == Awaited::Always && !waits_for_nobody(commit)
}

/// Whether `synchronous_commit` says that no standby is waited for.
fn waits_for_nobody(commit: &str) -> bool {
    ["off", "local"].contains(&commit)
}

fn tell(member: &MemberName, names: &str, commit: &str) -> Vec<String> {
    let about = format!("member `{member}`: `synchronous_standby_names = '{names}'`");
    let mut notes = match awaited(names, APPLICATION) {
        Awaited::Never => return Vec::new(),
        Awaited::Always => vec![format!(
            "{about}: each commit waits until every required vault holds it, so that no acknowledged one can be lost; \
             while no daemon streams, or a required vault is away, commits stand still: take `{APPLICATION}` out of \
             the setting and run `SELECT pg_reload_conf()` to go on without"
        )],
        Awaited::Perhaps => vec![format!(
            "{about} does not protect every commit: another standby can acknowledge one that no vault holds; for RPO 0 \
             have commits wait for all that are listed, such as `{APPLICATION}` alone or `FIRST 2 (standby, {APPLICATION})`"
        )],
    };
    if waits_for_nobody(commit) {
        notes.push(format!(
            "member `{member}`: `synchronous_commit = {commit}` waits for no standby, so that acknowledged commits can \
             be lost: set it to `on`"
        ));
    }
    notes
}

async fn settings(postgres: &Postgres, member: &Member) -> Result<(String, String), EngineError> {
    let look = async {
        let mut session = sql::connect(postgres, member, &postgres.login.dbname).await?;
        let found = sqlx::query_as(SETTINGS).fetch_one(&mut session).await;
        found.map_err(|error| sql::failed(&member.name, "the look at the server's settings", error))
    };
    slot::in_time(member, look).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_and_the_promise_are_told_as_they_are() {
        let told = |names: &str, commit: &str| tell(&"a".parse().unwrap(), names, commit);
        assert_eq!(told("standby", "off"), [""; 0], "nothing waits for us");
        let [always] = &told("lifeboat", "remote_apply")[..] else { panic!() };
        assert!(
            always.contains("no acknowledged one can be lost") && always.contains("commits stand still"),
            "{always}"
        );
        let [perhaps] = &told("ANY 1 (standby, lifeboat)", "on")[..] else { panic!() };
        assert!(perhaps.contains("does not protect every commit") && perhaps.contains("RPO 0"), "{perhaps}");
        let [_, off] = &told("lifeboat", "local")[..] else { panic!() };
        assert!(off.contains("`synchronous_commit = local` waits for no standby"), "{off}");
        for (names, commit, sure) in [
            ("lifeboat", "on", true),
            ("FIRST 2 (standby, lifeboat)", "remote_write", true),
            ("ANY 1 (standby, lifeboat)", "on", false),
            ("lifeboat", "off", false),
            ("lifeboat", "local", false),
            ("", "on", false),
        ] {
            assert_eq!(is_sure(names, commit), sure, "{names} {commit}");
        }
    }
}
