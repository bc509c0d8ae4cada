//! What a standby keeps for the vaults, before anybody knows that it will be
//! promoted.

use lifeboat::domain::{Lsn, Segment, SegmentSize, Timeline};

use super::{
    chain::{SHORT, ended, own_runs},
    journey::{backed_up, restored},
    site::{DIGEST, Site, wallet},
    streaming::{SOON, bet, caught_up, findings, status},
};
use crate::support::{Lab, eventually, standby::Standby};

const KEPT_FROM: &str = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'lifeboat_wallet'";

/// The site of both.
pub(super) fn pair(lab: &Lab, standby: &Standby) -> Site {
    let site = Site::write(lab.port);
    site.edit("schedules/wallet.yaml", &alone(lab), &standby.members(lab));
    site
}

/// What the schedule says of the primary where it has no standby.
fn alone(lab: &Lab) -> String {
    format!("connection: {{host: 127.0.0.1, port: {}}}\n", lab.port)
}

async fn lsn(standby: &Standby, sql: &str) -> Option<Lsn> {
    standby.psql_in("postgres", sql).await.parse().ok()
}

/// Writes some segments on the primary, of which the standby keeps no more than it must.
async fn write_on(lab: &Lab, standby: &Standby) {
    for _ in 0..6 {
        bet(lab, 200).await;
        lab.psql("SELECT pg_switch_wal()").await;
    }
    lab.psql("CHECKPOINT").await;
    standby.caught_up(lab).await;
    standby.psql_in("postgres", "CHECKPOINT").await;
}

fn is_kept(standby: &Standby, at: Lsn) -> bool {
    let segment = Segment::holding(Timeline(1), at, SegmentSize::DEFAULT);
    standby.cluster.data().join("pg_wal").join(segment.file_name(SegmentSize::DEFAULT)).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_still_has_all_wal_that_the_vaults_lack() {
    let lab = wallet(SHORT).await;
    let standby = Standby::of(&lab).await;
    let site = pair(&lab, &standby);
    let mut daemon = site.serve(&["-vv"]);
    caught_up(&lab, &site).await;
    backed_up(&site).await;

    // It is there by itself, and follows what is in the vaults.
    eventually("the standby has a slot", SOON, async || lsn(&standby, KEPT_FROM).await.is_some()).await;
    let first = lsn(&standby, KEPT_FROM).await.unwrap();
    eventually("the standby lets go of what is in the vaults", SOON, async || {
        write_on(&lab, &standby).await;
        !is_kept(&standby, first)
    })
    .await;
    bet(&lab, 10).await;
    let held = caught_up(&lab, &site).await;
    ended(&mut daemon).await;

    // Nobody streams. Left alone the standby would have none of this any more.
    let kept_from = lsn(&standby, KEPT_FROM).await.unwrap();
    assert!(first < kept_from && kept_from <= held.forward(SegmentSize::DEFAULT.bytes()), "{first} {kept_from} {held}");
    for _ in 0..2 {
        write_on(&lab, &standby).await;
    }
    let redo = lsn(&standby, "SELECT redo_lsn FROM pg_control_checkpoint()").await.unwrap();
    assert!(redo > held.forward(6 * SegmentSize::DEFAULT.bytes()), "a restart of the standby needs nothing older");
    assert!(is_kept(&standby, kept_from) && !is_kept(&standby, first));
    assert_eq!(lsn(&standby, KEPT_FROM).await, Some(kept_from), "nothing was let go");
    lab.cluster.stop("immediate").await.unwrap();
    assert_eq!(standby.psql_in("postgres", "SELECT pg_promote()").await, "t");
    standby.psql_in("wallet", "INSERT INTO bets (stake) VALUES (7)").await;
    standby.psql_in("postgres", "CHECKPOINT").await;

    let mut daemon = site.serve(&["-vv"]);
    let rows = standby.psql_in("wallet", DIGEST).await;
    let end = lsn(&standby, "SELECT pg_current_wal_flush_lsn()").await.unwrap();
    eventually("all WAL of the new primary is in the vaults", SOON, async || {
        let status = status(&site).await;
        let durable = status["wal_streaming"]["durable_lsn"].as_str().and_then(|lsn| lsn.parse::<Lsn>().ok());
        durable.is_some_and(|durable| durable >= end)
    })
    .await;
    assert_eq!(status(&site).await["broken_windows"].as_array().map_or(0, Vec::len), 0);
    assert_eq!(findings(&site, &["is in no vault"]).await, [""; 0]);
    assert!(own_runs(&site).await.is_empty(), "no backup had to mend anything");
    ended(&mut daemon).await;
    restored(&lab, &site, "latest", ["--latest"], &rows).await;
}

/// A finding about a standby ends with what it is about: the standby takes writes, or
/// the schedule names it no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_keeps_nothing_is_told_as_long_as_it_is_one_of_ours() {
    let lab = wallet("").await;
    let standby = Standby::with(&lab, "max_replication_slots = 0").await;
    let site = pair(&lab, &standby);
    let words = ["standby `b` does not keep WAL for the vaults", "max_replication_slots"];
    let told = async |is_told: bool| {
        eventually("the finding is as it should be", SOON, async || {
            findings(&site, &words).await.is_empty() != is_told
        })
        .await;
    };
    site.edit("schedules/wallet.yaml", "objectives:", "tier: warm_standby\nobjectives:");
    let mut daemon = site.serve(&[]);
    caught_up(&lab, &site).await;
    told(true).await;
    let tier = async |words: &[&str]| !findings(&site, words).await.is_empty();
    eventually("its tier is looked at", SOON, async || tier(&["asks for a runbook"]).await).await;
    let lonely = ["asks for a standby at another site", "none follows the primary", "member `a`"];
    assert!(!tier(&lonely[..1]).await, "it follows the primary");
    ended(&mut daemon).await;
    site.edit("schedules/wallet.yaml", &standby.members(&lab), &alone(&lab));
    let mut daemon = site.serve(&[]);
    told(false).await;
    ended(&mut daemon).await;

    site.edit("schedules/wallet.yaml", &alone(&lab), &standby.members(&lab));
    let mut daemon = site.serve(&[]);
    told(true).await;
    lab.cluster.stop("immediate").await.unwrap();
    assert_eq!(standby.psql_in("postgres", "SELECT pg_promote()").await, "t");
    told(false).await;
    // An edit, whichever, has the tier looked at again.
    site.edit("schedules/wallet.yaml", "rto: 60s", "rto: 61s");
    eventually("nobody follows the new primary", SOON, async || tier(&lonely).await).await;
    ended(&mut daemon).await;
}
