//! Looks at what this machine has where the WAL of a restore makes tablespaces.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Request, RestoreError};
use crate::{
    decide::{
        recovery::Selection,
        tablespaces::{self, Place, Wanted},
    },
    domain::{Lsn, RecoveryTarget},
    vault::{self, Fetch},
};

/// Made with every file system, and nobody's.
const OF_THE_FILE_SYSTEM: &str = "lost+found";

/// The folders that must be there before a server is started on the restore, whose
/// WAL is all fetched; or the refusal of what would write into another's.
pub(super) async fn wanted(
    fetch: &Fetch<'_>,
    selection: &Selection,
    start: Lsn,
    target: &RecoveryTarget,
    request: &Request,
) -> Result<Vec<Wanted>, RestoreError> {
    let made = vault::made_tablespaces(&request.wal_folder, selection, start, target, fetch.stop).await?;
    let found: Vec<_> = made
        .into_iter()
        .map(|made| {
            let place = place(&made.path, &request.data);
            (made, place)
        })
        .collect();
    Ok(tablespaces::judge(&found)?)
}

/// What is at a path, for a copy whose data folder is `data`.
fn place(path: &Path, data: &Path) -> Place {
    if let Some(cluster) = cluster_above(path, data) {
        return Place::InCluster(cluster);
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Place::Absent,
        Err(error) => return Place::Unknown(error.to_string()),
    };
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_name() == OF_THE_FILE_SYSTEM => {}
            Ok(_) => return Place::Occupied,
            Err(error) => return Place::Unknown(error.to_string()),
        }
    }
    Place::Empty
}

/// The data folder of another cluster that a path lies in.
fn cluster_above(path: &Path, data: &Path) -> Option<PathBuf> {
    let real = path.ancestors().find_map(|folder| folder.canonicalize().ok())?;
    let ours = data.canonicalize().ok();
    let is_cluster = |folder: &&Path| folder.join("PG_VERSION").exists() && folder.join("global/pg_control").exists();
    real.ancestors().filter(is_cluster).find(|folder| ours.as_deref() != Some(*folder)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_has_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["empty", "disk/lost+found", "used/PG_15_202209061", "cluster/global", "target/global"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("file"), "").unwrap();
        for name in ["cluster", "target"] {
            fs::write(path(name).join("PG_VERSION"), "15\n").unwrap();
            fs::write(path(name).join("global/pg_control"), "").unwrap();
        }
        std::os::unix::fs::symlink(path("cluster"), path("link")).unwrap();
        let cluster = Place::InCluster(path("cluster").canonicalize().unwrap());
        for (name, expected) in [
            ("absent", Place::Absent),
            ("empty", Place::Empty),
            ("disk", Place::Empty),
            ("used", Place::Occupied),
            ("cluster/space", cluster.clone()),
            ("link/space", cluster),
            ("target/space", Place::Absent),
        ] {
            assert_eq!(place(&path(name), &path("target")), expected, "{name}");
        }
        assert!(matches!(place(&path("file"), &path("target")), Place::Unknown(_)));
    }
}
