//! What a differential leaves out: files that the server still has as its full
//! backup holds them. By PostgreSQL's own manifest of that backup a file is known
//! when it begins, by size and time, and proven while it passes, by its checksum.
//!
//! What must never happen: a file that is left out and is another one than the full
//! backup's.

use std::path::Path;

use futures::TryStreamExt;

use super::{
    Layout, Manifest, SharedStore, VaultError,
    parent::server_manifest,
    server::{Coming, ServerFile, ServerFiles, ServerManifest},
};
use crate::domain::BackupId;

/// A file that was changed less than this before the full backup began to be sent may
/// have changed again within the second that was noted.
const RACY_SECONDS: i64 = 2;
/// The server makes it when it begins to send: its time is the server's own clock.
const LABEL: &str = "backup_label";
/// Always stored: they say where replay starts.
const STORED: [&str; 2] = [LABEL, "global/pg_control"];

/// The full backup that a differential is built upon.
#[derive(Debug)]
pub struct Base {
    backup: BackupId,
    files: ServerFiles,
    /// Only files that were changed before are left out, in seconds since 1970.
    before: i64,
}

impl Base {
    /// Reads the files of a full backup.
    pub async fn read(store: &SharedStore, layout: &Layout, full: &Manifest) -> Result<Self, VaultError> {
        let stream = server_manifest(store, layout, full).await?;
        let json = stream.try_fold(Vec::new(), |mut json, bytes| async move {
            json.extend_from_slice(&bytes);
            Ok(json)
        });
        let json = json.await?;
        let read = ServerManifest::read(&json).map_err(|what| VaultError::Unlike {
            what: format!("the `backup_manifest` of backup `{}` cannot be believed: {what}", full.backup),
        })?;
        Self::of(full.backup.clone(), read.files)
    }

    fn of(backup: BackupId, files: ServerFiles) -> Result<Self, VaultError> {
        if let Some(odd) = files.members().find(|name| !is_plain(name)) {
            return Err(odd_name(odd));
        }
        let begun = files.get(Path::new(LABEL)).and_then(|label| label.modified);
        Ok(Self { backup, files, before: begun.map_or(i64::MIN, |begun| begun - RACY_SECONDS + 1) })
    }

    /// The file of the full backup that a member with this size and time is by all
    /// appearance. Refused where its name is one that `restore.sh` cannot read.
    pub(super) fn leaves_out(&self, member: &Path, size: u64, modified: u64) -> Result<Option<LeftOut>, VaultError> {
        if !is_plain(member) {
            return Err(odd_name(member));
        }
        let is_stored = STORED.iter().any(|stored| member == Path::new(stored));
        let is_same = |file: &ServerFile| {
            let same_time = file.modified.filter(|at| i64::try_from(modified) == Ok(*at));
            !is_stored && file.size == size && same_time.is_some_and(|at| at < self.before)
        };
        let file = self.files.get(member).filter(is_same);
        Ok(file.map(|file| LeftOut {
            name: member.display().to_string(),
            full: self.backup.clone(),
            left: size,
            coming: Coming::new(file),
        }))
    }
}

/// A file that passes and is left out.
#[derive(Debug)]
pub(super) struct LeftOut {
    name: String,
    full: BackupId,
    /// Content bytes still to come; what follows them is padding.
    left: u64,
    coming: Coming,
}

impl LeftOut {
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let content = bytes.get(..usize::try_from(self.left).unwrap_or(usize::MAX)).unwrap_or(bytes);
        self.left -= content.len() as u64;
        self.coming.update(content);
    }

    /// It has passed: was it what it seemed to be?
    pub(super) fn end(self) -> Result<(), VaultError> {
        let Self { name, full, coming, .. } = self;
        coming.end().map_err(|_| VaultError::Unlike {
            what: format!(
                "`{name}` has changed since backup `{full}`, and by its size and time it has not; look who sets the times of the server's files"
            ),
        })
    }
}

/// As PostgreSQL's manifest has it in plain words: no escape, and nothing that is no
/// UTF-8, in whose place a member's name has the replacement character.
fn is_plain(name: &Path) -> bool {
    let is_odd = |c: char| c.is_control() || matches!(c, '"' | '\\' | char::REPLACEMENT_CHARACTER);
    name.to_str().is_some_and(|name| !name.contains(is_odd))
}

fn odd_name(name: &Path) -> VaultError {
    let name = name.display().to_string();
    let what = format!("the server has a file with the odd name `{}`; remove it, or rename it", name.escape_debug());
    VaultError::Unlike { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, crc32c: u32, modified: i64) -> ServerFile {
        ServerFile { size, crc32c, modified: Some(modified) }
    }

    fn base(files: &[(&str, ServerFile)]) -> Result<Base, VaultError> {
        Base::of("full".parse().unwrap(), files.iter().map(|(name, file)| ((*name).into(), *file)).collect())
    }

    #[test]
    fn a_file_is_left_out_when_all_says_that_it_is_the_full_backups() {
        let base = base(&[
            (LABEL, file(10, 0, 1000)),
            ("global/pg_control", file(8192, 0, 500)),
            ("base/1/old", file(3, 0, 998)),
            ("base/1/racy", file(3, 0, 999)),
            ("base/1/untold", ServerFile { modified: None, ..file(3, 0, 0) }),
        ])
        .unwrap();
        let left_out = |name: &str, size, modified| base.leaves_out(Path::new(name), size, modified).unwrap().is_some();
        assert!(left_out("base/1/old", 3, 998));
        for (name, size, modified) in [
            ("base/1/old", 4, 998),
            ("base/1/old", 3, 999),
            ("base/1/old", 3, 997),
            ("base/1/racy", 3, 999),
            ("base/1/untold", 3, 0),
            ("base/1/new", 3, 998),
            ("global/pg_control", 8192, 500),
            (LABEL, 10, 1000),
        ] {
            assert!(!left_out(name, size, modified), "{name} {size} {modified}");
        }
    }

    #[test]
    fn nothing_is_left_out_where_it_is_not_told_when_the_full_backup_began() {
        let base = base(&[("base/1/old", file(3, 0, 998))]).unwrap();
        assert!(base.leaves_out(Path::new("base/1/old"), 3, 998).unwrap().is_none());
    }

    #[test]
    fn what_passes_is_compared_without_its_padding() {
        let sum = u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, b"abc")).unwrap();
        let base = base(&[(LABEL, file(10, 0, 1000)), ("a", file(3, sum, 1))]).unwrap();
        let passed = |pieces: &[&[u8]]| {
            let mut left_out = base.leaves_out(Path::new("a"), 3, 1).unwrap().unwrap();
            for piece in pieces {
                left_out.pass(piece);
            }
            left_out.end().map_err(|error| error.to_string())
        };
        assert_eq!(passed(&[b"a", b"bc\0\0", b"\0"]), Ok(()));
        let error = passed(&[b"abd"]).unwrap_err();
        assert!(error.contains("`a` has changed since backup `full`"), "{error}");
    }

    #[test]
    fn names_that_the_script_cannot_read_are_refused() {
        for name in ["a\"b", "a\\b", "a\nb", "a\u{fffd}"] {
            assert!(base(&[(name, file(1, 0, 1))]).is_err(), "{name:?}");
            assert!(base(&[]).unwrap().leaves_out(Path::new(name), 1, 1).is_err(), "{name:?}");
        }
        assert!(base(&[("a b/é", file(1, 0, 1))]).is_ok());
    }
}
