//! What the estate does: pgbench, and beside it a deck of changes of every kind
//! that leaves traces in WAL, one after the other, in an order of chance.

use std::collections::BTreeMap;

use lifeboat::{domain::Lsn, engine::postgres::cluster::Binaries, process::ProcessError};
use tokio::process::Child;

use super::{
    chance::Chance,
    node::{Node, SPACES},
};

/// The database that lives; another one only serves as a template.
pub(super) const BENCH: &str = "bench";

/// A kind of change, as a script for psql where `$n` is a number of its own,
/// `$space` the path of a tablespace and `$s` its number.
const KINDS: &[(&str, &str)] = &[
    ("table", "CREATE TABLE t$n (id int PRIMARY KEY, v text); INSERT INTO t$n SELECT g, repeat(md5(g::text), 1 + g % 9) FROM generate_series(1, 400) g;"),
    ("alter", "SELECT format('ALTER TABLE %s ADD COLUMN c$n int DEFAULT 7', o) FROM chosen \\gexec
        SELECT format('UPDATE %s SET c$n = (ctid::text::point)[0]', o) FROM chosen \\gexec
        ALTER TABLE pgbench_branches ADD COLUMN c$n text; ALTER TABLE pgbench_branches DROP COLUMN c$n;"),
    ("drop", "SELECT format('DROP TABLE %s', o) FROM chosen WHERE (SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$') > 2 \\gexec"),
    ("index concurrently", "CREATE INDEX CONCURRENTLY i$n ON pgbench_history (tid, delta); REINDEX TABLE CONCURRENTLY pgbench_tellers;
        SELECT format('DROP INDEX CONCURRENTLY %s', oid::regclass) FROM pg_class WHERE relname ~ '^i[0-9]+$' AND relname <> 'i$n' \\gexec"),
    ("index kinds", "CREATE TABLE k$n (i int, p point, a int[], t text); INSERT INTO k$n SELECT g, point(g, -g), ARRAY[g, g % 7], md5(g::text) FROM generate_series(1, 300) g;
        CREATE INDEX ON k$n USING gist (p); CREATE INDEX ON k$n USING gin (a); CREATE INDEX ON k$n USING brin (i);
        CREATE INDEX ON k$n USING hash (t); CREATE INDEX ON k$n USING spgist (t); UPDATE k$n SET a = a || $n, p = point($n, i) WHERE i % 3 = 0; DELETE FROM k$n WHERE i % 5 = 0; VACUUM k$n;"),
    ("vacuum full", "VACUUM FULL pgbench_history; SELECT format('VACUUM FULL %s', o) FROM chosen \\gexec"),
    ("cluster", "CLUSTER pgbench_accounts USING pgbench_accounts_pkey;"),
    ("truncate", "TRUNCATE pgbench_history; BEGIN; CREATE TABLE r$n (i int); INSERT INTO r$n VALUES (1); TRUNCATE r$n; INSERT INTO r$n VALUES (2); COMMIT;
        BEGIN; TRUNCATE r$n; INSERT INTO r$n VALUES (3); ROLLBACK;"),
    ("tablespace", "SELECT format('DROP TABLE %s', c.oid::regclass) FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE spcname = 'space$s' AND relkind = 'r' \\gexec
        SELECT 'DROP TABLESPACE space$s' FROM pg_tablespace WHERE spcname = 'space$s' \\gexec
        CREATE TABLESPACE space$s LOCATION '$space';
        CREATE TABLE far$n (id int PRIMARY KEY USING INDEX TABLESPACE space$s, v text) TABLESPACE space$s; INSERT INTO far$n SELECT g, md5(g::text) FROM generate_series(1, 500) g;"),
    ("move", "SELECT format('ALTER TABLE %s SET TABLESPACE %I', o, (SELECT spcname FROM pg_tablespace WHERE spcname LIKE 'space%' ORDER BY md5(spcname || '$n') LIMIT 1)) FROM chosen \\gexec"),
    ("database by files", "CREATE DATABASE copy$n TEMPLATE mould STRATEGY file_copy;\n\\c copy$n\nINSERT INTO clay SELECT g FROM generate_series(1, 300) g; CREATE TABLE only$n AS SELECT $n AS n;"),
    ("database by WAL", "CREATE DATABASE copy$n TEMPLATE mould STRATEGY wal_log;\n\\c copy$n\nUPDATE clay SET n = n + $n; CREATE INDEX ON clay (n);"),
    ("drop database", "SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datname LIKE 'copy%' ORDER BY md5(datname || '$n') LIMIT 1 \\gexec"),
    ("large objects", "SELECT lo_from_bytea(0, decode(repeat(md5(g || '$n'), 600), 'hex')) FROM generate_series(1, 4) g;
        SELECT lo_put(oid, 4000, 'changed by $n') FROM pg_largeobject_metadata ORDER BY md5(oid || '$n') LIMIT 1;
        SELECT lo_unlink(oid) FROM pg_largeobject_metadata ORDER BY md5(oid || 'x$n') LIMIT 2;"),
    ("prepared", "SELECT format('%s PREPARED %L', CASE WHEN gid ~ '[02468]$' THEN 'COMMIT' ELSE 'ROLLBACK' END, gid) FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared OFFSET 1 \\gexec
        BEGIN; CREATE TABLE held$n (n int); INSERT INTO held$n SELECT generate_series(1, 50); SAVEPOINT s; INSERT INTO held$n VALUES (-1); PREPARE TRANSACTION 'gid$n';"),
    ("unlogged", "CREATE UNLOGGED TABLE u$n (id int PRIMARY KEY, v text); INSERT INTO u$n SELECT g, 'x' FROM generate_series(1, 300) g;
        CREATE UNLOGGED TABLE l$n (id int PRIMARY KEY, v text); INSERT INTO l$n SELECT g, 'y' FROM generate_series(1, 300) g; ALTER TABLE l$n SET LOGGED; UPDATE l$n SET v = 'z';"),
    ("savepoints", "CREATE TABLE IF NOT EXISTS saved (n int, at int);
        DO $do$ BEGIN FOR i IN 1..90 LOOP BEGIN INSERT INTO saved VALUES (i, $n); IF i % 3 = 0 THEN RAISE EXCEPTION 'not this one'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $do$;
        BEGIN; DELETE FROM saved WHERE n < 20; SAVEPOINT a; DELETE FROM saved; ROLLBACK TO a; SAVEPOINT b; UPDATE saved SET n = n + 1; RELEASE b; COMMIT;"),
    ("row locks", "BEGIN; SELECT FROM pgbench_tellers FOR KEY SHARE; SAVEPOINT a; UPDATE pgbench_tellers SET filler = '$n' WHERE tid < 5; COMMIT;"),
    ("partitions", "CREATE TABLE p$n (id int, at int) PARTITION BY RANGE (at); CREATE TABLE p$n_a PARTITION OF p$n FOR VALUES FROM (0) TO (100); CREATE TABLE p$n_b (LIKE p$n);
        INSERT INTO p$n_b SELECT g, 100 + g % 50 FROM generate_series(1, 200) g; ALTER TABLE p$n ATTACH PARTITION p$n_b FOR VALUES FROM (100) TO (200);
        INSERT INTO p$n SELECT g, g % 200 FROM generate_series(1, 200) g; ALTER TABLE p$n DETACH PARTITION p$n_a;"),
    ("definitions", "CREATE SEQUENCE q$n START $n; CREATE TABLE used$n AS SELECT nextval('q$n') AS n FROM generate_series(1, 40); CREATE TYPE e$n AS ENUM ('a', 'b'); ALTER TYPE e$n ADD VALUE 'c';
        CREATE ROLE role$n NOLOGIN; GRANT SELECT ON pgbench_branches TO role$n; CREATE VIEW v$n AS SELECT bid, $n AS n FROM pgbench_branches;
        CREATE MATERIALIZED VIEW m$n AS SELECT tid, count(*) FROM pgbench_tellers GROUP BY tid; CREATE UNIQUE INDEX ON m$n (tid); REFRESH MATERIALIZED VIEW CONCURRENTLY m$n; COMMENT ON VIEW v$n IS 'of $n';"),
    ("checkpoint", "CHECKPOINT; SELECT pg_switch_wal(); SELECT txid_current();"),
];

/// One of the tables that come and go, by the number of the change.
const SOME: &str = "SET lock_timeout = '20s'; SET client_min_messages = error;
    CREATE TEMP VIEW chosen AS SELECT oid::regclass AS o FROM pg_class WHERE relname ~ '^(t|k|l)[0-9]+$' AND relkind = 'r'
    AND relpersistence = 'p' ORDER BY md5(relname || '$n') LIMIT 1;\n";

/// Makes what the changes work on.
pub(super) async fn prepare(node: &Node, scale: u64) {
    let databases = format!("CREATE DATABASE {BENCH}; CREATE DATABASE mould;");
    for sql in databases.split_inclusive(';') {
        node.psql("postgres", sql).await.unwrap();
    }
    node.psql("mould", "CREATE TABLE clay AS SELECT g AS n FROM generate_series(1, 2000) g").await.unwrap();
    let init = pgbench(node).args(["-i", "-q", "-s", &scale.to_string()]).arg(BENCH);
    init.output(super::node::SOON).await.unwrap();
}

/// Its version does not matter.
fn pgbench(node: &Node) -> lifeboat::process::Program {
    let program = Binaries::find(15).unwrap().program("pgbench", node.cluster.account.clone());
    program.args(["-U", "postgres", "-p", &node.port.to_string(), "-h"]).arg(node.cluster.socket_folder())
}

/// Transactions until the server or the handle is gone.
pub(super) fn transactions(node: &Node) -> Child {
    let log = std::fs::File::create(node.cluster.folder.join("pgbench")).unwrap();
    pgbench(node).args(["-n", "-c", "3", "-R", "150", "-T", "36000", BENCH]).start(log).unwrap()
}

/// The changes, with what became of each kind.
#[derive(Default)]
pub(super) struct Changes {
    number: u64,
    /// Where the WAL was after each change.
    pub(super) marks: Vec<Lsn>,
    /// How often a kind was done, and the last error.
    done: BTreeMap<&'static str, (u32, Option<String>)>,
}

impl Changes {
    /// Each kind once.
    pub(super) async fn deck(&mut self, node: &Node, chance: &mut Chance) {
        let mut kinds: Vec<_> = KINDS.to_vec();
        chance.shuffle(&mut kinds);
        for (name, script) in kinds {
            let result = self.change(node, script, chance).await;
            let (count, error) = self.done.entry(name).or_default();
            match result {
                Ok(_) => *count += 1,
                // Tables and locks that pgbench or another change holds.
                Err(failed) => *error = Some(failed.to_string()),
            }
            self.marks.push(node.lsn("pg_current_wal_insert_lsn").await);
        }
    }

    /// One of any kind, with a server that may go away meanwhile.
    pub(super) async fn one(&mut self, node: &Node, chance: &mut Chance) {
        let nth = usize::try_from(chance.between(0, KINDS.len() as u64)).unwrap();
        // Whether it was done the copies agree upon, and nobody else.
        let _unknown = self.change(node, KINDS[nth].1, chance).await;
    }

    async fn change(&mut self, node: &Node, script: &str, chance: &mut Chance) -> Result<String, ProcessError> {
        self.number += 1;
        let space = chance.between(0, SPACES);
        let script = format!("{SOME}{script}")
            .replace("$space", &node.space(space).display().to_string())
            .replace("$s", &space.to_string())
            .replace("$n", &self.number.to_string());
        node.feed(BENCH, &script).await
    }

    /// Every kind was done at least once.
    pub(super) fn assert_all_done(&self) {
        let never: Vec<_> = self.done.iter().filter(|(_, (count, _))| *count == 0).collect();
        assert!(self.done.len() == KINDS.len() && never.is_empty(), "never done: {never:#?}");
    }
}
