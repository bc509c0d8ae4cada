//! Turns a restored data folder into a server that recovers to a known target
//! by itself, and finds that target for "the latest state".
//!
//! It never starts from a folder whose files lead elsewhere: tablespaces must
//! lie inside the restore, and everything that ties the copy to the source's
//! estate (signal files, slots, settings, the source's WAL) is removed first.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Postgres,
    cluster::Binaries,
    isolated::{self, Confinement},
    restored::{make_private, program_error, unfit},
    settings::{self, FolderFacts},
};
use crate::{
    decide::room::Combining,
    domain::{Lsn, Segment, SegmentSize, lsn::RECORD_BYTES_MAX},
    engine::{
        DamagedPage, EngineError, FoundRecord, Instance, IsolatedParams, Recover, RecoveryPlan, SoughtRecord, WalRange,
    },
    process::Program,
};
use async_trait::async_trait;

mod combine;
mod damage;
mod folder;
mod search;

pub(super) use folder::is_of_cluster;

/// How long a look at the folder with one of PostgreSQL's programs may take.
const LOOK_LIMIT: Duration = Duration::from_secs(300);
#[async_trait]
impl Recover for Postgres {
    async fn combine(&self, chain: &[PathBuf], data: &Path) -> Result<(), EngineError> {
        combine::combine(chain, data).await
    }

    fn combining(&self, server_version: &str) -> Combining {
        combine::combining(server_version)
    }

    async fn last_record(
        &self,
        data: &Path,
        wal_folder: &Path,
        newest: Segment,
        size: SegmentSize,
    ) -> Result<Lsn, EngineError> {
        let pg_waldump = Binaries::of(data)?.path("pg_waldump");
        let last_name = newest.file_name(size);
        // The last whole record starts at most that far back.
        let back_max = RECORD_BYTES_MAX / size.bytes() + 1;
        let mut said = "pg_waldump was not asked".to_owned();
        for back in 0..=back_max.min(newest.number) {
            let first = Segment { timeline: newest.timeline, number: newest.number - back };
            let first_name = first.file_name(size);
            if !wal_folder.join(&first_name).exists() {
                break;
            }
            // Dumping always to the end of the newest finds a record that starts in an older one.
            let dumped = last_dumped(&pg_waldump, wal_folder, &first_name, &last_name).await?;
            if let Some(lsn) = dumped.record {
                return Ok(lsn);
            }
            said = dumped.said;
        }
        Err(unfit(
            "find the last record of its WAL",
            format!(
                "{} holds no whole record up to {last_name}; the segments are missing, damaged or of another major version ({said})",
                wal_folder.display()
            ),
        ))
    }

    async fn find_record(
        &self,
        server_version: &str,
        range: &WalRange<'_>,
        sought: &SoughtRecord,
    ) -> Result<Option<FoundRecord>, EngineError> {
        search::find(server_version, range, sought).await
    }

    fn start_lock(&self) -> &'static str {
        folder::START_LOCK
    }

    async fn configure(&self, plan: &RecoveryPlan) -> Result<(), EngineError> {
        let (cleaned, account) = (plan.clone(), self.account.clone());
        blocking(move || folder::prepare(&cleaned, account.as_ref())).await?;
        let facts = folder::facts(&plan.data, self.controldata(&plan.data).await?)?;
        if plan.isolated {
            folder::set_aside(&plan.data, self.account.as_ref())?;
        }
        let (plan, account, login) = (plan.clone(), self.account.clone(), self.login.user.clone());
        blocking(move || folder::write_settings(&plan, &facts, account.as_ref(), &login)).await
    }

    async fn start_isolated(&self, params: &IsolatedParams) -> Result<Box<dyn Instance>, EngineError> {
        match self.confinement(&params.folder).await? {
            Confinement::None { reason } if !params.is_wal_searched => Err(unfit(
                "start a copy that may write outside of its folder",
                format!("nobody knows whether its WAL makes tablespaces, and the system does not confine it: {reason}"),
            )),
            confinement => Ok(Box::new(isolated::start(self, params, confinement).await?)),
        }
    }

    async fn unconfined(&self, folder: &Path) -> Result<Option<String>, EngineError> {
        Ok(match self.confinement(folder).await? {
            Confinement::None { reason } => Some(reason),
            Confinement::Namespaces => None,
        })
    }

    async fn damage_page(&self, data: &Path) -> Result<Option<DamagedPage>, EngineError> {
        damage::page(data)
    }

    async fn stop_isolated(&self, folder: &Path) -> Result<(), EngineError> {
        isolated::stop_in(folder).await
    }
}

/// Runs file work that may take long where it does not hold up other tasks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(EngineError::Stopped),
    }
}

impl Postgres {
    async fn confinement(&self, folder: &Path) -> Result<Confinement, EngineError> {
        // The flow made the folder; the account must be able to enter it before anything is tried there.
        make_private(folder, self.account.as_ref())?;
        Ok(Confinement::probe(self, folder).await)
    }

    async fn controldata(&self, data: &Path) -> Result<String, EngineError> {
        // As ourselves: the account may not be able to enter the folders above yet.
        Binaries::of(data)?
            .program("pg_controldata", None)
            .env("LC_ALL", "C")
            .arg("-D")
            .arg(data)
            .output(LOOK_LIMIT)
            .await
            .map_err(|error| program_error("pg_controldata", error))
    }
}

/// What the last lines of `pg_waldump` tell.
#[derive(Debug, PartialEq, Eq)]
struct Dumped {
    /// The start of the last record that it could read.
    record: Option<Lsn>,
    /// Its messages, on one line.
    said: String,
}

impl Dumped {
    fn of(lines: &str) -> Self {
        let said: Vec<&str> = lines.lines().filter(|line| line.starts_with("pg_waldump: ")).collect();
        Self { record: lines.lines().rev().find_map(record_start), said: said.join("; ") }
    }
}

/// Dumps what lies between two segments. It always ends with an error at the end
/// of the log, so only what it printed before counts; it writes that out before
/// it says what is wrong.
async fn last_dumped(pg_waldump: &Path, wal_folder: &Path, first: &str, last: &str) -> Result<Dumped, EngineError> {
    let last_lines = Program::new("sh")
        .env("LC_ALL", "C")
        .args(["-c", r#""$0" --path "$1" "$2" "$3" 2>&1 | tail -n 9"#])
        .arg(pg_waldump)
        .arg(wal_folder)
        .args([first, last])
        .output(LOOK_LIMIT)
        .await
        .map_err(|error| program_error("pg_waldump", error))?;
    Ok(Dumped::of(&last_lines))
}

/// The position in a line of `pg_waldump`: `rmgr: … lsn: 0/03000148, prev 0/03000110, desc: …`.
fn record_start(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once(" lsn: ")?;
    rest.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_pg_waldump_tells_where_its_record_starts() {
        let line = "rmgr: Heap        len (rec/tot):     54/   150, tx:        735, lsn: 1/03000148, prev 0/03000110, desc: INSERT off 1";
        assert_eq!(record_start(line), Some(Lsn(0x1_0300_0148)));
        assert_eq!(record_start(""), None);
        let error = "pg_waldump: error: could not find a valid record after 1/4000000";
        let dumped = Dumped::of(&format!("{line}\n{error}\n"));
        assert_eq!(dumped, Dumped { record: Some(Lsn(0x1_0300_0148)), said: error.to_owned() });
        assert_eq!(Dumped::of(&format!("{error}\n")), Dumped { record: None, said: error.to_owned() });
    }
}
