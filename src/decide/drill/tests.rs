use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use proptest::prelude::*;

use super::{
    traffic::{Expectation, Observation, Seen, ServerSample, SiteSample, judge},
    *,
};
use crate::domain::{Span, Timeline};

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
}

fn beat(seq: i64, ms: i64) -> Beat {
    Beat { seq, acknowledged_at: at(ms), commit_lsn: Lsn(u64::try_from(seq * 100).unwrap()), timeline: Timeline(1) }
}

fn objectives() -> Objectives {
    Objectives { rto: Span::from_secs(300), rpo: Span::from_secs(0) }
}

#[test]
fn lag_is_the_time_between_the_newest_and_the_newest_replayed_heartbeat_or_unknown() {
    let beats = [beat(1, 0), beat(2, 1000), beat(3, 2000)];
    let lag = |beats: &[Beat], replayed, now| replica_lag(beats, Lsn(replayed), at(now), Duration::from_secs(10));
    assert_eq!(lag(&beats, 300, 2500), Lag::Known(Duration::ZERO));
    assert_eq!(lag(&beats, 299, 2500), Lag::Known(Duration::from_secs(1)));
    assert_eq!(lag(&beats, 100, 2500), Lag::Known(Duration::from_secs(2)));
    assert!(matches!(lag(&beats, 99, 2500), Lag::Unknown(_)));
    assert!(matches!(lag(&beats, 300, 12_001), Lag::Unknown(_)), "a silent heartbeat hides the lag");
    assert!(matches!(lag(&[], 300, 0), Lag::Unknown(_)));
}

#[test]
fn an_unknown_lag_refuses_and_so_does_having_no_guard() {
    let limit = Duration::from_secs(1);
    assert_eq!(guard_lag(Lag::Known(limit), limit).verdict, Verdict::Pass);
    assert_eq!(guard_lag(Lag::Known(limit * 2), limit).verdict, Verdict::Fail);
    assert_eq!(guard_lag(Lag::Unknown("x"), limit).verdict, Verdict::Fail);
    assert!(refusal(&[]).is_some());
    assert_eq!(refusal(&[guard_lag(Lag::Known(limit), limit)]), None);
    let mixed = [guard_lag(Lag::Known(limit), limit), guard_lag(Lag::Unknown("nobody knows"), limit)];
    assert!(refusal(&mixed).unwrap().contains("nobody knows"));
}

#[test]
fn only_fence_and_dns_are_taken_back_and_nothing_after_the_point_of_no_return() {
    use StepKind::{Approve, Dns, Fence, Guards, Observe, Promote};
    assert_eq!(rollback(&[Approve, Guards, Fence]), [Fence]);
    assert_eq!(rollback(&[Guards, Fence, Dns]), [Dns, Fence]);
    assert_eq!(rollback(&[Guards, Fence, Promote, Dns, Observe]), []);
}

#[test]
fn an_order_that_could_make_two_primaries_is_refused() {
    use StepKind::{Dns, Fence, Observe, Promote, Rejoin};
    assert_eq!(refuse_order(&[Fence, Promote, Dns, Observe, Rejoin]), None);
    for bad in [
        &[Promote, Fence][..],
        &[Promote],
        &[],
        &[Fence, Dns, Promote],
        &[Fence, Promote, Observe, Dns],
        &[Fence, Rejoin, Promote],
        &[Fence, Fence, Promote],
    ] {
        assert!(refuse_order(bad).is_some(), "{bad:?}");
    }
}

fn instants(t8: Option<i64>) -> Instants {
    Instants {
        t0: Some(at(0)),
        t3: Some(at(2000)),
        t4: Some(at(3000)),
        t5: Some(at(3500)),
        t6: Some(at(3600)),
        t7: Some(at(5000)),
        t8: t8.map(at),
    }
}

#[test]
fn recovery_time_is_t8_minus_t0_and_not_measured_is_not_met() {
    assert_eq!(instants(Some(6000)).rto_seconds(), Some(6.0));
    assert_eq!(judge_rto(&instants(Some(300_000)), &objectives()), Verdict::Pass);
    assert_eq!(judge_rto(&instants(Some(300_001)), &objectives()), Verdict::Fail);
    assert_eq!(judge_rto(&instants(None), &objectives()), Verdict::Fail);
    let phases = instants(Some(6000)).phases();
    assert_eq!(phases.len(), 8);
    assert!((phases.iter().map(|phase| phase.seconds).sum::<f64>() - 6.0).abs() < 1e-9);
    assert!(phases[0].name.contains("simulated") && phases[1].name.contains("simulated"));
    assert_eq!(instants(None).phases().len(), 7);
    assert!(Instants::default().phases().is_empty());
}

#[test]
fn losses_are_counted_and_a_gap_is_corruption() {
    let acknowledged = [beat(1, 0), beat(2, 1000), beat(3, 2000)];
    let none = Loss::count(&acknowledged, &[1, 2, 3, 4]);
    assert_eq!((none.lost_commits, none.rpo_seconds(at(2500)), none.judge()), (0, Some(0.0), Verdict::Pass));
    let tail = Loss::count(&acknowledged, &[1]);
    assert_eq!((tail.lost_commits, tail.has_gap, tail.rpo_seconds(at(2500))), (2, false, Some(2.5)));
    assert_eq!(tail.judge(), Verdict::Fail);
    let gap = Loss::count(&acknowledged, &[1, 3]);
    assert_eq!((gap.lost_commits, gap.has_gap, gap.judge()), (1, true, Verdict::Fail));
    let all = Loss::count(&acknowledged, &[]);
    assert_eq!((all.lost_commits, all.rpo_seconds(at(0)), all.judge()), (3, None, Verdict::Fail));
    let nothing = Loss::count(&[], &[1]);
    assert_eq!((nothing.rpo_seconds(at(0)), nothing.judge()), (None, Verdict::Inconclusive));
}

#[test]
fn a_drill_passes_only_with_every_duty_proven() {
    let pass = [Check::judge("x", "", "", true)];
    let fail = [Check::judge("x", "", "", false)];
    let loss = Loss::count(&[beat(1, 0)], &[1]);
    let (measured, objectives) = (instants(Some(6000)), objectives());
    let good = Facts {
        outcome: Outcome::Completed,
        objectives: &objectives,
        instants: &measured,
        loss: Some(&loss),
        traffic: &pass,
        cleanup: &pass,
        steady_state: &pass,
    };
    let judged = |facts: Facts<'_>| Verdict::worst(verdicts(&facts).into_values());
    assert_eq!(judged(good), Verdict::Pass);
    assert_eq!(judged(Facts { cleanup: &[], ..good }), Verdict::Inconclusive);
    assert_eq!(judged(Facts { cleanup: &fail, ..good }), Verdict::Fail);
    assert_eq!(judged(Facts { steady_state: &[], ..good }), Verdict::Inconclusive);
    assert_eq!(judged(Facts { steady_state: &fail, ..good }), Verdict::Fail);
    assert_eq!(judged(Facts { traffic: &[], ..good }), Verdict::Inconclusive);
    assert_eq!(judged(Facts { loss: None, ..good }), Verdict::Inconclusive);
    assert_eq!(judged(Facts { instants: &Instants::default(), ..good }), Verdict::Fail);
    assert_eq!(judged(Facts { outcome: Outcome::Refused, steady_state: &[], ..good }), Verdict::Aborted);
    assert_eq!(judged(Facts { outcome: Outcome::Aborted, ..good }), Verdict::Aborted);
    assert_eq!(judged(Facts { outcome: Outcome::Aborted, cleanup: &fail, ..good }), Verdict::Fail);
    assert_eq!(judged(Facts { outcome: Outcome::Failed, ..good }), Verdict::Fail);
    assert_eq!(judged(Facts { outcome: Outcome::Stuck, ..good }), Verdict::Fail);
}

const OLD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const NEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

fn expectation(servers: &[&str]) -> Expectation {
    Expectation {
        servers: servers.iter().map(ToString::to_string).collect(),
        old: vec![OLD],
        new: vec![NEW],
        new_identity: "b".to_owned(),
        consecutive: 3,
        hold: Duration::from_millis(500),
        sampling: Duration::from_millis(100),
    }
}

/// One character per 100 ms: o old, n new, x NXDOMAIN, e empty, s silent, ? another address, r refused.
fn server(name: &str, story: &str) -> Vec<ServerSample> {
    let sample = |(place, what): (usize, char)| ServerSample {
        at: at(i64::try_from(place).unwrap() * 100),
        server: name.to_owned(),
        seen: match what {
            'o' => Seen::Addresses(vec![OLD]),
            'n' => Seen::Addresses(vec![NEW]),
            'x' => Seen::NxDomain,
            'e' => Seen::Empty,
            's' => Seen::Silent,
            'r' => Seen::Refused("REFUSED".to_owned()),
            _ => Seen::Addresses(vec![OLD, NEW]),
        },
    };
    story.chars().enumerate().map(sample).collect()
}

/// a and b are sites that take the write, B is b without a write, - is no answer.
fn site(story: &str) -> Vec<SiteSample> {
    let sample = |(place, what): (usize, char)| SiteSample {
        at: at(i64::try_from(place).unwrap() * 100),
        identity: (what != '-').then(|| what.to_ascii_lowercase().to_string()),
        wrote: what.is_ascii_lowercase(),
    };
    story.chars().enumerate().map(sample).collect()
}

fn observed(servers: &[(&str, &str)], client: &str, old_site: &str) -> Observation {
    Observation {
        d0: Some(at(0)),
        d1: Some(at(100)),
        d2: Some(at(150)),
        servers: servers.iter().flat_map(|(name, story)| server(name, story)).collect(),
        client: site(client),
        old_site: site(old_site),
    }
}

#[test]
fn each_story_of_a_switch_is_told_as_what_it_was() {
    let ms = |at: Option<Timestamp>| at.map(|at| at.as_millisecond() - 1_700_000_000_000);
    // server, client, old site -> d3, d5, d6, d7, a part of a finding
    for (story, client, old_site, d3, d5, d6, d7, finding) in [
        ("oonnnnnnnnn", "--bbbbbbbbb", "-----------", Some(200), Some(200), Some(0), Some(200), ""),
        ("oonnnnn", "--bbbbb", "-------", Some(200), Some(200), Some(0), None, ""),
        ("oonn", "--bb", "----", None, Some(200), Some(0), None, "did not give the new answer"),
        ("ooooooooooo", "--bbbbbbbbb", "-----------", None, Some(200), Some(0), None, "did not give the new answer"),
        ("onnnonnnnnnnn", "--bbbbbbbbbbb", "-------------", Some(500), Some(200), Some(0), Some(500), "went back"),
        ("onxnnnnnnnnnn", "--bbbbbbbbbbb", "-------------", Some(300), Some(200), Some(0), Some(300), "NXDOMAIN"),
        ("oennnnnnnnnnn", "--bbbbbbbbbbb", "-------------", Some(200), Some(200), Some(0), Some(200), "no address"),
        ("onsnnnnnnnn", "--bbbbbbbbb", "-----------", Some(300), Some(200), Some(0), Some(300), "silent in 1 of 11"),
        ("onnnsnnnnnn", "--bbbbbbbbb", "-----------", Some(100), Some(200), Some(0), Some(200), "silent in 1 of 11"),
        ("onnnsssssss", "--bbbbbbbbb", "-----------", Some(100), Some(200), Some(0), None, "silent in 7 of 11"),
        (
            "on?nnnnnnnnnn",
            "--bbbbbbbbbbb",
            "-------------",
            Some(300),
            Some(200),
            Some(0),
            Some(300),
            "192.0.2.1, 192.0.2.2",
        ),
        ("ornnnnnnnnn", "--bbbbbbbbb", "-----------", Some(200), Some(200), Some(0), Some(200), "REFUSED"),
        (
            "oonnnnnnnnnnn",
            "--bb-bbbbbbbb",
            "-------------",
            Some(200),
            Some(500),
            Some(0),
            Some(500),
            "client went back",
        ),
        ("oonnnnnnnnn", "--BBBBBBBBB", "-----------", Some(200), None, Some(0), None, ""),
        ("oonnnnnnnnn", "aaaaaaaaaaa", "aaaaaaaaaaa", Some(200), None, None, None, ""),
        ("oonnnnnnnnnnn", "--bbbbbbbbbbb", "aaaa---------", Some(200), Some(200), Some(400), Some(400), ""),
    ] {
        let judgement = judge(&expectation(&["s"]), &observed(&[("s", story)], client, old_site));
        let times = &judgement.times;
        let found = (ms(times.d3), ms(times.d5), ms(times.d6), ms(times.d7));
        assert_eq!(found, (d3, d5, d6, d7), "{story} {client} {old_site}");
        let findings = judgement.findings.join("; ");
        assert_eq!(findings.is_empty(), finding.is_empty(), "{story}: {findings}");
        assert!(findings.contains(finding), "{story}: {findings}");
        let is_void = story.contains(['x', 'e']);
        let check = judgement.checks.iter().find(|check| check.name == "dns_never_empty").unwrap();
        assert_eq!(check.verdict == Verdict::Fail, is_void, "{story}");
    }
}

#[test]
fn the_slowest_server_decides_and_a_server_that_was_never_asked_proves_nothing() {
    let seen = observed(&[("s", "onnnnnnnnn"), ("t", "ooonnnnnnn")], "-bbbbbbbbb", "----------");
    assert_eq!(judge(&expectation(&["s", "t"]), &seen).times.d3, Some(at(300)));
    assert_eq!(judge(&expectation(&["s", "t", "u"]), &seen).times.d3, None);
    assert_eq!(judge(&expectation(&[]), &seen).times.d7, None);
}

fn story() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![4 => Just('n'), 2 => Just('o'), 1 => Just('s'), 1 => Just('x')], 0..40)
        .prop_map(|story| story.into_iter().collect())
}

proptest! {
    #[test]
    fn d3_starts_a_run_without_a_contradiction(first in story(), second in story()) {
        let seen = observed(&[("s", &first), ("t", &second)], "", "");
        let judgement = judge(&expectation(&["s", "t"]), &seen);
        if let Some(d3) = judgement.times.d3 {
            for name in ["s", "t"] {
                let after: Vec<&Seen> =
                    seen.servers.iter().filter(|x| x.server == name && x.at >= d3).map(|x| &x.seen).collect();
                prop_assert!(after.iter().all(|seen| matches!(seen, Seen::Silent) || **seen == Seen::Addresses(vec![NEW])));
            }
        }
        prop_assert_eq!(judgement.times.d7, None, "nobody looked at the sites");
        let void = first.contains('x') || second.contains('x');
        prop_assert_eq!(judgement.checks[0].verdict == Verdict::Fail, void);
    }

    #[test]
    fn a_stable_period_begins_after_everything_else_and_lasts(name in story(), client in "[-ab]{0,40}", old in "[-a]{0,40}") {
        let judgement = judge(&expectation(&["s"]), &observed(&[("s", &name)], &client, &old));
        let times = &judgement.times;
        if let Some(d7) = times.d7 {
            prop_assert_eq!(Some(d7), times.d3.max(times.d5).max(times.d6));
            prop_assert!(name.len() >= 5 && client.ends_with("bbbbb") && old.ends_with('-'));
        }
    }

    #[test]
    fn what_is_present_is_never_counted_as_lost(seqs in proptest::collection::btree_set(0i64..50, 0..30), kept in proptest::collection::btree_set(0i64..50, 0..30)) {
        let acknowledged: Vec<Beat> = seqs.iter().map(|seq| beat(*seq, seq * 1000)).collect();
        let present: Vec<i64> = kept.iter().copied().collect();
        let loss = Loss::count(&acknowledged, &present);
        prop_assert_eq!(loss.lost_commits, seqs.difference(&kept).count() as u64);
        prop_assert_eq!(loss.judge() == Verdict::Pass, !seqs.is_empty() && seqs.is_subset(&kept));
    }
}
