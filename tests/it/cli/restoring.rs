//! Where a restore goes, and that one which was ended leaves nothing there.

use std::{path::Path, time::Duration};

use lifeboat::process::Program;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    journey::backed_up,
    site::{DIGEST, Site, finished, recovered, tells, wallet},
};
use crate::support::{Lab, eventually};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_may_be_named_from_where_one_stands_and_an_ended_restore_leaves_none() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let rows = lab.psql_in("wallet", DIGEST).await;
    let mut restore = site.command(&["restore", "wallet", "--to", "restored/wallet"]);
    restore.current_dir(site.path(""));
    std::fs::create_dir(site.path("restored")).unwrap();
    finished(restore).await.json(0);
    assert_eq!(recovered(&lab, &site.path("restored/wallet"), DIGEST).await, rows);
    starts_as_told(&site, &rows).await;
    a_killed_one_is_told(&lab, &site, &rows).await;

    // So slow that it cannot be over before it is ended.
    let slow = "path: vault, region: eu-south-1, limits: {download: 64KiB}";
    site.edit("lifeboat.yaml", "path: vault, region: eu-south-1", slow);
    for (to, signal) in [("new", Signal::SIGTERM), ("there", Signal::SIGINT)] {
        let folder = site.path(to);
        if to == "there" {
            std::fs::create_dir(&folder).unwrap();
        }
        ended(&site, &folder, signal).await;
        let left = std::fs::read_dir(&folder).map(Iterator::count).ok();
        assert_eq!(left, (to == "there").then_some(0), "a folder that was there stays, empty");
    }
}

/// What a restore prints for its end starts PostgreSQL and logs in to it, literally,
/// beside another server, and also where the folder's name must be quoted.
async fn starts_as_told(site: &Site, rows: &str) {
    let data = site.path("it's here");
    let shown = site.shown(&["restore", "wallet", "--to", data.to_str().unwrap()]).await;
    let told =
        |end: &str| shown.lines().map(str::trim).find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{shown}"));
    let (start, login) = (told(" start"), told(" -d postgres"));
    let run = async |script: &str| Program::new("sh").args(["-c", script]).output(SOON).await;
    run(start).await.unwrap();
    let ask = async |sql: &str| {
        let answer = run(&format!("{login} -d wallet -XAtqc \"{sql}\"")).await;
        answer.unwrap_or_default().trim().to_owned()
    };
    eventually("recovery ends", SOON, || async { ask("SELECT pg_is_in_recovery()").await == "f" }).await;
    assert_eq!(ask(DIGEST).await, rows);
    run(&format!("{} -m immediate stop", start.split(" -l ").next().unwrap())).await.unwrap();
}

/// A restore that is killed says so itself, to the next one and to PostgreSQL.
async fn a_killed_one_is_told(lab: &Lab, site: &Site, rows: &str) {
    let data = site.path("killed");
    let args = ["restore", "wallet", "--to", data.to_str().unwrap()];
    for point in ["restore.fetched", "restore.configured"] {
        let mut restore = site.command(&args);
        restore.env("LIFEBOAT_FAULT", format!("kill@{point}:1"));
        assert_eq!(finished(restore).await.code, -1, "{point}");
        let words = ["a restore of `wallet` to", "begun at", "from backup", "has not ended", "may be removed"];
        site.run(&args).await.refused(2, &words);
        if point == "restore.configured" {
            let pg_ctl = lab.cluster.binaries.program("pg_ctl", lab.cluster.account.clone());
            let started = pg_ctl.arg("-D").arg(&data).args(["-w", "start"]).output(SOON).await;
            assert!(started.unwrap_err().to_string().contains("invalid data in PID file"));
            // That alone is what keeps it from starting.
            std::fs::remove_file(data.join("postmaster.pid")).unwrap();
            assert_eq!(recovered(lab, &data, DIGEST).await, rows);
        }
        std::fs::remove_dir_all(&data).unwrap();
    }
    site.run(&args).await.json(0);
    assert!(!data.join("lifeboat_restore_unfinished").exists());
    assert_eq!(recovered(lab, &data, DIGEST).await, rows);
}

/// Ends a restore while it writes; it says so, and what became of the files.
async fn ended(site: &Site, to: &Path, signal: Signal) {
    let mut command = site.command(&["restore", "wallet", "--to", to.to_str().unwrap()]);
    let restore = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let writes = || async { std::fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) };
    eventually("the restore writes", SOON, writes).await;
    kill(Pid::from_raw(restore.id().unwrap().cast_signed()), signal).unwrap();
    let output = tokio::time::timeout(SOON, restore.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1), "{signal}");
    tells(&String::from_utf8(output.stderr).unwrap(), &["interrupted; what was restored so far is removed again"]);
}
