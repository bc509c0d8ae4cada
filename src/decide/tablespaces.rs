//! What becomes of a tablespace that the WAL makes. The server makes it in the
//! folder that production gave it, wherever the copy lies: a backup's own
//! tablespaces are brought inside the target, these cannot be.
//!
//! What must never happen: a copy that writes into a folder which somebody uses.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::domain::Lsn;

/// A tablespace that the WAL makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub path: PathBuf,
    /// Where the record that makes it starts.
    pub at: Lsn,
}

/// What this machine has at its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Absent,
    Empty,
    /// Something is in it.
    Occupied,
    /// It lies in this data folder, which is not the copy's.
    InCluster(PathBuf),
    /// Nobody can tell; the reason.
    Unknown(String),
}

/// A folder that must be there, empty and the server's, before the copy is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub path: String,
    /// Where the WAL makes a tablespace in it.
    pub lsn: Lsn,
    pub exists: bool,
}

/// Why such a copy must not be started on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the WAL makes a tablespace in {path} at {lsn}, and {why}; the copy would write there. Restore on another machine, or to a target before it (`--lsn {lsn} --exclusive`), or from a backup taken after it (`lifeboat backup`, then `--backup ID`)"
)]
pub struct InUse {
    pub path: String,
    pub lsn: Lsn,
    why: String,
}

/// Why a copy that nothing keeps inside its folder must not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the WAL makes a tablespace in {path} at {lsn}, outside of the instance's folder, and nothing here would keep the copy from writing there ({reason}); take a full backup, which holds it"
)]
pub struct Outside {
    pub path: String,
    pub lsn: Lsn,
    reason: String,
}

/// Refuses a test of WAL that makes a tablespace anywhere, where for `reason` nothing
/// confines the copy: a folder that is free today may be production's tomorrow.
pub fn refuse_unconfined(made: &[Made], reason: &str) -> Result<(), Outside> {
    made.first().map_or(Ok(()), |Made { path, at }| {
        Err(Outside { path: path.display().to_string(), lsn: *at, reason: reason.to_owned() })
    })
}

/// The folders that somebody has to see to, or why that is of no use.
pub fn judge(found: &[(Made, Place)]) -> Result<Vec<Wanted>, InUse> {
    let mut wanted: BTreeMap<&Path, Wanted> = BTreeMap::new();
    for (Made { path, at }, place) in found {
        let why = match place {
            Place::Absent | Place::Empty => None,
            Place::Occupied => Some("on this machine that folder is not empty".to_owned()),
            Place::InCluster(data) => Some(format!("on this machine that is in the data folder {}", data.display())),
            Place::Unknown(why) => Some(format!("what is there on this machine cannot be told: {why}")),
        };
        let shown = path.display().to_string();
        if let Some(why) = why {
            return Err(InUse { path: shown, lsn: *at, why });
        }
        let exists = *place == Place::Empty;
        wanted.entry(path).or_insert(Wanted { path: shown, lsn: *at, exists });
    }
    Ok(wanted.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(path: &str, at: u64, place: Place) -> (Made, Place) {
        (Made { path: path.into(), at: Lsn(at) }, place)
    }

    #[test]
    fn a_folder_that_is_free_is_asked_for_once() {
        let found = [made("/b", 8, Place::Absent), made("/a", 16, Place::Empty), made("/b", 24, Place::Absent)];
        let told = judge(&found).unwrap();
        let told: Vec<_> = told.iter().map(|wanted| (wanted.path.as_str(), wanted.lsn, wanted.exists)).collect();
        assert_eq!(told, [("/a", Lsn(16), true), ("/b", Lsn(8), false)]);
        assert_eq!(judge(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_nothing_confines_makes_no_tablespace() {
        assert_eq!(refuse_unconfined(&[], "switched off"), Ok(()));
        let told =
            refuse_unconfined(&[made("/b", 8, Place::Absent).0, made("/a", 16, Place::Absent).0], "switched off");
        let told = told.unwrap_err().to_string();
        assert!(told.contains("in /b at 0/8,") && told.contains("(switched off); take a full backup"), "{told}");
    }

    #[test]
    fn whatever_may_be_somebodys_is_refused_by_its_first_position() {
        for (place, words) in [
            (Place::Occupied, "not empty"),
            (Place::InCluster("/data".into()), "in the data folder /data"),
            (Place::Unknown("denied".to_owned()), "denied"),
        ] {
            let refused = judge(&[made("/b", 8, Place::Absent), made("/a", 16, place)]).unwrap_err();
            assert_eq!((refused.path.as_str(), refused.lsn), ("/a", Lsn(16)));
            let told = refused.to_string();
            assert!(told.contains(words) && told.contains("`--lsn 0/10 --exclusive`"), "{told}");
        }
    }
}
