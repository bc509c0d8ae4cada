//! What in the catalogs of a copy acts by itself. It comes with the source's data, and a
//! provider starts it with the copy unless its parameter group says otherwise.

use sqlx::Row;

use crate::{
    domain::{Check, Verdict},
    engine::{
        EngineError,
        postgres::asked::{
            Session, failed,
            ties::{listed, told},
        },
    },
};

const SUBSCRIPTIONS: &str = "select current_setting('max_logical_replication_workers'), \
    (select count(*) from pg_subscription where subenabled), (select count(*) from pg_subscription)";
/// Null where the role may not see it.
const LOADED: &str = "select case when pg_has_role(current_user, 'pg_read_all_settings', 'USAGE') \
    then current_setting('shared_preload_libraries') end";
/// The scheduler that runs inside of the server; the others are clients, which know no copy.
const INSIDE: &str = "pg_cron";

pub(super) async fn checks(session: &Session) -> Result<Vec<Check>, EngineError> {
    let row = session.row(SUBSCRIPTIONS).await?;
    let workers: String = row.try_get(0).map_err(|error| failed(&error))?;
    let enabled: i64 = row.try_get(1).map_err(|error| failed(&error))?;
    let all: i64 = row.try_get(2).map_err(|error| failed(&error))?;
    let loaded: Option<String> = session.row(LOADED).await?.try_get(0).map_err(|error| failed(&error))?;
    let (jobs, servers) = listed(session).await?;
    Ok(vec![subscriptions(&workers, enabled, all), background_jobs(loaded.as_deref(), &jobs), foreign(&servers)])
}

fn subscriptions(workers: &str, enabled: i64, all: i64) -> Check {
    let told = format!("{all} in the catalog, {enabled} enabled; {workers} workers may run");
    let holds = workers == "0" || enabled == 0;
    let remedy = "name a `parameter_group` with `max_logical_replication_workers = 0`";
    let actual = if holds { told } else { format!("{told}; {remedy}") };
    Check::judge("subscriptions", "none that runs", actual, holds)
}

fn background_jobs(loaded: Option<&str>, jobs: &[String]) -> Check {
    let (name, expected) = ("background_jobs", "no scheduler that runs in the server");
    let listed = told(jobs, "no scheduler's jobs");
    if !jobs.iter().any(|job| job.contains(INSIDE)) {
        return Check::new(name, Verdict::Pass, expected, listed);
    }
    let remedy = "name a `parameter_group` whose `shared_preload_libraries` is without it";
    match loaded {
        Some(libraries) if !libraries.contains(INSIDE) => {
            Check::new(name, Verdict::Pass, expected, format!("{listed}; it is not loaded"))
        }
        Some(_) => Check::new(name, Verdict::Fail, expected, format!("{listed}; it is loaded; {remedy}")),
        None => {
            let unseen = "whether it is loaded is not seen; grant the login `pg_monitor`";
            Check::new(name, Verdict::Inconclusive, expected, format!("{listed}; {unseen}"))
        }
    }
}

/// Whether the copy would reach them is not tried: there is no way to try it from outside.
fn foreign(servers: &[String]) -> Check {
    let (name, expected) = ("foreign_servers", "the server's own connections reach nobody");
    if servers.is_empty() {
        return Check::new(name, Verdict::Pass, expected, "none in the catalogs");
    }
    let why = "whether they are reached from where it stands cannot be tried from here";
    Check::new(name, Verdict::Inconclusive, expected, format!("{}; {why}", servers.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_by_itself_fails_and_what_cannot_be_seen_is_no_pass() {
        let one = ["2 jobs of pg_cron in `wallet`".to_owned()];
        let other = ["2 jobs of pgAgent in `wallet`".to_owned()];
        for (check, verdict) in [
            (subscriptions("4", 0, 2), Verdict::Pass),
            (subscriptions("0", 1, 1), Verdict::Pass),
            (subscriptions("4", 1, 1), Verdict::Fail),
            (background_jobs(Some("pg_cron"), &[]), Verdict::Pass),
            (background_jobs(Some("pg_cron"), &other), Verdict::Pass),
            (background_jobs(Some("pg_stat_statements"), &one), Verdict::Pass),
            (background_jobs(Some("pg_stat_statements,pg_cron"), &one), Verdict::Fail),
            (background_jobs(None, &one), Verdict::Inconclusive),
            (foreign(&[]), Verdict::Pass),
            (foreign(&["a of postgres_fdw in `x`".to_owned()]), Verdict::Inconclusive),
        ] {
            assert_eq!(check.verdict, verdict, "{check:?}");
        }
    }
}
