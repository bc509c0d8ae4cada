//! Upon which backup an increment or a differential is built.

use std::collections::BTreeMap;

use super::recovery::{History, Line};
use crate::domain::{BackupId, BackupKind, Lsn, Timeline};

/// A backup that another one may be built upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: BackupId,
    pub kind: BackupKind,
    pub standalone: bool,
    pub timeline: Timeline,
    pub stop_lsn: Lsn,
    /// Its WAL is listed, nothing of it and of what it builds upon is missing or known
    /// to be damaged, and the server found no damaged page.
    pub may_carry: bool,
}

/// Why there is nothing to build upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// Where the server's timeline comes from is not known: its history file arrives
    /// with the stream, shortly after a failover.
    NoHistory(Timeline),
    NoneSound,
}

/// The kinds that are built upon another backup.
pub const CHILDREN: [BackupKind; 2] = [BackupKind::Incremental, BackupKind::Differential];

/// Whether a `child` may be built upon such a backup at all. Nothing is built upon
/// a differential.
pub const fn carries(kind: BackupKind, standalone: bool, child: BackupKind) -> bool {
    !standalone
        && match child {
            BackupKind::Incremental => matches!(kind, BackupKind::Full | BackupKind::Incremental),
            BackupKind::Differential => matches!(kind, BackupKind::Full),
            BackupKind::Full | BackupKind::Snapshot | BackupKind::Logical => false,
        }
}

/// The newest sound one on the way to the timeline that the server writes; a
/// backup that stands alone carries nothing. Where there is no such a full backup is due.
pub fn choose<'a>(
    child: BackupKind,
    backups: &'a [Candidate],
    server: Timeline,
    histories: &BTreeMap<Timeline, History>,
) -> Result<&'a Candidate, Nothing> {
    let line = Line::leading_to(server, histories).map_err(|_| Nothing::NoHistory(server))?;
    let may_carry = |backup: &&Candidate| {
        carries(backup.kind, backup.standalone, child)
            && backup.may_carry
            && line.passes(backup.timeline, backup.stop_lsn)
    };
    let newest = backups.iter().filter(may_carry).max_by_key(|backup| (backup.timeline, backup.stop_lsn, &backup.id));
    newest.ok_or(Nothing::NoneSound)
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
            may_carry: true,
        }
    }

    #[test]
    fn the_newest_sound_backup_of_the_servers_own_past_carries_the_increment() {
        let histories: BTreeMap<Timeline, History> = [(Timeline(2), vec![(Timeline(1), Lsn(500))])].into();
        let chosen = |backups: &[Candidate], server: u32| {
            choose(BackupKind::Incremental, backups, Timeline(server), &histories)
                .map(|backup| backup.id.as_str().to_owned())
        };
        let [one, two, three] = [backup("one", 1, 100), backup("two", 1, 400), backup("three", 1, 600)];
        let all = [one.clone(), two.clone(), three.clone()];
        assert_eq!(chosen(&all, 1).as_deref(), Ok("three"));
        assert_eq!(chosen(&all, 2).as_deref(), Ok("two"), "the third lies behind the fork");
        assert_eq!(chosen(&all, 3), Err(Nothing::NoHistory(Timeline(3))), "how timeline 3 began is not known");
        assert_eq!(chosen(&[], 1), Err(Nothing::NoneSound));

        let not = |change: fn(&mut Candidate)| {
            let mut newest = three.clone();
            change(&mut newest);
            chosen(&[one.clone(), newest], 1)
        };
        assert_eq!(not(|backup| backup.kind = BackupKind::Incremental).as_deref(), Ok("three"));
        assert_eq!(not(|backup| backup.may_carry = false).as_deref(), Ok("one"));
        assert_eq!(not(|backup| backup.standalone = true).as_deref(), Ok("one"));
        assert_eq!(not(|backup| backup.kind = BackupKind::Snapshot).as_deref(), Ok("one"));
    }
    #[test]
    fn a_differential_is_built_upon_full_backups_alone_and_carries_nothing() {
        let mut all = [backup("one", 1, 100), backup("two", 1, 200), backup("three", 1, 300), backup("four", 1, 400)];
        all[1].kind = BackupKind::Incremental;
        all[2].kind = BackupKind::Differential;
        all[3].standalone = true;
        let chosen = |child| {
            let chosen = choose(child, &all, Timeline(1), &BTreeMap::new());
            chosen.map(|backup| backup.id.as_str().to_owned())
        };
        assert_eq!(chosen(BackupKind::Differential).as_deref(), Ok("one"));
        assert_eq!(chosen(BackupKind::Incremental).as_deref(), Ok("two"));
        assert_eq!(chosen(BackupKind::Full), Err(Nothing::NoneSound));
    }
}
