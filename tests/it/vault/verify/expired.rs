//! WAL that is not there because retention has let it go.

use lifeboat::{decide::recovery::gaps::Need, domain::Verdict, vault::verify::Depth};

use super::{estate::Estate, planted::Planted};

/// WAL that retention has let go is no defect; where nobody knows, it is told.
pub(super) async fn is_no_defect(estate: &Estate) {
    let segment = estate.whole(2)[1].clone();
    let stem = segment.trim_end_matches(".zst.age").to_owned();
    let of_it = estate.names("wal/00000002").into_iter().filter(|name| name.starts_with(&stem));
    let gone: Vec<Planted> = of_it.map(|name| Planted::remove(estate.path(&name))).collect();
    let identity = std::slice::from_ref(&estate.fixture.identity);
    for (need, verdict, notes) in
        [(Need::Expired, Verdict::Pass, 0), (Need::Needed, Verdict::Fail, 0), (Need::Unknown, Verdict::Pass, 1)]
    {
        let what = (&estate.fixture.store, Depth::Quick);
        let report = estate.verify_retaining(identity, what, &[], &move |_| need).await;
        assert_eq!((report.verdict(), report.notes.len()), (verdict, notes), "{report:#?}");
        assert!(report.notes.iter().all(|note| note.contains("may have expired") && note.contains("timeline 2")));
    }
    drop(gone);
}
