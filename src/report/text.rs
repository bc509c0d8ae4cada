//! The report as plain text, for a terminal or a mail: what was promised and achieved, in
//! the words of the page, without the runs.

use super::{Report, build::Subject, words};
use crate::evidence::Month;

/// The judgement, the groups, and each database and runbook.
pub fn text(report: &Report) -> String {
    let period = report.month.map_or_else(|| "all time".to_owned(), Month::in_words);
    let mut lines = vec![format!("Recovery report, {period}: {}", report.title()), report.headline.clone()];
    for group in &report.groups {
        lines.push(format!("\n{}", group.title()));
        lines.extend(group.sentences(report.generated_at).into_iter().map(|sentence| format!("  {sentence}")));
    }
    for subject in &report.subjects {
        lines.push(format!("\n{} ({})", subject.name, subject.kind));
        lines.extend(told(subject).into_iter().map(|line| format!("  {line}")));
    }
    lines.push("\nWhat the figures leave out".to_owned());
    lines.extend(report.excludes.iter().map(|text| format!("  {text}")));
    lines.join("\n")
}

fn told(subject: &Subject) -> Vec<String> {
    let measures = subject.lines.iter().map(|line| format!("{} {}: {}", line.measure, line.verdict, line.sentence));
    let exposure = subject.exposure.iter();
    let exposure = exposure.map(|(vault, over)| format!("Exposure of {vault}: {}.", words::exposure_over(over)));
    let forecast = subject.forecast.iter();
    let forecast =
        forecast.map(|of| format!("A restore would take about {} now, estimated.", words::seconds(&of.seconds)));
    measures.chain(exposure).chain(forecast).collect()
}
