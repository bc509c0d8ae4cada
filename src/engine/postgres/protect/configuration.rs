//! The server's configuration files, wherever it keeps them: distributions put
//! them outside of the data folder, and they include further ones.
//!
//! What lies in the data folder comes with the backup anyway. What lies elsewhere
//! and the role may not read is told, with the grants that it lacks: a backup
//! without it is still a backup.

use std::{collections::BTreeSet, path::Path};

use sqlx::PgConnection;

use super::super::{Member, Postgres, cluster::major, sql, wire::identifier};
use crate::engine::EngineError;

const ACTION: &str = "the reading of the configuration";
/// SQLSTATE of a right that the role lacks.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// From this version on `pg_hba.conf` and `pg_ident.conf` include further files, too.
const INCLUDES_IN_HBA_MIN: u32 = 16;
/// The three that the server is started with, and the settings that name them.
const MAIN: [(&str, &str); 3] =
    [("postgresql.conf", "config_file"), ("pg_hba.conf", "hba_file"), ("pg_ident.conf", "ident_file")];

/// What was read of the configuration.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    /// Name in the backup, and content.
    pub(super) files: Vec<(String, String)>,
    /// What could not be read for want of a right, with the remedy.
    pub(super) finding: Option<String>,
}

pub(super) async fn read(
    postgres: &Postgres,
    member: &Member,
    server_version: &str,
    session: &mut PgConnection,
) -> Result<Configuration, EngineError> {
    let mut reader = Reader { member, session };
    let settings: Vec<(String, String)> = reader
        .rows("SELECT name, setting FROM pg_settings WHERE name IN ('config_file', 'hba_file', 'ident_file', 'data_directory')")
        .await?
        .unwrap_or_default();
    let setting = |name: &str| settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let role = identifier(&postgres.login.user);
    let (Some(data), Some(_)) = (setting("data_directory"), setting("config_file")) else {
        let finding = format!(
            "member `{}`: the configuration files are not in the backup where they lie outside of the data folder: role {role} may not ask for their places; run `GRANT pg_read_all_settings TO {role}` as a superuser",
            member.name
        );
        return Ok(Configuration { files: Vec::new(), finding: Some(finding) });
    };
    let main: Vec<(&str, &str)> = MAIN.iter().filter_map(|(name, of)| Some((*name, setting(of)?))).collect();
    let included = reader.included(major(server_version)).await?;
    let further = included.iter().filter(|path| main.iter().all(|(_, known)| known != path));
    let further = further.map(|path| (format!("included/{}", path.trim_start_matches('/')), path.as_str()));
    let wanted = main.iter().map(|(name, path)| ((*name).to_owned(), *path)).chain(further);
    let mut read = Configuration::default();
    let mut denied = Vec::new();
    for (name, path) in wanted {
        let is_inside = Path::new(path).starts_with(data);
        // It is in the backup as a file of the data folder, under its own name.
        if is_inside && name.starts_with("included/") {
            continue;
        }
        match reader.file(path).await? {
            Content::Read(content) => read.files.push((name, content)),
            Content::Denied if !is_inside => denied.push(path.to_owned()),
            Content::Denied | Content::Absent => {}
        }
    }
    if !denied.is_empty() {
        read.finding = Some(lacks_rights(member, &role, &postgres.login.dbname, &denied));
    }
    Ok(read)
}

fn lacks_rights(member: &Member, role: &str, dbname: &str, denied: &[String]) -> String {
    format!(
        "member `{}`: {} {} not in the backup: role {role} may not read {}; run in database `{dbname}` as a superuser \
         `GRANT pg_read_server_files TO {role}`, `GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {role}` and, for all that they include, \
         `GRANT SELECT ON pg_file_settings TO {role}` with `GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO {role}`",
        member.name,
        denied.join(", "),
        if denied.len() == 1 { "is" } else { "are" },
        if denied.len() == 1 { "it" } else { "them" },
    )
}

/// What became of one file.
enum Content {
    Read(String),
    /// The role may not read it.
    Denied,
    /// It is not there, or no text.
    Absent,
}

struct Reader<'a> {
    member: &'a Member,
    session: &'a mut PgConnection,
}

impl Reader<'_> {
    /// The rows of a query; none where the server refuses it.
    async fn rows<T>(&mut self, sql: &'static str) -> Result<Option<Vec<T>>, EngineError>
    where
        T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        match sqlx::query_as(sql).fetch_all(&mut *self.session).await {
            Ok(rows) => Ok(Some(rows)),
            Err(sqlx::Error::Database(error)) => {
                tracing::debug!(member = %self.member.name, %error, "not told of the configuration");
                Ok(None)
            }
            Err(error) => Err(sql::failed(&self.member.name, ACTION, error)),
        }
    }

    /// The files that the main ones include, as far as the server tells the role.
    async fn included(&mut self, version: Option<u32>) -> Result<BTreeSet<String>, EngineError> {
        const ALL: &str = "SELECT DISTINCT sourcefile FROM pg_file_settings WHERE sourcefile IS NOT NULL";
        const EFFECTIVE: &str = "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL";
        const OF_HBA: &str = "SELECT DISTINCT file_name FROM pg_hba_file_rules WHERE file_name IS NOT NULL";
        const OF_IDENT: &str = "SELECT DISTINCT file_name FROM pg_ident_file_mappings WHERE file_name IS NOT NULL";
        let mut found: Vec<(String,)> = match self.rows(ALL).await? {
            Some(rows) => rows,
            // Without the files of which every setting is overridden by another one.
            None => self.rows(EFFECTIVE).await?.unwrap_or_default(),
        };
        if version.is_some_and(|version| version >= INCLUDES_IN_HBA_MIN) {
            for of in [OF_HBA, OF_IDENT] {
                found.extend(self.rows(of).await?.unwrap_or_default());
            }
        }
        Ok(found.into_iter().map(|(path,)| path).collect())
    }

    async fn file(&mut self, path: &str) -> Result<Content, EngineError> {
        let read: Result<Option<String>, _> =
            sqlx::query_scalar("SELECT pg_read_file($1)").bind(path).fetch_one(&mut *self.session).await;
        match read {
            Ok(content) => Ok(content.map_or(Content::Absent, Content::Read)),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) => {
                Ok(Content::Denied)
            }
            Err(sqlx::Error::Database(error)) => {
                tracing::warn!(member = %self.member.name, path, %error, "not part of the backup");
                Ok(Content::Absent)
            }
            Err(error) => Err(sql::failed(&self.member.name, ACTION, error)),
        }
    }
}
