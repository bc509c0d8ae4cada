//! Whether a restored copy sorts text as it was sorted where its indexes were
//! built. A C library or ICU of another version may sort otherwise; then indexes
//! miss rows, and unique ones hold a value twice, without any error.
//!
//! The catalogs of the copy say which version each collation had when it was made
//! or last refreshed, so nothing beside the copy is asked. What they do not say is
//! told as not compared, and never taken for equal.

use crate::domain::{Check, Verdict};

/// How many collations a check names; the rest is counted.
const NAMED: usize = 5;

/// One collation that something in the copy is sorted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collation {
    pub dbname: String,
    /// None for the database's own.
    pub name: Option<String>,
    /// Sorted by bytes or code points, on every machine alike: C, POSIX and their like.
    pub is_fixed: bool,
    /// The version that the catalogs hold: what the indexes were built under.
    pub recorded: Option<String>,
    /// The version by which this machine sorts.
    pub actual: Option<String>,
}

impl Collation {
    /// Why the two may sort otherwise; none where they sort alike.
    fn doubt(&self) -> Option<String> {
        let subject = match &self.name {
            Some(name) => format!("collation {name} of `{}`", self.dbname),
            None => format!("`{}`", self.dbname),
        };
        match (&self.recorded, &self.actual) {
            (Some(recorded), Some(actual)) if recorded == actual => None,
            (Some(recorded), Some(actual)) => {
                Some(format!("{subject} was sorted by version {recorded} and is sorted here by {actual}"))
            }
            (Some(recorded), None) => {
                Some(format!("{subject} was sorted by version {recorded} and is sorted here by an unknown one"))
            }
            (None, _) if self.is_fixed => None,
            (None, Some(actual)) => {
                Some(format!("{subject} tells no version to compare with {actual}, by which it is sorted here"))
            }
            (None, None) => Some(format!("{subject} tells no version, and neither does this machine")),
        }
    }
}

/// The check's name and what it expects.
pub const CHECK: (&str, &str) = ("collations", "text sorted as where it was indexed");

/// INCONCLUSIVE where text may be sorted otherwise: what queries answer is then no proof.
pub fn judge(collations: &[Collation]) -> Check {
    let doubts: Vec<String> = collations.iter().filter_map(Collation::doubt).collect();
    let versioned = collations.iter().filter(|collation| collation.recorded.is_some()).count();
    let (verdict, actual) = if collations.is_empty() {
        (Verdict::Inconclusive, "the copy tells of no collation".to_owned())
    } else if doubts.is_empty() {
        (
            Verdict::Pass,
            format!("{} collations, {versioned} of them with a version, which is the same here", collations.len()),
        )
    } else {
        let named = super::indexes::first(&doubts, NAMED);
        let remedy = "test on a machine with the same C library and ICU; a copy that is to be used here needs REINDEX and ALTER DATABASE or COLLATION … REFRESH VERSION";
        (Verdict::Inconclusive, format!("{named}: indexes may lie; {remedy}"))
    };
    Check::new(CHECK.0, verdict, CHECK.1, actual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collation(recorded: Option<&str>, actual: Option<&str>) -> Collation {
        Collation {
            dbname: "wallet".to_owned(),
            name: None,
            is_fixed: false,
            recorded: recorded.map(str::to_owned),
            actual: actual.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_is_known_to_be_the_same_passes() {
        for (recorded, actual, is_fixed, told) in [
            (Some("2.36"), Some("2.36"), false, None),
            (Some("2.31"), Some("2.36"), false, Some("`wallet` was sorted by version 2.31 and is sorted here by 2.36")),
            (Some("2.36"), None, false, Some("here by an unknown one")),
            (Some("2.36"), None, true, Some("here by an unknown one")),
            (None, Some("2.36"), false, Some("tells no version to compare with 2.36")),
            (None, None, false, Some("tells no version, and neither does this machine")),
            (None, None, true, None),
        ] {
            let collation = Collation { is_fixed, ..collation(recorded, actual) };
            let check = judge(&[collation]);
            let verdict = if told.is_some() { Verdict::Inconclusive } else { Verdict::Pass };
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.actual.contains(told.unwrap_or("is the same here")), "{check:?}");
        }
    }

    #[test]
    fn one_of_many_is_enough_and_none_at_all_is_no_pass() {
        let same = collation(Some("2.36"), Some("2.36"));
        let other = Collation { name: Some("en".to_owned()), ..collation(Some("153.1"), Some("153.2")) };
        let check = judge(&[same.clone(), other, same]);
        assert_eq!(check.verdict, Verdict::Inconclusive);
        assert!(check.actual.starts_with("collation en of `wallet` was sorted by version 153.1"), "{check:?}");
        assert_eq!(judge(&[]).verdict, Verdict::Inconclusive);
    }
}
