//! What in the copy ties it to others: archive, replication, subscriptions, jobs, foreign
//! servers. They come with the source's catalogs; what is shown is that nothing acts on
//! them, and that the server itself gets nowhere when it tries.

use std::path::Path;

use sqlx::{AssertSqlSafe, Executor, PgConnection, Row, postgres::PgRow};
use tokio::net::TcpListener;

use super::{
    IsolatedInstance,
    confinement::{Address, Confinement},
};
use crate::{
    domain::{Check, Verdict},
    engine::{
        EngineError,
        postgres::{
            asked::{self, failed, ties::told},
            restored::{file_error, unfit},
        },
    },
};

const SETTINGS: &str = "select current_setting('archive_mode'), current_setting('archive_command'), \
    coalesce(current_setting('archive_library', true), ''), \
    (select count(*) from pg_stat_activity where backend_type = 'archiver')::text, \
    current_setting('primary_conninfo'), current_setting('primary_slot_name'), \
    (select count(*) from pg_stat_wal_receiver where pid is not null)::text, \
    (select count(*) from pg_replication_slots)::text, \
    current_setting('max_logical_replication_workers'), \
    (select count(*) from pg_stat_subscription where pid is not null)::text, \
    (select coalesce(string_agg(distinct backend_type, ', '), '') from pg_stat_activity where backend_type not in \
      ('client backend', 'checkpointer', 'background writer', 'walwriter', 'startup', 'autovacuum launcher', \
       'autovacuum worker', 'parallel worker', 'slotsync worker', 'io worker', 'walsummarizer')), \
    current_setting('shared_preload_libraries'), current_setting('listen_addresses'), \
    (select format('%s in the catalog, %s enabled', count(*), count(*) filter (where subenabled)) from pg_subscription)";

/// Class 08, connection exceptions: the attempt was made, and came to nothing.
const NO_CONNECTION: &str = "08";

/// What the server says of itself, over all its databases.
pub(super) async fn checks(instance: &IsolatedInstance) -> Result<Vec<Check>, EngineError> {
    let row = instance.session.row(SETTINGS).await?;
    let is = |name: &str, parts: &[(usize, &str)]| of_columns(&row, name, parts);
    let mut preload = is("preloaded_libraries", &[(11, "")])?;
    if let Some(libraries) = instance.configured.preload_libraries.as_deref().filter(|text| !text.is_empty()) {
        preload.actual = format!("{}; the source loads `{libraries}`", preload.actual);
    }
    let mut subscriptions = is("subscriptions", &[(8, "0"), (9, "0")])?;
    subscriptions.actual = format!("{}; {}", subscriptions.actual, text(&row, 13)?);
    let (jobs, servers) = asked::ties::listed(&instance.session).await?;
    let mut background = is("background_jobs", &[(10, "")])?;
    background.actual = format!("{}; {}", background.actual, told(&jobs, "no scheduler's jobs"));
    let mode = mode(&instance.folder.join("socket"))?;
    Ok(vec![
        is("archive", &[(0, "off"), (1, "(disabled)"), (2, ""), (3, "0")])?,
        is("replication", &[(4, ""), (5, ""), (6, "0"), (7, "0")])?,
        subscriptions,
        background,
        preload,
        is("listen_addresses", &[(12, "")])?,
        Check::judge("private_socket", "mode 700", format!("mode {mode:o}"), mode == 0o700),
        foreign_servers(instance, &servers).await?,
    ])
}

/// Of a folder: it must stay ours alone.
fn mode(folder: &Path) -> Result<u32, EngineError> {
    let found = std::fs::metadata(folder).map_err(file_error("look at", folder))?;
    Ok(std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777)
}

fn text(row: &PgRow, column: usize) -> Result<String, EngineError> {
    row.try_get(column).map_err(|error| unfit("answer a query", format!("column {column}: {error}")))
}

fn of_columns(row: &PgRow, name: &str, parts: &[(usize, &str)]) -> Result<Check, EngineError> {
    let mut actual = Vec::new();
    for (column, _) in parts {
        actual.push(format!("`{}`", text(row, *column)?));
    }
    let expected: Vec<String> = parts.iter().map(|(_, value)| format!("`{value}`")).collect();
    let holds = expected == actual;
    Ok(Check::judge(name, expected.join(", "), actual.join(", "), holds))
}

/// The server itself tries to connect, as `dblink` and `postgres_fdw` would, to a listener
/// of ours and to each member, and gets nowhere.
async fn foreign_servers(instance: &IsolatedInstance, servers: &[String]) -> Result<Check, EngineError> {
    let (name, expected) = ("foreign_servers", "the server's own connections reach nobody");
    let listed = told(servers, "none in the catalogs");
    let unclear = |why: String| Check::new(name, Verdict::Inconclusive, expected, format!("{listed}; {why}"));
    if let Confinement::None { reason } = &instance.confinement {
        return Ok(unclear(format!("not tried, as it would reach them: {reason}")));
    }
    let (listener, port) = super::checks::listener(&instance.folder).await?;
    let ours = Address::Tcp { host: std::net::Ipv4Addr::LOCALHOST.to_string(), port };
    let members = instance.postgres.members.iter().map(Address::of_member);
    for address in std::iter::once(ours).chain(members) {
        match attempt(instance, &address).await? {
            Attempt::Refused(code) if code.starts_with(NO_CONNECTION) => {}
            Attempt::Refused(code) => return Ok(unclear(format!("to {address} it could not try (SQLSTATE {code})"))),
            Attempt::Connected => {
                return Ok(Check::judge(name, expected, format!("{listed}; it connected to {address}"), false));
            }
        }
    }
    if is_called(listener, instance)? {
        return Ok(Check::judge(name, expected, format!("{listed}; it called a listener of ours"), false));
    }
    let tried = instance.postgres.members.len();
    Ok(Check::judge(name, expected, format!("{listed}; tried: a listener of ours, {tried} members"), true))
}

/// Whether anybody waits to be taken.
fn is_called(listener: TcpListener, instance: &IsolatedInstance) -> Result<bool, EngineError> {
    match listener.into_std().and_then(|listener| listener.accept()) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(file_error("listen for", &instance.folder)(error)),
    }
}

enum Attempt {
    Connected,
    /// By this SQLSTATE.
    Refused(String),
}

/// Has the server connect by the code that subscriptions use, which every server has, and
/// takes all of it back.
async fn attempt(instance: &IsolatedInstance, address: &Address) -> Result<Attempt, EngineError> {
    let mut connection = instance.session.connect(instance.session.dbname()).await.map_err(|error| failed(&error))?;
    match tried(&mut connection, address).await {
        Ok(()) => Ok(Attempt::Connected),
        Err(sqlx::Error::Database(answer)) => Ok(Attempt::Refused(answer.code().unwrap_or_default().into_owned())),
        Err(error) => Err(failed(&error)),
    }
}

async fn tried(connection: &mut PgConnection, address: &Address) -> Result<(), sqlx::Error> {
    let (host, port) = match address {
        Address::Tcp { host, port } => (host.clone(), *port),
        Address::Socket { folder, port } => (folder.display().to_string(), *port),
    };
    let host = host.replace('\\', "\\\\").replace('\'', "\\'");
    let to = format!("host='{host}' port={port} dbname=postgres user=lifeboat_probe sslmode=disable");
    let to = to.replace('\'', "''");
    // A setting of its own: the whole of the next text is read by it.
    connection
        .execute(
            "set standard_conforming_strings = on; set session_replication_role = replica; \
             set default_transaction_read_only = off; set statement_timeout = '10s'",
        )
        .await?;
    let sql = format!(
        "begin; create subscription lifeboat_probe connection '{to}' publication lifeboat_probe \
         with (create_slot = false, enabled = false, copy_data = false); rollback"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(drop)
}
