//! Which of a database's clusters goes on. An upgrade or a new `initdb` gives
//! the database another system id, and with it a history of its own beside the
//! old one; for a while the old one holds the only backup that can be restored.
//!
//! What must never happen: the cluster from before is taken for the latest state
//! because of the newer one nothing can be restored yet.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;

use crate::domain::{BackupId, VaultName};

/// What vaults hold together of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// In decimal, as `pg_controldata` prints it.
    pub system_id: String,
    pub incarnation: u32,
    /// The backup that ended last of those that can be restored, and when.
    pub newest: Option<(BackupId, Timestamp)>,
    /// The number of the last heartbeat. Numbers go on over all clusters of a database.
    pub last_beat: Option<i64>,
    /// Backups that no vault holds a valid manifest of, and when they began, where
    /// their names tell.
    pub invalid: Vec<(BackupId, Option<Timestamp>)>,
    pub vaults: BTreeSet<VaultName>,
}

impl Cluster {
    /// When `initdb` made it: the upper 32 bits of a system id are the seconds
    /// since 1970 at that time (`BootStrapXLOG` in PostgreSQL's `xlog.c`).
    fn made_at(&self) -> Option<Timestamp> {
        let seconds = self.system_id.parse::<u64>().ok()? >> 32;
        Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
    }

    /// Sorts by when the cluster was made.
    fn age(&self) -> (u128, u32) {
        (self.system_id.parse().unwrap_or_default(), self.incarnation)
    }

    fn ended_at(&self) -> Option<Timestamp> {
        self.newest.as_ref().map(|(_, at)| *at)
    }

    /// What speaks for it that it is newer than another one.
    fn signs_against(&self, other: &Self) -> Vec<Sign> {
        let mut signs = Vec::new();
        match &self.newest {
            Some((backup, at)) if Some(*at) > other.ended_at() => signs.push(Sign::LaterBackup(backup.clone())),
            None if self.age() > other.age() => signs.push(Sign::MadeLater),
            // One that was made later and backed up earlier was given up again.
            _ => {}
        }
        if self.last_beat > other.last_beat {
            signs.push(Sign::LaterHeartbeat);
        }
        let invalid = self.invalid.iter().filter(|(_, began)| began.is_none() || *began > other.ended_at());
        signs.extend(invalid.map(|(backup, _)| Sign::InvalidBackup(backup.clone())));
        signs
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system_id, newest, .. } = self;
        let vaults: Vec<String> = self.vaults.iter().map(|vault| format!("`{vault}`")).collect();
        write!(f, "system id {system_id} (")?;
        if self.incarnation > 1 {
            write!(f, "incarnation {}, ", self.incarnation)?;
        }
        if let Some(made_at) = self.made_at() {
            write!(f, "made {made_at}, ")?;
        }
        match newest {
            Some((backup, at)) => write!(f, "newest backup {backup} of {at}, ")?,
            None => f.write_str("no backup that can be restored, ")?,
        }
        write!(f, "in vault {})", vaults.join(", "))
    }
}

/// What speaks for a cluster that it is the newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    LaterBackup(BackupId),
    /// Its system id is newer, and nothing of it can be restored.
    MadeLater,
    LaterHeartbeat,
    /// What looks like a backup of it, and began later or at no known time.
    InvalidBackup(BackupId),
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LaterBackup(backup) => write!(f, "its backup {backup} is newer"),
            Self::MadeLater => f.write_str("it was made later"),
            Self::LaterHeartbeat => f.write_str("its last heartbeat is newer"),
            Self::InvalidBackup(backup) => write!(f, "its backup {backup} has no valid manifest"),
        }
    }
}

/// The cluster that would be restored may not be the one that goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not certain that {chosen} is the cluster that goes on: {}; bring back what is missing of it, or give it a backup, or name the cluster to restore with `--system-id` or `--backup`",
    told(rivals)
)]
pub struct Unclear {
    pub chosen: Cluster,
    /// Those that may be newer, and what speaks for each.
    pub rivals: Vec<(Cluster, Vec<Sign>)>,
}

fn told(rivals: &[(Cluster, Vec<Sign>)]) -> String {
    let told = rivals.iter().map(|(cluster, signs)| {
        let signs: Vec<String> = signs.iter().map(ToString::to_string).collect();
        format!("{cluster} may be, as {}", signs.join(" and "))
    });
    told.collect::<Vec<_>>().join(", and ")
}

/// The one with the newest backup; none where nothing can be restored.
pub fn latest(clusters: &[Cluster]) -> Option<&Cluster> {
    clusters.iter().filter(|cluster| cluster.newest.is_some()).max_by_key(|cluster| (cluster.ended_at(), cluster.age()))
}

/// What speaks against the chosen cluster: others that may be newer; none where nothing does.
pub fn doubt(clusters: &[Cluster], chosen: &Cluster) -> Option<Unclear> {
    let others = clusters.iter().filter(|other| other.age() != chosen.age());
    let signs = others.map(|other| (other.clone(), other.signs_against(chosen)));
    let rivals: Vec<_> = signs.filter(|(_, signs)| !signs.is_empty()).collect();
    (!rivals.is_empty()).then(|| Unclear { chosen: chosen.clone(), rivals })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made that many seconds after 1970.
    fn cluster(made: u64, newest: Option<i64>) -> Cluster {
        Cluster {
            system_id: ((made << 32) + 77).to_string(),
            incarnation: 1,
            newest: newest.map(|at| (format!("b{at}").parse().unwrap(), Timestamp::from_second(at).unwrap())),
            last_beat: None,
            invalid: Vec::new(),
            vaults: ["primary".parse().unwrap()].into(),
        }
    }

    fn signs(chosen: &Cluster, other: &Cluster) -> Vec<Sign> {
        let all = [other.clone(), chosen.clone()];
        doubt(&all, chosen).map(|mut unclear| unclear.rivals.remove(0).1).unwrap_or_default()
    }

    #[test]
    fn a_system_id_tells_when_its_cluster_was_made() {
        let mut made = cluster(0, None);
        made.system_id = "7412345678901234567".to_owned();
        assert_eq!(made.made_at().unwrap().to_string(), "2024-09-08T18:46:55Z");
        made.system_id = "99999999999999999999".to_owned();
        assert_eq!(made.made_at(), None);
    }

    #[test]
    fn a_newer_cluster_without_a_backup_is_never_passed_over() {
        let (old, new) = (cluster(100, Some(500)), cluster(400, None));
        assert_eq!(latest(&[old.clone(), new.clone()]), Some(&old));
        assert_eq!(signs(&old, &new), [Sign::MadeLater]);
        let told = doubt(&[old.clone(), new.clone()], &old).unwrap().to_string();
        for word in [&old.system_id[..], &new.system_id, "newest backup b500", "it was made later", "--system-id"] {
            assert!(told.contains(word), "{told}");
        }
        // Once it has one, the old one is history.
        let backed_up = cluster(400, Some(600));
        assert_eq!(latest(&[old.clone(), backed_up.clone()]), Some(&backed_up));
        assert_eq!(signs(&backed_up, &old), []);
        assert_eq!(signs(&old, &backed_up), [Sign::LaterBackup("b600".parse().unwrap())]);
        assert_eq!(latest(&[new]), None);
    }

    #[test]
    fn a_damaged_manifest_is_a_doubt_where_it_may_be_newer() {
        let (old, mut new) = (cluster(400, Some(500)), cluster(100, None));
        let began = |second| Some(Timestamp::from_second(second).unwrap());
        new.invalid = vec![("x".parse().unwrap(), began(450))];
        assert_eq!(signs(&old, &new), [], "it began before the newest one ended");
        new.invalid = vec![("x".parse().unwrap(), began(501)), ("y".parse().unwrap(), None)];
        assert_eq!(signs(&old, &new), ["x", "y"].map(|id| Sign::InvalidBackup(id.parse().unwrap())));
    }

    #[test]
    fn a_cluster_that_was_given_up_again_is_no_rival_unless_it_beats_later() {
        let (mut kept, mut given_up) = (cluster(100, Some(500)), cluster(300, Some(400)));
        assert_eq!(signs(&kept, &given_up), []);
        (kept.last_beat, given_up.last_beat) = (Some(80), Some(70));
        assert_eq!(signs(&kept, &given_up), []);
        given_up.last_beat = Some(90);
        assert_eq!(signs(&kept, &given_up), [Sign::LaterHeartbeat]);
        // The other way round: back on the old cluster, which has no new backup yet.
        (kept.newest, kept.last_beat) = (cluster(100, Some(200)).newest, Some(100));
        assert_eq!(signs(&given_up, &kept), [Sign::LaterHeartbeat]);
    }
}
