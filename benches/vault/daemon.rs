//! Lifeboat as a daemon in a folder with its files, and its commands.

use std::{path::PathBuf, time::Duration};

use lifeboat::{domain::Lsn, process::Program};

use super::{estate::Estate, measure::resident};

/// How often the server is asked what the daemon has confirmed.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(3600);

/// The folder with what an operator wrote. The vault is a YAML mapping.
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
}

impl Site {
    pub(crate) fn new(estate: &Estate, name: &str, vault: &str) -> Self {
        use age::secrecy::ExposeSecret;
        let folder = estate.folder(name);
        let identity = age::x25519::Identity::generate();
        let site = Self { folder };
        site.put("identity.age", identity.to_string().expose_secret());
        site.put("s3.secret", super::emulator::SECRET);
        site.put(
            "lifeboat.yaml",
            &format!(
                "node: {{name: bench, region: lab}}\nstate: {{url: \"sqlite:lifeboat.db\"}}\n\
                 keys: {{recipients: [{}], single_recipient_reason: bench, identity: {{file: identity.age}}, signing: {{file: signing.key}}}}\n\
                 vaults: {{primary: {vault}}}\n",
                identity.to_public()
            ),
        );
        site.put(
            "schedules/wallet.yaml",
            &format!(
                "database: wallet\nengine: postgres\nconnection: {{host: {}, port: {}}}\n\
                 login: {{user: postgres, sslmode: disable}}\nobjectives: {{rto: 1h, rpo: 15m}}\nvaults: [primary]\n\
                 backups: [{{kind: full, cron: \"0 2 29 2 *\", keep: {{daily: 1}}}}]\n\
                 wal: {{stream: true, window: 1d, flush_every: 1s}}\n\
                 restore_test: {{cron: \"0 5 29 2 *\", recovery_point: {{algorithm: latest_at_disaster}}, target: {{kind: local}}, checks: [heartbeat]}}\n",
                estate.cluster.socket_folder().display(),
                estate.port
            ),
        );
        site
    }

    /// Writes one of its files.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap()
    }

    pub(crate) fn edit(&self, name: &str, old: &str, new: &str) {
        let text = self.text(name);
        assert!(text.contains(old), "{name} has no {old}");
        self.put(name, &text.replace(old, new));
    }

    pub(crate) fn program(&self) -> Program {
        Program::new(env!("CARGO_BIN_EXE_lifeboat"))
            .arg("--config")
            .arg(self.folder.join("lifeboat.yaml"))
            .arg("--json")
    }

    /// Runs a command and answers the document that it printed.
    pub(crate) async fn run(&self, words: &[&str]) -> serde_json::Value {
        let printed = self.program().args(words).output(LIMIT).await.unwrap();
        serde_json::from_str(&printed).unwrap()
    }

    pub(crate) fn serve(&self) -> Daemon {
        let log = std::fs::File::create(self.folder.join("serve")).unwrap();
        Daemon(self.program().arg("serve").start(log).unwrap())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("serve")).unwrap()
    }
}

pub(crate) struct Daemon(tokio::process::Child);

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id().unwrap()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        resident(self.pid())
    }

    pub(crate) async fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().await.unwrap();
    }
}

/// Whether somebody streams through the slot, and what is confirmed of it: the
/// server's own words.
pub(crate) async fn slot(estate: &Estate) -> (bool, Option<Lsn>) {
    let told = estate.psql("SELECT active, restart_lsn FROM pg_replication_slots").await;
    let Some((active, lsn)) = told.lines().next().and_then(|line| line.split_once('|')) else { return (false, None) };
    (active == "t", lsn.parse().ok())
}

/// Waits until all WAL up to a position is confirmed.
pub(crate) async fn confirmed(estate: &Estate, site: &Site, to: Lsn) {
    let begun = std::time::Instant::now();
    while slot(estate).await.1.is_none_or(|confirmed| confirmed < to) {
        assert!(begun.elapsed() < LIMIT, "{}", site.log());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
