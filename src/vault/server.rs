//! PostgreSQL's own `backup_manifest`: every file that the server sent, with its
//! size and checksum. It is held in memory as a whole, about 150 bytes a file;
//! the files' content never is.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crc_fast::CrcAlgorithm;
use jiff::civil;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::domain::{Lsn, Timeline};

/// One manifest.
#[derive(Debug)]
pub(super) struct ServerManifest {
    /// PostgreSQL 17 and later tell it.
    pub(super) system_id: Option<u64>,
    pub(super) ranges: Vec<WalRange>,
    pub(super) files: ServerFiles,
}

#[derive(Debug, Deserialize)]
pub(super) struct WalRange {
    #[serde(rename = "Timeline")]
    pub(super) timeline: Timeline,
    #[serde(rename = "Start-LSN")]
    pub(super) start: Lsn,
    #[serde(rename = "End-LSN")]
    pub(super) end: Lsn,
}

/// The files that the parts of a backup must hold, by the names of their members.
#[derive(Debug, Default)]
pub(super) struct ServerFiles(HashMap<PathBuf, ServerFile>);

/// One file as the server sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerFile {
    pub(super) size: u64,
    pub(super) crc32c: u32,
    /// When the server's file system says that it was changed, in seconds since 1970;
    /// none where that is not told as PostgreSQL does.
    pub(super) modified: Option<i64>,
}

impl ServerFile {
    pub(super) const fn is_same_content(self, other: Self) -> bool {
        self.size == other.size && self.crc32c == other.crc32c
    }
}

/// A file on its way, and what it must be.
#[derive(Debug)]
pub(super) struct Coming {
    wanted: ServerFile,
    size: u64,
    crc32c: crc_fast::Digest,
}

impl Coming {
    pub(super) fn new(wanted: ServerFile) -> Self {
        Self { wanted, size: 0, crc32c: crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi) }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.crc32c.update(bytes);
    }

    /// The error is what it is not.
    pub(super) fn end(self) -> Result<(), &'static str> {
        if self.size != self.wanted.size {
            Err("its size is not what `backup_manifest` says")
        } else if self.crc32c.finalize() != u64::from(self.wanted.crc32c) {
            Err("its checksum is not what `backup_manifest` says")
        } else {
            Ok(())
        }
    }
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    #[serde(rename = "Files", borrow)]
    files: Vec<WrittenFile<'a>>,
    #[serde(rename = "WAL-Ranges", default)]
    ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct WrittenFile<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<Cow<'a, str>>,
    /// Hexadecimal, of a name that is not UTF-8.
    #[serde(rename = "Encoded-Path", borrow)]
    encoded: Option<Cow<'a, str>>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified", borrow)]
    modified: Option<Cow<'a, str>>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(rename = "Checksum", borrow)]
    checksum: Option<Cow<'a, str>>,
}

impl ServerManifest {
    /// Reads one. The error is what is wrong with it.
    pub(super) fn read(json: &[u8]) -> Result<Self, String> {
        check_own_sum(json)?;
        let written: Written<'_> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let mut files = HashMap::with_capacity(written.files.len());
        for file in written.files {
            let name = file.name()?;
            let crc32c = file.crc32c().ok_or_else(|| format!("it has no CRC-32C of `{}`", name.display()))?;
            let Some(member) = member(&name) else { continue };
            let sent = ServerFile { size: file.size, crc32c, modified: file.modified() };
            if files.insert(member, sent).is_some() {
                return Err(format!("it names `{}` twice", name.display()));
            }
        }
        Ok(Self { system_id: written.system_id, ranges: written.ranges, files: ServerFiles(files) })
    }
}

impl ServerFiles {
    pub(super) fn get(&self, member: &Path) -> Option<ServerFile> {
        self.0.get(member).copied()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// The size of each file, in bytes.
    pub(super) fn sizes(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(name, file)| (name.to_string_lossy().into_owned(), file.size)).collect()
    }

    /// Content bytes of all files.
    pub(super) fn size(&self) -> u64 {
        self.0.values().map(|file| file.size).sum()
    }
}

impl FromIterator<(PathBuf, ServerFile)> for ServerFiles {
    fn from_iter<T: IntoIterator<Item = (PathBuf, ServerFile)>>(files: T) -> Self {
        Self(files.into_iter().collect())
    }
}

impl WrittenFile<'_> {
    fn name(&self) -> Result<PathBuf, String> {
        match (&self.path, &self.encoded) {
            (Some(path), _) => Ok(PathBuf::from(path.as_ref())),
            (None, Some(encoded)) => {
                let bytes =
                    hex::decode(encoded.as_ref()).map_err(|error| format!("`{encoded}` is no name: {error}"))?;
                Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
            }
            (None, None) => Err("it lists a file without a name".to_owned()),
        }
    }

    fn modified(&self) -> Option<i64> {
        let at = civil::DateTime::strptime("%Y-%m-%d %H:%M:%S GMT", self.modified.as_deref()?).ok()?;
        Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
    }

    /// PostgreSQL writes the sum's bytes as they lie in memory, the lowest first.
    fn crc32c(&self) -> Option<u32> {
        if self.algorithm.as_deref() != Some("CRC32C") {
            return None;
        }
        let bytes = hex::decode(self.checksum.as_deref()?).ok()?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// Its last line holds the SHA-256 of all lines before it, as PostgreSQL's
/// `pg_verifybackup` wants it.
fn check_own_sum(json: &[u8]) -> Result<(), String> {
    let told = || {
        let lines = json.strip_suffix(b"\n")?;
        let at = lines.iter().rposition(|byte| *byte == b'\n')? + 1;
        let last = std::str::from_utf8(lines.get(at..)?).ok()?.trim();
        let sum = last.strip_prefix("\"Manifest-Checksum\":")?.strip_suffix('}')?.trim().trim_matches('"');
        Some((json.get(..at)?, sum))
    };
    let (lines, sum) = told().ok_or_else(|| "it does not end with its own checksum".to_owned())?;
    let found = hex::encode(Sha256::digest(lines));
    if found == sum { Ok(()) } else { Err(format!("its own checksum is {sum}, and it is {found}")) }
}

/// The member that holds a file of the server; none of those that the parts
/// leave out: the map of tablespaces, whose links are made anew, and what an
/// earlier restore of ours left in the data folder, which nobody unpacks.
fn member(name: &Path) -> Option<PathBuf> {
    if name == Path::new("tablespace_map") {
        return None;
    }
    let mut parts = name.components();
    let first = parts.next()?.as_os_str();
    if first.as_bytes().starts_with(b"lifeboat_") {
        return None;
    }
    Some(if first == "pg_tblspc" { Path::new("tblspc").join(parts.as_path()) } else { name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its own checksum.
    fn closed(lines: &str) -> String {
        let sum = hex::encode(Sha256::digest(lines.as_bytes()));
        format!("{lines}\"Manifest-Checksum\": \"{sum}\"}}\n")
    }

    fn listing(files: &str) -> String {
        closed(&format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}],\n"))
    }

    fn file(name: &str, checksum: &str) -> String {
        let modified = r#""Last-Modified": "2022-11-21 03:06:41 GMT""#;
        format!(r#"{{ {name}, "Size": 3, {modified}, "Checksum-Algorithm": "CRC32C", "Checksum": "{checksum}" }}"#)
    }

    #[test]
    fn files_are_found_by_the_names_of_their_members() {
        let names = [
            r#""Path": "PG_VERSION""#,
            r#""Path": "pg_tblspc/16384/PG_15_202209061/5/1""#,
            r#""Path": "tablespace_map""#,
            r#""Path": "lifeboat_wal/x""#,
            r#""Encoded-Path": "62ff""#,
            r#""Path": "a\"b""#,
        ];
        let files = names.map(|name| file(name, "01020304")).join(",\n");
        let read = ServerManifest::read(listing(&files).as_bytes()).unwrap();
        let mut members: Vec<&Path> = read.files.members().collect();
        members.sort();
        let odd = PathBuf::from(OsStr::from_bytes(b"b\xff"));
        let wanted = ["PG_VERSION", "a\"b"]
            .map(Path::new)
            .into_iter()
            .chain([&*odd, Path::new("tblspc/16384/PG_15_202209061/5/1")]);
        assert_eq!(members, wanted.collect::<Vec<_>>());
        let wanted = ServerFile { size: 3, crc32c: 0x0403_0201, modified: Some(1_669_000_001) };
        assert_eq!(read.files.get(Path::new("PG_VERSION")), Some(wanted));
        assert_eq!(read.files.size(), 12);
    }

    #[test]
    fn one_that_is_not_what_the_server_wrote_is_refused() {
        let sound = listing(&file(r#""Path": "a""#, "01020304"));
        assert!(ServerManifest::read(sound.as_bytes()).is_ok());
        let twice = listing(&[file(r#""Path": "a""#, "01020304"), file(r#""Path": "a""#, "01020304")].join(","));
        for (json, why) in [
            (sound.replace("\"Size\": 3", "\"Size\": 4"), "its own checksum"),
            (sound.trim_end().to_owned(), "does not end with"),
            (String::new(), "does not end with"),
            (closed("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"), "Files"),
            (listing(&file(r#""Path": "a""#, "0102")), "no CRC-32C of `a`"),
            (listing(&file(r#""Path": "a""#, "01020304").replace("CRC32C", "SHA256")), "no CRC-32C of `a`"),
            (listing(&file(r#""Other": "a""#, "01020304")), "without a name"),
            (twice, "twice"),
        ] {
            let error = ServerManifest::read(json.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }
}
