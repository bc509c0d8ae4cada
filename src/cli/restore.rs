//! `lifeboat restore DB --to DIR`: needs no daemon and no state database, and with
//! `--vault ADDRESS --identity FILE` no file of ours either.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Invocation, UsageError, interrupt::Interrupt, progress::Line};
use crate::{
    app, config,
    decide::tablespaces::Wanted,
    domain::{BackupId, DatabaseName, Opener, RecoveryTarget, VaultName},
    flows::{
        Database, Vault,
        restore::{self, Request, RestoreError, Restored},
    },
    process::Account,
    vault::signature::{SignatureError, Verifier},
};

mod given;
mod point;
mod start;

pub use given::GivenOptions;
pub use point::TargetOptions;
use start::Start;

#[derive(Debug, Args)]
pub struct Options {
    /// The database, as its schedule names it.
    database: DatabaseName,
    /// An empty or new folder; becomes the data folder of the restored cluster.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten, next_help_heading = "Recovery point (the newest state when none is named)")]
    target: TargetOptions,
    /// This backup and no other.
    #[arg(long, value_name = "ID")]
    backup: Option<BackupId>,
    /// The cluster with this system id, where the vaults hold several: an upgrade
    /// or a new `initdb` makes another one.
    #[arg(long, value_name = "ID")]
    system_id: Option<String>,
    /// Who signed the backups: `SHA256:…`, or a file with `ssh-ed25519 AAAA…`.
    /// Our own signing key when absent.
    #[arg(long, value_name = "KEY")]
    signed_by: Option<String>,
    /// From this vault and no other; from the first of the schedule when absent,
    /// and from the next ones what it lacks or has damaged.
    #[arg(long, value_name = "VAULT")]
    from: Option<VaultName>,
    #[command(flatten, next_help_heading = "Without lifeboat.yaml")]
    given: GivenOptions,
}

pub async fn run(options: Options, invocation: &Invocation) -> Result<u8> {
    let (target, timeline) = options.target.asked()?.unwrap_or((RecoveryTarget::Latest, None));
    let (database, is_given) = open(&options, invocation).await?;
    let vaults = match &options.from {
        None => database.vaults.as_slice(),
        Some(name) => std::slice::from_ref(chosen_vault(&database, name)?),
    };
    // Before anything is fetched that it could not open.
    database.keys.identities().await?;
    // Heard from here on: there is nothing yet that an early one could leave behind.
    let mut interrupt = Interrupt::listen()?;
    let to = in_full(&options.to)?;
    let folder = Folder::claim(&to)?;
    let line = Line::start("reading the vault");
    let request = Request {
        target,
        timeline,
        backup: options.backup,
        system_id: options.system_id,
        data: to.clone(),
        wal_folder: to.join("lifeboat_wal"),
        is_isolated: false,
        opener: Opener::Node,
        disk_max: None,
    };
    let say = |message: &str, done: Option<u64>, total: Option<u64>| {
        line.say(match (done, total) {
            (Some(done), Some(total)) if total > 0 => format!("{message}: {} %", done.saturating_mul(100) / total),
            _ => message.to_owned(),
        });
    };
    let stop = CancellationToken::new();
    let mut restoring = std::pin::pin!(restore::run(&database, vaults, &request, &stop, &say));
    let restored = tokio::select! {
        restored = &mut restoring => restored,
        () = interrupt.heard() => {
            line.keep("stopping; what was restored so far will be removed");
            stop.cancel();
            restoring.await
        }
    };
    line.clear();
    let restored = match restored {
        Ok(restored) => restored,
        Err(_) if stop.is_cancelled() => {
            folder.clear()?;
            anyhow::bail!("interrupted; what was restored so far is removed again");
        }
        Err(error) => {
            if !error.is_target_occupied() {
                folder.clear()?;
            }
            // A name that is only mistyped is no reason to take a backup.
            if is_given
                && matches!(error, RestoreError::Nothing { .. })
                && let Some(others) = given::others(&database).await
            {
                return Err(others.into());
            }
            return Err(error.into());
        }
    };
    invocation.print(&restored, |restored| told(restored, &options.database, &to, is_given))?;
    Ok(0)
}

/// The database, and whether the command line alone says where it is.
async fn open(options: &Options, invocation: &Invocation) -> Result<(Database, bool)> {
    let signed_by = options.signed_by.as_deref();
    if let Some(database) = options.given.open(&options.database, signed_by).await? {
        return Ok((database, true));
    }
    if !invocation.config.exists() {
        return Err(UsageError(format!(
            "there is no {}; name it with `--config FILE`, or restore without it: `--vault ADDRESS --identity FILE`, with `--signed-by SHA256:…` as the DR kit has it",
            invocation.config.display()
        ))
        .into());
    }
    let estate = config::load(&invocation.config)?;
    Ok((app::open_for_restore(&estate, &options.database, signed_by.map(trusted).transpose()?).await?, false))
}

/// Where no schedule was read.
const RESIDENCY_UNKNOWN: &str = "No schedule was read, so nothing here knows in which regions this data may be: see that this machine is in one of them.\n";
/// In the restored folder, what the server says while it starts.
const STARTUP_LOG: &str = "startup.log";

/// What was restored, and how it is started.
fn told(restored: &Restored, database: &DatabaseName, data: &Path, is_given: bool) -> String {
    let residency = if is_given { RESIDENCY_UNKNOWN } else { "" };
    let start = Start::of(data);
    let tablespaces: String = restored.new_tablespaces.iter().map(folder_wanted).collect();
    format!(
        "Restored {} from backup {} in vault {} to {}.\n{residency}{tablespaces}It recovers to {}, along timeline {}, when PostgreSQL is started on it. The server lets nobody in before exactly that point is reached, which may be long after this command has returned; where it cannot be reached it ends, and {} says why:\n  {}\nThen log in, as its superuser and without a password:\n  {}",
        database,
        restored.backup.id,
        restored.vault,
        data.display(),
        restored.target,
        restored.timeline,
        data.join(STARTUP_LOG).display(),
        start.server(),
        start.login(),
    )
}

/// Asks for the folder of a tablespace that the WAL makes.
fn folder_wanted(Wanted { path, lsn, exists }: &Wanted) -> String {
    let owner = Account::for_postgres().ok().flatten();
    let owner = owner.map_or_else(|| "the user that starts the server".to_owned(), |account| account.name);
    let what = if *exists { "it is there, and empty" } else { "it is not there, and without it recovery ends" };
    format!(
        "Before it is started, the folder {path} must be there, empty and owned by {owner}: the WAL makes a tablespace in it at {lsn}. Now {what}.\n"
    )
}

/// PostgreSQL's programs, which look at the folder, work in another one than we do.
fn in_full(to: &Path) -> Result<PathBuf, UsageError> {
    std::path::absolute(to).map_err(|error| {
        UsageError(format!("cannot restore into `{}`: {error}; name a new folder by its full path", to.display()))
    })
}

/// The vault of a database that a command names.
pub(super) fn chosen_vault<'a>(database: &'a Database, name: &VaultName) -> Result<&'a Vault, UsageError> {
    database.vault(Some(name)).ok_or_else(|| {
        let known: Vec<String> = database.vaults.iter().map(|vault| vault.store.place().vault.to_string()).collect();
        UsageError(format!("`{name}` is no vault of `{}`; it has: {}", database.name, known.join(", ")))
    })
}

/// The key whose signatures count, by its fingerprint or its file.
pub(super) fn trusted(text: &str) -> Result<Verifier, UsageError> {
    if text.starts_with("SHA256:") {
        return Verifier::from_fingerprint(text).map_err(|error: SignatureError| UsageError(error.to_string()));
    }
    let key =
        fs::read_to_string(text).map_err(|error| UsageError(format!("cannot read the public key {text}: {error}")))?;
    Verifier::from_openssh(&key).map_err(|error| {
        UsageError(format!(
            "cannot trust {text}: {error}; name such a file, or the fingerprint `SHA256:…` in the DR kit"
        ))
    })
}

/// The folder to restore into. That it holds nothing is known before anything
/// else is done, so that all that is in it later is ours to remove.
struct Folder<'a> {
    path: &'a Path,
    was_there: bool,
}

impl<'a> Folder<'a> {
    fn claim(path: &'a Path) -> Result<Self, UsageError> {
        let was_there = match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(occupied(path));
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                return Err(UsageError(format!("cannot restore into {}: {error}; name a new folder", path.display())));
            }
        };
        Ok(Self { path, was_there })
    }

    /// Removes what an ended restore left; a folder that was there stays, empty.
    fn clear(&self) -> Result<()> {
        let cleared = if self.was_there { remove_entries(self.path) } else { fs::remove_dir_all(self.path) };
        match cleared {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove what was restored to {} so far", self.path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// What is in the folder may be a restore that was killed; nobody else's files are
/// named as what may go.
fn occupied(path: &Path) -> UsageError {
    let path_shown = path.display();
    UsageError(match restore::unfinished(path) {
        Some(told) => format!(
            "{path_shown} holds {told}, which has not ended; once no `lifeboat restore` works there any more, all that is in the folder may be removed; then restore into it again"
        ),
        None => format!("{path_shown} is not empty; restore into an empty folder"),
    })
}

fn remove_entries(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}
