//! A restore test whose WAL comes while the copy recovers: a segment that cannot
//! be had ends it by that name, and leaves nothing.

use std::time::Duration;

use super::{
    journey::{backed_up, streaming},
    site::{Site, wallet},
    streaming::{bet, caught_up},
};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_damaged_ends_the_test_while_the_copy_recovers() {
    let lab = wallet("").await;
    let site = Site::write(lab.port);
    backed_up(&site).await;
    let mut daemon = site.serve(&[]);
    eventually("the daemon streams WAL", SOON, || streaming(&site)).await;
    for _ in 0..5 {
        bet(&lab, 50).await;
        lab.psql("SELECT pg_switch_wal()").await;
    }
    bet(&lab, 50).await;
    caught_up(&lab, &site).await;
    daemon.start_kill().unwrap();
    daemon.wait().await.unwrap();

    let latest = async || site.run(&["restore-test", "wallet", "--latest"]).await;
    let sound = latest().await.json(0);
    assert_eq!(sound["verdict"], "PASS", "{sound}");
    // In the middle: neither what tells the target nor what the backup itself needs.
    let mut segments = site.files_in("vault");
    segments.retain(|path| path.to_string_lossy().contains("/wal/0000") && !path.to_string_lossy().contains("tail"));
    segments.sort();
    let damaged = &segments[segments.len() - 4];
    let bytes = std::fs::read(damaged).unwrap();
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(damaged, other).unwrap();
    let ended = latest().await;
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert!(ended.code == 1 && ended.stdout.contains("is damaged") && ended.stdout.contains(name), "{ended:?}");
    assert_eq!(std::fs::read_dir(site.path("scratch")).unwrap().count(), 0, "the copy is gone");
    std::fs::write(damaged, bytes).unwrap();
    assert_eq!(latest().await.json(0)["verdict"], "PASS");
}
