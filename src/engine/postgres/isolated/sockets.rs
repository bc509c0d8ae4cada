//! The Unix sockets on which somebody on this machine listens. A network namespace does
//! not keep them away: they are reached by their path. Each is tried from where the
//! server stands; those of PostgreSQL servers and poolers as a client would.
//!
//! Nothing is ever sent to a socket that is no PostgreSQL server's.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::UnixStream;

use super::{IsolatedInstance, confinement::Address};
use crate::{
    domain::{Check, Verdict},
    engine::postgres::Postgres,
    process::Account,
};

pub(super) const NAME: &str = "sockets";
pub(super) const EXPECTED: &str = "no server's socket of this machine reached from inside";
/// What PostgreSQL and its poolers call their sockets, before the port.
const OF_SERVERS: &str = ".s.PGSQL.";
/// `__SO_ACCEPTCON` in the column of flags.
const LISTENS: &str = "00010000";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Paths on which somebody listens in our own network namespace. Those that are not
/// absolute were bound by isolated instances beside, or lie where only their owner knows.
pub(super) fn listening() -> io::Result<BTreeSet<PathBuf>> {
    Ok(paths(&fs::read_to_string("/proc/self/net/unix")?))
}

/// `Num RefCount Protocol Flags Type St Inode Path`.
fn paths(table: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let mut words = line.splitn(8, ' ').filter(|word| !word.is_empty());
        let flags = words.nth(3)?;
        let place = line.find(" /")?;
        (flags == LISTENS).then(|| line.get(place + 1..).map(PathBuf::from))?
    };
    table.lines().skip(1).filter_map(path).collect()
}

/// Folder and port, where it is the socket of a PostgreSQL server.
pub(super) fn of_server(path: &Path) -> Option<(PathBuf, u16)> {
    let port = path.file_name()?.to_str()?.strip_prefix(OF_SERVERS)?.parse().ok()?;
    Some((path.parent()?.to_owned(), port))
}

/// Tries each socket. FAIL where a PostgreSQL server is reached; what else may be reached
/// by the server's account leads who knows where.
pub(super) async fn check(instance: &IsolatedInstance, server: i32) -> Check {
    let unclear = |why: String| Check::new(NAME, Verdict::Inconclusive, EXPECTED, why);
    let found = match listening() {
        Ok(found) => found,
        Err(error) => return unclear(format!("the sockets of this machine cannot be listed: {error}")),
    };
    // Else nothing would be found there, whatever there is.
    if let Err(error) = fs::metadata(seen_by(server, &instance.folder)) {
        return unclear(format!("the server's file systems cannot be looked into: {error}"));
    }
    let (mut tried, mut reached, mut open) = (0, Vec::new(), Vec::new());
    let mut others = 0;
    for path in &found {
        if let Some((folder, port)) = of_server(path) {
            tried += 1;
            let address = Address::Socket { folder, port };
            match address.is_reached(instance, Some(instance.root_pid)).await {
                Ok(true) => reached.push(path.display().to_string()),
                Ok(false) => {}
                Err(why) => return unclear(format!("{}: {why}", path.display())),
            }
        } else {
            others += 1;
            let seen = seen_by(server, path);
            if may_use(&seen, &instance.postgres) && connects(&seen).await {
                open.push(path.display().to_string());
            }
        }
    }
    let told = format!("{tried} of PostgreSQL servers and {others} others tried");
    if !reached.is_empty() {
        return Check::judge(NAME, EXPECTED, format!("{told}; reached: {}", reached.join(", ")), false);
    }
    if !open.is_empty() {
        let remedy = "close them to the server's account, or run restore tests on a machine of their own";
        return unclear(format!("{told}; connected to {}; {remedy}", open.join(", ")));
    }
    Check::judge(NAME, EXPECTED, format!("{told}; none reached"), true)
}

/// The path as the file systems of process `server` have it.
fn seen_by(server: i32, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{server}/root"));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether the socket's own mode lets the server's account in; folders above it may not.
fn may_use(socket: &Path, postgres: &Postgres) -> bool {
    let ours =
        || Account { name: String::new(), uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let account = postgres.account.clone().unwrap_or_else(ours);
    let Ok(found) = fs::metadata(socket) else { return false };
    let mode = found.mode();
    mode & 0o002 != 0
        || found.uid() == account.uid && mode & 0o200 != 0
        || found.gid() == account.gid && mode & 0o020 != 0
}

/// Whether anybody takes the connection, or would if it were of the right kind.
async fn connects(socket: &Path) -> bool {
    let refused = [
        io::ErrorKind::NotFound,
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::NotADirectory,
    ];
    match tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(socket)).await {
        Ok(Ok(_)) | Err(_) => true,
        Ok(Err(error)) => !refused.contains(&error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_with_a_path_are_found_and_servers_known_by_their_name() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     ffff: 00000002 00000000 00010000 0001 01 20111 /run/postgresql/.s.PGSQL.5432\n\
                     ffff: 00000003 00000000 00000000 0001 03 20112 /run/postgresql/.s.PGSQL.5432\n\
                     ffff: 00000002 00000000 00010000 0001 01 20113 /tmp/a b/agent\n\
                     ffff: 00000002 00000000 00010000 0001 01 20114 @abstract\n\
                     ffff: 00000002 00000000 00010000 0001 01 20115 ../socket/.s.PGSQL.5432\n\
                     ffff: 00000002 00000000 00000000 0002 01 20116 /run/systemd/notify\n\
                     ffff: 00000002 00000000 00010000 0001 01 20117\n";
        let found: Vec<PathBuf> = paths(table).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/run/postgresql/.s.PGSQL.5432"), PathBuf::from("/tmp/a b/agent")]);
        for (path, server) in [
            ("/run/postgresql/.s.PGSQL.6432", Some(("/run/postgresql", 6432))),
            ("/run/postgresql/.s.PGSQL.5432.lock", None),
            ("/run/docker.sock", None),
        ] {
            let expected = server.map(|(folder, port)| (PathBuf::from(folder), port));
            assert_eq!(of_server(Path::new(path)), expected, "{path}");
        }
    }
}
