//! A group in plain words: the four answers that are asked for first, and what was
//! achieved.

use jiff::Timestamp;

use super::{Bound, Group, GroupExposure, PROVEN_WITHIN_DAYS, Proven};
use crate::{
    domain::Span,
    report::{
        build::Line,
        words::{self, NOT_MEASURED},
    },
};

impl Group {
    /// Name and objectives, such as `estate (RTO 1h, RPO 15m): 2 databases`.
    pub fn title(&self) -> String {
        let Bound { rto, rpo } = self.objectives;
        let written = |name: &str, span: Option<Span>| span.map(|span| format!("{name} {span}"));
        let objectives: Vec<String> = written("RTO", rto).into_iter().chain(written("RPO", rpo)).collect();
        let objectives = if objectives.is_empty() { String::new() } else { format!(" ({})", objectives.join(", ")) };
        format!("{}{objectives}: {}", self.name, words::count(self.databases.len(), "database"))
    }

    /// Recoverable to when, in how long, proven when, exposed to what, and what was achieved.
    pub fn sentences(&self, now: Timestamp) -> Vec<String> {
        let mut sentences = vec![
            self.recoverable(),
            self.takes(),
            self.proven_when(now),
            self.proven.in_words(),
            self.exposure.in_words(),
        ];
        sentences.extend(self.lines.iter().map(achieved));
        sentences.extend(self.trend.iter().map(|trend| format!("{}: {}", trend.measure, trend.sentence)));
        sentences
    }

    fn recoverable(&self) -> String {
        let to = self.recoverable_to.as_ref();
        let to =
            to.map(|of| format!("Recoverable to {} ({} is furthest behind)", words::instant(&of.value), of.database));
        let not = listed("not recoverable: ", &self.not_recoverable);
        format!("{}{}.", to.unwrap_or_else(|| "Nothing can be restored".to_owned()), not)
    }

    fn takes(&self) -> String {
        let takes = self.would_take.as_ref().map(|of| {
            format!("A restore would take about {} at most ({}), estimated", words::seconds(&of.value), of.database)
        });
        let without = listed("no estimate of ", &self.without_forecast);
        format!("{}{without}.", takes.unwrap_or_else(|| "How long a restore would take is not known".to_owned()))
    }

    fn proven_when(&self, now: Timestamp) -> String {
        let tested = self.databases.len() - self.untested.len();
        let last = self.last_proven.as_ref().map_or_else(
            || "none was ever proven".to_owned(),
            |of| format!("the longest ago {} ({})", words::ago(&of.value, &now), of.database),
        );
        let not = listed("not proven since: ", &self.untested);
        let all = words::count(self.databases.len(), "database");
        format!("A restore test passed in the last {PROVEN_WITHIN_DAYS} days for {tested} of {all}; {last}{not}.")
    }
}

impl Proven {
    fn in_words(self) -> String {
        let (backups, chains) = (words::count(self.backups, "backup"), words::count(self.chains, "chain"));
        format!("PROVEN: {} of {backups}, {} of {chains}.", self.backups_proven, self.chains_proven)
    }
}

impl GroupExposure {
    /// The longest, the share over the objective, and how much of the time that is.
    pub fn in_words(&self) -> String {
        let (Some(worst), Some(vault), Some(over)) = (&self.worst, &self.vault, self.over_share) else {
            return format!("Exposure: {NOT_MEASURED}.");
        };
        format!(
            "Exposure: at most {} ({} in {vault}), {} of the time over the objective; measured {} of the time.",
            words::seconds(&worst.value),
            worst.database,
            words::share(over),
            words::share(self.measured_share)
        )
    }
}

fn achieved(line: &Line) -> String {
    let figures = &line.figures;
    let show = |value: &Option<f64>| line.unit.show(value);
    let spread = match figures.n {
        0 => String::new(),
        n => format!(" n = {n}, p50 {}, p95 {}.", show(&figures.p50), show(&figures.p95)),
    };
    format!("{}: {}{spread}", line.measure, line.sentence)
}

/// The names behind what they have in common; nothing where there is none.
fn listed(what: &str, names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; {what}{}", names.join(", ")) }
}
