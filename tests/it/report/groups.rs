//! The estate and its jurisdictions, by hand.

use std::collections::BTreeMap;

use lifeboat::{
    decide::forecast::{Forecast, Test},
    domain::{Backup, BackupState, EvidenceRecord, ExposureOver, Verdict},
    evidence::{Entry, EvidenceRef, Month},
    report::{
        Facts, Protected,
        groups::{Bound, Group, Proven, groups},
    },
};

use crate::sample;

/// A database that can be restored, of which nothing else is known.
pub(super) fn protected(jurisdiction: &str) -> Protected {
    Protected {
        tier: None,
        objectives: sample::objectives("1h", "15m"),
        jurisdiction: Some(jurisdiction.to_owned()),
        recoverable_to: Some(sample::at("2026-11-21T05:00:00Z")),
        forecast: None,
        exposure: BTreeMap::new(),
        proven: Proven::default(),
    }
}

pub(super) fn bounds() -> BTreeMap<Option<String>, Bound> {
    let bound = |rto: &str, rpo: &str| Bound { rto: rto.parse().ok(), rpo: rpo.parse().ok() };
    BTreeMap::from([(None, bound("1h", "15m")), (Some("MT".to_owned()), bound("200s", "15m"))])
}

fn entries(records: Vec<EvidenceRecord>) -> Vec<Entry> {
    let evidence = EvidenceRef { index: 0, leaf_hash: String::new() };
    let entry = |record: EvidenceRecord| Entry {
        at: record.finished_at,
        record,
        evidence: evidence.clone(),
        previous: String::new(),
        text: String::new(),
        signature: String::new(),
    };
    records.into_iter().map(entry).collect()
}

fn test(subject: &str, law: &str, at: &str, seconds: f64, verdict: Verdict) -> EvidenceRecord {
    let record = sample::restore_test(subject, at, seconds, Some(1.0), verdict);
    EvidenceRecord { jurisdiction: Some(law.to_owned()), ..record }
}

fn forecast(seconds: f64) -> Forecast {
    Forecast {
        seconds,
        fetch_seconds: seconds,
        replay_seconds: 0.0,
        check_seconds: 0.0,
        rest_seconds: 0.0,
        chain_bytes: 1,
        archive_seconds: 0.0,
        chain_length: 1,
        wal_bytes: 1,
        fetch_bytes_per_second: None,
        replay_bytes_per_second: None,
        tests: 3,
    }
}

fn exposed(max: f64, over: f64, measured: f64) -> ExposureOver {
    ExposureOver { period_seconds: 1000.0, measured_seconds: measured, over_seconds: over, max_seconds: Some(max) }
}

/// Wallet and ledger in Malta, odds in Germany; the groups of November by the 21st.
fn november() -> Vec<Group> {
    let records = vec![
        test("wallet", "MT", "2026-10-05T05:00:00Z", 100.0, Verdict::Pass),
        test("odds", "DE", "2026-10-22T05:00:00Z", 50.0, Verdict::Pass),
        test("wallet", "MT", "2026-11-05T05:00:00Z", 150.0, Verdict::Pass),
        test("ledger", "MT", "2026-11-06T05:00:00Z", 250.0, Verdict::Fail),
        test("wallet", "MT", "2026-12-05T05:00:00Z", 9999.0, Verdict::Pass),
    ];
    let mut wallet = Protected { forecast: Some(forecast(90.0)), ..protected("MT") };
    wallet.exposure.insert("primary".parse().unwrap(), exposed(5.0, 0.0, 1000.0));
    wallet.exposure.insert("dr".parse().unwrap(), exposed(70.0, 100.0, 600.0));
    wallet.proven = Proven { backups: 4, backups_proven: 1, chains: 2, chains_proven: 1 };
    let ledger = Protected { recoverable_to: None, ..protected("MT") };
    let mut odds = Protected { forecast: Some(forecast(300.0)), ..protected("DE") };
    odds.recoverable_to = Some(sample::at("2026-11-20T00:00:00Z"));
    odds.proven = Proven { backups: 1, backups_proven: 0, chains: 1, chains_proven: 0 };
    let databases = [("wallet", wallet), ("ledger", ledger), ("odds", odds)];
    let databases = databases.into_iter().map(|(name, of)| (name.to_owned(), of)).collect();
    let facts = Facts { databases, bounds: bounds() };
    groups(&entries(records), &facts, Some("2026-11".parse::<Month>().unwrap()), sample::at("2026-11-21T06:00:00Z"))
}

#[test]
fn the_estate_is_all_of_them_and_a_jurisdiction_its_own() {
    let groups = november();
    let names: Vec<(&str, usize)> = groups.iter().map(|group| (group.name.as_str(), group.databases.len())).collect();
    assert_eq!(names, [("estate", 3), ("DE", 1), ("MT", 2)]);
    let [estate, germany, malta] = &groups[..] else { panic!("{groups:?}") };

    let duration = &estate.lines[0];
    assert_eq!((duration.figures.n, duration.figures.max, duration.verdict), (2, Some(250.0), Verdict::Fail));
    assert_eq!(malta.lines[0].objective, Some(200.0), "the jurisdiction's own goes before the estate's");
    assert!(malta.lines[0].sentence.contains("over the objective"), "{}", malta.lines[0].sentence);
    assert_eq!((germany.lines[0].figures.n, germany.lines[0].objective), (0, Some(3600.0)));

    assert_eq!(estate.would_take.as_ref().map(|of| (of.database.as_str(), of.value)), Some(("odds", 300.0)));
    assert_eq!(malta.would_take.as_ref().map(|of| of.value), Some(90.0));
    assert_eq!(malta.without_forecast, ["ledger"]);
    assert_eq!(estate.recoverable_to.as_ref().unwrap().database, "odds", "the one that is furthest behind");
    assert_eq!(estate.not_recoverable, ["ledger"]);
    assert_eq!(estate.proven, Proven { backups: 5, backups_proven: 1, chains: 3, chains_proven: 1 });

    // Odds passed 30 days before; ledger failed; what comes after the day counts for nothing.
    assert_eq!(estate.untested, ["ledger"]);
    assert_eq!(estate.last_proven.as_ref().unwrap().database, "odds");
    assert_eq!(germany.untested, Vec::<String>::new());

    let exposure = &malta.exposure;
    assert_eq!((exposure.over.measured_seconds, exposure.over.period_seconds), (1600.0, 2000.0));
    assert_eq!((exposure.over_share, exposure.measured_share), (Some(0.0625), 0.8));
    assert_eq!(exposure.worst.as_ref().map(|of| of.value), Some(70.0));
    assert_eq!(exposure.vault.as_ref().unwrap().as_str(), "dr");
    assert_eq!((germany.exposure.over_share, &germany.exposure.worst), (None, &None), "nobody looked");
}

#[test]
fn a_trend_compares_the_month_with_the_one_before() {
    let groups = november();
    let of = |name: &str| groups.iter().find(|group| group.name == name).unwrap().trend[0].clone();
    let malta = of("MT");
    assert_eq!((malta.before.p50, malta.figures.p50, malta.figures.failures), (Some(100.0), Some(150.0), 1));
    assert!(malta.sentence.contains("2 min 30 s in November 2026"), "{}", malta.sentence);
    assert!(malta.sentence.contains("1 min 40 s in October 2026, +50 %"), "{}", malta.sentence);
    let germany = of("DE");
    assert!(germany.sentence.contains("Not measured in November 2026; 50.0 s in October"), "{}", germany.sentence);
}

#[test]
fn what_measures_no_recovery_point_counts_for_none() {
    let mut named = test("wallet", "MT", "2026-11-07T05:00:00Z", 50.0, Verdict::Fail);
    (named.measured.rpo_seconds, named.measured.disaster_at) = (None, None);
    let mut before = named.clone();
    (before.started_at, before.finished_at) = (sample::at("2026-10-07T05:00:00Z"), sample::at("2026-10-07T05:10:00Z"));
    let records = vec![before, test("wallet", "MT", "2026-11-05T05:00:00Z", 150.0, Verdict::Pass), named];
    let facts = Facts { databases: BTreeMap::from([("wallet".to_owned(), protected("MT"))]), bounds: bounds() };
    let now = sample::at("2026-11-21T06:00:00Z");
    for group in groups(&entries(records), &facts, Some("2026-11".parse::<Month>().unwrap()), now) {
        let [duration, point] = &group.trend[..] else { panic!("{group:?}") };
        assert_eq!((duration.figures.n, duration.figures.failures, duration.before.failures), (2, 1, 1));
        assert_eq!((point.figures.n, point.figures.failures, point.before.failures), (1, 0, 0));
        assert_eq!(point.figures, group.lines[1].figures);
    }
}

#[test]
fn a_forecast_takes_no_test_that_stood_still() {
    let mut record = test("wallet", "MT", "2026-11-05T05:00:00Z", 150.0, Verdict::Pass);
    for (interruptions, seconds) in [(None, Some(150.0)), (Some(0), Some(150.0)), (Some(1), None)] {
        record.measured.interruptions = interruptions;
        assert_eq!(Test::of(&record).map(|test| test.restore_seconds), seconds, "{interruptions:?}");
    }
}

#[test]
fn a_group_says_in_words_what_is_not_known() {
    let groups = november();
    let now = sample::at("2026-11-21T06:00:00Z");
    let told = |name: &str| groups.iter().find(|group| group.name == name).unwrap().sentences(now).join("\n");
    let estate = told("estate");
    for words in [
        "Recoverable to 2026-11-20 00:00:00 UTC (odds is furthest behind); not recoverable: ledger.",
        "about 5 min at most (odds), estimated; no estimate of ledger.",
        "in the last 31 days for 2 of 3 databases; the longest ago 30 d",
        "not proven since: ledger.",
        "PROVEN: 1 of 5 backups, 1 of 3 chains.",
        "Exposure: at most 1 min 10 s (wallet in dr), 6.2 % of the time over the objective; measured 80.0 % of the time.",
    ] {
        assert!(estate.contains(words), "`{words}`: {estate}");
    }
    assert!(told("DE").contains("Exposure: not measured."), "{}", told("DE"));
    assert_eq!(groups[2].title(), "MT (RTO 3m20s, RPO 15m): 2 databases");
}

#[test]
fn a_chain_is_proven_by_its_newest_backup_alone() {
    use BackupState::{Proven as Tested, Uploaded};

    let backup = |id: &str, parent: Option<&str>, minute: i64, state: BackupState| Backup {
        id: id.parse().unwrap(),
        parent: parent.map(|parent| parent.parse().unwrap()),
        finished_at: sample::at("2026-11-21T00:00:00Z") + jiff::SignedDuration::from_mins(minute),
        state,
        ..sample::database("wallet").newest_backup.unwrap()
    };
    let ids = ["20261101t000000z-full-0001", "20261102t000000z-incremental-0002", "20261103t000000z-full-0003"];
    for (first, increment, other, expected) in
        [(Tested, Uploaded, Uploaded, (1, 0)), (Uploaded, Tested, Uploaded, (1, 1)), (Uploaded, Tested, Tested, (2, 2))]
    {
        let all = [
            backup(ids[0], None, 0, first),
            backup(ids[1], Some(ids[0]), 1, increment),
            backup(ids[2], None, 2, other),
            // The same in another vault, where nothing was tested.
            backup(ids[1], Some(ids[0]), 1, Uploaded),
        ];
        let proven = Proven::of(&all);
        assert_eq!((proven.backups, proven.chains), (3, 2));
        assert_eq!((proven.backups_proven, proven.chains_proven), expected, "{first:?} {increment:?} {other:?}");
    }
}
