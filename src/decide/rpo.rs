//! The recovery point objective, judged from heartbeats: which acknowledged
//! writes a restored copy holds, how old the newest of them is, and whether any
//! is missing where it must not be. Rules: `docs/measurement.md`.
//!
//! It never takes a missing measurement for a good one: without acknowledged
//! heartbeats the verdict is INCONCLUSIVE, and a figure that was not measured
//! is absent, not zero.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::domain::{Beat, Span, Timeline, Verdict};

/// What is known of a restore to the latest state at a disaster instant that
/// lay in the future when it was drawn.
#[derive(Debug, Clone, Copy)]
pub struct DisasterFacts<'a> {
    pub disaster_at: Timestamp,
    /// Every heartbeat that was acknowledged, in any order, also after the disaster.
    pub acknowledged: &'a [Beat],
    /// The sequence numbers that the copy holds, in any order.
    pub present: &'a [i64],
    /// How often a heartbeat is written.
    pub interval: Span,
    pub objective: Span,
}

/// The measured recovery point.
#[derive(Debug, Clone, PartialEq)]
pub struct Rpo {
    /// Disaster instant minus acknowledgement of the newest heartbeat in the copy; at least 0.
    pub rpo_seconds: Option<f64>,
    /// Half-width of the uncertainty of `rpo_seconds`: the heartbeat interval, or the
    /// time to the next heartbeat that was acknowledged where that came late.
    pub bound_seconds: f64,
    /// Heartbeats acknowledged up to the disaster that the copy lacks; absent
    /// where none was acknowledged at all.
    pub lost_commits: Option<u64>,
    /// `lost_commits` by the timeline that they were acknowledged on.
    pub lost_by_timeline: BTreeMap<Timeline, u64>,
    /// Acknowledged, absent, and below one of the same timeline that is present: corruption.
    pub missing_below: Vec<i64>,
    pub verdict: Verdict,
    /// Why this verdict, for people.
    pub reason: String,
}

/// Judges a restore to the latest state against the objective.
pub fn judge(facts: DisasterFacts<'_>) -> Rpo {
    let present: BTreeSet<i64> = facts.present.iter().copied().collect();
    let before: Vec<&Beat> =
        facts.acknowledged.iter().filter(|beat| beat.acknowledged_at <= facts.disaster_at).collect();
    let mut lost_by_timeline = BTreeMap::new();
    for beat in before.iter().filter(|beat| !present.contains(&beat.seq)) {
        *lost_by_timeline.entry(beat.timeline).or_insert(0_u64) += 1;
    }
    let newest =
        facts.acknowledged.iter().filter(|beat| present.contains(&beat.seq)).map(|beat| beat.acknowledged_at).max();
    let mut rpo = Rpo {
        rpo_seconds: newest.map(|at| seconds_between(at, facts.disaster_at).max(0.0)),
        bound_seconds: newest.map_or(0.0, |at| silence(at, facts)).max(facts.interval.as_secs_f64()),
        lost_commits: (!facts.acknowledged.is_empty()).then(|| lost_by_timeline.values().sum()),
        lost_by_timeline,
        missing_below: missing_below(facts.acknowledged, facts.present),
        verdict: Verdict::Inconclusive,
        reason: String::new(),
    };
    (rpo.verdict, rpo.reason) = verdict(&rpo, &before, facts);
    rpo
}

fn verdict(rpo: &Rpo, before: &[&Beat], facts: DisasterFacts<'_>) -> (Verdict, String) {
    let objective = facts.objective.as_secs_f64();
    if let Some(first) = rpo.missing_below.first() {
        let count = rpo.missing_below.len();
        let reason =
            format!("{count} acknowledged heartbeats are missing below newer ones, the first is {first}: corruption");
        return (Verdict::Fail, reason);
    }
    let lost = rpo.lost_commits.unwrap_or(0);
    let Some(seconds) = rpo.rpo_seconds else {
        // The loss reaches back at least to the oldest heartbeat we know of.
        let oldest =
            before.iter().map(|beat| seconds_between(beat.acknowledged_at, facts.disaster_at)).reduce(f64::max);
        return match oldest {
            None => (Verdict::Inconclusive, "no heartbeat was acknowledged before the disaster".to_owned()),
            Some(least) if least > objective => {
                (Verdict::Fail, format!("the copy holds no acknowledged heartbeat: at least {least:.1} s are lost"))
            }
            Some(_) => (Verdict::Inconclusive, "the copy holds no acknowledged heartbeat".to_owned()),
        };
    };
    if seconds <= objective {
        (Verdict::Pass, format!("{seconds:.1} s, {lost} acknowledged heartbeats lost"))
    } else if lost > 0 {
        (
            Verdict::Fail,
            format!("{seconds:.1} s is over the objective of {objective} s; {lost} acknowledged heartbeats are lost"),
        )
    } else if seconds <= objective + facts.interval.as_secs_f64() {
        (Verdict::Pass, format!("no acknowledged heartbeat is lost; the next one was not due yet after {seconds:.1} s"))
    } else {
        let reason = format!(
            "no acknowledged heartbeat is lost, but the heartbeat was silent for {seconds:.1} s before the disaster"
        );
        (Verdict::Inconclusive, reason)
    }
}

/// How far the clocks of a provider and of whoever acknowledged a heartbeat may be apart.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(5);

/// Whether a copy is of the instant that a provider says it is of, by what was acknowledged
/// around it: all before and nothing after. Why, for people.
pub fn at_instant(instant: Timestamp, acknowledged: &[Beat], present: &[i64]) -> (Verdict, String) {
    let present: BTreeSet<i64> = present.iter().copied().collect();
    let is_there = |beat: &&Beat| present.contains(&beat.seq);
    let before = acknowledged.iter().filter(|beat| beat.acknowledged_at <= instant - CLOCKS_APART);
    let after = acknowledged.iter().filter(|beat| beat.acknowledged_at >= instant + CLOCKS_APART);
    let absent = before.filter(|beat| !is_there(beat)).count();
    let newer = after.filter(is_there).count();
    if newer > 0 {
        return (Verdict::Fail, format!("it holds {newer} heartbeats that were acknowledged after {instant}"));
    }
    if absent > 0 {
        return (Verdict::Fail, format!("{absent} heartbeats that were acknowledged before {instant} are absent"));
    }
    match acknowledged.iter().filter(is_there).count() {
        0 => (Verdict::Inconclusive, format!("no heartbeat in it was acknowledged around {instant}")),
        held => (Verdict::Pass, format!("{held} heartbeats that were acknowledged up to {instant}, and none after")),
    }
}

/// Seconds after the newest heartbeat in the copy in which no other was acknowledged:
/// what the copy holds ends somewhere therein, and no heartbeat tells where.
fn silence(newest: Timestamp, facts: DisasterFacts<'_>) -> f64 {
    let later = facts.acknowledged.iter().map(|beat| beat.acknowledged_at).filter(|at| *at > newest);
    seconds_between(newest, later.min().map_or(facts.disaster_at, |next| next.min(facts.disaster_at))).max(0.0)
}

/// Acknowledged heartbeats that a copy lacks although it holds a newer one of
/// the same timeline, ascending. What was acknowledged beyond a fork is lost by
/// the failover, not by the restore: that is why timelines are looked at apart.
pub fn missing_below(acknowledged: &[Beat], present: &[i64]) -> Vec<i64> {
    let present: BTreeSet<i64> = present.iter().copied().collect();
    let mut newest: BTreeMap<Timeline, i64> = BTreeMap::new();
    for beat in acknowledged.iter().filter(|beat| present.contains(&beat.seq)) {
        newest.entry(beat.timeline).and_modify(|seq| *seq = beat.seq.max(*seq)).or_insert(beat.seq);
    }
    let missing: BTreeSet<i64> = acknowledged
        .iter()
        .filter(|beat| !present.contains(&beat.seq) && newest.get(&beat.timeline).is_some_and(|seq| beat.seq < *seq))
        .map(|beat| beat.seq)
        .collect();
    missing.into_iter().collect()
}

/// How far a restore to a point in the past lies from it, in seconds: positive
/// when the newest commit that was reached is older than asked, negative when it
/// is newer, which no restore may ever be. Absent where no commit was replayed.
pub fn target_error_seconds(asked: Timestamp, reached: Option<Timestamp>) -> Option<f64> {
    reached.map(|reached| seconds_between(reached, asked))
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Lsn;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn beat(seq: i64, second: i64, timeline: u32) -> Beat {
        Beat { seq, acknowledged_at: at(second), commit_lsn: Lsn(0), timeline: Timeline(timeline) }
    }

    fn beats(seqs: std::ops::RangeInclusive<i64>) -> Vec<Beat> {
        seqs.map(|seq| beat(seq, seq, 1)).collect()
    }

    fn judged(acknowledged: &[Beat], present: &[i64], disaster: i64, objective: u64) -> Rpo {
        let (interval, objective) = (Span::from_secs(1), Span::from_secs(objective));
        judge(DisasterFacts { disaster_at: at(disaster), acknowledged, present, interval, objective })
    }

    #[test]
    fn a_copy_of_another_instant_than_was_claimed_is_told() {
        let all = beats(1..=100);
        let of = |present: std::ops::RangeInclusive<i64>, instant| {
            let present: Vec<i64> = present.collect();
            at_instant(at(instant), &all, &present).0
        };
        assert_eq!(of(1..=50, 50), Verdict::Pass);
        assert_eq!((of(1..=46, 50), of(1..=54, 50)), (Verdict::Pass, Verdict::Pass), "as far as clocks may be apart");
        assert_eq!((of(1..=44, 50), of(1..=55, 50)), (Verdict::Fail, Verdict::Fail));
        assert_eq!(at_instant(at(50), &all, &[]).0, Verdict::Fail);
        assert_eq!(at_instant(at(50), &[], &[1, 2]).0, Verdict::Inconclusive, "nobody acknowledged any");
        let (verdict, why) = at_instant(at(50), &all, &(1..=90).collect::<Vec<_>>());
        assert!(verdict == Verdict::Fail && why.starts_with("it holds 36 heartbeats"), "{why}");
    }

    #[test]
    fn the_figure_is_the_age_of_the_newest_acknowledged_heartbeat_in_the_copy() {
        let all = beats(1..=100);
        for (name, present, disaster, objective, seconds, lost, verdict) in [
            ("all there", 1..=100, 100, 0, Some(0.0), 0, Verdict::Pass),
            ("between two beats", 1..=100, 101, 0, Some(1.0), 0, Verdict::Pass),
            ("met", 1..=90, 100, 15, Some(10.0), 10, Verdict::Pass),
            ("missed", 1..=80, 100, 15, Some(20.0), 20, Verdict::Fail),
            ("newer than the disaster", 1..=100, 95, 15, Some(0.0), 0, Verdict::Pass),
            ("silent heartbeat", 1..=100, 160, 15, Some(60.0), 0, Verdict::Inconclusive),
            ("lost after the disaster only", 1..=95, 95, 0, Some(0.0), 0, Verdict::Pass),
        ] {
            let rpo = judged(&all, &present.collect::<Vec<_>>(), disaster, objective);
            assert_eq!((rpo.rpo_seconds, rpo.lost_commits, rpo.verdict), (seconds, Some(lost), verdict), "{name}");
        }
    }

    #[test]
    fn the_bound_is_as_wide_as_the_heartbeat_was_silent_behind_the_newest_in_the_copy() {
        let late: Vec<Beat> = beats(1..=10).into_iter().chain([beat(11, 14, 1), beat(12, 15, 1)]).collect();
        for (name, acknowledged, present, disaster, bound) in [
            ("each on time", &beats(1..=20)[..], 1..=10, 20, 1.0),
            ("the next came late", &late, 1..=10, 20, 4.0),
            ("the disaster came first", &late, 1..=10, 12, 2.0),
            ("none came after it", &late, 1..=12, 20, 5.0),
            ("newer than the disaster", &late, 1..=12, 14, 1.0),
        ] {
            let rpo = judged(acknowledged, &present.collect::<Vec<_>>(), disaster, 15);
            assert!((rpo.bound_seconds - bound).abs() < 1e-9, "{name}: {rpo:?}");
        }
    }

    #[test]
    fn nothing_acknowledged_is_nothing_measured() {
        let rpo = judged(&[], &[1, 2], 100, 15);
        assert_eq!((rpo.rpo_seconds, rpo.lost_commits, rpo.verdict), (None, None, Verdict::Inconclusive));
        let rpo = judged(&beats(101..=110), &[], 100, 15);
        assert_eq!((rpo.rpo_seconds, rpo.verdict), (None, Verdict::Inconclusive));
    }

    #[test]
    fn a_copy_without_any_known_heartbeat_fails_once_the_loss_is_certain() {
        assert_eq!(judged(&beats(1..=100), &[], 100, 15).verdict, Verdict::Fail);
        assert_eq!(judged(&beats(95..=100), &[], 100, 15).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn one_missing_below_a_present_one_is_corruption_whatever_the_age() {
        let present: Vec<i64> = (1..=100).filter(|seq| *seq != 50).collect();
        let rpo = judged(&beats(1..=100), &present, 100, 900);
        assert_eq!((rpo.verdict, rpo.missing_below), (Verdict::Fail, vec![50]));
    }

    #[test]
    fn what_was_acknowledged_beyond_a_fork_is_lost_but_not_corruption() {
        let mut acknowledged = beats(1..=10);
        acknowledged.extend((11..=20).map(|seq| beat(seq, seq, 2)));
        let present: Vec<i64> = (1..=7).chain(11..=20).collect();
        let rpo = judged(&acknowledged, &present, 20, 15);
        assert_eq!(rpo.lost_by_timeline, BTreeMap::from([(Timeline(1), 3)]));
        assert_eq!((rpo.missing_below.len(), rpo.verdict, rpo.lost_commits), (0, Verdict::Pass, Some(3)));
    }

    #[test]
    fn the_error_of_a_past_point_has_a_sign() {
        assert_eq!(target_error_seconds(at(10), Some(at(8))), Some(2.0));
        assert_eq!(target_error_seconds(at(10), Some(at(11))), Some(-1.0));
        assert_eq!(target_error_seconds(at(10), None), None);
    }

    proptest! {
        #[test]
        fn a_pass_always_rests_on_a_heartbeat_that_is_young_enough(
            acknowledged in 0_i64..60, present in prop::collection::btree_set(1_i64..60, 0..60),
            disaster in 0_i64..80, objective in 0_u64..30,
        ) {
            let all = beats(1..=acknowledged);
            let present: Vec<i64> = present.into_iter().collect();
            let rpo = judged(&all, &present, disaster, objective);
            if rpo.verdict == Verdict::Pass {
                prop_assert!(rpo.missing_below.is_empty());
                prop_assert!(rpo.rpo_seconds.is_some_and(|s| s <= Span::from_secs(objective + 1).as_secs_f64()));
            }
            for seq in &rpo.missing_below {
                prop_assert!(!present.contains(seq) && present.iter().any(|p| p > seq && *p <= acknowledged));
            }
            let lost = all.iter().filter(|b| b.acknowledged_at <= at(disaster) && !present.contains(&b.seq)).count();
            prop_assert_eq!(rpo.lost_commits.unwrap_or(0), lost as u64);
        }
    }
}
