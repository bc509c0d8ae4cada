//! Two lines of history in one vault: what a promotion left behind is there alone,
//! and comes back where its timeline is named.

use lifeboat::domain::Lsn;

use super::{
    alone::ended,
    journey::{backed_up, restored},
    site::{DIGEST, Site, wallet},
    streaming::{SOON, bet, caught_up, copied},
};
use crate::support::moved;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_beyond_the_fork_comes_back_along_its_timeline() {
    let lab = wallet("wal_keep_size = 1GB").await;
    let site = Site::write(lab.port);
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    let backup = backed_up(&site).await;
    // What a standby has received when the primary is lost.
    let standby = lab.cluster.folder.join("standby");
    lab.cluster.stop("fast").await.unwrap();
    copied(&lab.cluster.data(), &standby).await;
    lab.cluster.start(SOON).await.unwrap();
    bet(&lab, 500).await;
    lab.psql("SELECT pg_switch_wal()").await;
    bet(&lab, 500).await;
    let old = lab.psql_in("wallet", DIGEST).await;
    let held = caught_up(&lab, &site).await;
    ended(&mut daemon).await;
    lab.cluster.stop("immediate").await.unwrap();
    moved(lab.cluster.data(), lab.cluster.folder.join("lost"));
    moved(&standby, lab.cluster.data());
    let signal = lab.cluster.data().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    if let Some(account) = &lab.cluster.account {
        account.own(&signal).unwrap();
    }
    lab.cluster.start(SOON).await.unwrap();
    assert_eq!(lab.psql("SELECT pg_promote()").await, "t");
    // Past what the vault holds of the other line, so that its positions tell them apart.
    while lab.psql("SELECT pg_current_wal_insert_lsn()").await.parse::<Lsn>().unwrap() <= held {
        bet(&lab, 10).await;
        lab.psql("SELECT pg_switch_wal()").await;
    }
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    bet(&lab, 10).await;
    let new = lab.psql_in("wallet", DIGEST).await;
    caught_up(&lab, &site).await;
    ended(&mut daemon).await;
    assert_ne!(old, new);

    restored(&lab, &site, "new", ["--latest"], &new).await;
    restored(&lab, &site, "old", ["--timeline", "1", "--latest"], &old).await;
    restored(&lab, &site, "named", ["--timeline", "00000001", "--backup", &backup], &old).await;
    restored(&lab, &site, "newest", ["--timeline", "2"], &new).await;
    let to = site.path("refused");
    let refused = async |args: &[&str], words: &[&str]| {
        site.run(&[&["restore", "wallet", "--to", to.to_str().unwrap()][..], args].concat()).await.refused(2, words);
        site.run(&[&["restore-test", "wallet"][..], args].concat()).await.refused(2, words);
        assert!(!to.exists());
    };
    refused(&["--timeline", "7"], &["timeline 7", "there is of: 1, 2"]).await;
    let tested = site.run(&["restore-test", "wallet", "--timeline", "1"]).await.json(0);
    assert_eq!(tested["verdict"], "PASS", "{tested}");
}
