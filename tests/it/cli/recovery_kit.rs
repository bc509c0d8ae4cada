//! One vault, an identity and the DR kit: everything else is gone. What comes
//! back into a new state database, and what a bare machine does with the page.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use lifeboat::{
    db::{Db, heartbeats},
    process::Program,
};
use serde_json::{Value, json};

use super::site::{DIGEST, PASSWORD, Site, recovered, walk, wallet};
use crate::support::{Lab, eventually, moved};

const SOON: Duration = Duration::from_secs(60);

/// A backup that is proven, in two vaults, with everything that belongs to it;
/// then the primary and the daemon end. Answers the rows of the end.
async fn lived(lab: &Lab, site: &Site) -> String {
    let backup = site.run(&["backup", "wallet"]).await.json(0);
    assert_eq!(backup["copies"][0]["verdict"], "PASS", "{backup}");
    let mut daemon = site.serve(&[]);
    let status = async || {
        let Some((200, body)) = site.get("/api/v1/status").await else { return Value::Null };
        serde_json::from_str::<Value>(&body).unwrap()["databases"][0].clone()
    };
    eventually("both vaults have WAL", SOON, || async {
        let status = status().await;
        status["exposure"][0]["seconds"].is_number() && status["wal_streaming"]["state"] == "streaming"
    })
    .await;
    assert_eq!(site.run(&["restore-test", "wallet"]).await.json(0)["verdict"], "PASS");
    lab.psql_in("wallet", "INSERT INTO bets (stake) SELECT 9 FROM generate_series(1, 300)").await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let end: lifeboat::domain::Lsn = lab.psql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
    eventually("the proof is in both vaults, and the last bet", SOON * 2, || async {
        let backups = site.run(&["backups"]).await.json(0);
        let vaults = backups[0]["vaults"].as_array().unwrap().clone();
        let durable = status().await["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse().ok());
        vaults.len() == 2
            && vaults.iter().all(|vault| vault["state"] == "PROVEN")
            && durable.is_some_and(|durable: lifeboat::domain::Lsn| durable >= end)
    })
    .await;
    let daemon_id = nix::unistd::Pid::from_raw(daemon.id().unwrap().cast_signed());
    nix::sys::signal::kill(daemon_id, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().await.unwrap().success());
    rows
}

/// What the state database knows of heartbeats and evidence.
async fn state(site: &Site) -> (Vec<lifeboat::domain::Beat>, Vec<String>) {
    let db = Db::open(&format!("sqlite:{}", site.path("lifeboat.db").display())).await.unwrap();
    let all = heartbeats::between(&db, &"wallet".parse().unwrap(), Timestamp::UNIX_EPOCH, Timestamp::MAX).await;
    let rows = lifeboat::db::evidence::rows_from(&db, 0).await.unwrap();
    db.close().await;
    (all.unwrap(), rows.into_iter().map(|row| row.entry).collect())
}

fn lose(site: &Site, begins: &str) {
    for entry in std::fs::read_dir(site.path("")).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with(begins) {
            let path = entry.path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_from_the_second_vault_alone() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    site.add_vault();
    let rows = lived(&lab, &site).await;
    let kit = Kit::write(&site).await;
    let (beats, evidence) = state(&site).await;
    let backups = site.run(&["backups"]).await.json(0);
    lab.cluster.stop("immediate").await.unwrap();
    lose(&site, "lifeboat.db");
    lose(&site, "lifeboat-evidence.db");
    moved(site.path("vault"), site.path("lost"));

    let told = site.run(&["vault", "rebuild-catalog", "--from", "dr"]).await.json(0);
    let of_dr = &told["vaults"][0];
    assert_eq!(of_dr["evidence"], evidence.len(), "{told}");
    assert_eq!((&of_dr["backups"], &of_dr["proven"]), (&json!(1), &json!(1)), "{told}");
    assert_eq!(state(&site).await, (beats, evidence.clone()), "heartbeats and evidence are what they were");
    let again = site.run(&["vault", "rebuild-catalog", "--from", "dr"]).await.json(0);
    assert_eq!((&again["vaults"][0]["evidence"], &again["vaults"][0]["heartbeats"]), (&json!(0), &json!(0)), "{again}");
    let listed = site.run(&["backups"]).await.json(0);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    for name in ["id", "state", "size_bytes", "stored_bytes", "start_lsn", "stop_lsn", "finished_at"] {
        assert_eq!(listed[0][name], backups[0][name], "{name}");
    }
    assert_eq!(listed[0]["vaults"], json!([{"vault": "dr", "state": "PROVEN"}]));
    assert_eq!(site.run(&["evidence", "verify"]).await.json(0)["size"], evidence.len());

    // The lost vault is filled again, and the chain of evidence goes on.
    let copied = site.run(&["vault", "copy", "wallet", "--from", "dr", "--to", "primary"]).await.json(0);
    assert_eq!((&copied[0]["verdict"], &copied[0]["evidence"]["index"]), (&json!("PASS"), &json!(evidence.len())));
    assert_eq!(site.run(&["evidence", "verify"]).await.json(0)["size"], evidence.len() + 1);
    let vaults = site.run(&["backups"]).await.json(0)[0]["vaults"].clone();
    assert_eq!(vaults, json!([{"vault": "primary", "state": "PROVEN"}, {"vault": "dr", "state": "PROVEN"}]));
    let data = site.path("restored");
    site.run(&["restore", "wallet", "--from", "primary", "--to", data.to_str().unwrap()]).await.json(0);
    assert_eq!(recovered(&lab, &data, DIGEST).await, rows);
    kit.restores_on_a_bare_machine(&lab, &site, &rows).await;
    refusals(&site).await;
}

async fn refusals(site: &Site) {
    let to = site.path("kit.tar.zst.age");
    let told = site.run(&["vault", "dr-kit", "--to", to.to_str().unwrap()]).await;
    told.refused(2, &["kit.tar.zst.age", "does not exist yet"]);
    site.run(&["vault", "copy", "--to", "elsewhere"]).await.refused(2, &["elsewhere", "it has: primary, dr"]);
    site.run(&["vault", "copy", "--to", "dr", "--from", "dr"]).await.refused(2, &["same vault"]);
    site.run(&["vault", "rebuild-catalog", "--from", "elsewhere"]).await.refused(2, &["there are: dr, primary"]);
}

/// The kit, and the page as it was printed.
struct Kit {
    file: PathBuf,
    page: String,
}

impl Kit {
    async fn write(site: &Site) -> Self {
        let file = site.path("kit.tar.zst.age");
        let told = site.run(&["vault", "dr-kit", "--to", file.to_str().unwrap()]).await.json(0);
        let page = told["page"].as_str().unwrap().to_owned();
        assert!(page.contains(told["fingerprint"].as_str().unwrap()), "{page}");
        assert!(page.contains(told["recipients"][1].as_str().unwrap()), "{page}");
        let printed = site.shown(&["vault", "dr-kit", "--print", "--to", site.path("other").to_str().unwrap()]).await;
        assert!(printed.starts_with("# Disaster recovery kit") && printed.contains("restore.sh"), "{printed}");
        Self { file, page }
    }

    /// The commands of the page, block by block.
    fn blocks(&self) -> Vec<String> {
        let blocks = self.page.split("```sh\n").skip(1);
        blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    }

    async fn restores_on_a_bare_machine(&self, lab: &Lab, site: &Site, rows: &str) {
        let blocks = self.blocks();
        let [_, with, without, _start, open] = &blocks[..] else { panic!("{blocks:#?}") };
        assert!(with.contains("lifeboat restore wallet --vault") && without.contains("restore.sh"), "{blocks:#?}");
        // Nothing but the kit, the identity that lay in the safe, and a plain copy of a vault.
        let machine = crate::support::scratch();
        let place = |name: &str| machine.path().join(name);
        let run = async |script: &str, path: &str| {
            let said = Program::new("sh").args(["-eu", "-c", script]).env("PATH", path).output(SOON).await;
            said.unwrap_or_else(|error| panic!("{script}: {error}"))
        };
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let setup = format!(
            "cp {} {} && cp {} {} && cp -r {} {}",
            self.file.display(),
            place("kit").display(),
            site.path("escrow.age").display(),
            place("identity").display(),
            site.path("dr").display(),
            place("usb").display(),
        );
        run(&setup, path).await;
        let places = |restored: &str| {
            let places = [("KIT", "kit"), ("IDENTITY", "identity"), ("VAULT", "usb"), ("RESTORED", restored)];
            places.map(|(name, file)| format!("{name}='{}'\n", place(file).display())).concat()
        };
        let program = Path::new(env!("CARGO_BIN_EXE_lifeboat")).parent().unwrap().display().to_string();
        run(&format!("{}{with}{open}", places("one")), &format!("{program}:{path}")).await;
        assert_eq!(recovered(lab, &place("one/wallet"), DIGEST).await, rows);
        // No Lifeboat in sight, nor the kit.
        let alone = format!("! command -v lifeboat\nmkdir -p '{}'\n{}{without}", place("two").display(), places("two"));
        run(&alone, path).await;
        give_to_postgres(lab, &place("two/wallet"));
        assert_eq!(recovered(lab, &place("two/wallet"), DIGEST).await, rows);
        no_secret_in(site, &place("one/kit"));
    }
}

/// The page's `chown`, where the test runs as root.
fn give_to_postgres(lab: &Lab, folder: &Path) {
    let Some(account) = &lab.cluster.account else { return };
    for path in walk_all(folder) {
        std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid)).unwrap();
    }
}

fn walk_all(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let is_folder = entry.file_type().unwrap().is_dir();
        if is_folder { found.extend(walk_all(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

/// Neither the server's password, nor an identity, nor the signing key is in the kit.
fn no_secret_in(site: &Site, kit: &Path) {
    let mut secrets = vec![PASSWORD.to_owned(), "AGE-SECRET-KEY".to_owned(), "PRIVATE KEY".to_owned()];
    for line in site.text("signing.key").lines().filter(|line| !line.contains("-----")) {
        // The public key stands in the private one's first lines, too short to matter alone.
        secrets.extend((line.len() > 60 && !line.starts_with("b3BlbnNzaC1rZXk")).then(|| line.to_owned()));
    }
    let files: Vec<PathBuf> = walk(kit);
    let wanted = ["README.md", "signing.pub", "lifeboat.yaml", "schedules/wallet.yaml"];
    for name in wanted {
        assert!(files.contains(&kit.join(name)), "{name} in {files:?}");
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{} holds a secret", file.display());
        }
    }
}
