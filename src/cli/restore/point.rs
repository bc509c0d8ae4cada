//! Which recovery point is meant: what `restore` and `restore-test` take alike.

use clap::Args;
use jiff::Timestamp;

use super::super::UsageError;
use crate::domain::{Lsn, RecoveryTarget, Timeline};

/// What to recover to; the latest state when nothing is said.
#[derive(Debug, Args)]
pub struct TargetOptions {
    #[command(flatten)]
    point: PointOptions,
    /// Without what `--at`, `--lsn` or `--xid` names: everything before it.
    #[arg(long)]
    exclusive: bool,
    /// Along this timeline to its end, such as one that a promotion left: decimal, or
    /// the 8 digits that the names of its WAL files begin with. The newest when absent.
    #[arg(long, value_name = "N", value_parser = timeline)]
    timeline: Option<Timeline>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct PointOptions {
    /// The last commit at or before this time, with its zone: `2026-11-21T14:05:00+01:00`.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// All up to this position in the WAL, such as `0/3000148`, as `pg_current_wal_lsn()` tells it.
    #[arg(long)]
    lsn: Option<Lsn>,
    /// All up to and with this transaction, by the number that `pg_current_xact_id()` gave it.
    #[arg(long)]
    xid: Option<String>,
    /// A restore point made with `pg_create_restore_point`.
    #[arg(long)]
    name: Option<String>,
    /// The end of the backup itself.
    #[arg(long)]
    immediate: bool,
    /// The newest state that the vault proves.
    #[arg(long)]
    latest: bool,
}

impl TargetOptions {
    /// What was asked for, and along which timeline; none when nothing was.
    pub fn asked(&self) -> Result<Option<(RecoveryTarget, Option<Timeline>)>, UsageError> {
        let target = self.point.target()?;
        let target = if self.exclusive {
            let exclusive = target.and_then(RecoveryTarget::exclusive);
            let alone = "`--exclusive` leaves out what is named: say it with `--at`, `--lsn` or `--xid`";
            Some(exclusive.ok_or_else(|| UsageError(alone.to_owned()))?)
        } else {
            target
        };
        let target = target.or_else(|| self.timeline.map(|_| RecoveryTarget::Latest));
        Ok(target.map(|target| (target, self.timeline)))
    }
}

impl PointOptions {
    fn target(&self) -> Result<Option<RecoveryTarget>, UsageError> {
        if let Some(text) = &self.at {
            let at: Timestamp = text.parse().map_err(|_| {
                UsageError(format!(
                    "`{text}` is not a time with a zone; write it like `2026-11-21T14:05:00Z` or `…+01:00`"
                ))
            })?;
            return Ok(Some(RecoveryTarget::Time(at)));
        }
        if let Some(xid) = &self.xid
            && xid.parse::<u64>().is_err()
        {
            return Err(UsageError(format!("`{xid}` is not a transaction number")));
        }
        if let Some(name) = &self.name {
            refuse_unnameable(name)?;
        }
        Ok(self
            .lsn
            .map(RecoveryTarget::Lsn)
            .or_else(|| self.xid.clone().map(RecoveryTarget::Xid))
            .or_else(|| self.name.clone().map(RecoveryTarget::Name))
            .or_else(|| self.immediate.then_some(RecoveryTarget::Immediate))
            .or_else(|| self.latest.then_some(RecoveryTarget::Latest)))
    }
}

/// PostgreSQL takes an empty name as no target at all, and would recover to the
/// latest state; none that it keeps is longer than 63 bytes.
fn refuse_unnameable(restore_point: &str) -> Result<(), UsageError> {
    let is_name = (1..=63).contains(&restore_point.len()) && !restore_point.contains(char::is_control);
    if is_name {
        return Ok(());
    }
    let shown: String = restore_point.chars().filter(|c| !c.is_control()).take(70).collect();
    Err(UsageError(format!(
        "`{shown}` is not the name of a restore point; write the 1 to 63 bytes that `pg_create_restore_point` was given"
    )))
}

/// `2`, or `00000002` as file names have it: hexadecimal.
fn timeline(text: &str) -> Result<Timeline, String> {
    let radix = if text.len() == 8 { 16 } else { 10 };
    let number = u32::from_str_radix(text, radix).ok().filter(|number| *number > 0);
    let number = number.filter(|_| text.chars().all(|c| c.is_ascii_hexdigit()));
    number.map(Timeline).ok_or_else(|| "write it like `2`, or `00000002` as file names have it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_decimal_or_as_file_names_have_it() {
        let read = |text| timeline(text).ok().map(|timeline| timeline.0);
        assert_eq!(
            [read("2"), read("10"), read("00000010"), read("0000000A")],
            [Some(2), Some(10), Some(16), Some(10)]
        );
        assert_eq!([read("0"), read("A"), read("+1"), read("-1"), read(""), read("00000000")], [None; 6]);
    }
}
