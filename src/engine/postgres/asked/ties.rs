//! What the catalogs of a copy hold that could act on others, or by itself.

use super::{
    catalogs,
    session::{Session, failed},
};
use crate::engine::EngineError;

/// Tables in which schedulers keep their jobs: who they are, and two queries.
const JOBS: [(&str, &str, &str); 3] = [
    ("pg_cron", "select to_regclass('cron.job') is not null", "select count(*) from cron.job"),
    ("pg_timetable", "select to_regclass('timetable.chain') is not null", "select count(*) from timetable.chain"),
    ("pgAgent", "select to_regclass('pgagent.pga_job') is not null", "select count(*) from pgagent.pga_job"),
];

const FOREIGN: &str = "select format('%s of %s', srvname, fdwname) from pg_foreign_server \
    join pg_foreign_data_wrapper w on w.oid = srvfdw order by srvname";

pub(in super::super) fn told(found: &[String], none: &str) -> String {
    if found.is_empty() { none.to_owned() } else { found.join(", ") }
}

/// The jobs and the foreign servers that the catalogs of all databases hold.
pub(in super::super) async fn listed(session: &Session) -> Result<(Vec<String>, Vec<String>), EngineError> {
    let (mut jobs, mut servers) = (Vec::new(), Vec::new());
    for dbname in catalogs::databases(session).await? {
        let mut connection = session.connect(&dbname).await.map_err(|error| failed(&error))?;
        for (who, exists, count) in JOBS {
            if sqlx::query_scalar(exists).fetch_one(&mut connection).await.map_err(|error| failed(&error))? {
                let found: i64 =
                    sqlx::query_scalar(count).fetch_one(&mut connection).await.map_err(|error| failed(&error))?;
                jobs.push(format!("{found} jobs of {who} in `{dbname}`"));
            }
        }
        let found: Vec<String> =
            sqlx::query_scalar(FOREIGN).fetch_all(&mut connection).await.map_err(|error| failed(&error))?;
        servers.extend(found.into_iter().map(|server| format!("{server} in `{dbname}`")));
    }
    for dbname in catalogs::closed(session).await? {
        let unseen = format!("`{dbname}` takes no connections and was not looked into");
        jobs.push(unseen.clone());
        servers.push(unseen);
    }
    Ok((jobs, servers))
}
