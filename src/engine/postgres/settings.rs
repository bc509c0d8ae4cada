//! The configuration of a restored copy, generated from an allow-list. Nothing
//! of the source's own configuration is carried over, because that archives,
//! replicates, listens and runs jobs on behalf of production.
//!
//! Pure text: `recover` writes it. Never let a line through whose value came
//! from a restored file unquoted, and never generate a recovery without a
//! target: without one a missing segment promotes a shortened history silently.

use std::{collections::BTreeMap, path::Path};

use crate::{
    domain::{RecoveryTarget, Timeline},
    engine::{Awaited, RecoveryPlan},
};

/// The script that fetches WAL, in the data folder: the server runs
/// `restore_command` there, so its line needs no path that could need quoting.
pub(super) const FETCH_SCRIPT: &str = "lifeboat_fetch_wal.sh";
/// The names that the WAL folder held when the copy was configured, and those that
/// come there while it recovers, one a line.
pub(super) const FETCH_LIST: &str = "lifeboat_wal_list";
/// The Unix socket folder of an isolated instance, seen from its data folder;
/// relative, so that the length of the path does not matter.
pub(super) const ISOLATED_SOCKET: &str = "../socket";
pub(super) const ISOLATED_PORT: u16 = 5432;

/// The settings that replay requires to be at least as high as on the source,
/// and `pg_controldata`'s names for them.
const REQUIRED: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

/// Why no settings can be generated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("`latest` is not a known target: turn it into the LSN of the last record first")]
    UnknownTarget,
    #[error("`{0}` cannot stand in a configuration file: it holds a line break or a null character")]
    Unquotable(String),
}

/// What the restored folder itself says about the server it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderFacts {
    /// PostgreSQL's major version, from `PG_VERSION`.
    pub major: u32,
    /// What `pg_controldata` printed with `LC_ALL=C`.
    pub controldata: String,
    /// `shared_preload_libraries` of the source, for the record only.
    pub preload_libraries: Option<String>,
}

/// The highest of what the backup and the folder require, by setting.
fn required(plan: &RecoveryPlan, facts: &FolderFacts) -> BTreeMap<&'static str, u64> {
    let mut highest: BTreeMap<&str, u64> =
        BTreeMap::from([("max_connections", 20), ("max_worker_processes", 8), ("max_locks_per_transaction", 64)]);
    for (setting, label) in REQUIRED {
        let of_backup =
            plan.required_settings.iter().filter(|(name, _)| name == setting).map(|(_, value)| value.as_str());
        let of_folder =
            facts.controldata.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| *name == label);
        for value in
            of_backup.chain(of_folder.map(|(_, value)| value)).filter_map(|value| value.trim().parse::<u64>().ok())
        {
            highest.entry(setting).and_modify(|old| *old = value.max(*old)).or_insert(value);
        }
    }
    highest
}

/// With segments larger than usual the server refuses the usual `min_wal_size`;
/// these are what `initdb` writes.
fn wal_sizes(facts: &FolderFacts) -> Vec<String> {
    let lines = facts.controldata.lines().filter_map(|line| line.split_once(':'));
    let size =
        lines.filter(|(name, _)| *name == "Bytes per WAL segment").find_map(|(_, size)| size.trim().parse().ok());
    let mebibytes = size.unwrap_or(0_u64) >> 20;
    if mebibytes <= 16 {
        return Vec::new();
    }
    vec![format!("min_wal_size = {}MB", 5 * mebibytes), format!("max_wal_size = {}MB", 64 * mebibytes)]
}

/// A value as a configuration file takes it.
fn quoted(value: &str) -> Result<String, SettingsError> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(SettingsError::Unquotable(value.to_owned()));
    }
    Ok(format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")))
}

/// The lines that say where recovery ends.
fn target_lines(target: &RecoveryTarget, timeline: Timeline) -> Result<Vec<String>, SettingsError> {
    let goal = match target {
        RecoveryTarget::Latest => return Err(SettingsError::UnknownTarget),
        RecoveryTarget::Immediate => "recovery_target = 'immediate'".to_owned(),
        RecoveryTarget::Lsn(lsn) | RecoveryTarget::BeforeLsn(lsn) => format!("recovery_target_lsn = '{lsn}'"),
        // PostgreSQL keeps microseconds; the zone is written out.
        RecoveryTarget::Time(at) | RecoveryTarget::BeforeTime(at) => {
            format!("recovery_target_time = '{}+00'", at.strftime("%Y-%m-%d %H:%M:%S.%6f"))
        }
        RecoveryTarget::Xid(xid) | RecoveryTarget::BeforeXid(xid) => format!("recovery_target_xid = {}", quoted(xid)?),
        RecoveryTarget::Name(name) => format!("recovery_target_name = {}", quoted(name)?),
    };
    Ok(vec![
        goal,
        format!("recovery_target_inclusive = {}", if target.is_inclusive() { "on" } else { "off" }),
        format!("recovery_target_timeline = '{timeline}'"),
        "recovery_target_action = 'promote'".to_owned(),
    ])
}

/// `postgresql.conf` of the copy.
pub fn postgresql_conf(plan: &RecoveryPlan, facts: &FolderFacts) -> Result<String, SettingsError> {
    let own = if plan.isolated { "" } else { "; the source's own settings are in lifeboat_original_*" };
    let mut lines = vec![format!("# Generated by Lifeboat{own}.")];
    lines.extend(required(plan, facts).iter().map(|(name, value)| format!("{name} = {value}")));
    lines.extend(wal_sizes(facts));
    lines.push(format!("restore_command = 'sh {FETCH_SCRIPT} \"%f\" \"%p\"'"));
    lines.extend(target_lines(&plan.target, plan.timeline)?);
    // A standby that may be queried stops replaying, without an end, when the
    // source raised one of the required settings later on. This one never is queried.
    lines.push("hot_standby = off".to_owned());
    lines.extend(APART.map(str::to_owned));
    if facts.major >= 17 {
        lines.push("event_triggers = off".to_owned());
    }
    if plan.isolated {
        lines.push(format!("unix_socket_directories = '{ISOLATED_SOCKET}'"));
        lines.push(format!("port = {ISOLATED_PORT}"));
        lines.extend(ISOLATED.map(str::to_owned));
    } else {
        lines.push("listen_addresses = 'localhost'".to_owned());
    }
    if let Some(libraries) = facts.preload_libraries.as_deref().filter(|libraries| !libraries.is_empty()) {
        lines.push(format!("# The source preloads {}.", quoted(libraries)?));
    }
    Ok(lines.join("\n") + "\n")
}

/// What keeps every copy apart from the source's estate until a person decides
/// otherwise, and its log readable by us. Never `fsync = off`: the measured
/// duration would be that of a restore that nobody can use.
const APART: [&str; 16] = [
    "wal_level = replica",
    "archive_mode = off",
    "primary_conninfo = ''",
    "primary_slot_name = ''",
    "synchronous_standby_names = ''",
    "max_logical_replication_workers = 0",
    "shared_preload_libraries = ''",
    "session_preload_libraries = ''",
    "local_preload_libraries = ''",
    "fsync = on",
    "ssl = off",
    "logging_collector = off",
    "log_destination = 'stderr'",
    "log_timezone = 'UTC'",
    "timezone = 'UTC'",
    "lc_messages = 'C'",
];

/// What every session of our own in a copy is opened with, stronger than what the
/// source may have set per role or database: no code of others, and no damage passed over.
pub(super) const FOR_CHECKS: [(&str, &str); 4] = [
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("zero_damaged_pages", "off"),
    ("ignore_checksum_failure", "off"),
];

/// What a throw-away instance adds: no network, no jobs, nothing outside its folder.
const ISOLATED: [&str; 10] = [
    "listen_addresses = ''",
    "wal_recycle = off",
    "unix_socket_permissions = 0700",
    "dynamic_shared_memory_type = 'mmap'",
    "autovacuum = off",
    "jit = off",
    "log_min_messages = 'warning'",
    "log_line_prefix = '%m [%p] '",
    "log_statement = 'none'",
    "log_min_error_statement = 'panic'",
];

/// `pg_hba.conf` of the copy. An isolated instance trusts whoever can enter its
/// private socket folder. An operator's copy asks local users who they are, and
/// anybody over TCP for the password.
pub fn hba_conf(isolated: bool) -> &'static str {
    if isolated {
        "# Generated by Lifeboat.\nlocal all all trust\n"
    } else {
        "# Generated by Lifeboat.\nlocal all all peer map=lifeboat\n\
         host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"
    }
}

/// `pg_ident.conf` of the copy: everybody is who they are, and `administrators`
/// (users of this machine) may be any of `roles` too.
pub fn ident_conf(isolated: bool, administrators: &[&str], roles: &[&str]) -> String {
    let mut lines = vec!["# Generated by Lifeboat.".to_owned()];
    if !isolated {
        lines.push(r"lifeboat /^(.*)$ \1".to_owned());
        let pairs = administrators.iter().flat_map(|user| roles.iter().map(move |role| (user, role)));
        lines.extend(pairs.map(|(user, role)| format!("lifeboat \"{user}\" \"{role}\"")));
    }
    lines.join("\n") + "\n"
}

/// A word for the shell that means itself.
fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// The script behind `restore_command`, called with a file's name and where to
/// put it. It answers 1, "not there", only where the list made at configuration
/// proves it; a listed file that is gone, or a folder that is, is 255, which
/// ends recovery instead of shortening history. It waits for a listed file as long
/// as somebody fetches: a lock is given back however its holder ends. What was
/// fetched last may appear right before that, hence the second look. A throw-away
/// instance gets the file itself under a second name, which costs replay nothing:
/// it writes into no WAL but its own timeline's (`wal_recycle`). What an operator
/// goes on with gets a copy.
pub fn fetch_script(wal_folder: &Path, awaited: Option<&Awaited>) -> String {
    let comes = awaited.map_or_else(
        || "false".to_owned(),
        |awaited| format!("flock -n -s \"$wal\"/{} true; [ $? -eq 1 ]", shell_word(Path::new(&awaited.lock))),
    );
    let hand_over = if awaited.is_some() {
        r#"ln -f "$wal/$1" "$2""#
    } else {
        r#"cp "$wal/$1" "$2.lifeboat" && mv "$2.lifeboat" "$2""#
    };
    format!(
        "#!/bin/sh\n\
         # Generated by Lifeboat: fetches one WAL file for recovery.\n\
         wal={wal} gone=no\n\
         comes() {{ {comes}; }}\n\
         while :; do\n  \
           if [ -f \"$wal/$1\" ]; then\n    \
             {hand_over} || exit 255\n    \
             exit 0\n  \
           fi\n  \
           [ -d \"$wal\" ] && [ -r {FETCH_LIST} ] || exit 255\n  \
           grep -qxF -e \"$1\" {FETCH_LIST}\n  \
           case $? in 0) ;; 1) exit 1;; *) exit 255;; esac\n  \
           if [ $gone = yes ]; then echo \"$1 is gone from $wal, or was not fetched\" >&2; exit 255; fi\n  \
           if comes; then sleep 0.02; else gone=yes; fi\n\
         done\n",
        wal = shell_word(wal_folder)
    )
}

/// The value that a configuration file gives `name`: the last one counts.
pub(super) fn value_in(conf: &str, name: &str) -> Option<String> {
    conf.lines().rev().find_map(|line| {
        let line = line.trim_start();
        let rest =
            line.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name)).and(line.get(name.len()..))?;
        let value =
            rest.trim_start().strip_prefix('=').or_else(|| rest.starts_with([' ', '\t']).then_some(rest))?.trim();
        match value.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').map(|(inside, _)| inside.to_owned()),
            None => value.split(['#', ' ', '\t']).next().map(str::to_owned),
        }
    })
}

#[cfg(test)]
mod tests;
