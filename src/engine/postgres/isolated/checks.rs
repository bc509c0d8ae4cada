//! The proof that an isolated instance cannot reach production: one check per
//! way out. Each probe is first shown to work where it must succeed; one that
//! could not fail, or could not run, is INCONCLUSIVE and never PASS.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use tokio::net::TcpListener;

use super::{
    IsolatedInstance,
    confinement::{Address, Confinement},
    credentials, processes, sockets, ties,
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
    checks.extend(ties::checks(instance).await?);
    checks.push(tablespaces(&instance.folder)?);
    checks.push(credentials::check(instance));
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
const UNBELIEVABLE: &str = "the probe itself does not work, see `tcp_canary`";

fn unconfined(instance: &IsolatedInstance, reason: &str) -> Vec<Check> {
    let why = format!("the instance shares this machine's network and files: {reason}");
    let mut checks: Vec<Check> = [NAMESPACES, NETWORK, FILES, CANARY, (sockets::NAME, sockets::EXPECTED)]
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
    let (canary, probe_works) = canary(instance, server).await?;
    let mut checks =
        vec![namespaces(server, instance.root_pid), network(server), files(server, &instance.folder), canary];
    for (name, address) in members(instance) {
        checks.push(if probe_works {
            member(instance, name, &address).await
        } else {
            inconclusive(name, UNREACHABLE, UNBELIEVABLE)
        });
    }
    checks.push(if probe_works {
        sockets::check(instance, server).await
    } else {
        inconclusive(sockets::NAME, sockets::EXPECTED, UNBELIEVABLE)
    });
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
    let seen = seen(&mounts);
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

/// Where file systems are seen, and whether each can be written to. A later one covers
/// those at its place and below. Blanks stand there as octal numbers.
fn seen(mounts: &str) -> BTreeMap<PathBuf, bool> {
    let place_of = |word: &str| word.replace("\\040", " ").replace("\\011", "\t");
    let mut seen: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(4);
        let (Some(at), Some(options)) = (words.next(), words.next()) else { continue };
        let at = PathBuf::from(place_of(at));
        seen.retain(|below, _| !below.starts_with(&at));
        seen.insert(at, options.split(',').all(|option| option != "ro"));
    }
    seen
}

/// A listener on this machine's loopback, and its port.
pub(super) async fn listener(folder: &Path) -> Result<(TcpListener, u16), EngineError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(file_error("listen for", folder))?;
    let port = listener.local_addr().map_err(file_error("listen for", folder))?.port();
    Ok((listener, port))
}

/// A listener of ours that the probe must reach from outside and must not reach
/// from inside; and whether the probe can be believed.
async fn canary(instance: &IsolatedInstance, server: i32) -> Result<(Check, bool), EngineError> {
    let (name, expected) = CANARY;
    let (_listener, port) = listener(&instance.folder).await?;
    let address = Address::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port };
    let outside = address.is_reached(instance, None).await;
    let inside = address.is_reached(instance, Some(instance.root_pid)).await;
    let own = Address::own_socket(server).is_reached(instance, Some(instance.root_pid)).await;
    Ok(match (outside, inside, own) {
        (Ok(true), Ok(inside), Ok(true)) => {
            let actual = if inside { "reached from inside" } else { "as expected" };
            (Check::judge(name, expected, actual, !inside), true)
        }
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => (inconclusive(name, expected, why), false),
        (Ok(false), ..) => (inconclusive(name, expected, "the probe does not even reach it from outside"), false),
        (.., Ok(false)) => {
            (inconclusive(name, expected, "the probe does not even reach the instance's own socket"), false)
        }
    })
}

/// One server of production. The canary has shown that the probe works, so
/// that a member which is down does not make the answer worthless.
async fn member(instance: &IsolatedInstance, name: String, address: &Address) -> Check {
    let outside = address.is_reached(instance, None).await;
    match address.is_reached(instance, Some(instance.root_pid)).await {
        Err(why) => inconclusive(name, UNREACHABLE, why),
        Ok(true) => Check::judge(name, UNREACHABLE, format!("{address} is reached"), false),
        Ok(false) => {
            let outside = if outside == Ok(true) { "reached" } else { "not reached either" };
            Check::judge(name, UNREACHABLE, format!("{address} is not reached; from outside: {outside}"), true)
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_file_system_covers_is_not_seen() {
        let mounts = "1 0 8:1 / / ro - ext4 a rw\n2 1 0:5 / /run/user/0 rw - tmpfs b rw\n\
                      3 1 0:6 / /run ro,nosuid - tmpfs c rw\n4 1 8:1 /x /a\\040b rw - ext4 a rw\n\
                      5 1 0:7 / /running rw - tmpfs d rw\n6 3 0:8 / /run/late rw - tmpfs e rw\n";
        let expected = [("/", false), ("/a b", true), ("/run", false), ("/run/late", true), ("/running", true)];
        assert_eq!(seen(mounts), expected.map(|(at, is_writable)| (PathBuf::from(at), is_writable)).into());
    }
}
