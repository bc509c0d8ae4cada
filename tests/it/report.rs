//! Reports: figures by hand, nothing unescaped, nothing unmeasured shown as zero.

use std::collections::BTreeMap;

use lifeboat::{
    clock::Clock,
    db::Db,
    domain::{EvidenceRecord, RecoveryAlgorithm, Tier, Verdict},
    evidence::{EvidenceLog, Filter, Month},
    report::{
        Facts, Protected, Report, STYLE, build,
        build::Line,
        csv::csv,
        html::html,
        page,
        points::TestedPoint,
        status::{DatabaseStatus, StreamingState},
    },
    vault::signature::Signer,
};

use crate::sample;

mod groups;

/// The report over records that went through a real log.
pub(crate) async fn report_over(records: &[EvidenceRecord], month: Option<Month>) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&format!("sqlite:{}", folder.path().join("state.db").display())).await.unwrap();
    let (signer, _) = Signer::load_or_create(&folder.path().join("key")).unwrap();
    let fingerprint = signer.verifier().fingerprint();
    let now = sample::at("2026-11-21T06:00:00Z");
    let log = EvidenceLog::new(db.clone(), signer, Vec::new(), Clock::held_at(now));
    for record in records {
        log.append(record).await.unwrap();
    }
    let entries = log.records(&Filter::default()).await.unwrap();
    db.close().await;
    let of = |name: &str| (name == "odds").then_some(Tier::BackupOnly);
    let protected = |name| Protected { tier: of(name), ..groups::protected("MT") };
    let databases = ["wallet", "ledger", "odds"].map(|name| (name.to_owned(), protected(name)));
    let facts = Facts { databases: BTreeMap::from(databases), bounds: groups::bounds() };
    build(&entries, month, &facts, now, fingerprint)
}

fn line<'a>(report: &'a Report, subject: &str, measure: &str) -> &'a Line {
    let subject = report.subjects.iter().find(|s| s.name == subject).unwrap();
    subject.lines.iter().find(|l| l.measure == measure).unwrap()
}

#[tokio::test]
async fn the_figures_equal_those_computed_by_hand() {
    let report = report_over(&sample::month(), Some("2026-11".parse().unwrap())).await;

    // wallet: 252, 268 and 241 s; the second measured no recovery point.
    let duration = line(&report, "wallet", "Restore duration");
    assert_eq!(duration.objective, Some(3600.0));
    assert_eq!((duration.figures.runs, duration.figures.n), (3, 3));
    assert_eq!(
        (duration.figures.p50, duration.figures.p95, duration.figures.max),
        (Some(252.0), Some(268.0), Some(268.0))
    );
    assert_eq!(duration.verdict, Verdict::Inconclusive);
    let rpo = line(&report, "wallet", "Recovery point (RPO)");
    assert_eq!((rpo.figures.runs, rpo.figures.n, rpo.figures.max), (2, 2, Some(1.4)));
    assert_eq!(rpo.verdict, Verdict::Pass);
    assert_eq!(line(&report, "wallet", "Lost commits").figures.max, Some(1.0));
    assert_eq!(line(&report, "wallet", "Backup duration").figures.max, Some(41.0));

    // ledger: one test, failed, though its figures are within the objectives.
    let ledger = line(&report, "ledger", "Restore duration");
    assert_eq!((ledger.figures.failures, ledger.verdict), (1, Verdict::Fail));

    // odds: protected, never tested.
    let odds = line(&report, "odds", "Restore duration");
    assert_eq!((odds.figures.n, odds.figures.max, odds.verdict), (0, None, Verdict::Inconclusive));

    let rto = line(&report, "wallet-switchover", "Recovery time (RTO)");
    assert_eq!((rto.objective, rto.figures.max, rto.verdict), (Some(300.0), Some(27.4), Verdict::Pass));
    assert_eq!(report.coverage.proven, ["wallet"]);
    assert_eq!(report.coverage.not_proven, ["ledger", "odds"]);
    assert_eq!(report.verdict, Verdict::Fail);
    assert_eq!(report.records.len(), 7);
}

#[tokio::test]
async fn a_value_over_the_objective_fails_though_the_run_passed() {
    let slow = sample::restore_test("wallet", "2026-11-01T05:00:00Z", 3601.0, Some(1.0), Verdict::Pass);
    let report = report_over(&[slow], None).await;
    assert_eq!(line(&report, "wallet", "Restore duration").verdict, Verdict::Fail);
}

#[tokio::test]
async fn another_month_has_nothing_and_proves_nothing() {
    let report = report_over(&sample::month(), Some("2026-10".parse().unwrap())).await;
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert!(report.records.is_empty() && report.details.is_empty());
    assert_eq!(report.coverage.not_proven.len(), 3);
}

#[tokio::test]
async fn what_was_not_measured_says_so_and_a_restore_is_no_rto() {
    let mut unmeasured = sample::restore_test("wallet", "2026-11-01T05:00:00Z", 10.0, None, Verdict::Pass);
    unmeasured.measured.restore_seconds = None;
    unmeasured.measured.target_error_seconds = None;
    let report = report_over(&[unmeasured], None).await;
    let page = html(&report).unwrap();
    for fact in ["Restore duration", "Recovery point (RPO)", "Lost commits"] {
        let shown = page.split(&format!("<dt>{fact}</dt><dd>")).nth(1).unwrap();
        assert!(shown.starts_with("not measured"), "{fact}: {}", &shown[..60]);
    }
    assert!(!page.contains("Recovery time (RTO)</dt>"), "a restore test has no recovery time");
    assert!(page.contains("not a recovery time (RTO)"));
    let row = csv(&report).lines().nth(1).unwrap().to_owned();
    assert_eq!(row.matches("not measured").count(), 6, "{row}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["records"][0]["restore_seconds"].is_null());
}

#[tokio::test]
async fn nothing_that_came_from_elsewhere_becomes_markup() {
    let evil = "<script>alert(1)</script>\"'&";
    let mut record = sample::drill("wallet-switchover", "2026-11-01T05:00:00Z", Verdict::Pass);
    let mut test = sample::restore_test("wallet", "2026-11-02T05:00:00Z", 10.0, Some(1.0), Verdict::Pass);
    for record in [&mut record, &mut test] {
        record.subject = evil.into();
        record.run_id.push_str(evil);
        record.why.requester = evil.into();
        record.why.trigger = evil.into();
        record.why.hypothesis = Some(evil.into());
        record.why.scenario = Some(evil.into());
        record.findings = vec![evil.into()];
        record.phases[0].name = evil.into();
        record.verdicts.insert(evil.into(), Verdict::Pass);
        record.plan.as_mut().unwrap().file = evil.into();
        for check in record.checks.iter_mut().chain(&mut record.isolation).chain(&mut record.safety) {
            check.name = evil.into();
            check.expected = evil.into();
            check.actual = evil.into();
        }
    }
    test.source.as_mut().unwrap().vault = evil.into();
    test.target.as_mut().unwrap().server_version = evil.into();
    let page = html(&report_over(&[record, test], None).await).unwrap();
    assert!(!page.contains("<script"), "unescaped input");
    assert!(page.matches("&#60;script&#62;").count() > 20, "the planted text is not shown at all");
    for outside in ["src=", "href=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "not self-contained: {outside}");
    }
}

/// A rotation whose points were tested last with these verdicts.
fn rotation(last: [Option<Verdict>; 2]) -> Vec<TestedPoint> {
    let algorithms = [RecoveryAlgorithm::Oldest, RecoveryAlgorithm::OtherVault];
    let point = |(algorithm, last_verdict)| TestedPoint { algorithm, last_at: None, last_verdict, proven_at: None };
    algorithms.into_iter().zip(last).map(point).collect()
}

/// Verdict and headline of a sound database after `change`.
fn judged(change: impl FnOnce(&mut DatabaseStatus)) -> (Verdict, String) {
    let mut database = sample::database("wallet");
    change(&mut database);
    let judged = database.judged("2026-11-21T05:41:12Z".parse().unwrap());
    (judged.verdict, judged.headline)
}

#[test]
fn a_status_names_what_endangers_first_and_never_takes_silence_for_safety() {
    type Change = fn(&mut DatabaseStatus);
    let cases: [(Verdict, &str, Change); 11] = [
        (Verdict::Pass, "last proven 37 min", |_| {}),
        (Verdict::Pass, "last proven", |wallet| wallet.wal_streaming.state = StreamingState::Elsewhere),
        (Verdict::Fail, "No daemon streams WAL (the last heartbeat was 1 s ago)", |wallet| {
            wallet.wal_streaming.state = StreamingState::Stopped;
            wallet.exposure[0].over_objective = true;
        }),
        (Verdict::Fail, "(there never was a heartbeat)", |wallet| {
            (wallet.wal_streaming.state, wallet.last_heartbeat) = (StreamingState::Stopped, None);
        }),
        (Verdict::Inconclusive, "not measured: the last heartbeat was 41 min", |wallet| {
            wallet.last_heartbeat = Some("2026-11-21T05:00:12Z".parse().unwrap());
        }),
        (Verdict::Fail, "The last restore test ended FAIL", |wallet| {
            wallet.last_restore_test.as_mut().unwrap().verdict = Verdict::Fail;
        }),
        (Verdict::Inconclusive, "never proven", |wallet| {
            (wallet.last_restore_test, wallet.last_proven) = (None, None);
        }),
        // Of a rotation: what has not had its turn yet is no reason for doubt.
        (Verdict::Pass, "last proven", |wallet| wallet.recovery_points = rotation([Some(Verdict::Pass), None])),
        (Verdict::Inconclusive, "`other_vault` was not proven", |wallet| {
            wallet.recovery_points = rotation([Some(Verdict::Pass), Some(Verdict::Inconclusive)]);
        }),
        (Verdict::Fail, "test of `other_vault` ended FAIL", |wallet| {
            wallet.recovery_points = rotation([Some(Verdict::Inconclusive), Some(Verdict::Fail)]);
        }),
        (Verdict::Fail, "Vault primary lacks commits", |wallet| {
            wallet.last_heartbeat = Some("2026-11-21T05:00:12Z".parse().unwrap());
            wallet.exposure[0].over_objective = true;
        }),
    ];
    for (verdict, words, change) in cases {
        let (got, headline) = judged(change);
        assert!(got == verdict && headline.contains(words), "{got}: {headline}");
    }
}

#[tokio::test]
async fn the_sample_month_renders() {
    let report = report_over(&sample::month(), Some("2026-11".parse().unwrap())).await;
    let rendered = html(&report).unwrap();
    assert!(rendered.contains("November 2026"));
    assert_eq!(rendered.matches("database, tier backup_only<").count(), 1, "where what is promised comes from");
    for entry in &report.details {
        assert!(rendered.contains(&entry.evidence.leaf_hash));
    }
    // For looking at them: LIFEBOAT_SHOW names a folder that gets both pages.
    if let Some(folder) = std::env::var_os("LIFEBOAT_SHOW") {
        std::fs::write(std::path::Path::new(&folder).join("report.html"), rendered).unwrap();
        let status = page(&sample::estate()).unwrap();
        let status =
            status.replace("<link rel=\"stylesheet\" href=\"/style.css\">", &format!("<style>{STYLE}</style>"));
        std::fs::write(std::path::Path::new(&folder).join("status.html"), status).unwrap();
    }
}
