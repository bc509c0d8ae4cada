//! What the catalogs of a cluster say of what it is made of beside its data. The
//! source and a copy are asked in the same words, so that only what differs is told.
//!
//! It must never read a password, nor what one is hashed to.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row, postgres::PgRow};

use super::wire::identifier;
use crate::{
    decide::{collation::Collation, inventory},
    domain::ClusterParts,
};

/// Databases that take connections; one whose removal was interrupted (-2) takes none.
const DATABASES: &str =
    "select datname::text from pg_database where datallowconn and datconnlimit <> -2 order by datname";

/// The collation of each database; of one that takes no connections, such as
/// template0, only where it tells a version.
const OF_DATABASES: &str = "select datname::text, null::text, \
     datlocprovider = 'c' and (lower(datcollate) in ('c', 'posix') or lower(datcollate) like 'c.%'), \
     datcollversion, pg_database_collation_actual_version(oid) \
     from pg_database where datconnlimit <> -2 and (datallowconn or datcollversion is not null) order by datname";

/// The further collations of a database by which an index, a partition or a range is sorted.
const IN_DATABASE: &str = "select current_database()::text, format('%I.%I', nspname, collname), \
     collprovider = 'c' and (lower(collcollate) in ('c', 'posix') or lower(collcollate) like 'c.%'), \
     collversion, pg_collation_actual_version(c.oid) \
     from pg_collation c join pg_namespace n on n.oid = collnamespace \
     where collprovider <> 'd' \
     and (exists (select from pg_index where c.oid = any (indcollation)) \
     or exists (select from pg_partitioned_table where c.oid = any (partcollation)) \
     or exists (select from pg_range where rngcollation = c.oid) \
     or exists (select from pg_depend join pg_index on indexrelid = objid \
     where refclassid = 'pg_collation'::regclass and refobjid = c.oid and classid = 'pg_class'::regclass)) \
     order by 2";

/// Each part of the cluster with what it is: all columns of a role and of a membership
/// but numbers that mean nothing elsewhere, so that those of later versions count too.
const OF_CLUSTER: &str = "select 'server major version', (current_setting('server_version_num')::int / 10000)::text \
     union all select format('role %I', rolname), \
     (to_jsonb(r) - array['oid', 'rolname', 'rolpassword', 'rolconfig'])::text from pg_roles r \
     union all select format('membership of %I in %I', m.rolname, g.rolname), string_agg(how, ' ' order by how) \
     from (select member, roleid, (to_jsonb(a) - array['oid', 'roleid', 'member', 'grantor'])::text as how \
     from pg_auth_members a) a \
     join pg_roles m on m.oid = member join pg_roles g on g.oid = roleid group by m.rolname, g.rolname";

/// Settings of roles and databases, as `name=value`; whose they are.
const OF_ROLES: &str = "select concat_ws(' ', case when setrole <> 0 then format('of role %I', rolname) end, \
     case when setdatabase <> 0 then format('in `%s`', datname) end, \
     case when setrole = 0 and setdatabase = 0 then 'of all roles' end), unnest(setconfig) \
     from pg_db_role_setting left join pg_roles r on r.oid = setrole left join pg_database d on d.oid = setdatabase";

const KINDS: &str = "select lower(name), vartype from pg_settings";

const EXTENSIONS: &str = "select extname::text, extversion from pg_extension";

pub(super) async fn databases(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(DATABASES).fetch_all(connection).await
}

/// By what each database sorts.
pub(super) async fn collations_of_databases(connection: &mut PgConnection) -> Result<Vec<Collation>, sqlx::Error> {
    collations(connection, OF_DATABASES).await
}

/// By what else is sorted in the database of the connection.
pub(super) async fn collations_in(connection: &mut PgConnection) -> Result<Vec<Collation>, sqlx::Error> {
    collations(connection, IN_DATABASE).await
}

async fn collations(connection: &mut PgConnection, sql: &'static str) -> Result<Vec<Collation>, sqlx::Error> {
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    let collation = |row: &PgRow| {
        Ok(Collation {
            dbname: row.try_get(0)?,
            name: row.try_get(1)?,
            is_fixed: row.try_get::<Option<bool>, _>(2)?.unwrap_or(false),
            recorded: row.try_get(3)?,
            actual: row.try_get(4)?,
        })
    };
    rows.iter().map(collation).collect()
}

/// What the server calls the type of each setting, by names in small letters.
pub(super) async fn kinds(connection: &mut PgConnection) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as(KINDS).fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

/// What all databases share.
pub(super) async fn of_cluster(connection: &mut PgConnection, found: &mut ClusterParts) -> Result<(), sqlx::Error> {
    let parts: Vec<(String, String)> = sqlx::query_as(OF_CLUSTER).fetch_all(&mut *connection).await?;
    found.parts.extend(parts);
    let kinds = kinds(connection).await?;
    let set: Vec<(String, String)> = sqlx::query_as(OF_ROLES).fetch_all(&mut *connection).await?;
    for (whose, setting) in set {
        let (name, value) = setting.split_once('=').unwrap_or((&setting, ""));
        let kind = kinds.get(&name.to_ascii_lowercase()).map(String::as_str);
        found.parts.insert(format!("{} {whose}", inventory::setting(name)), inventory::shown(name, kind, value));
    }
    found.parts.extend(inventory::collations(&collations_of_databases(connection).await?));
    Ok(())
}

/// What the database of the connection has.
pub(super) async fn of_database(
    connection: &mut PgConnection,
    dbname: &str,
    found: &mut ClusterParts,
) -> Result<(), sqlx::Error> {
    let extensions: Vec<(String, String)> = sqlx::query_as(EXTENSIONS).fetch_all(&mut *connection).await?;
    found
        .parts
        .extend(extensions.into_iter().map(|(name, version)| (format!("extension {name} of `{dbname}`"), version)));
    found.parts.extend(inventory::collations(&collations_in(connection).await?));
    Ok(())
}

/// What the files say, as the server that runs keeps it, and not as this connection or role has it.
const SETTINGS: &str = "SELECT name, vartype, source, coalesce(reset_val, '') AS value, \
    coalesce(starts_with(sourcefile, rtrim(current_setting('data_directory'), '/') || '/'), false) AS is_inside \
    FROM pg_settings WHERE source NOT IN ('default', 'override') ORDER BY name";

#[derive(Debug, sqlx::FromRow)]
struct Setting {
    name: String,
    vartype: String,
    source: String,
    value: String,
    /// It comes with the data folder; a copy has no other ones of the source's.
    is_inside: bool,
}

/// The settings of a server that runs. What the connection sets is seen in place of what
/// the files say.
pub(super) async fn settings(
    connection: &mut PgConnection,
    user: &str,
    found: &mut ClusterParts,
) -> Result<(), sqlx::Error> {
    let may_see = "SELECT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')";
    if !sqlx::query_scalar::<_, bool>(may_see).fetch_one(&mut *connection).await? {
        let role = identifier(user);
        found.unseen.push(format!("the settings; run `GRANT pg_monitor TO {role}` as a superuser"));
        return Ok(());
    }
    let rows: Vec<Setting> = sqlx::query_as(SETTINGS).fetch_all(connection).await?;
    for Setting { name, vartype, source, value, is_inside } in rows {
        let part = inventory::setting(&name);
        // What a library understands is plain text where it is not loaded, as in a copy.
        let is_understood = name.contains('.') && vartype != "string";
        match source.as_str() {
            "configuration file" if !is_inside => found.outside += 1,
            "configuration file" if !is_understood => {
                let shown = inventory::shown(&name, Some(&vartype), &value);
                found.parts.insert(part, shown);
            }
            // The files' is covered by what a session, a role or the start of the server sets.
            _ => drop(found.hidden.insert(part)),
        }
    }
    Ok(())
}
