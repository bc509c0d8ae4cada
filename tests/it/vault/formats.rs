//! What was written once stays readable: a sample of a vault of each format, as
//! `tests/fixtures` keeps it, is restored by the code of today.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use lifeboat::process::Program;

use super::fixture::query_restored;
use crate::support::scratch;

const LIMIT: Duration = Duration::from_secs(120);
const DIGEST: &str = "select count(*) || ' ' || md5(string_agg(b::text, ',' order by id)) from bets b";

/// What a sample's README says of it.
struct Told {
    fingerprint: String,
    at_backup: String,
    latest: String,
}

impl Told {
    fn of(sample: &Path) -> Self {
        let text = std::fs::read_to_string(sample.join("README.md")).unwrap();
        let value = |what: &str| {
            let row = text.lines().find(|line| line.starts_with(&format!("| {what} | `"))).unwrap();
            row.split('`').nth(1).unwrap().to_owned()
        };
        Self {
            fingerprint: value("signed by"),
            at_backup: value("rows at the backup"),
            latest: value("rows at the end"),
        }
    }
}

fn samples() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folders = std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.join("vault").is_dir()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_each_format_is_restored() {
    let samples = samples();
    // One for each number that `format` of a manifest ever had.
    assert_eq!(samples.len(), usize::try_from(lifeboat::vault::FORMAT).unwrap());
    for sample in samples {
        let told = Told::of(&sample);
        let folder = scratch();
        let place = |name: &str| folder.path().join(name);
        let identity = place("identity");
        std::fs::copy(sample.join("identity"), &identity).unwrap();
        std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o600)).unwrap();
        for (name, target, rows) in [("latest", "--latest", &told.latest), ("start", "--immediate", &told.at_backup)] {
            std::fs::create_dir(place(name)).unwrap();
            Program::new(env!("CARGO_BIN_EXE_lifeboat"))
                .args(["restore", "wallet", target, "--signed-by", &told.fingerprint, "--to"])
                .arg(place(name).join("data"))
                .arg("--vault")
                .arg(sample.join("vault"))
                .arg("--identity")
                .arg(&identity)
                .output(LIMIT)
                .await
                .unwrap();
            assert_eq!(query_restored(&place(name), DIGEST).await.unwrap(), *rows, "{name}");
        }
        by_its_own_script(&sample.join("vault"), &told, &identity, &place("script")).await;
    }
}

/// Without us: a script that was written with the backup.
async fn by_its_own_script(vault: &Path, told: &Told, identity: &Path, to: &Path) {
    let found = Program::new("find").arg(vault).args(["-name", "restore.sh"]).output(LIMIT).await.unwrap();
    std::fs::create_dir(to).unwrap();
    Program::new("sh")
        .args([found.trim()])
        .arg(identity)
        .arg(to.join("data"))
        .args(["latest", &told.fingerprint])
        .output(LIMIT)
        .await
        .unwrap();
    assert_eq!(query_restored(to, DIGEST).await.unwrap(), told.latest);
}
