//! The throw-away estate of the demo: two real PostgreSQL servers, keys, and
//! the same YAML files that an operator would write, all in one temporary
//! folder. Servers run as an unprivileged user.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::{
    durable,
    engine::postgres::cluster::{Binaries, LocalCluster},
    process::{self, Account},
};

/// The name that clients use; the drill moves it.
pub const RECORD: &str = "wallet.demo.";
/// The sites, as `cluster_name` of their servers.
pub const SITES: [&str; 2] = ["mt-a", "mt-b"];
/// Both servers listen on the same port of different loopback addresses, as a
/// record carries an address and no port.
pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];

/// Objectives of the demo: what a small estate on one machine should reach with ease.
pub const RTO: &str = "60s";
pub const RPO: &str = "5s";

/// Bets that are there before any client comes.
pub const SEEDED_BETS: u64 = 200_000;

/// No preparation takes longer, on the slowest of machines.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The estate. Dropping it does not stop the servers: call `tear_down`.
#[derive(Debug)]
pub struct Estate {
    folder: PathBuf,
    pub clusters: [LocalCluster; 2],
    bets: u64,
    pub port: u16,
    dns_port: u16,
    api_port: u16,
    /// Nobody else is given the ports as long as these live.
    _reserved: Vec<Socket>,
    account: Option<Account>,
}

impl Estate {
    /// Plans an estate in a new temporary folder; nothing runs yet.
    pub fn plan() -> Result<Self> {
        Self::plan_on(15, SEEDED_BETS)
    }

    /// The same on servers of this major version, with so many bets that are there before.
    pub fn plan_on(major: u32, bets: u64) -> Result<Self> {
        let mut reserved = Vec::new();
        let binaries = Binaries::find(major)?;
        let account = Account::for_postgres()?;
        let folder =
            tempfile::Builder::new().prefix("lifeboat-demo-").tempdir().context("make a temporary folder")?.keep();
        // The servers' user must be able to enter it; keys inside are private files.
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let clusters = SITES.map(|site| LocalCluster::new(binaries.clone(), account.clone(), folder.join(site)));
        Ok(Self {
            clusters,
            bets,
            port: reserve(&ADDRESSES, &mut reserved)?,
            dns_port: reserve(&ADDRESSES[..1], &mut reserved)?,
            api_port: reserve(&ADDRESSES[..1], &mut reserved)?,
            _reserved: reserved,
            folder,
            account,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.join("lifeboat.yaml")
    }

    pub fn binaries(&self) -> &Binaries {
        &self.clusters[0].binaries
    }

    /// Starts the primary with the `wallet` database, and a standby that streams from it.
    pub async fn start_servers(&self) -> Result<()> {
        let [primary, standby] = &self.clusters;
        primary.init().await?;
        primary.configure(&self.settings(0))?;
        let hba = "local all postgres trust\nlocal replication postgres trust\nhost all lifeboat 127.0.0.0/8 scram-sha-256\nhost replication lifeboat 127.0.0.0/8 scram-sha-256\n";
        self.write_owned(&primary.data().join("pg_hba.conf"), hba)?;
        primary.start(START_LIMIT).await?;
        let password = self.password()?;
        for (dbname, sql) in [
            ("postgres", format!("CREATE ROLE lifeboat LOGIN REPLICATION PASSWORD '{password}'")),
            ("postgres", "CREATE DATABASE wallet".to_owned()),
            ("wallet", WALLET_SQL.replace("BETS", &self.bets.to_string())),
        ] {
            self.psql(primary, dbname, &sql).await?;
        }
        standby.make_folders()?;
        self.binaries()
            .program("pg_basebackup", self.account.clone())
            .args([
                "--username=postgres",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--write-recovery-conf",
                "--no-sync",
            ])
            .args(["--create-slot", "--slot=standby_b"])
            .arg("-h")
            .arg(primary.socket_folder())
            .args(["-p", &self.port.to_string()])
            .arg("-D")
            .arg(standby.data())
            .output(Duration::from_secs(60))
            .await
            .context("copy the primary for the standby")?;
        standby.configure(&self.settings(1))?;
        standby.start(START_LIMIT).await?;
        Ok(())
    }

    fn settings(&self, site: usize) -> String {
        format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = '{}'\ncluster_name = '{}'\n\
             wal_level = replica\nmax_wal_senders = 10\nmax_replication_slots = 10\nhot_standby = on\n\
             hot_standby_feedback = on\nlog_line_prefix = '%m '\nwal_log_hints = on\nmax_connections = 30\nshared_buffers = 32MB\n",
            ADDRESSES[site],
            self.port,
            self.clusters[site].socket_folder().display(),
            SITES[site]
        )
    }

    /// Writes keys, `lifeboat.yaml`, the schedule and the runbook.
    pub fn write_files(&self) -> Result<()> {
        let recipients: Vec<String> = ["identity.age", "escrow.age"]
            .into_iter()
            .map(|name| {
                let identity = age::x25519::Identity::generate();
                durable::create_private(&self.folder.join(name), identity.to_string().expose_secret().as_bytes())?;
                Ok(identity.to_public().to_string())
            })
            .collect::<Result<_>>()?;
        for folder in ["schedules", "runbooks", "vault", "scratch"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        fs::set_permissions(self.folder.join("scratch"), std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        self.write_commands()?;
        let [ours, escrow] = &recipients[..] else { anyhow::bail!("two recipients are made") };
        fs::write(self.config_file(), self.daemon_yaml(ours, escrow))?;
        fs::write(self.folder.join("schedules/wallet.yaml"), self.schedule_yaml())?;
        fs::write(self.folder.join("runbooks/wallet-switchover.yaml"), self.runbook_yaml())?;
        Ok(())
    }

    fn daemon_yaml(&self, ours: &str, escrow: &str) -> String {
        format!(
            r#"node: {{name: demo, region: eu-south-1, scratch: scratch}}
state: {{url: "sqlite:lifeboat.db"}}
keys:
  recipients: [{ours}, {escrow}]
  identity: {{file: identity.age}}
  signing: {{file: signing.key}}
vaults:
  primary: {{kind: directory, path: vault, region: eu-south-1, durable: required}}
dns:
  lab: {{kind: embedded, listen: "127.0.0.1:{dns}", zone: demo., records: {{{RECORD}: {address}}}, ttl_seconds: 2, file: dns.json}}
api: {{listen: "127.0.0.1:{api}"}}
"#,
            dns = self.dns_port,
            api = self.api_port,
            address = ADDRESSES[0],
        )
    }

    fn schedule_yaml(&self) -> String {
        format!(
            r#"database: wallet
engine: postgres
members:
  a: {{host: {a}, port: {port}, site: {site_a}}}
  b: {{host: {b}, port: {port}, site: {site_b}}}
login: {{user: lifeboat, password: {{file: wallet.password}}, sslmode: disable, dbname: wallet}}
objectives: {{rto: {RTO}, rpo: {RPO}}}
residency: {{jurisdiction: MT, regions: [eu-south-1, eu-central-1]}}
vaults: [primary]
timezone: Europe/Malta
backups:
  - {{kind: full, cron: "0 2 * * *", keep: {{daily: 31}}}}
wal: {{stream: true, window: 31d, flush_every: 1s}}
restore_test:
  cron: "0 5 1 * *"
  recovery_point: {{algorithm: latest_at_disaster}}
  target: {{kind: local}}
  checks:
    - heartbeat
    - {{sql: "select coalesce(sum(amount), 0) from ledger", dbname: wallet, expect: "0.00"}}
    - {{sql: "select count(*) from bets b where not exists (select from ledger l where l.bet = b.id)", dbname: wallet, expect: "0"}}
"#,
            a = ADDRESSES[0],
            b = ADDRESSES[1],
            port = self.port,
            site_a = SITES[0],
            site_b = SITES[1],
        )
    }

    fn runbook_yaml(&self) -> String {
        let command = |name: &str| format!("[{}]", self.folder.join(name).display());
        format!(
            r#"runbook: wallet-switchover
mode: switchover
path: control_plane
database: wallet
from: {from}
to: {to}
hypothesis: "wallet takes writes in {to} within {RTO}, with no acknowledged commit lost"
objectives: {{rto: {RTO}, rpo: 0s}}
blast_radius: {{records: [{RECORD}], max_duration: 5m}}
guards: {{max_replica_lag: 10s}}
probes: {{bets: {{record: {RECORD}, port: {port}, dbname: wallet}}}}
steady_state: [bets]
approvals: {{required: 0, reason: "the demo's estate is thrown away"}}
steps:
  - {{fence: from, by: {{command: {fence}}}, release: {{command: {release}}}, prove: [login, write]}}
  - {{promote: to}}
  - {{dns: switch, record: {RECORD}, to: {address}}}
  - {{observe: dns, hold: 5s}}
  - {{rejoin: from, by: {{command: {rejoin}}}}}
"#,
            from = SITES[0],
            to = SITES[1],
            port = self.port,
            address = ADDRESSES[1],
            fence = command("fence-a"),
            release = command("release-a"),
            rejoin = command("rejoin-a"),
        )
    }

    /// What an operator's own tooling would do: stop, start and re-attach the old primary.
    fn write_commands(&self) -> Result<()> {
        let [old, new] = &self.clusters;
        let run_as = self.account.as_ref().map_or(String::new(), |account| {
            format!("setpriv --reuid={} --regid={} --init-groups -- ", account.uid, account.gid)
        });
        let pg_ctl = format!(
            "{run_as}{} -D '{}' -s -w -t 30 -l '{}'",
            self.binaries().path("pg_ctl").display(),
            old.data().display(),
            old.log().display()
        );
        let primary_conninfo = format!(
            "host={} port={} user=postgres application_name={}",
            new.socket_folder().display(),
            self.port,
            SITES[0]
        );
        let scripts = [
            ("fence-a", format!("{pg_ctl} status >/dev/null 2>&1 || exit 0\n{pg_ctl} stop -m fast")),
            ("release-a", format!("{pg_ctl} status >/dev/null 2>&1 && exit 0\n{pg_ctl} start")),
            (
                "rejoin-a",
                format!(
                    "{pg_ctl} status >/dev/null 2>&1 && exit 0\n\
                     printf \"primary_conninfo = '%s'\\nrecovery_target_timeline = 'latest'\\n\" '{primary_conninfo}' >> '{data}/postgresql.auto.conf'\n\
                     {run_as}touch '{data}/standby.signal'\n{pg_ctl} start",
                    data = old.data().display()
                ),
            ),
        ];
        for (name, body) in scripts {
            let path = self.folder.join(name);
            fs::write(&path, format!("#!/bin/sh\nset -e\ncd /\n{body}\n"))?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        Ok(())
    }

    /// The password of the role `lifeboat`, made on first use.
    pub fn password(&self) -> Result<String> {
        let path = self.folder.join("wallet.password");
        if !path.exists() {
            let password: String =
                rand::Rng::sample_iter(rand::rng(), rand::distr::Alphanumeric).take(24).map(char::from).collect();
            durable::create_private(&path, password.as_bytes())?;
        }
        Ok(fs::read_to_string(&path)?)
    }

    async fn psql(&self, cluster: &LocalCluster, dbname: &str, sql: &str) -> Result<String> {
        // The statement goes in on standard input: it may hold a password.
        self.binaries()
            .program("psql", self.account.clone())
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", dbname, "-f", "-", "-h"])
            .arg(cluster.socket_folder())
            .args(["-p", &self.port.to_string()])
            .output_with_input(START_LIMIT, Some(sql.as_bytes()))
            .await
            .context("prepare the demo's database")
    }

    fn write_owned(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text)?;
        if let Some(account) = &self.account {
            account.own(path)?;
        }
        Ok(())
    }

    /// Ends every process of the estate and removes the folder with everything in it.
    pub async fn tear_down(&self) -> Result<()> {
        let [a, b] = &self.clusters;
        let stopped = tokio::join!(a.stop("immediate"), b.stop("immediate"));
        // A server may just be starting, and have no pid file yet.
        process::end_all_of(&self.folder).await.context("end the demo's processes")?;
        if let (Err(error), _) | (_, Err(error)) = stopped {
            tracing::debug!(%error, "a server was killed because it did not stop");
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))
    }
}

/// Bets and the ledger that must balance: what the restored copy is asked about.
const WALLET_SQL: &str = "
CREATE SCHEMA lifeboat;
CREATE TABLE lifeboat.heartbeat (seq bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp());
GRANT USAGE ON SCHEMA lifeboat TO lifeboat;
GRANT SELECT, INSERT, DELETE ON lifeboat.heartbeat TO lifeboat;
GRANT EXECUTE ON FUNCTION pg_promote TO lifeboat;
GRANT pg_monitor TO lifeboat;
CREATE TABLE bets (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, placed timestamptz NOT NULL DEFAULT clock_timestamp(), stake numeric(12,2) NOT NULL);
CREATE TABLE ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, bet bigint NOT NULL REFERENCES bets, account text NOT NULL, amount numeric(12,2) NOT NULL);
CREATE INDEX ON ledger (bet);
GRANT SELECT, INSERT ON bets, ledger TO lifeboat;
WITH placed AS (INSERT INTO bets (stake) SELECT (1 + n % 50)::numeric FROM generate_series(1, BETS) AS n RETURNING id, stake)
INSERT INTO ledger (bet, account, amount)
SELECT id, side.account, side.sign * stake FROM placed, (VALUES ('player', -1), ('house', 1)) AS side (account, sign);
";

/// A port that is free on all these addresses and stays so for servers of this
/// estate: it is bound, and nobody listens.
fn reserve(addresses: &[Ipv4Addr], reserved: &mut Vec<Socket>) -> Result<u16> {
    let bind = |address, port| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Servers set it, too, and may then listen beside it.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(address, port).into())?;
        std::io::Result::Ok(socket)
    };
    for _ in 0..100 {
        let first = bind(Ipv4Addr::LOCALHOST, 0)?;
        let Some(port) = first.local_addr()?.as_socket().map(|address| address.port()) else { break };
        let others = addresses.iter().filter(|address| **address != Ipv4Addr::LOCALHOST);
        if let Ok(others) = others.map(|address| bind(*address, port)).collect::<Result<Vec<_>, _>>() {
            reserved.push(first);
            reserved.extend(others);
            return Ok(port);
        }
    }
    anyhow::bail!("no TCP port is free on {addresses:?}")
}
