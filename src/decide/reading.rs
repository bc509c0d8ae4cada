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
    Check::new("page_checksums", verdict, "every page bears the checksum of its content", actual)
}

/// What reading every row of a database told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadThrough {
    pub dbname: String,
    /// What could not be read, without any of its content.
    pub trouble: Option<String>,
}

/// FAIL where a database could not be read to its end.
pub fn judge_read(databases: &[ReadThrough]) -> Check {
    let trouble = |read: &ReadThrough| read.trouble.as_ref().map(|trouble| format!("`{}`: {trouble}", read.dbname));
    let troubles: Vec<String> = databases.iter().filter_map(trouble).collect();
    let (verdict, actual) = if databases.is_empty() {
        (Verdict::Inconclusive, "no database was read".to_owned())
    } else if troubles.is_empty() {
        (Verdict::Pass, format!("all rows of {} databases were read", databases.len()))
    } else {
        (Verdict::Fail, first(&troubles, NAMED))
    };
    Check::new("full_read", verdict, "every row can be read", actual)
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
            trouble: trouble.map(str::to_owned),
        };
        for (databases, verdict, told) in [
            (vec![read("a", None), read("b", None)], Verdict::Pass, "all rows of 2 databases"),
            (vec![read("a", None), read("b", Some("table \"bets\""))], Verdict::Fail, "`b`: table \"bets\""),
            (vec![], Verdict::Inconclusive, "no database was read"),
        ] {
            let check = judge_read(&databases);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.actual.starts_with(told), "{check:?}");
        }
    }
}
