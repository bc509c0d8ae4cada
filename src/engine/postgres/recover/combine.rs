//! Makes one data folder of a chain of backups, through PostgreSQL's own
//! `pg_combinebackup`. It believes what it is given: whoever calls it has
//! compared every stored byte with the signed manifests.
//!
//! Tablespaces stand in their places while it works, as the program wants real
//! folders or absolute links; before and afterwards they lie beside, linked.
//!
//! <https://www.postgresql.org/docs/18/app-pgcombinebackup.html>.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::super::{
    cluster::{self, Binaries},
    restored::{file_error, program_error, unfit},
};
use crate::{decide::room::Combining, durable, engine::EngineError};

const PROGRAM: &str = "pg_combinebackup";
/// How long the program may take.
const LIMIT: Duration = Duration::from_secs(6 * 3600);
/// Since this version it links files that are whole in the chain, and copies none.
const LINKS_SINCE: u32 = 18;
const LINKS: &str = "pg_tblspc";
const BESIDE: &str = "tblspc";

/// How the program of this major version makes its files.
pub(super) fn combining(server_version: &str) -> Combining {
    let links = cluster::major(server_version).is_some_and(|major| major >= LINKS_SINCE);
    if links { Combining::Links } else { Combining::Copies }
}

pub(super) async fn combine(chain: &[PathBuf], data: &Path) -> Result<(), EngineError> {
    let Some(newest) = chain.last() else { return Err(unfit("be combined", "there is no backup")) };
    for folder in chain {
        into_place(folder)?;
    }
    let binaries = Binaries::of(newest)?;
    let mut program = binaries.program(PROGRAM, None).args(["--no-sync", "--no-manifest"]);
    if binaries.major() >= LINKS_SINCE {
        program = program.arg("--link");
    }
    let ran = program.arg("--output").arg(data).args(chain).output(LIMIT).await;
    ran.map_err(|error| program_error(PROGRAM, error))?;
    beside(data)
}

/// The tablespaces' folders where their links were.
fn into_place(folder: &Path) -> Result<(), EngineError> {
    for link in entries(&folder.join(LINKS))?.into_iter().filter(|path| path.is_symlink()) {
        let Some(oid) = link.file_name() else { continue };
        fs::remove_file(&link).map_err(file_error("remove", &link))?;
        let from = folder.join(BESIDE).join(oid);
        durable::relocate(&from, &link).map_err(file_error("move", &from))?;
    }
    match fs::remove_dir(folder.join(BESIDE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error("remove", &folder.join(BESIDE))(error))
        }
        _ => Ok(()),
    }
}

/// The other way round.
fn beside(data: &Path) -> Result<(), EngineError> {
    for folder in entries(&data.join(LINKS))?.into_iter().filter(|path| path.is_dir()) {
        let Some(oid) = folder.file_name() else { continue };
        let (lie, to) = (data.join(BESIDE), data.join(BESIDE).join(oid));
        fs::create_dir_all(&lie).map_err(file_error("make the folder", &lie))?;
        durable::relocate(&folder, &to).map_err(file_error("move", &folder))?;
        let target = Path::new("..").join(BESIDE).join(oid);
        std::os::unix::fs::symlink(target, &folder).map_err(file_error("link", &folder))?;
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let read = fs::read_dir(folder).map_err(file_error("read", folder))?;
    read.map(|entry| entry.map(|entry| entry.path()).map_err(file_error("read", folder))).collect()
}
