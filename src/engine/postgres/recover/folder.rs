//! What happens to the files of a restored data folder before it may be
//! started: ties to the source's estate are cut, settings are written, and all
//! of it belongs to the server's account. An isolated instance keeps of it what is
//! of the cluster, and no key, password file or setting of the source's.
//!
//! It never touches a file outside the restore: links are not followed, and a
//! tablespace that lies elsewhere is refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    super::restored::{
        ConfiguredRecovery, RECOVERY_FILE, file_error, make_private, of_source, original, own, set_mode, unfit,
        write_owned,
    },
    FolderFacts, settings,
};
use crate::{
    durable,
    engine::{Awaited, EngineError, RecoveryPlan},
    process::Account,
};

/// Left by the source or by an earlier start; each would change what recovery does.
const LEFTOVERS: [&str; 7] = [
    "postgresql.auto.conf",
    "standby.signal",
    "recovery.signal",
    "recovery.conf",
    "recovery.done",
    "postmaster.opts",
    "current_logfiles",
];
/// Where a server says that it runs. `pg_ctl` and the server refuse one in which no
/// process stands, and the server shows what does.
pub(super) const START_LOCK: &str = "postmaster.pid";
/// Emptied: WAL comes from the WAL folder alone, slots would hold WAL back, the
/// rest belongs to a server that ran.
const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Of a cluster are, beside the folders that are named `pg_…` and what we write, these;
/// `tblspc` holds the tablespaces.
const FOLDERS: [&str; 3] = ["base", "global", "tblspc"];
const FILES: [&str; 9] = [
    "PG_VERSION",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "tablespace_map",
    "tablespace_map.old",
    "postgresql.conf",
    "pg_hba.conf",
    "pg_ident.conf",
];
/// A server that runs, or ran, makes these.
const OF_SERVER: [&str; 4] = [START_LOCK, "postmaster.opts", "recovery.signal", "postgresql.auto.conf"];
const OURS: &str = "lifeboat_";
const CONFIGURATION: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];
const EXPECTED: &str = "find a restored data folder";

/// Whether something directly in the data folder of an isolated instance is a part of the
/// cluster, or of its own server. What else a source keeps there is its own: keys,
/// password files, logs, and the settings that we keep for people.
pub(in super::super) fn is_of_cluster(name: &str, is_folder: bool) -> bool {
    if is_folder {
        return FOLDERS.contains(&name) || name.starts_with("pg_") || name.starts_with(OURS);
    }
    FILES.contains(&name) || OF_SERVER.contains(&name) || name.starts_with(OURS) && !name.starts_with(&original(""))
}

/// Moves out of the data folder of an isolated instance what is not of the cluster, to
/// where its server cannot see it: what the source was set to is still asked for. A link
/// is moved, not what it leads to.
pub(super) fn set_aside(data: &Path, account: Option<&Account>) -> Result<(), EngineError> {
    let aside = of_source(data);
    make_private(&aside, account)?;
    for entry in fs::read_dir(data).map_err(file_error("read", data))? {
        let entry = entry.map_err(file_error("read", data))?;
        let is_folder = entry.file_type().map_err(file_error("look at", &entry.path()))?.is_dir();
        if !is_of_cluster(&entry.file_name().to_string_lossy(), is_folder) {
            let to = aside.join(entry.file_name());
            remove(&to)?;
            durable::relocate(&entry.path(), &to).map_err(file_error("move", &entry.path()))?;
        }
    }
    Ok(())
}

/// Checks and cleans the folder, and gives it to the account.
pub(super) fn prepare(plan: &RecoveryPlan, account: Option<&Account>) -> Result<(), EngineError> {
    let data = &plan.data;
    if !data.join("backup_label").is_file() {
        // Without it the server would trust the control file and start from the wrong place.
        let why =
            format!("{} has no backup_label: it is no fresh restore of a backup; restore it anew", data.display());
        return Err(unfit(EXPECTED, why));
    }
    let tablespaces = tablespaces_inside(plan)?;
    for name in CONFIGURATION {
        keep_original(data, name)?;
    }
    for name in LEFTOVERS {
        remove(&data.join(name))?;
    }
    let lock = data.join(START_LOCK);
    // One that names no process is the restore's, which removes it as its last act.
    if fs::read_to_string(&lock).is_ok_and(|text| names_process(&text)) {
        remove(&lock)?;
    }
    for name in EMPTIED {
        let folder = data.join(name);
        remove(&folder)?;
        make_private(&folder, account)?;
    }
    make_private(&data.join("pg_wal/archive_status"), account)?;
    for folder in tablespaces.iter().chain([data, &plan.wal_folder]) {
        give(folder, account)?;
    }
    Ok(())
}

fn names_process(lock: &str) -> bool {
    lock.lines().next().is_some_and(|line| line.trim().parse::<i64>().is_ok())
}

/// Keeps the source's own configuration beside the generated one, for people
/// and for the record. The first copy is the source's; later ones would be ours.
fn keep_original(data: &Path, name: &str) -> Result<(), EngineError> {
    let (from, to) = (data.join(name), data.join(original(name)));
    if from.is_file() && !to.exists() {
        fs::copy(&from, &to).map_err(file_error("copy", &from))?;
    }
    Ok(())
}

/// Removes a file, a link or a folder with all it holds; absence is a success.
fn remove(path: &Path) -> Result<(), EngineError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(file_error("remove", path))
}

/// Where the tablespaces lie, all of them inside the restore: in the data
/// folder or beside the WAL folder. PostgreSQL makes the links anew from
/// `tablespace_map`, so a stale line there would write into production's files.
fn tablespaces_inside(plan: &RecoveryPlan) -> Result<Vec<PathBuf>, EngineError> {
    let roots = [Some(plan.data.as_path()), plan.wal_folder.parent()];
    let roots: Vec<PathBuf> = roots.into_iter().flatten().filter_map(|root| root.canonicalize().ok()).collect();
    let mut found = Vec::new();
    let links = plan.data.join("pg_tblspc");
    for entry in fs::read_dir(&links).into_iter().flatten() {
        let path = entry.map_err(file_error("read", &links))?.path();
        if path.is_symlink() {
            // A link inside the restore is relative to its own folder.
            found.push(links.join(fs::read_link(&path).map_err(file_error("read", &path))?));
        }
    }
    if let Ok(map) = fs::read_to_string(plan.data.join("tablespace_map")) {
        found.extend(map.lines().filter_map(|line| line.split_once(' ')).map(|(_, path)| PathBuf::from(path)));
    }
    for tablespace in &found {
        let real = tablespace.canonicalize().map_err(file_error("open the tablespace", tablespace))?;
        if !roots.iter().any(|root| real.starts_with(root)) {
            let why = format!("the tablespace {} lies outside the restore; remap it when restoring", real.display());
            return Err(unfit(EXPECTED, why));
        }
    }
    Ok(found)
}

/// Gives a tree to the account with the modes that PostgreSQL insists on.
fn give(path: &Path, account: Option<&Account>) -> Result<(), EngineError> {
    own(path, account)?;
    let found = fs::symlink_metadata(path).map_err(file_error("look at", path))?;
    if found.is_symlink() {
        return Ok(());
    }
    set_mode(path, if found.is_dir() { 0o700 } else { 0o600 })?;
    if found.is_dir() {
        for entry in fs::read_dir(path).map_err(file_error("read", path))? {
            give(&entry.map_err(file_error("read", path))?.path(), account)?;
        }
    }
    Ok(())
}

/// What the folder says about the server that it needs.
pub(super) fn facts(data: &Path, controldata: String) -> Result<FolderFacts, EngineError> {
    let path = data.join("PG_VERSION");
    let version = fs::read_to_string(&path).map_err(file_error("read", &path))?;
    let major = version.trim().split('.').next().and_then(|major| major.parse().ok());
    let Some(major) = major else {
        return Err(unfit(EXPECTED, format!("{} says `{}`", path.display(), version.trim())));
    };
    let preload_libraries = ["postgresql.auto.conf", "postgresql.conf"].into_iter().find_map(|name| {
        let text = fs::read_to_string(data.join(original(name))).ok()?;
        settings::value_in(&text, "shared_preload_libraries")
    });
    Ok(FolderFacts { major, controldata, preload_libraries })
}

/// Writes the generated configuration; `recovery.signal` comes last, so that a
/// folder that was not finished never recovers.
pub(super) fn write_settings(
    plan: &RecoveryPlan,
    facts: &FolderFacts,
    account: Option<&Account>,
    login: &str,
) -> Result<(), EngineError> {
    let data = &plan.data;
    let conf = settings::postgresql_conf(plan, facts)
        .map_err(|error| unfit("be given a recovery target", error.to_string()))?;
    let owner = account.map(|account| account.name.clone()).or_else(current_user);
    let administrators: Vec<&str> = ["root"].into_iter().chain(owner.as_deref()).collect();
    let configured = ConfiguredRecovery {
        target: plan.target.clone(),
        timeline: plan.timeline,
        consistent_from: plan.consistent_from,
        preload_libraries: facts.preload_libraries.clone(),
    };
    let configured = serde_json::to_string_pretty(&configured)
        .map_err(|error| file_error("write", &data.join(RECOVERY_FILE))(error.into()))?;
    let wal_folder = plan.wal_folder.canonicalize().map_err(file_error("open", &plan.wal_folder))?;
    for (name, text) in [
        ("postgresql.conf", conf.as_str()),
        ("pg_hba.conf", settings::hba_conf(plan.isolated)),
        ("pg_ident.conf", &settings::ident_conf(plan.isolated, &administrators, &["postgres", login])),
        (settings::FETCH_SCRIPT, &settings::fetch_script(&wal_folder, plan.awaited.as_ref())),
        (settings::FETCH_LIST, &listing(&wal_folder, plan.awaited.as_ref())?),
        (RECOVERY_FILE, &configured),
        ("recovery.signal", ""),
    ] {
        write_owned(&data.join(name), text, account)?;
    }
    durable::sync_folder(data).map_err(file_error("sync", data))
}

fn current_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

/// The names of all files that are in the WAL folder, or come there, one a line.
fn listing(wal_folder: &Path, awaited: Option<&Awaited>) -> Result<String, EngineError> {
    let mut names: Vec<String> =
        awaited.iter().flat_map(|awaited| &awaited.names).map(|name| format!("{name}\n")).collect();
    for entry in fs::read_dir(wal_folder).map_err(file_error("read", wal_folder))? {
        let name = entry.map_err(file_error("read", wal_folder))?.file_name();
        names.push(format!("{}\n", name.to_string_lossy()));
    }
    names.sort_unstable();
    Ok(names.concat())
}
