//! Witnesses: what the source answered, held against what its copy answers. Which
//! sample is comparable, when the next one is due, the form in which answers are
//! compared, and the verdict.
//!
//! It must never compare with a sample that holds more than the copy does, or that
//! is of another history: both would call a sound copy wrong, or worse, a wrong one sound.

use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::domain::{AnswerDigest, Check, Lineage, Moment, Question, Verdict};

/// How many rows an answer may have: each takes 32 bytes while it is read.
pub const ROWS_MAX: usize = 100_000;

/// Brings an answer into one form: the digest of the sorted digests of its rows. So the
/// order of rows means nothing, and a row that is there twice is not one that is there once.
#[derive(Debug, Default)]
pub struct Digester {
    rows: Vec<[u8; 32]>,
}

impl Digester {
    /// Takes the columns of a row as text, none for null. False where it is one too many.
    pub fn row<'a>(&mut self, columns: impl Iterator<Item = Option<&'a [u8]>>) -> bool {
        let mut digest = Sha256::new();
        for column in columns {
            // The length before it, so that no two rows read alike.
            match column {
                Some(text) => {
                    digest.update(format!("{}:", text.len()));
                    digest.update(text);
                }
                None => digest.update("-"),
            }
        }
        self.rows.push(digest.finalize().into());
        self.rows.len() <= ROWS_MAX
    }

    pub fn finish(mut self) -> AnswerDigest {
        self.rows.sort_unstable();
        let mut digest = Sha256::new();
        self.rows.iter().for_each(|row| digest.update(row));
        AnswerDigest { rows: self.rows.len() as u64, sha256: hex::encode(digest.finalize()) }
    }
}

/// What samples are kept under: a question that is asked otherwise is another one.
pub fn key(question: &Question) -> String {
    match question {
        Question::Witness { dbname, sql, settle } => {
            let settle = settle.as_millis();
            let digest = Sha256::digest(format!("{}:{dbname}{}:{sql}{settle}", dbname.len(), sql.len()));
            format!("witness:{}", hex::encode(digest))
        }
        Question::Parts => "parts".to_owned(),
    }
}

/// How long until the source is asked again. A sample of the future is one of a clock
/// that was put back: it holds up nothing.
pub fn wait(newest: Option<Timestamp>, now: Timestamp, every: Duration) -> Duration {
    match newest.map(|taken| Duration::try_from(now.duration_since(taken))) {
        Some(Ok(passed)) => every.saturating_sub(passed),
        Some(Err(_)) | None => Duration::ZERO,
    }
}

/// How long samples of a database are kept, of which all this is asked so often: the
/// oldest point of the window is compared with one that was taken before it.
pub fn kept(window: Duration, asked_every: impl Iterator<Item = Duration>) -> Duration {
    window.saturating_add(asked_every.max().unwrap_or_default().saturating_mul(2))
}

/// How soon a source is asked again where asking it came to nothing.
const AGAIN_MIN: Duration = Duration::from_secs(60);
/// Which share of the time asking in vain may take.
const IN_VAIN_SHARE: u32 = 50;

/// How long a source is left in peace that was asked in vain for so long: what it cannot
/// answer must not burden it, and what was not answered at once is soon asked again.
pub fn again_after(took: Duration, every: Duration) -> Duration {
    took.saturating_mul(IN_VAIN_SHARE).max(AGAIN_MIN).min(every)
}

/// Why there is nothing to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absent {
    /// The source was never asked this, or nothing of it is kept.
    Never,
    /// All samples that are of the copy's history are of later states.
    Later { oldest: Moment },
    /// All samples are of another history.
    Elsewhere { newest: Moment },
}

impl Absent {
    pub fn told(&self, every: &str) -> String {
        match self {
            Self::Never => format!(
                "no sample of the source is kept; `lifeboat serve` takes one every {every}, and a recovery point behind it can be compared; a finding tells where it cannot"
            ),
            Self::Later { oldest } => format!(
                "the oldest sample of this history is of LSN {}, behind the recovery point; test a later one, or let the source be asked more often than every {every}",
                oldest.to
            ),
            Self::Elsewhere { newest } => format!(
                "all samples are of another history, the newest of timeline {} of cluster {} at LSN {}; one that `lifeboat serve` takes of this one can be compared",
                newest.timeline, newest.system_id, newest.to
            ),
        }
    }
}

/// The newest sample that holds nothing that the copy does not: its upper bound lies at
/// or before the recovery point, on the history that leads there. Answers its place.
pub fn choose(samples: &[Moment], copy: &Lineage) -> Result<usize, Absent> {
    let branch_left = copy.history.last().map(|(timeline, _)| *timeline);
    let is_on_history = |moment: &Moment| {
        let left = copy.history.iter().find(|(timeline, _)| *timeline == moment.timeline).map(|(_, left)| *left);
        // The timeline that was followed went on at the source behind where recovery left it.
        let goes_on = branch_left == Some(moment.timeline) && moment.to > copy.reached.lsn;
        moment.system_id == copy.system_id && left.is_some_and(|left| moment.to <= left || goes_on)
    };
    let of_history: Vec<(usize, &Moment)> =
        samples.iter().enumerate().filter(|(_, moment)| is_on_history(moment)).collect();
    let comparable = of_history.iter().filter(|(_, moment)| moment.to <= copy.reached.lsn);
    if let Some((place, _)) = comparable.max_by_key(|(_, moment)| (moment.to, moment.as_of)) {
        return Ok(*place);
    }
    let oldest = of_history.iter().map(|(_, moment)| *moment).min_by_key(|moment| moment.to);
    let newest = samples.iter().max_by_key(|moment| (moment.timeline, moment.to));
    Err(match (oldest, newest) {
        (Some(oldest), _) => Absent::Later { oldest: oldest.clone() },
        (None, Some(newest)) => Absent::Elsewhere { newest: newest.clone() },
        (None, None) => Absent::Never,
    })
}

/// What is expected of the copy by this sample.
pub fn expected(moment: &Moment, answer: &AnswerDigest) -> String {
    let Moment { as_of, timeline, from, to, .. } = moment;
    format!("as the source as of {as_of}, between LSN {from} and {to} of timeline {timeline}: {}", told(answer))
}

/// FAIL where the copy answers otherwise than the source did.
pub fn judge(name: &str, moment: &Moment, source: &AnswerDigest, copy: &AnswerDigest) -> Check {
    Check::judge(name, expected(moment, source), told(copy), source == copy)
}

/// INCONCLUSIVE: nothing was compared.
pub fn not_compared(name: &str, why: impl Into<String>) -> Check {
    Check::new(name, Verdict::Inconclusive, "as the source answered before the recovery point", why)
}

fn told(answer: &AnswerDigest) -> String {
    let rows = if answer.rows == 1 { "row" } else { "rows" };
    format!("{} {rows}, sha256:{}", answer.rows, answer.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Lsn, RecoveryPoint, Timeline};

    fn moment(timeline: u32, to: u64) -> Moment {
        Moment {
            as_of: Timestamp::from_second(i64::try_from(to).unwrap()).unwrap(),
            system_id: "7".to_owned(),
            timeline: Timeline(timeline),
            from: Lsn(to - 10),
            to: Lsn(to),
        }
    }

    /// Timeline 1 was left at 100, 2 at 200; recovery ended at 250 of timeline 3.
    fn copy() -> Lineage {
        Lineage {
            system_id: "7".to_owned(),
            reached: RecoveryPoint { timeline: Timeline(3), lsn: Lsn(250), last_commit_at: None },
            history: vec![(Timeline(1), Lsn(100)), (Timeline(2), Lsn(200)), (Timeline(3), Lsn(250))],
        }
    }

    #[test]
    fn a_source_that_was_asked_in_vain_is_left_in_peace_for_as_long_as_that_cost_it() {
        let after = |took: f64, every: u64| again_after(Duration::from_secs_f64(took), Duration::from_secs(every));
        for (took, every, seconds) in [(0.1, 43_200, 60), (30.0, 43_200, 1500), (60.0, 900, 900), (0.1, 10, 10)] {
            assert_eq!(after(took, every), Duration::from_secs(seconds), "{took} s of each {every} s");
        }
    }

    #[test]
    fn the_newest_sample_at_or_before_the_recovery_point_on_its_history_is_chosen() {
        let other = |to| Moment { system_id: "8".to_owned(), ..moment(3, to) };
        for (samples, chosen) in [
            (vec![moment(1, 90), moment(3, 250), moment(3, 240)], Ok(1)),
            (vec![moment(1, 90), moment(2, 150), moment(3, 251)], Ok(1)),
            // Written on a timeline behind where the copy's history left it.
            (vec![moment(1, 90), moment(1, 101), moment(2, 201)], Ok(0)),
            (vec![moment(1, 100)], Ok(0)),
            (vec![moment(4, 240), moment(2, 199)], Ok(1)),
            (vec![other(240), moment(1, 20)], Ok(1)),
            (vec![moment(3, 251), moment(3, 300)], Err(Absent::Later { oldest: moment(3, 251) })),
            (vec![moment(1, 101), moment(2, 300), moment(4, 240)], Err(Absent::Elsewhere { newest: moment(4, 240) })),
            (vec![other(240)], Err(Absent::Elsewhere { newest: other(240) })),
            (vec![], Err(Absent::Never)),
        ] {
            assert_eq!(choose(&samples, &copy()), chosen, "{samples:?}");
        }
    }

    #[test]
    fn what_is_absent_is_told_with_what_to_do() {
        for (absent, told) in [
            (Absent::Never, ["no sample", "`lifeboat serve` takes one every 15m"]),
            (Absent::Later { oldest: moment(3, 0x251) }, ["LSN 0/251, behind the recovery point", "test a later one"]),
            (Absent::Elsewhere { newest: moment(4, 240) }, ["another history", "timeline 4 of cluster 7"]),
        ] {
            let text = absent.told("15m");
            assert!(told.iter().all(|told| text.contains(told)), "{text}");
        }
    }

    #[test]
    fn the_order_of_rows_means_nothing_and_all_else_does() {
        let digest = |rows: &[&[Option<&str>]]| {
            let mut digester = Digester::default();
            for row in rows {
                assert!(digester.row(row.iter().map(|column| column.map(str::as_bytes))));
            }
            digester.finish()
        };
        let (a, b): (&[_], &[_]) = (&[Some("1"), None], &[Some("2"), Some("x")]);
        assert_eq!(digest(&[a, b]), digest(&[b, a]));
        assert_eq!(digest(&[a, b]).rows, 2);
        for other in [
            digest(&[a]),
            digest(&[a, b, b]),
            digest(&[a, &[Some("2x")]]),
            digest(&[a, &[Some("x"), Some("2")]]),
            digest(&[&[Some("1"), Some("")], b]),
            digest(&[&[Some("1"), Some("-")], b]),
            digest(&[&[Some("1")], b]),
            digest(&[]),
        ] {
            assert_ne!(other, digest(&[a, b]));
        }
        assert_ne!(digest(&[&[Some("1:2")]]), digest(&[&[Some("1"), Some("2")]]));
    }

    #[test]
    fn another_answer_fails_and_says_of_when_and_what() {
        let answer = |rows, sha256: &str| AnswerDigest { rows, sha256: sha256.to_owned() };
        let check = judge("witness", &moment(3, 0x240), &answer(1, "aa"), &answer(1, "aa"));
        assert_eq!((check.verdict, check.actual.as_str()), (Verdict::Pass, "1 row, sha256:aa"));
        let check = judge("witness", &moment(3, 0x240), &answer(2, "aa"), &answer(3, "bb"));
        assert_eq!((check.verdict, check.actual.as_str()), (Verdict::Fail, "3 rows, sha256:bb"));
        let expected =
            "as the source as of 1970-01-01T00:09:36Z, between LSN 0/236 and 0/240 of timeline 3: 2 rows, sha256:aa";
        assert_eq!(check.expected, expected);
        assert_eq!(not_compared("witness", "no").verdict, Verdict::Inconclusive);
    }

    #[test]
    fn the_source_is_asked_again_when_it_is_time() {
        let (every, at) = (Duration::from_secs(60), |second| Timestamp::from_second(second).unwrap());
        for (newest, now, seconds) in
            [(None, 0, 0), (Some(0), 10, 50), (Some(0), 60, 0), (Some(0), 99, 0), (Some(9), 0, 0)]
        {
            assert_eq!(wait(newest.map(at), at(now), every), Duration::from_secs(seconds), "{newest:?} {now}");
        }
    }

    #[test]
    fn what_is_asked_often_takes_no_sample_of_what_is_asked_seldom() {
        for (window, asked, kept_hours) in
            [(48, &[1, 168][..], 384), (48, &[168, 1], 384), (48, &[1], 50), (48, &[], 48)]
        {
            let hours = |hours: u64| Duration::from_secs(hours * 3600);
            assert_eq!(kept(hours(window), asked.iter().copied().map(hours)), hours(kept_hours), "{asked:?}");
        }
    }

    #[test]
    fn a_question_that_is_asked_otherwise_is_another_one() {
        let asked = |dbname: &str, sql: &str, settle| {
            key(&Question::Witness {
                dbname: dbname.to_owned(),
                sql: sql.to_owned(),
                settle: Duration::from_secs(settle),
            })
        };
        let one = asked("wallet", "select 1", 60);
        assert_eq!(one, asked("wallet", "select 1", 60));
        for other in [asked("wallet", "select 1", 61), asked("wallets", "elect 1", 60), key(&Question::Parts)] {
            assert_ne!(one, other);
        }
    }
}
