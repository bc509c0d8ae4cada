//! The report as one self-contained HTML file: style and drawings inside, no
//! script, nothing fetched. Everything that came from elsewhere is escaped by
//! the template.

use askama::Template;

use super::{Report, STYLE, build::measures_rto, draw, words};
use crate::{domain::Check, evidence::Month};

#[derive(Template)]
#[template(path = "report.html")]
struct ReportPage<'a> {
    report: &'a Report,
    style: &'static str,
    period: String,
}

/// Renders the report.
pub fn html(report: &Report) -> Result<String, askama::Error> {
    let period = report.month.map_or_else(|| "all time".to_owned(), Month::in_words);
    ReportPage { report, style: STYLE, period }.render()
}

/// A titled list of checks.
struct Checks<'a> {
    title: &'static str,
    checks: &'a [Check],
}

/// The lists of one record that have something in them.
fn check_lists(record: &crate::domain::EvidenceRecord) -> Vec<Checks<'_>> {
    let resources = record.target.as_ref().map_or(&[][..], |target| &target.resources);
    [
        Checks { title: "Checks", checks: &record.checks },
        Checks { title: "Isolation", checks: &record.isolation },
        Checks { title: "Safety", checks: &record.safety },
        Checks { title: "Created and removed again", checks: resources },
    ]
    .into_iter()
    .filter(|list| !list.checks.is_empty())
    .collect()
}

/// `restore test` for `restore_test`.
pub(super) fn kind_in_words(kind: &str) -> String {
    kind.replace('_', " ")
}
