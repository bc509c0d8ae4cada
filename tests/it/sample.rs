//! Sample records and states, as rich as real ones, for evidence, report, API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lifeboat::{
    decide::severity::Severity,
    domain::{
        Backup, BackupKind, BackupState, Check, EvidenceRecord, ExposureOver, Lsn, Objectives, Phase, RecoveryPoint,
        RunId, SlotState, Timeline, Verdict,
        record::{DnsTimes, Measured, PlanFile, RECORD_SCHEMA, Source, Target, Why},
    },
    flow::{Conclusion, RunState, RunSummary},
    report::status::{
        DatabaseStatus, EstateStatus, Finding, LastDrill, LastRestoreTest, NextRun, StreamingState, VaultExposure,
        WalOnMember, WalStreaming,
    },
};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn objectives(rto: &str, rpo: &str) -> Objectives {
    Objectives { rto: rto.parse().unwrap(), rpo: rpo.parse().unwrap() }
}

fn phases(named: &[(&str, f64)]) -> Vec<Phase> {
    named.iter().map(|(name, seconds)| Phase { name: (*name).into(), seconds: *seconds }).collect()
}

fn check(name: &str, expected: &str, actual: &str, verdict: Verdict) -> Check {
    Check::new(name, verdict, expected, actual)
}

/// A record with nothing measured.
pub(crate) fn record(kind: &str, subject: &str, started: &str, seconds: i64, verdict: Verdict) -> EvidenceRecord {
    let started_at = at(started);
    EvidenceRecord {
        schema: RECORD_SCHEMA,
        run_id: format!("{kind}/{subject}/scheduled/{started}"),
        kind: kind.into(),
        subject: subject.into(),
        daemon_version: "0.1.0".into(),
        plan: Some(PlanFile {
            file: format!("schedules/{subject}.yaml"),
            sha256: "9f3c1d5be0a14c63f8f5d1f0a4be77d2c6a0f7a3be2d9f16c8b1a7f3e5d40c92".into(),
        }),
        jurisdiction: Some("MT".into()),
        why: Why {
            trigger: "schedule".into(),
            requester: "scheduler on mt-1".into(),
            due_at: Some(started_at),
            hypothesis: None,
            scenario: None,
            selection: None,
        },
        started_at,
        finished_at: started_at.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap(),
        objectives: Some(objectives("1h", "15m")),
        source: None,
        target: None,
        phases: Vec::new(),
        measured: Measured::default(),
        checks: Vec::new(),
        isolation: Vec::new(),
        safety: Vec::new(),
        verdicts: BTreeMap::from([("run".to_owned(), verdict)]),
        verdict,
        findings: Vec::new(),
    }
}

/// A restore test to a disaster that was drawn in the future.
pub(crate) fn restore_test(
    subject: &str,
    started: &str,
    restore: f64,
    rpo: Option<f64>,
    verdict: Verdict,
) -> EvidenceRecord {
    let mut record = record("restore_test", subject, started, 600, verdict);
    record.why.scenario = Some("latest of the frozen listing, seed 7c41".into());
    record.phases = phases(&[
        ("fetch keys and manifest", restore * 0.02),
        ("unpack backup", restore * 0.41),
        ("replay WAL", restore * 0.33),
        ("open for queries", restore * 0.04),
        ("checks", restore * 0.17),
        ("tear down", restore * 0.03),
    ]);
    record.measured = Measured {
        restore_seconds: Some(restore),
        rpo_seconds: rpo,
        rpo_bound_seconds: rpo.map(|_| 1.0),
        lost_commits: rpo.map(|rpo| u64::from(rpo > 1.0)),
        disaster_at: rpo.map(|_| record.started_at),
        target_error_seconds: rpo.is_none().then_some(0.0),
        recovery_point: Some(RecoveryPoint {
            timeline: Timeline(1),
            lsn: Lsn(0x4_2A00_01C8),
            last_commit_at: Some(record.started_at),
        }),
        ..Measured::default()
    };
    record.source = Some(Source {
        vault: "dr".into(),
        region: "eu-central-1".parse().unwrap(),
        region_verified: true,
        backup_id: "20261101t020000z-full-3f9a".into(),
        backup_kind: "full".into(),
        manifest_sha256: "b1946ac92492d2347c6235b4d2611184b1946ac92492d2347c6235b4d2611184".into(),
        size_bytes: 3_865_470_566,
        recipients: 2,
        from: None,
        snapshot: None,
    });
    record.target = Some(Target {
        kind: "local".into(),
        limits: Vec::new(),
        region: "eu-south-1".parse().unwrap(),
        residency: None,
        server_version: "PostgreSQL 15.8 (Debian 15.8-0+deb12u1)".into(),
        resources: vec![check("isolated instance", "gone", "gone", Verdict::Pass)],
    });
    record.checks = vec![
        check("heartbeat", "every acknowledged one up to the disaster", "1 of 3 601 missing at the end", Verdict::Pass),
        check("page_checksums", "no damaged page", "471 204 pages, none damaged", Verdict::Pass),
        check("amcheck", "no damaged index", "212 indexes, none damaged", Verdict::Pass),
        check("sql: sum(amount) from ledger", "0.00", "0.00", Verdict::Pass),
        check("witness: bets before the snapshot", "sha256:5feceb66ffc8…", "sha256:5feceb66ffc8…", verdict),
    ];
    record.isolation = vec![
        check("production is out of reach", "connection refused", "connection refused", Verdict::Pass),
        check("archives nowhere", "archive_mode = off", "archive_mode = off", Verdict::Pass),
        check("replicates from nowhere", "no WAL receiver", "no WAL receiver", Verdict::Pass),
    ];
    record
}

/// A switchover drill.
pub(crate) fn drill(runbook: &str, started: &str, verdict: Verdict) -> EvidenceRecord {
    let mut record = record("drill", runbook, started, 96, verdict);
    record.objectives = Some(objectives("5m", "0s"));
    record.why.trigger = "manual".into();
    record.why.requester = "r.camilleri, approved by m.borg and j.vella".into();
    record.why.hypothesis =
        Some("wallet takes writes in mt-b within 5 minutes, with no acknowledged commit lost, and comes back".into());
    record.phases = phases(&[
        ("fence", 1.4),
        ("promote", 3.9),
        ("dns switch", 0.8),
        ("dns observe", 21.3),
        ("hold", 60.0),
        ("rejoin", 6.2),
    ]);
    let start = record.started_at;
    let after = |ms: i64| start.checked_add(jiff::SignedDuration::from_millis(ms)).ok();
    record.measured = Measured {
        rto_seconds: Some(27.4),
        rpo_seconds: Some(0.0),
        rpo_bound_seconds: Some(1.0),
        lost_commits: Some(0),
        dns: Some(DnsTimes {
            d0: after(5300),
            d1: after(6100),
            d2: None,
            d3: after(9600),
            d4: after(21_900),
            d5: after(26_800),
            d6: None,
            d7: after(27_400),
            sampling_ms: 200,
        }),
        ..Measured::default()
    };
    record.checks = vec![check("bets probe", "200 within 400 ms from mt-b", "200 in 38 ms from mt-b", Verdict::Pass)];
    record.safety = vec![
        check("old primary refuses writes", "refused", "refused", Verdict::Pass),
        check("replica lag before fence", "at most 30s", "0.2 s", Verdict::Pass),
    ];
    record.verdicts = BTreeMap::from([("rto".to_owned(), verdict), ("rpo".to_owned(), Verdict::Pass)]);
    record
}

/// A month of an estate of two databases, one of them with a failed test.
pub(crate) fn month() -> Vec<EvidenceRecord> {
    let mut failed = restore_test("ledger", "2026-11-03T05:00:00Z", 512.0, Some(2.9), Verdict::Fail);
    failed.findings =
        vec!["The witness query over `bets` gives another digest than the source did; compare both.".into()];
    let mut inconclusive = restore_test("wallet", "2026-11-14T05:00:00Z", 268.0, None, Verdict::Inconclusive);
    inconclusive.checks.push(check("amcheck on standby", "no damaged index", "skipped", Verdict::Inconclusive));
    vec![
        record("backup", "wallet", "2026-11-01T02:00:00Z", 41, Verdict::Pass),
        record("backup", "ledger", "2026-11-01T02:10:00Z", 133, Verdict::Pass),
        restore_test("wallet", "2026-11-01T05:00:00Z", 252.0, Some(1.4), Verdict::Pass),
        failed,
        inconclusive,
        drill("wallet-switchover", "2026-11-18T09:00:00Z", Verdict::Pass),
        restore_test("wallet", "2026-11-21T05:00:00Z", 241.0, Some(0.9), Verdict::Pass),
    ]
}

fn run(
    id: &str,
    subject: &str,
    state: RunState,
    began: &str,
    took: Option<i64>,
    verdict: Option<Verdict>,
) -> RunSummary {
    let run_id = RunId::from(id.to_owned());
    let created_at = at(began);
    RunSummary {
        flow: run_id.flow().to_owned(),
        run_id,
        subject: subject.into(),
        state,
        step: (state == RunState::Running).then(|| "unpack backup".to_owned()),
        error: None,
        requester: "scheduler on mt-1".into(),
        created_at,
        finished_at: took.map(|took| created_at.checked_add(jiff::SignedDuration::from_secs(took)).unwrap()),
        conclusion: verdict.map(|verdict| Conclusion { verdict, output: serde_json::json!({}) }),
    }
}

pub(crate) fn backup(database: &str) -> Backup {
    Backup {
        id: "20261121t020000z-full-3f9a".parse().unwrap(),
        database: database.parse().unwrap(),
        kind: BackupKind::Full,
        state: BackupState::WalComplete,
        started_at: at("2026-11-21T02:00:00Z"),
        finished_at: at("2026-11-21T02:00:41Z"),
        size_bytes: 3_865_470_566,
        stored_bytes: 559_100_000,
        timeline: Timeline(1),
        start_lsn: Lsn(0x4_2800_0028),
        stop_lsn: Lsn(0x4_2800_4108),
        parent: None,
        from: None,
    }
}

fn passed_test(name: &str) -> LastRestoreTest {
    LastRestoreTest {
        run_id: RunId::from(format!("restore_test/{name}/scheduled/20261121t050000z")),
        at: at("2026-11-21T05:04:10Z"),
        verdict: Verdict::Pass,
        restore_seconds: Some(241.0),
        rpo_seconds: Some(0.9),
    }
}

fn exposure(vault: &str, seconds: f64) -> VaultExposure {
    VaultExposure {
        vault: vault.parse().unwrap(),
        seconds: Some(seconds),
        over_objective: false,
        looked_at: true,
        last_day: ExposureOver {
            period_seconds: 86_400.0,
            measured_seconds: 86_390.0,
            over_seconds: 0.0,
            max_seconds: Some(seconds + 1.0),
        },
    }
}

/// A database that is recoverable and proven.
pub(crate) fn database(name: &str) -> DatabaseStatus {
    DatabaseStatus {
        database: name.parse().unwrap(),
        engine: "PostgreSQL 15.8".into(),
        tier: None,
        objectives: objectives("1h", "15m"),
        verdict: Verdict::Inconclusive,
        headline: String::new(),
        recoverable_to: Some(at("2026-11-21T05:41:11Z")),
        exposure: vec![exposure("primary", 0.0), exposure("dr", 1.2)],
        copies: Vec::new(),
        wal_streaming: WalStreaming {
            state: StreamingState::Streaming,
            durable_lsn: Some(Lsn(0x4_2A00_01C8)),
            error: None,
        },
        primary_away: None,
        wal_on_primary: Some(WalOnMember {
            at: at("2026-11-21T05:41:10Z"),
            member: "a".parse().unwrap(),
            slot: format!("lifeboat_{name}"),
            slot_state: SlotState::Reserved,
            slot_active: true,
            written_lsn: Lsn(0x4_2A00_0300),
            kept_bytes: 312,
            bytes_per_second: Some(1_300_000.0),
            slot_limit_bytes: None,
            folder_bytes: Some(1 << 30),
            free_bytes: Some(64 << 30),
            room_bytes: None,
            headroom_bytes: Some(64 << 30),
            headroom_seconds: Some(52_860.0),
            ends_with: Some("disk".into()),
            stands_still_seconds: 0.0,
        }),
        wal_on_standbys: Vec::new(),
        broken_windows: Vec::new(),
        recovery_points: Vec::new(),
        last_heartbeat: Some(at("2026-11-21T05:41:11Z")),
        newest_backup: Some(backup(name)),
        weakest_state: Some(BackupState::WalComplete),
        last_restore_test: Some(passed_test(name)),
        last_proven: Some(passed_test(name)),
        would_take_seconds: Some(263.0),
        forecast: None,
        last_drill: Some(LastDrill {
            run_id: RunId::from(format!("drill/{name}-switchover/manual/20261118t090000z")),
            runbook: format!("{name}-switchover"),
            at: at("2026-11-18T09:01:36Z"),
            verdict: Verdict::Pass,
            rto_seconds: Some(27.4),
            rpo_seconds: Some(0.0),
        }),
        next_runs: vec![
            NextRun { what: "full backup".into(), at: at("2026-11-22T02:00:00Z") },
            NextRun { what: "restore test".into(), at: at("2026-12-01T05:00:00Z") },
        ],
        unseen_faults: Vec::new(),
        findings: Vec::new(),
    }
}

/// An estate of which one database is fine, one is in danger, one not proven.
pub(crate) fn estate() -> EstateStatus {
    let mut ledger = database("ledger");
    let over = ExposureOver { over_seconds: 1330.0, max_seconds: Some(1330.0), ..ledger.exposure[1].last_day };
    let dr =
        VaultExposure { seconds: Some(1330.0), over_objective: true, last_day: over, ..ledger.exposure[1].clone() };
    ledger.exposure[1] = dr;
    ledger.wal_streaming.error = Some("vault `dr`: no space left; free space or enlarge the volume".into());
    ledger.findings = vec!["Vault dr has taken no WAL for 22 minutes; free space on its volume.".into()];
    let mut odds = database("odds");
    (odds.last_restore_test, odds.last_proven) = (None, None);
    odds.last_drill = None;
    odds.would_take_seconds = None;
    odds.weakest_state = Some(BackupState::Uploaded);
    EstateStatus::new(
        "mt-1".into(),
        "eu-south-1".parse().unwrap(),
        at("2026-11-21T05:41:12Z"),
        vec![database("wallet"), ledger, odds],
        vec![
            run(
                "backup/odds/manual/20261121t054100z-4c",
                "odds",
                RunState::Running,
                "2026-11-21T05:41:00Z",
                None,
                None,
            ),
            run(
                "restore_test/wallet/scheduled/20261121t050000z",
                "wallet",
                RunState::Done,
                "2026-11-21T05:00:00Z",
                Some(250),
                Some(Verdict::Pass),
            ),
            run(
                "restore_test/ledger/scheduled/20261103t050000z",
                "ledger",
                RunState::Done,
                "2026-11-03T05:00:00Z",
                Some(521),
                Some(Verdict::Fail),
            ),
        ],
        vec![Finding {
            severity: Severity::Ordinary,
            subject: "ledger".into(),
            message: "The witness query over `bets` gives another digest than the source did; compare both.".into(),
            opened_at: at("2026-11-03T05:08:41Z"),
        }],
    )
}
