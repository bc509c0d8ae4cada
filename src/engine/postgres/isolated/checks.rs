//! The proof that an isolated instance cannot reach production: one check per
//! way out. Each probe is first shown to work where it must succeed; one that
//! could not fail, or could not run, is INCONCLUSIVE and never PASS.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use sqlx::{Row, postgres::PgRow};
use tokio::net::TcpListener;

use super::{
    IsolatedInstance,
    confinement::{Address, Confinement},
    processes,
};
use crate::{
    domain::{Check, Verdict},
    engine::{
        EngineError,
        postgres::restored::{file_error, unfit},
    },
};

/// Every check, whatever the verdicts before it.
pub(super) async fn isolation(instance: &IsolatedInstance) -> Result<Vec<Check>, EngineError> {
    let mut checks = match &instance.confinement {
        Confinement::Namespaces => confined(instance).await?,
        Confinement::None { reason } => unconfined(instance, reason),
    };
    checks.extend(of_settings(instance).await?);
    checks.push(tablespaces(&instance.folder)?);
    Ok(checks)
}

fn inconclusive(name: impl Into<String>, expected: impl Into<String>, why: impl Into<String>) -> Check {
    Check::new(name, Verdict::Inconclusive, expected, why)
}

const NAMESPACES: (&str, &str) = ("namespaces", "user, mount, network, process and IPC namespace of its own");
const NETWORK: (&str, &str) = ("network", "loopback only, no route");
const CANARY: (&str, &str) = ("tcp_canary", "reached from outside, not from inside");
const FILES: (&str, &str) = ("files", "read-only outside the instance's folder");
const UNREACHABLE: &str = "not reached from inside";

fn unconfined(instance: &IsolatedInstance, reason: &str) -> Vec<Check> {
    let why = format!("the instance shares this machine's network and files: {reason}");
    let mut checks: Vec<Check> = [NAMESPACES, NETWORK, FILES, CANARY]
        .into_iter()
        .map(|(name, expected)| inconclusive(name, expected, &why))
        .collect();
    checks.extend(members(instance).map(|(name, _)| inconclusive(name, UNREACHABLE, &why)));
    checks
}

fn members(instance: &IsolatedInstance) -> impl Iterator<Item = (String, Address)> {
    instance.postgres.members.iter().map(|member| (format!("member:{}", member.name), Address::of_member(member)))
}

async fn confined(instance: &IsolatedInstance) -> Result<Vec<Check>, EngineError> {
    let server = processes::server_of(&instance.folder)
        .ok_or_else(|| unfit("show its isolation", "its server process is not there"))?;
    let (canary, probe_works) = canary(instance).await?;
    let mut checks =
        vec![namespaces(server, instance.root_pid), network(server), files(server, &instance.folder), canary];
    for (name, address) in members(instance) {
        checks.push(if probe_works {
            member(instance, name, &address).await
        } else {
            inconclusive(name, UNREACHABLE, "the probe itself does not work, see `tcp_canary`")
        });
    }
    Ok(checks)
}

fn namespace(pid: &str, kind: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The server's namespaces are not ours, and network and mounts are those of
/// the process through which the probes look.
fn namespaces(server: i32, root: i32) -> Check {
    let (name, expected) = NAMESPACES;
    let (server, root) = (server.to_string(), root.to_string());
    let mut shared = Vec::new();
    for kind in ["user", "mnt", "net", "pid", "ipc"] {
        match (namespace(&server, kind), namespace("self", kind)) {
            (Some(of_server), Some(ours)) if of_server == ours => shared.push(kind),
            (Some(_), Some(_)) => {}
            _ => return inconclusive(name, expected, format!("the {kind} namespace cannot be looked at")),
        }
    }
    if ["mnt", "net"].iter().any(|kind| namespace(&server, kind) != namespace(&root, kind)) {
        return inconclusive(name, expected, "the probes look from other namespaces than the server's");
    }
    let actual = if shared.is_empty() { "all its own".to_owned() } else { format!("shared: {}", shared.join(", ")) };
    Check::judge(name, expected, actual, shared.is_empty())
}

/// The interfaces and routes that the server sees.
fn network(server: i32) -> Check {
    let (name, expected) = NETWORK;
    let read = |file: &str| fs::read_to_string(format!("/proc/{server}/net/{file}"));
    let (Ok(devices), Ok(routes)) = (read("dev"), read("route")) else {
        return inconclusive(name, expected, "the server's view of the network cannot be read");
    };
    // Two lines of headings, then one line per interface; one heading for routes.
    let interfaces: Vec<&str> = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(interface, _)| interface.trim())
        .collect();
    let routes = routes.lines().skip(1).filter(|line| !line.trim().is_empty()).count();
    // No address on any interface means that even loopback is down.
    let addresses = read("if_inet6").map_or(0, |text| text.lines().count());
    let actual = format!("interfaces: {}; {routes} routes, {addresses} IPv6 addresses", interfaces.join(", "));
    Check::judge(name, expected, actual, interfaces == ["lo"] && routes == 0 && addresses == 0)
}

/// The file systems that the server sees and could write to; those of the kernel's
/// own, which hold no data, aside.
fn files(server: i32, folder: &Path) -> Check {
    let (name, expected) = FILES;
    let Ok(mounts) = fs::read_to_string(format!("/proc/{server}/mountinfo")) else {
        return inconclusive(name, expected, "the server's file systems cannot be looked at");
    };
    // Of several at one place the last one is seen. Blanks stand there as octal numbers.
    let place_of = |word: &str| word.replace("\\040", " ").replace("\\011", "\t");
    let seen: BTreeMap<PathBuf, bool> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(4);
            let (at, options) = (place_of(words.next()?), words.next()?);
            Some((at.into(), options.split(',').all(|option| option != "ro")))
        })
        .collect();
    if !seen.contains_key(folder) {
        return inconclusive(name, expected, "the instance's own folder is not among its file systems");
    }
    let is_foreign = |at: &Path| at != folder && !["/proc", "/sys", "/dev"].iter().any(|of| at.starts_with(of));
    let writable: Vec<String> = seen
        .iter()
        .filter(|(at, is_writable)| **is_writable && is_foreign(at))
        .map(|(at, _)| at.display().to_string())
        .collect();
    if writable.is_empty() {
        return Check::judge(name, expected, "as expected", true);
    }
    inconclusive(name, expected, format!("it could write to {}", writable.join(", ")))
}

/// A listener of ours that the probe must reach from outside and must not reach
/// from inside; and whether the probe can be believed.
async fn canary(instance: &IsolatedInstance) -> Result<(Check, bool), EngineError> {
    let (name, expected) = CANARY;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(file_error("listen for", &instance.folder))?;
    let port = listener.local_addr().map_err(file_error("listen for", &instance.folder))?.port();
    let address = Address::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port };
    let outside = address.is_reached(&instance.postgres, None).await;
    let inside = address.is_reached(&instance.postgres, Some(instance.root_pid)).await;
    let own = Address::own_socket(&instance.folder).is_reached(&instance.postgres, Some(instance.root_pid)).await;
    Ok(match (outside, inside, own) {
        (Ok(true), Ok(inside), Ok(true)) => {
            let actual = if inside { "reached from inside" } else { "as expected" };
            (Check::judge(name, expected, actual, !inside), true)
        }
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => (inconclusive(name, expected, why), false),
        (Ok(false), ..) => (inconclusive(name, expected, "the probe does not even reach it from outside"), false),
        (.., Ok(false)) => {
            (inconclusive(name, expected, "the probe does not even see the instance's own socket"), false)
        }
    })
}

/// One server of production. The canary has shown that the probe works, so
/// that a member which is down does not make the answer worthless.
async fn member(instance: &IsolatedInstance, name: String, address: &Address) -> Check {
    let outside = address.is_reached(&instance.postgres, None).await;
    match address.is_reached(&instance.postgres, Some(instance.root_pid)).await {
        Err(why) => inconclusive(name, UNREACHABLE, why),
        Ok(true) => Check::judge(name, UNREACHABLE, format!("{address} is reached"), false),
        Ok(false) => {
            let outside = if outside == Ok(true) { "reached" } else { "not reached either" };
            Check::judge(name, UNREACHABLE, format!("{address} is not reached; from outside: {outside}"), true)
        }
    }
}

const SETTINGS: &str = "select current_setting('archive_mode'), \
    current_setting('primary_conninfo'), current_setting('primary_slot_name'), \
    (select count(*) from pg_stat_wal_receiver where pid is not null)::text, \
    (select count(*) from pg_replication_slots)::text, \
    current_setting('max_logical_replication_workers'), \
    (select count(*) from pg_stat_subscription where pid is not null)::text, \
    (select coalesce(string_agg(distinct backend_type, ', '), '') from pg_stat_activity where backend_type not in \
      ('client backend', 'checkpointer', 'background writer', 'walwriter', 'startup', 'autovacuum launcher', \
       'autovacuum worker', 'parallel worker', 'slotsync worker', 'io worker', 'walsummarizer')), \
    current_setting('shared_preload_libraries'), current_setting('listen_addresses')";

/// What the server says of itself.
async fn of_settings(instance: &IsolatedInstance) -> Result<Vec<Check>, EngineError> {
    let row = instance.session.row(SETTINGS).await?;
    let is = |name: &str, parts: &[(usize, &str)]| of_columns(&row, name, parts);
    let mut preload = is("preloaded_libraries", &[(8, "")])?;
    if let Some(libraries) = instance.configured.preload_libraries.as_deref().filter(|text| !text.is_empty()) {
        preload.actual = format!("{}; the source loads `{libraries}`", preload.actual);
    }
    let mode = instance.session.mode()?;
    Ok(vec![
        is("archive_mode", &[(0, "off")])?,
        is("replication", &[(1, ""), (2, ""), (3, "0"), (4, "0")])?,
        is("subscriptions", &[(5, "0"), (6, "0")])?,
        is("background_jobs", &[(7, "")])?,
        preload,
        is("listen_addresses", &[(9, "")])?,
        Check::judge("private_socket", "mode 700", format!("mode {mode:o}"), mode == 0o700),
    ])
}

fn of_columns(row: &PgRow, name: &str, parts: &[(usize, &str)]) -> Result<Check, EngineError> {
    let mut actual = Vec::new();
    for (column, _) in parts {
        let value: String =
            row.try_get(*column).map_err(|error| unfit("answer a query", format!("column {column}: {error}")))?;
        actual.push(format!("`{value}`"));
    }
    let expected: Vec<String> = parts.iter().map(|(_, value)| format!("`{value}`")).collect();
    let holds = expected == actual;
    Ok(Check::judge(name, expected.join(", "), actual.join(", "), holds))
}

/// Every tablespace lies in the instance's folder.
fn tablespaces(folder: &Path) -> Result<Check, EngineError> {
    let links = folder.join("data/pg_tblspc");
    let (mut count, mut outside) = (0, Vec::new());
    for entry in fs::read_dir(&links).map_err(file_error("read", &links))? {
        let path = entry.map_err(file_error("read", &links))?.path();
        let real = path.canonicalize().map_err(file_error("open the tablespace", &path))?;
        count += 1;
        if !real.starts_with(folder) {
            outside.push(real.display().to_string());
        }
    }
    let actual = if outside.is_empty() { format!("{count}, all inside") } else { outside.join(", ") };
    Ok(Check::judge("tablespaces", "inside the instance's folder", actual, outside.is_empty()))
}
