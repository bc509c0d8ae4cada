//! What a check of a restored copy expects of a query's answer, and whether the
//! answer is that. An answer may be personal data: what evidence shows of one is
//! decided here too.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::domain::{Decimal, Verdict};

/// What a query is to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expectation {
    /// The first column of the first row, as text.
    Exactly(String),
    /// The same as a number within these, which belong to it.
    Within { least: Option<Decimal>, most: Option<Decimal> },
    /// No row at all.
    NoRow,
}

/// What a query answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The statements that were carried out: a file may hold nothing but remarks.
    pub statements: u64,
    /// Whether any of them answers with rows, be they none: `SET` and its like do not.
    pub is_query: bool,
    pub rows: u64,
    /// The first column of the first row, as text; none where there is no row, or null.
    pub first: Option<String>,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(text) => f.write_str(text),
            Self::Within { least: Some(least), most: Some(most) } => write!(f, "from {least} to {most}"),
            Self::Within { least: Some(least), most: None } => write!(f, "at least {least}"),
            Self::Within { least: None, most: Some(most) } => write!(f, "at most {most}"),
            Self::Within { least: None, most: None } => f.write_str("a number"),
            Self::NoRow => f.write_str("no row"),
        }
    }
}

impl Expectation {
    pub fn is_met(&self, answer: &Answer) -> bool {
        match self {
            Self::Exactly(text) => answer.first.as_ref() == Some(text),
            Self::Within { least, most } => {
                let number = answer.first.as_deref().and_then(|text| text.parse::<Decimal>().ok());
                number.is_some_and(|number| {
                    least.as_ref().is_none_or(|least| number >= *least)
                        && most.as_ref().is_none_or(|most| number <= *most)
                })
            }
            Self::NoRow => answer.is_query && answer.rows == 0,
        }
    }

    /// What evidence says of an answer: the operator wrote what was expected, so that is
    /// public; anything else stands there as a digest, unless they said that it may be shown.
    pub fn shown(&self, answer: &Answer, is_public: bool) -> String {
        match (self, &answer.first) {
            _ if answer.statements == 0 => "there was no query".to_owned(),
            _ if !answer.is_query => "none of its statements answers with rows".to_owned(),
            (Self::NoRow, _) => rows(answer.rows),
            (_, None) => "no row, or null".to_owned(),
            (Self::Exactly(expected), Some(text)) if text == expected => text.clone(),
            (_, Some(text)) if is_public => text.clone(),
            (_, Some(text)) => {
                let digest = hex::encode(Sha256::digest(text.as_bytes()));
                format!("sha256:{digest} (a digest, as it may be personal data; `lifeboat restore-test` shows it)")
            }
        }
    }
}

/// What an error says of the data. One of the query itself, by its SQLSTATE, is its
/// answer; anything else, such as a time limit or no connection, is none.
pub fn of_error(sqlstate: Option<&str>) -> Verdict {
    match sqlstate {
        Some(code) if !is_passing(code) => Verdict::Fail,
        Some(_) | None => Verdict::Inconclusive,
    }
}

/// Connection exceptions, insufficient resources, operator intervention: the same call
/// may do later.
pub fn is_passing(sqlstate: &str) -> bool {
    ["08", "53", "57"].iter().any(|class| sqlstate.starts_with(class))
}

fn rows(count: u64) -> String {
    match count {
        0 => "no row".to_owned(),
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(least: &str, most: &str) -> Expectation {
        let bound = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Expectation::Within { least: bound(least), most: bound(most) }
    }

    fn answer(first: &str) -> Answer {
        Answer { statements: 1, is_query: true, rows: 1, first: Some(first.to_owned()) }
    }

    #[test]
    fn an_answer_is_what_was_expected_or_not() {
        let none = Answer { statements: 1, is_query: true, ..Answer::default() };
        let null = Answer { rows: 1, ..none.clone() };
        let setting = Answer { statements: 1, ..Answer::default() };
        for (expectation, answer, is_met) in [
            (Expectation::Exactly("0.00".to_owned()), answer("0.00"), true),
            (Expectation::Exactly("0.00".to_owned()), answer("0.0"), false),
            (Expectation::Exactly("0.00".to_owned()), null.clone(), false),
            (within("1", ""), answer("1.000"), true),
            (within("1", ""), answer("0.9999999999999999999999"), false),
            (within("", "99999999999999999999"), answer("99999999999999999999"), true),
            (within("", "99999999999999999999"), answer("99999999999999999999.01"), false),
            (within("-1", "1"), answer("-0.5"), true),
            (within("-1", "1"), answer("1e3"), false),
            (within("0", ""), answer("NaN"), false),
            (within("0", ""), answer("many"), false),
            (within("0", ""), none.clone(), false),
            (Expectation::NoRow, none, true),
            (Expectation::NoRow, Answer::default(), false),
            (Expectation::NoRow, setting, false),
            (Expectation::NoRow, null, false),
        ] {
            assert_eq!(expectation.is_met(&answer), is_met, "{expectation}: {answer:?}");
        }
    }

    #[test]
    fn evidence_shows_no_answer_that_nobody_wrote() {
        let exactly = Expectation::Exactly("0".to_owned());
        assert_eq!(exactly.shown(&answer("0"), false), "0");
        assert!(exactly.shown(&answer("Smith"), false).starts_with("sha256:"));
        assert_eq!(exactly.shown(&answer("Smith"), true), "Smith");
        assert!(within("1", "").shown(&answer("5"), false).starts_with("sha256:"));
        assert_eq!(within("1", "").shown(&answer("5"), true), "5");
        assert_eq!(Expectation::NoRow.shown(&Answer { rows: 3, ..answer("Smith") }, false), "3 rows");
        let setting = Answer { statements: 1, ..Answer::default() };
        assert_eq!(exactly.shown(&Answer { is_query: true, ..setting.clone() }, true), "no row, or null");
        assert_eq!(Expectation::NoRow.shown(&setting, true), "none of its statements answers with rows");
        assert_eq!(Expectation::NoRow.shown(&Answer::default(), true), "there was no query");
    }

    #[test]
    fn an_error_of_the_query_fails_and_any_other_proves_nothing() {
        for (sqlstate, verdict) in [
            (Some("42P01"), Verdict::Fail),
            (Some("XX001"), Verdict::Fail),
            (Some("57014"), Verdict::Inconclusive),
            (Some("53200"), Verdict::Inconclusive),
            (Some("08006"), Verdict::Inconclusive),
            (None, Verdict::Inconclusive),
        ] {
            assert_eq!(of_error(sqlstate), verdict, "{sqlstate:?}");
        }
    }

    #[test]
    fn an_expectation_is_told_in_words() {
        for (expectation, told) in [
            (within("1", "2.50"), "from 1 to 2.50"),
            (within("1", ""), "at least 1"),
            (within("", "2"), "at most 2"),
            (Expectation::NoRow, "no row"),
        ] {
            assert_eq!(expectation.to_string(), told);
        }
    }
}
