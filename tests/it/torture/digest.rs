//! What makes two copies of a cluster equal: the rows of each table in each
//! database, whatever their order, large objects, what sequences gave, prepared
//! transactions, which tablespace holds what, and the schema as text.

use std::collections::BTreeMap;

use super::node::{Node, SOON};

/// By what it is of.
pub(super) type Digest = BTreeMap<String, String>;

/// One line per thing: its name, a tab, what it holds. Of unlogged tables no
/// copy has rows. A sequence is logged 32 values ahead and copied as it is, so of
/// two sound copies one may be ahead of the other; none is behind what was used.
const CONTENT: &str = r"
SELECT format('SELECT %L || E''\t'' || count(*) || '' '' || coalesce(md5(string_agg(md5(whole::text), '''' ORDER BY md5(whole::text))), '''')
               FROM %s whole', oid::regclass, oid::regclass)
    FROM pg_class WHERE relkind IN ('r', 'm') AND relpersistence = 'p' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY oid
\gexec
SELECT format('SELECT %L || E''\t'' || is_called || '' '' || (last_value >= (SELECT max(n) FROM %I)) FROM %I', 'sequence of ' || relname, relname, replace(relname, 'used', 'q'))
    FROM pg_class WHERE relname ~ '^used[0-9]+$' ORDER BY oid
\gexec
SELECT format('SELECT %L || E''\t'' || count(*) FROM %s', 'unlogged ' || oid::regclass, oid::regclass)
    FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u' ORDER BY oid
\gexec
SELECT E'large objects\t' || count(*) || ' ' || coalesce(md5(string_agg(loid || ':' || pageno || md5(data), '' ORDER BY loid, pageno)), '')
    FROM pg_largeobject;
SELECT E'tablespaces of relations\t' || coalesce(string_agg(oid::regclass || ' ' || spcname, ',' ORDER BY oid), '')
    FROM (SELECT c.oid, s.spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.relkind IN ('r', 'i') AND spcname <> 'pg_global') here;
";

const GLOBALS: &str = r"
SELECT E'tablespaces\t' || string_agg(spcname, ',' ORDER BY spcname) FROM pg_tablespace;
SELECT E'roles\t' || string_agg(rolname || ' ' || rolcanlogin, ',' ORDER BY rolname) FROM pg_authid;
SELECT E'prepared\t' || coalesce(string_agg(gid || ' ' || database, ',' ORDER BY gid), '') FROM pg_prepared_xacts;
";

const DATABASES: &str = "SELECT datname FROM pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1";

/// Of a server that runs and takes writes.
pub(super) async fn of(node: &Node) -> Digest {
    let mut digest = Digest::new();
    add(&mut digest, "", &node.feed("postgres", GLOBALS).await.unwrap());
    for dbname in node.psql("postgres", DATABASES).await.unwrap().lines() {
        add(&mut digest, dbname, &node.feed(dbname, CONTENT).await.unwrap());
        let dump = node.program("pg_dump").args(["--schema-only", "-U", "postgres", "-d", dbname, "-h"]);
        let dump = dump.arg(node.cluster.socket_folder()).args(["-p", &node.port.to_string()]);
        let text = dump.output(SOON).await.unwrap();
        // Drawn anew by each dump.
        let lines = text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        digest.insert(format!("{dbname}: schema"), lines.collect::<Vec<_>>().join("\n"));
    }
    digest
}

fn add(digest: &mut Digest, dbname: &str, lines: &str) {
    for line in lines.lines() {
        let (name, holds) = line.split_once('\t').unwrap_or_else(|| panic!("no digest: {line}"));
        digest.insert(format!("{dbname}: {name}"), holds.to_owned());
    }
}

/// Fails naming what differs alone.
#[track_caller]
pub(super) fn assert_same(what: &str, found: &Digest, truth: &Digest) {
    let names = found.keys().chain(truth.keys()).collect::<std::collections::BTreeSet<_>>();
    let differ: Vec<String> = names
        .into_iter()
        .filter(|name| found.get(*name) != truth.get(*name))
        .map(|name| format!("{name}\n  restored: {:?}\n  replica:  {:?}", found.get(name), truth.get(name)))
        .collect();
    assert!(differ.is_empty(), "{what} differs from the replica:\n{}", differ.join("\n"));
}
