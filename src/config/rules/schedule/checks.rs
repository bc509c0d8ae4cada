//! Rules of what a restore test asks of the copy.

use super::{Report, Spot};
use crate::{
    decide::statement,
    domain::{Decimal, Span},
};

/// How often a source may be asked a witness.
const EVERY_MIN: Span = Span::from_secs(60);

/// What can say what the answer of a query is to be.
const EXPECTATIONS: [&str; 4] = ["expect", "min", "max", "zero_rows"];

pub(super) fn check(checks: Spot<'_>, report: &mut Report<'_>) {
    if checks.is_empty() {
        report.add(
            checks.place,
            "a test that checks nothing cannot fail",
            "add `heartbeat`, `page_checksums`, `amcheck`, `full_read`, `restored_config` or a check with `sql` or `witness`",
        );
    }
    report.refuse_twins(checks);
    for check in checks.items() {
        if check.get("sql").exists() {
            expectation(check, report);
        }
        if check.get("witness").exists() {
            witness(check, report);
        }
        let counts = check.get("row_counts");
        if counts.exists() && counts.pairs().next().is_none() {
            report.add(counts.place, "no table is named", "name one with the least number of rows: `{bets: 1000}`");
        }
        for (table, place, least) in counts.pairs() {
            if least.parsed::<Decimal>().is_some_and(|least| least < Decimal::from(1)) {
                let what = format!("a table always has at least {} rows", least.text().unwrap_or_default());
                report.add(place, what, format!("write how many rows `{table}` has at least"));
            }
        }
    }
}

/// Whether the query can be asked of a source, and of its copy later.
fn witness(check: Spot<'_>, report: &mut Report<'_>) {
    let spot = check.get("witness");
    if let Some(sql) = spot.text().filter(|sql| !sql.trim().is_empty()) {
        if statement::split(sql).len() != 1 {
            report.add(spot.place, "this is not one statement", "write one query; it may have `with` before it");
        } else if !statement::names_as_of(sql) {
            report.add(
                spot.place,
                "the query does not name `:as_of`, so the source and an older copy never answer alike",
                "ask for what was before it, such as `where placed < :as_of`",
            );
        }
    }
    let every = check.get("every");
    if every.parsed::<Span>().is_some_and(|every| every < EVERY_MIN) {
        report.add(every.place, format!("the source is asked at most every {EVERY_MIN}"), "ask it less often");
    }
    report.refuse_zero(
        check,
        "settle",
        "write for how long a transaction may write what the query reads, such as `1m`",
    );
}

/// Whether it is said once what the answer is to be.
fn expectation(check: Spot<'_>, report: &mut Report<'_>) {
    let is_said = |key: &&str| check.get(key).exists() && check.get(key).text() != Some("false");
    let said: Vec<&str> = EXPECTATIONS.into_iter().filter(is_said).collect();
    match said.as_slice() {
        [] => report.add(
            check.place,
            "nothing says what the answer is to be",
            "add `expect: TEXT`, `min` or `max`, or `zero_rows: true`",
        ),
        [_] => {}
        ["min", "max"] => {
            let (least, most) = (check.get("min").parsed::<Decimal>(), check.get("max").parsed::<Decimal>());
            if least.zip(most).is_some_and(|(least, most)| least > most) {
                report.add(check.key("min"), "`min` is above `max`, so no answer ever passes", "exchange the two");
            }
        }
        [first, second, ..] => {
            let remedy = "keep one; only `min` and `max` go together";
            report.add(
                check.key(second),
                format!("both `{first}` and `{second}` say what the answer is to be"),
                remedy,
            );
        }
    }
    let file = check.get("sql").get("file");
    if file.exists() && file.text() == Some("") {
        report.add(file.place, "no file is named", "name the file that holds the query");
    }
}
