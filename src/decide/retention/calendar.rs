//! The newest sound backup of each of so many periods of the calendar. Counted
//! are periods that have a backup: after a pause of a month `daily: 7` still
//! keeps seven. Only sound backups count, so that none which cannot be restored
//! stands for a period. Each line of the schedule counts the backups of its own
//! kind, standalone ones apart, and the larger ones that ran in its place as both
//! were due together.
//!
//! What must never happen: a backup that only happens to be larger takes the place
//! of one that the line needs.

use std::cmp::Reverse;

use chrono::{DateTime, Datelike as _, Timelike as _};
use jiff::Timestamp;

use super::{Held, Line, Policy, Reason, Reasons};
use crate::domain::KeepPeriod;

/// Of `standing`, the backups that may stand for a period.
pub(super) fn keep(standing: &[&Held], policy: &Policy, reasons: &mut Reasons) {
    let mut newest_first = standing.to_vec();
    newest_first.sort_by_key(|backup| Reverse((backup.started_at, backup.age())));
    for backup in standing {
        if !policy.lines.iter().any(|line| is_of(backup, line)) {
            reasons.add(backup, Reason::NoLimit);
        }
    }
    for line in &policy.lines {
        let mut counts: Option<Vec<Count>> = line.keep.as_ref().map(|keep| keep.iter().map(Count::new).collect());
        for backup in &newest_first {
            // No further back than it takes.
            if counts.as_ref().is_some_and(|counts| counts.iter().all(|count| count.left == 0)) {
                break;
            }
            if !counts_for(backup, line, policy) {
                continue;
            }
            match &mut counts {
                None => reasons.add(backup, Reason::NoLimit),
                Some(counts) => counts.iter_mut().for_each(|count| count.take(backup, policy.zone, reasons)),
            }
        }
    }
}

/// The newest backup of each of the newest periods.
struct Count {
    period: KeepPeriod,
    /// So many periods more.
    left: u32,
    counted: Option<String>,
}

impl Count {
    fn new((period, count): (&KeepPeriod, &u32)) -> Self {
        Self { period: *period, left: *count, counted: None }
    }

    /// Backups come newest first.
    fn take(&mut self, backup: &Held, zone: chrono_tz::Tz, reasons: &mut Reasons) {
        if self.left == 0 {
            return;
        }
        let Some(of) = name(self.period, backup.started_at, zone) else {
            reasons.add(backup, Reason::NoLimit);
            return;
        };
        if self.counted.as_ref() != Some(&of) {
            self.left -= 1;
            reasons.add(backup, Reason::Newest { period: self.period, of: of.clone() });
            self.counted = Some(of);
        }
    }
}

fn is_of(backup: &Held, line: &Line) -> bool {
    backup.kind == line.kind && backup.standalone == line.standalone
}

/// Whether it is one of the line's backups: by its kind, or as a larger one that ran
/// in place of one. Says the same whatever else the vault holds, or holds no more.
fn counts_for(backup: &Held, line: &Line, policy: &Policy) -> bool {
    let mut larger = policy.lines.iter().filter(|of| is_of(backup, of) && of.size().counts_for(line.size()));
    is_of(backup, line) || larger.any(|of| ran_for_both(backup, of, line))
}

/// Whether both lines were due when it was, and the smaller one was not due again
/// before it began.
fn ran_for_both(backup: &Held, of: &Line, smaller: &Line) -> bool {
    of.due.latest_due(Timestamp::MIN, backup.started_at).is_some_and(|due_at| {
        smaller.due.is_due_at(due_at) && smaller.due.next_after(due_at).is_none_or(|next| backup.started_at < next)
    })
}

/// The period that an instant is in, on the wall of the zone. The hour that is
/// doubled in autumn is two. None outside the years that a calendar has.
pub(super) fn name(period: KeepPeriod, at: Timestamp, zone: chrono_tz::Tz) -> Option<String> {
    let at = DateTime::from_timestamp(at.as_second(), 0)?.with_timezone(&zone);
    Some(match period {
        KeepPeriod::Hourly => format!("{} {:02}:00 {}", at.format("%Y-%m-%d"), at.hour(), at.format("%:z")),
        KeepPeriod::Daily => at.format("%Y-%m-%d").to_string(),
        KeepPeriod::Weekly => format!("{}-W{:02}", at.iso_week().year(), at.iso_week().week()),
        KeepPeriod::Monthly => at.format("%Y-%m").to_string(),
        KeepPeriod::Yearly => at.format("%Y").to_string(),
    })
}
