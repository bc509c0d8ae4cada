//! Whose turn it is, among the algorithms of a rotation or the further vaults of
//! a database: (what takes turns, past tests in the order of the log) -> order.
//!
//! The one that was tried longest ago is next, and before it one that never was.
//! A try counts by having ended, not by its verdict: where a test can only be
//! INCONCLUSIVE or fails month after month, it would hold the turn for ever, and
//! nothing else would be tested any more. What a person aborted was no try. The
//! order of the log counts and no clock, which may have jumped.

use jiff::Timestamp;

use crate::domain::Verdict;

/// A test that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past<T> {
    /// What it took.
    pub of: T,
    pub ended_at: Timestamp,
    pub verdict: Verdict,
}

/// One of those that take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing<T> {
    pub of: T,
    /// The last try.
    pub last_at: Option<Timestamp>,
    pub last_verdict: Option<Verdict>,
    pub last_passed_at: Option<Timestamp>,
}

/// All of `of`, the one whose turn it is first; what was never tried goes as it is
/// written. `past` is the log's, oldest first.
pub fn in_turn<T: PartialEq + Clone>(of: &[T], past: &[Past<T>]) -> Vec<Standing<T>> {
    let last = |one: &T, counts: fn(Verdict) -> bool| {
        past.iter().enumerate().rev().find(|(_, past)| past.of == *one && counts(past.verdict))
    };
    let mut order: Vec<_> = of
        .iter()
        .map(|one| {
            let tried = last(one, |verdict| verdict != Verdict::Aborted);
            let passed = last(one, |verdict| verdict == Verdict::Pass);
            let standing = Standing {
                of: one.clone(),
                last_at: tried.map(|(_, past)| past.ended_at),
                last_verdict: tried.map(|(_, past)| past.verdict),
                last_passed_at: passed.map(|(_, past)| past.ended_at),
            };
            (tried.map(|(place, _)| place), standing)
        })
        .collect();
    // Stable: of those that were never tried the first one written is first.
    order.sort_by_key(|(place, _)| *place);
    order.into_iter().map(|(_, standing)| standing).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(nth: usize) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + i64::try_from(nth).unwrap()).unwrap()
    }

    fn past(of: &[(char, Verdict)]) -> Vec<Past<char>> {
        of.iter()
            .enumerate()
            .map(|(nth, (of, verdict))| Past { of: *of, ended_at: at(nth), verdict: *verdict })
            .collect()
    }

    fn order(of: &[char], past: &[Past<char>]) -> String {
        in_turn(of, past).into_iter().map(|standing| standing.of).collect()
    }

    #[test]
    fn the_one_that_was_tried_longest_ago_is_next() {
        use Verdict::{Aborted, Error, Fail, Inconclusive, Pass};
        for (name, tried, expected) in [
            ("nothing was tried", &[][..], "abc"),
            ("one was", &[('a', Pass)], "bca"),
            ("two were", &[('a', Pass), ('b', Pass)], "cab"),
            ("all were", &[('b', Pass), ('c', Pass), ('a', Pass)], "bca"),
            ("no verdict but an abort keeps the turn", &[('a', Inconclusive), ('b', Fail), ('c', Error)], "abc"),
            ("an abort was no try", &[('a', Pass), ('b', Aborted)], "bca"),
            ("nor does it undo one", &[('a', Pass), ('b', Pass), ('a', Aborted)], "cab"),
            ("what is none of them takes no turn", &[('a', Pass), ('x', Pass)], "bca"),
            ("the newest try counts", &[('a', Pass), ('b', Pass), ('c', Pass), ('a', Fail)], "bca"),
        ] {
            assert_eq!(order(&['a', 'b', 'c'], &past(tried)), expected, "{name}");
        }
    }

    #[test]
    fn the_standing_tells_when_it_last_passed() {
        let past = past(&[('a', Verdict::Pass), ('a', Verdict::Fail), ('a', Verdict::Aborted)]);
        let standing = in_turn(&['a'], &past).remove(0);
        assert_eq!((standing.last_at, standing.last_passed_at), (Some(at(1)), Some(at(0))));
        assert_eq!(standing.last_verdict, Some(Verdict::Fail));
    }

    #[test]
    fn a_clock_that_jumped_moves_no_turn() {
        let mut past = past(&[('a', Verdict::Pass), ('b', Verdict::Pass)]);
        past[0].ended_at = at(1_000_000);
        assert_eq!(order(&['a', 'b'], &past), "ab");
    }

    fn verdicts() -> impl Strategy<Value = Verdict> {
        let all = [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive, Verdict::Error, Verdict::Aborted];
        prop::sample::select(all.to_vec())
    }

    proptest! {
        /// Whatever the verdicts and whatever was before: so many tests as there are
        /// algorithms take each of them once.
        #[test]
        fn each_takes_its_turn_in_every_round(
            before in prop::collection::vec((prop::sample::select(vec!['a', 'b', 'c', 'd', 'x']), verdicts()), 0..20),
            after in prop::collection::vec(verdicts(), 4),
        ) {
            let of = ['a', 'b', 'c', 'd'];
            let mut log = past(&before);
            let mut taken: Vec<char> = Vec::new();
            for verdict in after.into_iter().map(|one| if one == Verdict::Aborted { Verdict::Fail } else { one }) {
                let next = in_turn(&of, &log).remove(0).of;
                log.push(Past { of: next, ended_at: at(log.len()), verdict });
                taken.push(next);
            }
            taken.sort_unstable();
            prop_assert_eq!(taken, of);
        }
    }
}
