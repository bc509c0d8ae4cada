//! What expires while it is verified is no defect; what is lost is.

use std::sync::Arc;

use lifeboat::{
    decide::recovery::gaps::Need,
    domain::Verdict,
    vault::{
        ObjectKey, SharedStore,
        verify::{Depth, Fault, Verify, verify},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        fixture::{Fixture, layout},
        versioned::Versioned,
    },
    estate::at,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_backup_is_forgiven_and_a_lost_part_is_not() {
    let fixture = Fixture::new();
    let members: Vec<_> = (0..4u8).map(|n| (format!("base/{n}"), vec![n; 5000])).collect();
    fixture.small_backup("b", &members, 1 << 20).await;
    let folder = layout().backup_prefix(&"b".parse().unwrap());
    let part = ObjectKey::new(format!("{folder}data/00000.tar.zst.age")).unwrap();
    for (prefix, lost) in [(folder.as_str(), false), (part.as_str(), true)] {
        let store = Versioned::copy_of("primary", fixture.store.as_ref()).await.vanishing(&part, prefix);
        let store: SharedStore = Arc::new(store);
        let what = Verify {
            store: &store,
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
        let missing: Vec<&str> =
            report.defects.iter().filter(|d| d.fault == Fault::Missing).map(|d| d.object.as_str()).collect();
        assert_eq!(missing, if lost { vec![part.as_str()] } else { Vec::new() }, "{:#?}", report.defects);
        assert_eq!(report.verdict(), Verdict::Fail, "there is no WAL");
    }
}
