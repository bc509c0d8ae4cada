//! The newest sound backup of each of so many periods of the calendar. Counted
//! are periods that have a backup: after a pause of a month `daily: 7` still
//! keeps seven. Only sound backups count, so that none which cannot be restored
//! stands for a period. Each line of the schedule counts the backups of its own
//! kind, standalone ones apart.

use chrono::{DateTime, Datelike as _, Timelike as _};

use super::{Held, Line, Policy, Reason, Reasons};
use crate::domain::KeepPeriod;

/// Of `standing`, the backups that may stand for a period.
pub(super) fn keep(standing: &[&Held], policy: &Policy, reasons: &mut Reasons) {
    for backup in standing {
        let lines: Vec<&Line> = policy.lines.iter().filter(|line| is_of(backup, line)).collect();
        if lines.is_empty() || lines.iter().any(|line| line.keep.is_none()) {
            reasons.add(backup, Reason::NoLimit);
        }
    }
    for line in &policy.lines {
        let mut backups: Vec<&Held> = standing.iter().copied().filter(|backup| is_of(backup, line)).collect();
        backups.sort_by_key(|backup| std::cmp::Reverse((backup.started_at, backup.age())));
        for (period, count) in line.keep.iter().flatten() {
            count_back(&backups, *period, *count, policy.zone, reasons);
        }
    }
}

/// The newest backup of each of the newest `count` periods; `backups` are newest first.
fn count_back(backups: &[&Held], period: KeepPeriod, count: u32, zone: chrono_tz::Tz, reasons: &mut Reasons) {
    let mut left = count;
    let mut counted: Option<String> = None;
    for backup in backups {
        let Some(of) = name(period, backup, zone) else {
            reasons.add(backup, Reason::NoLimit);
            continue;
        };
        if counted.as_ref() == Some(&of) {
            continue;
        }
        if left == 0 {
            break;
        }
        left -= 1;
        reasons.add(backup, Reason::Newest { period, of: of.clone() });
        counted = Some(of);
    }
}

fn is_of(backup: &Held, line: &Line) -> bool {
    backup.kind == line.kind && backup.standalone == line.standalone
}

/// The period that a backup began in, on the wall of the zone. The hour that is
/// doubled in autumn is two. None outside the years that a calendar has.
fn name(period: KeepPeriod, backup: &Held, zone: chrono_tz::Tz) -> Option<String> {
    let at = DateTime::from_timestamp(backup.started_at.as_second(), 0)?.with_timezone(&zone);
    Some(match period {
        KeepPeriod::Hourly => format!("{} {:02}:00 {}", at.format("%Y-%m-%d"), at.hour(), at.format("%:z")),
        KeepPeriod::Daily => at.format("%Y-%m-%d").to_string(),
        KeepPeriod::Weekly => format!("{}-W{:02}", at.iso_week().year(), at.iso_week().week()),
        KeepPeriod::Monthly => at.format("%Y-%m").to_string(),
        KeepPeriod::Yearly => at.format("%Y").to_string(),
    })
}
