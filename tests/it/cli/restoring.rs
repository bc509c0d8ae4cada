//! Where a restore goes, and that one which was ended leaves nothing there.

use std::{path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    journey::backed_up,
    site::{DIGEST, Site, finished, recovered, tells, wallet},
};
use crate::support::eventually;

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
