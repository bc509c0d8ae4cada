//! What reading all of a restored copy told: the checksums of its pages, and its
//! rows as a dump reads them. What was not read is never counted as sound.

use super::indexes::first;
use crate::domain::{Check, Verdict};

/// How many troubles a check names; the rest is counted.
const NAMED: usize = 5;

/// What the checksums of the copy's pages told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pages {
    Sound {
        blocks: u64,
    },
    /// Each page with its file.
    Damaged(Vec<String>),
    /// Why nothing was proven.
    Unproven(String),
}

/// The check's name and what it expects.
pub const PAGES: (&str, &str) = ("page_checksums", "every page bears the checksum of its content");

/// FAIL where a page is damaged, INCONCLUSIVE where nothing tells.
pub fn judge_pages(pages: &Pages) -> Check {
    let (verdict, actual) = match pages {
        Pages::Sound { blocks: 0 } => (Verdict::Inconclusive, "no page was read".to_owned()),
        Pages::Sound { blocks } => (Verdict::Pass, format!("{blocks} pages are sound")),
        Pages::Damaged(pages) => {
            let remedy = "`lifeboat vault verify` tells whether the backup has it; look for it on the source with amcheck or a dump";
            (Verdict::Fail, format!("{}; {remedy}", first(pages, NAMED)))
        }
        Pages::Unproven(why) => (Verdict::Inconclusive, why.clone()),
    };
    Check::new(PAGES.0, verdict, PAGES.1, actual)
}

/// What a dump of a database told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadThrough {
    pub dbname: String,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Read,
    /// What could not be read, without any of its content.
    Failed(String),
    /// Why it was not read, or not all of it, though nothing says that it cannot be.
    Unread(String),
    /// It takes no connections.
    Closed,
}

/// The check's name and what it expects.
pub const FULL_READ: (&str, &str) = ("full_read", "every database is read to its end");

/// FAIL where a database could not be read to its end, INCONCLUSIVE where one was not read.
pub fn judge_read(databases: &[ReadThrough]) -> Check {
    let told = |read: &ReadThrough| match &read.outcome {
        Outcome::Read => None,
        Outcome::Failed(what) => Some((Verdict::Fail, format!("`{}`: {what}", read.dbname))),
        Outcome::Unread(why) => Some((Verdict::Inconclusive, format!("`{}`: {why}", read.dbname))),
        Outcome::Closed => Some((Verdict::Inconclusive, format!("`{}` takes no connections", read.dbname))),
    };
    let troubles: Vec<(Verdict, String)> = databases.iter().filter_map(told).collect();
    let (verdict, actual) = match troubles.iter().map(|(verdict, _)| *verdict).max() {
        _ if databases.is_empty() => (Verdict::Inconclusive, "no database was read".to_owned()),
        None => (Verdict::Pass, format!("{} databases were read through", databases.len())),
        Some(worst) => {
            let of_worst: Vec<&str> =
                troubles.iter().filter(|(of, _)| *of == worst).map(|(_, told)| told.as_str()).collect();
            (worst, first(&of_worst, NAMED))
        }
    };
    Check::new(FULL_READ.0, verdict, FULL_READ.1, actual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_pages_fail_and_none_read_is_no_pass() {
        for (pages, verdict, told) in [
            (Pages::Sound { blocks: 12 }, Verdict::Pass, "12 pages are sound"),
            (Pages::Sound { blocks: 0 }, Verdict::Inconclusive, "no page was read"),
            (Pages::Damaged(vec!["block 3 of base/5/1".to_owned()]), Verdict::Fail, "block 3 of base/5/1; `lifeboat"),
            (Pages::Unproven("it has none".to_owned()), Verdict::Inconclusive, "it has none"),
        ] {
            let check = judge_pages(&pages);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.actual.starts_with(told), "{check:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_fails_and_none_read_is_no_pass() {
        let read = |dbname: &str, trouble: Option<&str>| ReadThrough {
            dbname: dbname.to_owned(),
            outcome: trouble.map_or(Outcome::Read, |what| Outcome::Failed(what.to_owned())),
        };
        let closed = ReadThrough { dbname: "c".to_owned(), outcome: Outcome::Closed };
        let unread = ReadThrough { dbname: "d".to_owned(), outcome: Outcome::Unread("not allowed".to_owned()) };
        for (databases, verdict, told) in [
            (vec![read("a", None), read("b", None)], Verdict::Pass, "2 databases were read through"),
            (vec![read("a", None), read("b", Some("table \"bets\""))], Verdict::Fail, "`b`: table \"bets\""),
            (vec![read("a", None), closed.clone()], Verdict::Inconclusive, "`c` takes no connections"),
            (vec![read("a", None), unread], Verdict::Inconclusive, "`d`: not allowed"),
            (vec![read("a", Some("it")), closed], Verdict::Fail, "`a`: it"),
            (vec![], Verdict::Inconclusive, "no database was read"),
        ] {
            let check = judge_read(&databases);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.actual.starts_with(told), "{check:?}");
        }
    }
}
