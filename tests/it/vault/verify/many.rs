//! Very many small members: what a verification takes is printed, and that it
//! holds no member is what the figures show.

use std::{sync::Arc, time::Instant};

use lifeboat::{
    decide::recovery::gaps::Need,
    vault::verify::{Depth, Fault, Verify, verify},
};
use tokio_util::sync::CancellationToken;

use super::super::fixture::{Fixture, layout};
use super::estate::at;

/// The most memory that this process had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_members_are_looked_through() {
    let fixture = Fixture::new();
    let members: Vec<_> = (0..100_000u32).map(|n| (format!("base/{}/{n}", n % 50), n.to_le_bytes().to_vec())).collect();
    fixture.small_backup("b", &members, 16 << 20).await;
    drop(members);
    let (before, begun) = (peak(), Instant::now());
    let what = Verify {
        store: &fixture.store,
        layout: &layout(),
        verifier: &fixture.signer.verifier(),
        identities: std::slice::from_ref(&fixture.identity),
        depth: Depth::Full,
        others: &[],
        lock_until: None,
        retained: &|_| Need::Needed,
        now: at(1_000_000),
        stop: &CancellationToken::new(),
        done: Arc::default(),
    };
    let report = verify(&what, &|_, _, _| {}).await.unwrap();
    println!("100,000 members: {:?}, peak {before} -> {} MiB", begun.elapsed(), peak());
    // There is no WAL here, and that is all.
    assert!(report.defects.iter().all(|defect| defect.fault == Fault::Gap), "{:#?}", report.defects);
    let stopped = CancellationToken::new();
    stopped.cancel();
    let stopped = verify(&Verify { stop: &stopped, done: Arc::default(), ..what }, &|_, _, _| {}).await;
    assert!(matches!(stopped, Err(lifeboat::vault::VaultError::Stopped)), "{stopped:?}");
}
