//! A primary with two standbys that Lifeboat protects, and a replica of it that
//! Lifeboat has no part in: an early copy, and an archive that the servers
//! themselves fill. Recovered from these, it stops at any position.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use lifeboat::domain::{Lsn, Segment, SegmentSize, Timeline};
use serde_json::Value;

use super::{
    node::{Node, SOON},
    workload,
};
use crate::{
    cli::site::{PASSWORD, Site, WALLET},
    support::{eventually, scratch},
};

const MEMBERS: [&str; 3] = ["a", "b", "c"];

pub(super) struct Estate {
    pub(super) site: Site,
    members: Vec<Node>,
    primary: AtomicUsize,
    archive: PathBuf,
    /// What replicas begin with; never started.
    base: Node,
    major: u32,
    folder: tempfile::TempDir,
}

/// How every server here is set; each keeps its whole segments in `archive`.
pub(super) fn settings(archive: &Path) -> String {
    let archive = archive.display();
    format!(
        "fsync = off\nwal_level = replica\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
         max_prepared_transactions = 10\nwal_keep_size = 2GB\nshared_buffers = 64MB\ncheckpoint_timeout = 30s\n\
         archive_mode = always\n\
         archive_command = 'test -f {archive}/%f || (cp %p {archive}/%f.$$ && mv {archive}/%f.$$ {archive}/%f)'\n"
    )
}

/// What Lifeboat needs of a server, and an account for the rest.
pub(super) async fn let_lifeboat_in(node: &Node) {
    node.write_hba();
    node.psql("postgres", "SELECT pg_reload_conf()").await.unwrap();
    node.psql("postgres", "CREATE DATABASE wallet").await.unwrap();
    node.psql("wallet", &crate::readme::role_sql(PASSWORD)).await.unwrap();
    node.psql("wallet", WALLET).await.unwrap();
}

/// A folder below `estate` that servers write to.
pub(super) fn archive_in(estate: &Path, node: &Node) -> PathBuf {
    let archive = estate.join("archive");
    fs::create_dir(&archive).unwrap();
    node.cluster.account.iter().for_each(|account| account.own(&archive).unwrap());
    archive
}

/// How far all required vaults have the WAL, as the daemon says.
pub(super) async fn durable(site: &Site) -> Option<Lsn> {
    let (_, body) = site.get("/api/v1/status").await.filter(|(status, _)| *status == 200)?;
    let status: Value = serde_json::from_str(&body).ok()?;
    status["databases"][0]["wal_streaming"]["durable_lsn"].as_str()?.parse().ok()
}

impl Estate {
    pub(super) async fn start(major: u32, scale: u64) -> Self {
        let folder = scratch();
        let node = |name: &str| Node::new(major, folder.path(), name);
        let members: Vec<Node> = MEMBERS.into_iter().map(node).collect();
        let (first, base) = (&members[0], node("base"));
        let archive = archive_in(folder.path(), first);
        let summaries = if major >= 17 { "summarize_wal = on\n" } else { "" };
        first.init(&format!("{}{summaries}", settings(&archive)), &[]).await;
        first.start("").await;
        let_lifeboat_in(first).await;
        workload::prepare(first, scale).await;
        for standby in &members[1..] {
            standby.copy(first, &["-R"]).await;
            standby.start("").await;
        }
        base.copy(first, &[]).await;
        let site = Site::write(first.port);
        let listed: Vec<String> = MEMBERS
            .iter()
            .zip(&members)
            .map(|(name, node)| format!("\n  {name}: {{host: 127.0.0.1, port: {}, site: mt-{name}}}", node.port))
            .collect();
        let one = format!("connection: {{host: 127.0.0.1, port: {}}}", first.port);
        site.edit("schedules/wallet.yaml", &one, &format!("members:{}", listed.concat()));
        Self { site, members, primary: AtomicUsize::new(0), archive, base, major, folder }
    }

    pub(super) fn primary(&self) -> &Node {
        &self.members[self.primary.load(Ordering::SeqCst)]
    }

    /// Takes a backup; answers its id and its stop LSN.
    pub(super) async fn backup(&self, kind: &str) -> (String, Lsn) {
        let backup = self.site.run(&["backup", "wallet", "--kind", kind]).await.json(0);
        assert_eq!((&backup["kind"], &backup["state"]), (&Value::from(kind), &Value::from("WAL_COMPLETE")), "{backup}");
        let text = |name: &str| backup[name].as_str().unwrap().to_owned();
        (text("id"), text("stop_lsn").parse().unwrap())
    }

    /// Kills the primary at once; the standby that received most takes its place
    /// and the other one follows it. The dead one stays where it is.
    pub(super) async fn fail_over(&self) {
        self.primary().kill().await;
        let mut left = Vec::new();
        for (nth, member) in self.members.iter().enumerate() {
            if member.cluster.is_running() {
                left.push((member.lsn("pg_last_wal_receive_lsn").await, nth));
            }
        }
        let (_, next) = left.iter().copied().max().unwrap();
        let promoted = self.members[next].psql("postgres", "SELECT pg_promote()").await.unwrap();
        assert_eq!(promoted, "t");
        self.primary.store(next, Ordering::SeqCst);
        let (socket, port) = (self.primary().cluster.socket_folder(), self.primary().port);
        let follow = format!(
            "ALTER SYSTEM SET primary_conninfo = 'host={} port={port} user=postgres'; SELECT pg_reload_conf();",
            socket.display()
        );
        for (_, nth) in left.into_iter().filter(|(_, nth)| *nth != next) {
            self.members[nth].feed("postgres", &follow).await.unwrap();
        }
    }

    /// Waits until the vault knows that this timeline goes on: increments are built
    /// upon what is known to lead to it.
    pub(super) async fn followed(&self, timeline: Timeline) {
        let name = timeline.history_file();
        eventually("the new timeline is streamed", SOON, || async {
            self.site.files_in("vault").iter().any(|path| path.ends_with(&name))
        })
        .await;
    }

    /// Switches to another segment, and waits until all before it is in the vault,
    /// and in the archive; answers the end of what was written.
    pub(super) async fn settled(&self, timeline: Timeline) -> Lsn {
        // Where nothing but padding follows up to the next segment.
        let end = self.primary().lsn("pg_switch_wal").await;
        // A target is reached with the record that starts behind it.
        let more = "SELECT txid_current(); SELECT pg_switch_wal();";
        self.primary().feed("postgres", more).await.unwrap();
        let flushed = self.primary().lsn("pg_current_wal_flush_lsn").await;
        self.caught_up(flushed).await;
        let last = Segment::holding(timeline, end, SegmentSize::DEFAULT).next();
        let last = last.file_name(SegmentSize::DEFAULT);
        eventually("the servers' own archive is complete", SOON, || async { self.archive.join(&last).exists() }).await;
        end
    }

    pub(super) async fn caught_up(&self, end: Lsn) {
        eventually("all WAL is in the vault", SOON, || async {
            durable(&self.site).await.is_some_and(|durable| durable >= end)
        })
        .await;
    }

    /// Where each timeline but the first began, oldest first.
    pub(super) fn forks(&self, newest: Timeline) -> Vec<Lsn> {
        let text = fs::read_to_string(self.archive.join(newest.history_file())).unwrap();
        text.lines().filter_map(|line| line.split('\t').nth(1)?.parse().ok()).collect()
    }

    /// A replica that has replayed up to this position, and no record further.
    pub(super) async fn replica(&self, name: &str, lsn: Lsn) -> Node {
        let node = Node::new(self.major, self.folder.path(), name);
        node.duplicate(&self.base).await;
        let archive = self.archive.display();
        // Where it stops in the segment in which a timeline ended, it reads that one's
        // last record again, which nobody has but the server that was promoted.
        let target = format!(
            "restore_command = 'cp {archive}/%f %p || cp {archive}/%f.partial %p'\nrecovery_target_timeline = latest\n\
             recovery_target_lsn = '{lsn}'\nrecovery_target_action = promote\n"
        );
        node.cluster.configure(&target).unwrap();
        if self.major >= 17 {
            // What summarises WAL misses what is older than the copy, and while it
            // waits for it, replay waits for it at every dropped folder.
            node.cluster.configure("summarize_wal = off\n").unwrap();
        }
        let signal = node.cluster.data().join("recovery.signal");
        fs::write(&signal, "").unwrap();
        node.cluster.account.iter().for_each(|account| account.own(&signal).unwrap());
        node.recover().await;
        node
    }

    /// What Lifeboat restores with these words, started.
    pub(super) async fn restored(&self, name: &str, args: &[&str]) -> Node {
        let node = Node::new(self.major, self.folder.path(), name);
        let to = node.cluster.data();
        let args = [&["restore", "wallet", "--to", to.to_str().unwrap()][..], args].concat();
        self.site.run(&args).await.json(0);
        node.recover().await;
        node
    }

    /// Ends the members: what is restored leans upon none of them.
    pub(super) async fn end_members(&self) {
        for member in &self.members {
            member.kill().await;
            fs::remove_dir_all(&member.cluster.folder).unwrap();
        }
    }
}

/// Ends a copy that was compared, and removes it.
pub(super) async fn discard(node: Node) {
    node.kill().await;
    fs::remove_dir_all(&node.cluster.folder).unwrap();
}

impl Drop for Estate {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell_log(&self.site);
        }
    }
}

/// The end of the daemon's log, which goes away with the site.
pub(super) fn tell_log(site: &Site) {
    let log = fs::read_to_string(site.path("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    println!("the daemon's log ends:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
}
