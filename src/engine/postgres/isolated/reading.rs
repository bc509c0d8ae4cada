//! Reads all of a copy with PostgreSQL's own programs: every database as a dump does,
//! and, once the server is shut down, every page on disk.

use std::{path::Path, time::Duration};

use super::{IsolatedInstance, stop_in};
use crate::{
    decide::reading::{Outcome, Pages, ReadThrough},
    engine::{
        EngineError,
        postgres::{
            asked::{Session, catalogs, failed},
            cluster::Binaries,
            restored::program_error,
            settings::{self, ISOLATED_PORT},
        },
    },
    process::{ProcessError, Program},
};

/// The step that waits has a limit of its own.
const READ_LIMIT: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn read_all(instance: &IsolatedInstance) -> Result<Vec<ReadThrough>, EngineError> {
    let mut read = Vec::new();
    for dbname in catalogs::databases(&instance.session).await? {
        let outcome = match dump(instance, &dbname)?.output(READ_LIMIT).await {
            Ok(_) => Outcome::Read,
            Err(ProcessError::Failed { stderr, .. }) => {
                // The server's words may quote what it cannot read: they go to the log, not into evidence.
                tracing::warn!(dbname, said = stderr, "the copy could not be read");
                Outcome::Failed(told(&stderr))
            }
            Err(error) => return Err(program_error("pg_dump", error)),
        };
        read.push(ReadThrough { dbname, outcome });
    }
    let closed = catalogs::closed(&instance.session).await?;
    read.extend(closed.into_iter().map(|dbname| ReadThrough { dbname, outcome: Outcome::Closed }));
    Ok(read)
}

/// A dump of a database to nowhere.
fn dump(instance: &IsolatedInstance, dbname: &str) -> Result<Program, EngineError> {
    let account = instance.postgres.account.clone();
    let program = Binaries::of(&instance.folder.join("data"))?.program("pg_dump", account);
    // The address of a Unix socket is at most 107 bytes long, a path is not.
    Ok(program
        .folder(instance.folder.join("socket"))
        .env("LC_ALL", "C")
        .env("PGPASSFILE", "/dev/null")
        .env("PGOPTIONS", &settings::FOR_CHECKS.map(|(name, value)| format!("-c {name}={value}")).join(" "))
        .args(["--host", "/proc/self/cwd", "--port", &ISOLATED_PORT.to_string(), "--no-password"])
        .args(["--username", instance.session.user(), "--file", "/dev/null", "--dbname"])
        .arg(connection_to(dbname)))
}

/// A name that is no connection string, whatever it holds.
fn connection_to(dbname: &str) -> String {
    format!("dbname='{}'", dbname.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What `pg_dump` says of itself, without what the server said.
fn told(stderr: &str) -> String {
    let own = stderr.lines().find_map(|line| line.strip_prefix("pg_dump: error: "));
    own.map_or("it could not be dumped", |own| own.split(": ").next().unwrap_or(own)).to_owned()
}

pub(super) async fn page_checksums(instance: &IsolatedInstance) -> Result<Pages, EngineError> {
    let data = instance.folder.join("data");
    // So that the shutdown has nothing left to write, and is one in order.
    write_all(&instance.session).await?;
    stop_in(&instance.folder).await?;
    let program = Binaries::of(&data)?.program("pg_checksums", instance.postgres.account.clone());
    match program.env("LC_ALL", "C").args(["--check", "--pgdata"]).arg(&data).output(READ_LIMIT).await {
        Ok(said) => Ok(Pages::Sound { blocks: scanned(&said) }),
        Err(ProcessError::Failed { stderr, .. }) => Ok(of_failure(&stderr, &data)),
        Err(error) => Err(program_error("pg_checksums", error)),
    }
}

async fn write_all(session: &Session) -> Result<(), EngineError> {
    let mut connection = session.connect(session.dbname()).await.map_err(|error| failed(&error))?;
    let asked = sqlx::raw_sql("set statement_timeout = 0; checkpoint").execute(&mut connection).await;
    asked.map(drop).map_err(|error| failed(&error))
}

/// `Blocks scanned:  1234`.
fn scanned(said: &str) -> u64 {
    let count = said.lines().find_map(|line| line.strip_prefix("Blocks scanned:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn of_failure(stderr: &str, data: &Path) -> Pages {
    let folder = format!("{}/", data.display());
    let within = |file: &str| file.strip_prefix(&folder).unwrap_or(file).to_owned();
    let damaged = |line: &str| {
        if let Some((_, what)) = line.split_once("checksum verification failed in file \"") {
            let (file, rest) = what.split_once("\", ")?;
            return Some(format!("{} of {}", rest.split(':').next()?, within(file)));
        }
        // A file that ends in the middle of a page: nothing after it is looked at.
        let (_, what) = line.split_once("could not read block ")?;
        let (block, rest) = what.split_once(" in file \"")?;
        Some(format!("block {block} of {}, which is cut short", within(rest.split_once("\": read ")?.0)))
    };
    let pages: Vec<String> = stderr.lines().filter_map(damaged).collect();
    if !pages.is_empty() {
        return Pages::Damaged(pages);
    }
    if stderr.contains("data checksums are not enabled") {
        let remedy = "switch them on with `pg_checksums --enable` while it is shut down, or leave the check out";
        return Pages::Unproven(format!("the cluster has no data checksums; {remedy}"));
    }
    let last = stderr.lines().last().unwrap_or("it left no word").replace(&folder, "");
    Pages::Unproven(format!("pg_checksums gave up: {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_say_is_understood() {
        let said = "Checksum operation completed\nFiles scanned:   1262\nBlocks scanned:  3698\nBad checksums:  0\n";
        assert_eq!(scanned(said), 3698);
        let bad = "pg_checksums: error: checksum verification failed in file \"/x/data/base/5/16384\", block 3: calculated checksum 7F9C but block contains A\n\
                   pg_checksums: error: checksum verification failed in file \"/x/data/base/5/1.1\", block 0: calculated checksum 1 but block contains 2\n";
        let data = Path::new("/x/data");
        assert_eq!(
            of_failure(bad, data),
            Pages::Damaged(vec!["block 3 of base/5/16384".to_owned(), "block 0 of base/5/1.1".to_owned()])
        );
        let short = "pg_checksums: error: could not read block 7 in file \"/x/data/base/5/2\": read 4096 of 8192";
        let cut = "block 7 of base/5/2, which is cut short".to_owned();
        assert_eq!(of_failure(short, data), Pages::Damaged(vec![cut]));
        for (said, why) in [
            ("pg_checksums: error: data checksums are not enabled in cluster", "the cluster has no data checksums"),
            ("pg_checksums: error: cluster must be shut down", "pg_checksums gave up: pg_checksums: error: cluster"),
        ] {
            assert!(matches!(of_failure(said, data), Pages::Unproven(told) if told.starts_with(why)), "{said}");
        }
    }

    #[test]
    fn what_a_dump_cannot_read_is_told_without_its_content() {
        let said = "pg_dump: error: Dumping the contents of table \"bets\" failed: PQgetResult() failed.\n\
                    pg_dump: detail: Error message from server: ERROR:  invalid byte sequence: Smith\n";
        assert_eq!(told(said), "Dumping the contents of table \"bets\" failed");
        assert_eq!(told("Smith"), "it could not be dumped");
        assert_eq!(connection_to("a'b\\"), "dbname='a\\'b\\\\'");
    }
}
