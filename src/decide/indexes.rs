//! What `amcheck` says of the indexes of a restored copy: one that disagrees with
//! its table answers queries wrongly, and no checksum tells. What was not looked
//! at is never counted as sound.

use crate::domain::{Check, Verdict};

/// How many indexes a check names; the rest is counted.
const NAMED: usize = 5;

/// What was found in one database of the copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LookedAt {
    /// How many indexes agree with their tables.
    pub sound: usize,
    /// Each with what the server says of it.
    pub damaged: Vec<String>,
    /// What could not be looked at, and why.
    pub unchecked: Vec<String>,
}

/// The check's name and what it expects.
pub const CHECK: (&str, &str) = ("amcheck", "every B-tree index agrees with its table");

/// FAIL where an index is damaged, INCONCLUSIVE where one could not be looked at.
pub fn judge(databases: &[LookedAt]) -> Check {
    let sound: usize = databases.iter().map(|looked| looked.sound).sum();
    let damaged: Vec<&String> = databases.iter().flat_map(|looked| &looked.damaged).collect();
    let unchecked: Vec<&String> = databases.iter().flat_map(|looked| &looked.unchecked).collect();
    let (verdict, actual) = if !damaged.is_empty() {
        let named = first(&damaged, NAMED);
        (Verdict::Fail, format!("{named}; REINDEX it where it is in use, and look for the rows that it missed"))
    } else if !unchecked.is_empty() {
        (Verdict::Inconclusive, first(&unchecked, NAMED))
    } else if sound == 0 {
        (Verdict::Inconclusive, "no index was looked at".to_owned())
    } else {
        (Verdict::Pass, format!("{sound} indexes in {} databases agree", databases.len()))
    };
    Check::new(CHECK.0, verdict, CHECK.1, actual)
}

/// The first of many, and how many more there are.
pub(super) fn first(told: &[impl AsRef<str>], named: usize) -> String {
    let text = told.iter().take(named).map(AsRef::as_ref).collect::<Vec<_>>().join("; ");
    if told.len() > named { format!("{text}; and {} more", told.len() - named) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(sound: usize, damaged: &[&str], unchecked: &[&str]) -> LookedAt {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        LookedAt { sound, damaged: owned(damaged), unchecked: owned(unchecked) }
    }

    #[test]
    fn a_damaged_index_fails_and_one_that_was_not_looked_at_does_not_pass() {
        for (databases, verdict, told) in [
            (vec![looked(3, &[], &[]), looked(2, &[], &[])], Verdict::Pass, "5 indexes in 2 databases agree"),
            (vec![looked(3, &[], &["b is odd"]), looked(2, &["a lies"], &[])], Verdict::Fail, "a lies; REINDEX"),
            (vec![looked(3, &[], &["b is odd"])], Verdict::Inconclusive, "b is odd"),
            (vec![looked(0, &[], &[])], Verdict::Inconclusive, "no index was looked at"),
            (vec![], Verdict::Inconclusive, "no index was looked at"),
            (vec![looked(0, &["a"; 7], &[])], Verdict::Fail, "a; a; a; a; a; and 2 more"),
        ] {
            let check = judge(&databases);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.actual.starts_with(told), "{check:?}");
        }
    }
}
