//! The runs of a report, one per line, for spreadsheets (RFC 4180).

use super::{Report, words::NOT_MEASURED};
use crate::domain::RecoveryAlgorithm;

const HEADER: &str = "index,leaf_hash,run_id,kind,subject,started_at,finished_at,verdict,restore_seconds,rto_seconds,rpo_seconds,rpo_bound_seconds,lost_commits,target_error_seconds,recovery_point";

/// The records as CSV. What was not measured says so, as an empty cell counts as
/// zero in a sum.
pub fn csv(report: &Report) -> String {
    let mut text = format!("{HEADER}\r\n");
    for record in &report.records {
        let cells = [
            record.index.to_string(),
            record.leaf_hash.clone(),
            cell(&record.run_id),
            cell(&record.kind),
            cell(&record.subject),
            record.started_at.to_string(),
            record.finished_at.to_string(),
            record.verdict.to_string(),
            number(record.restore_seconds),
            number(record.rto_seconds),
            number(record.rpo_seconds),
            number(record.rpo_bound_seconds),
            record.lost_commits.map_or_else(|| NOT_MEASURED.to_owned(), |lost| lost.to_string()),
            number(record.target_error_seconds),
            record.recovery_point.map_or("", RecoveryAlgorithm::as_str).to_owned(),
        ];
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| NOT_MEASURED.to_owned(), |value| format!("{value:.3}"))
}

/// Quoted where needed; a text that a spreadsheet would run as a formula is
/// made plain.
fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cell_is_never_a_formula_nor_two_cells() {
        assert_eq!(super::cell("=cmd()"), "'=cmd()");
        assert_eq!(super::cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(super::cell("drill/wallet"), "drill/wallet");
    }
}
