//! Upon which backup an increment is built.

use std::collections::BTreeMap;

use super::recovery::{History, Line};
use crate::domain::{BackupId, BackupKind, Lsn, Timeline};

/// A backup that an increment may be built upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    pub kind: BackupKind,
    pub standalone: bool,
    pub timeline: Timeline,
    pub stop_lsn: Lsn,
    /// Its WAL is there, nothing of it and of what it builds upon is missing or known
    /// to be damaged, and the server found no damaged page.
    pub is_sound: bool,
}

/// Whether increments may be built upon such a backup at all.
pub const fn carries(kind: BackupKind, standalone: bool) -> bool {
    matches!(kind, BackupKind::Full | BackupKind::Incremental) && !standalone
}

/// The newest sound one on the way to the timeline that the server writes; a
/// backup that stands alone carries nothing. None where there is no such: then a
/// full backup is due.
pub fn choose<'a>(
    backups: &'a [Candidate],
    server: Timeline,
    histories: &BTreeMap<Timeline, History>,
) -> Option<&'a Candidate> {
    let line = Line::leading_to(server, histories).ok()?;
    let may_carry = |backup: &&Candidate| {
        carries(backup.kind, backup.standalone) && backup.is_sound && line.passes(backup.timeline, backup.stop_lsn)
    };
    backups.iter().filter(may_carry).max_by_key(|backup| (backup.timeline, backup.stop_lsn, &backup.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(id: &str, timeline: u32, stop: u64) -> Candidate {
        Candidate {
            id: id.parse().unwrap(),
            kind: BackupKind::Full,
            standalone: false,
            timeline: Timeline(timeline),
            stop_lsn: Lsn(stop),
            is_sound: true,
        }
    }

    #[test]
    fn the_newest_sound_backup_of_the_servers_own_past_carries_the_increment() {
        let histories: BTreeMap<Timeline, History> = [(Timeline(2), vec![(Timeline(1), Lsn(500))])].into();
        let chosen = |backups: &[Candidate], server: u32| {
            choose(backups, Timeline(server), &histories).map(|backup| backup.id.as_str().to_owned())
        };
        let [one, two, three] = [backup("one", 1, 100), backup("two", 1, 400), backup("three", 1, 600)];
        let all = [one.clone(), two.clone(), three.clone()];
        assert_eq!(chosen(&all, 1).as_deref(), Some("three"));
        assert_eq!(chosen(&all, 2).as_deref(), Some("two"), "the third lies behind the fork");
        assert_eq!(chosen(&all, 3), None, "how timeline 3 began is not known");
        assert_eq!(chosen(&[], 1), None);

        let not = |change: fn(&mut Candidate)| {
            let mut newest = three.clone();
            change(&mut newest);
            chosen(&[one.clone(), newest], 1)
        };
        assert_eq!(not(|backup| backup.kind = BackupKind::Incremental).as_deref(), Some("three"));
        assert_eq!(not(|backup| backup.is_sound = false).as_deref(), Some("one"));
        assert_eq!(not(|backup| backup.standalone = true).as_deref(), Some("one"));
        assert_eq!(not(|backup| backup.kind = BackupKind::Snapshot).as_deref(), Some("one"));
    }
}
