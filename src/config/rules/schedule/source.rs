//! From which member backups come, and how fast.

use super::super::{Report, Spot};
use crate::domain::ByteSize;

/// What a server accepts as `MAX_RATE`.
const RATE_MIN: ByteSize = ByteSize::from_bytes(32 << 10);
const RATE_MAX: ByteSize = ByteSize::from_bytes(1 << 30);

pub(super) fn check(schedule: Spot<'_>, report: &mut Report<'_>) {
    let has_one = schedule.get("connection").exists() || schedule.get("members").pairs().count() == 1;
    for said in std::iter::once(schedule).chain(schedule.get("backups").items()) {
        let from = said.get("backup_from");
        if has_one && from.text().is_some_and(|from| from != "primary") {
            report.add(
                from.place,
                "there is one server, so no standby gives a backup",
                "name the standby under `members`, or remove `backup_from`",
            );
        }
        let rate = said.get("backup_rate_max");
        if let Some(wanted) = rate.parsed::<ByteSize>()
            && !(RATE_MIN..=RATE_MAX).contains(&wanted)
        {
            report.add(
                rate.place,
                format!("a server sends a backup at {RATE_MIN} to {RATE_MAX} a second, not at {wanted}"),
                format!("write a size from {RATE_MIN} to {RATE_MAX}, or remove it: then nothing holds it back"),
            );
        }
    }
}
