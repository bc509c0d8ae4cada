//! Unpacks one part of a backup as it streams in: into the target, or into
//! nothing but a look at it. Writes nothing outside the target and follows no
//! link there; both ways refuse the same.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

use super::{ObjectKey, VaultError};

/// Copied at once.
const BUFFER: usize = 256 << 10;

/// What becomes of the members of a part. Names are relative and sound.
pub(super) trait Sink {
    fn folder(&mut self, name: &Path, mode: u32) -> Result<(), VaultError>;
    fn link(&mut self, name: &Path, to: &Path) -> Result<(), VaultError>;
    /// A file begins; `bytes` fill it.
    fn file(&mut self, name: &Path, mode: u32) -> Result<(), VaultError>;
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), VaultError>;
}

/// The folder that a backup is restored into, and what one part has put there,
/// so that it can be taken back.
pub(super) struct Target<'a> {
    root: &'a Path,
    /// Content bytes of all parts, for progress.
    done: &'a AtomicU64,
    file: Option<File>,
    paths: Vec<PathBuf>,
    bytes: u64,
}

impl<'a> Target<'a> {
    pub(super) fn new(root: &'a Path, done: &'a AtomicU64) -> Self {
        Self { root, done, file: None, paths: Vec::new(), bytes: 0 }
    }

    /// Takes files and links back; folders stay, they may be another part's.
    pub(super) fn take_back(self) {
        self.done.fetch_sub(self.bytes, Ordering::Relaxed);
        for path in self.paths {
            // A file that cannot be removed is refused when it is to be made again.
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "a file of a damaged part stays");
            }
        }
    }

    fn place(&self, name: &Path) -> Result<PathBuf, VaultError> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            make_folder(parent, 0o700).map_err(failed(&path))?;
        }
        Ok(path)
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::File { action: "write", path: path.clone(), source }
}

impl Sink for Target<'_> {
    fn folder(&mut self, name: &Path, mode: u32) -> Result<(), VaultError> {
        let path = self.place(name)?;
        make_folder(&path, mode | 0o700).map_err(failed(&path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o700)).map_err(failed(&path))
    }

    fn link(&mut self, name: &Path, to: &Path) -> Result<(), VaultError> {
        let path = self.place(name)?;
        std::os::unix::fs::symlink(to, &path).map_err(failed(&path))?;
        self.paths.push(path);
        Ok(())
    }

    fn file(&mut self, name: &Path, mode: u32) -> Result<(), VaultError> {
        let path = self.place(name)?;
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode | 0o600).open(&path);
        self.file = Some(opened.map_err(failed(&path))?);
        self.paths.push(path);
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), VaultError> {
        let (Some(file), Some(path)) = (&mut self.file, self.paths.last()) else { return Ok(()) };
        file.write_all(bytes).map_err(failed(path))?;
        self.bytes += bytes.len() as u64;
        self.done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Hands a whole tar over to `sink`; what is no sound tar is `damaged`.
pub(super) fn unpack(
    key: &ObjectKey,
    tar: impl Read,
    stop: &CancellationToken,
    damaged: impl Fn(String) -> VaultError,
    sink: &mut impl Sink,
) -> Result<(), VaultError> {
    let mut archive = tar::Archive::new(tar);
    let stream = |error: io::Error| damaged(format!("its tar cannot be read: {error}"));
    let mut buffer = vec![0; BUFFER];
    for entry in archive.entries().map_err(stream)? {
        if stop.is_cancelled() {
            return Err(VaultError::Stopped);
        }
        let mut entry = entry.map_err(stream)?;
        let name = entry.path().map_err(stream)?.into_owned();
        let link = entry.link_name().map_err(stream)?.map(std::borrow::Cow::into_owned);
        if is_ours(&name) {
            continue;
        }
        let refuse = |what| VaultError::Member { key: key.clone(), member: name.display().to_string(), what };
        let place = place(&name).ok_or_else(|| refuse("its name leaves the target"))?;
        let mode = entry.header().mode().map_err(stream)? & 0o777;
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            sink.folder(&place, mode)?;
        } else if kind.is_symlink() {
            let to = link.filter(|link| is_tablespace(&name, link)).ok_or_else(|| refuse("it is a foreign link"))?;
            sink.link(&place, &to)?;
        } else if kind.is_file() {
            sink.file(&place, mode)?;
            let mut left = entry.size();
            loop {
                let count = entry.read(&mut buffer).map_err(stream)?;
                if count == 0 {
                    break;
                }
                left = left.saturating_sub(count as u64);
                sink.bytes(buffer.get(..count).unwrap_or_default())?;
            }
            if left > 0 {
                return Err(damaged(format!("its tar ends within `{}`", name.display())));
            }
        } else {
            return Err(refuse("it is no file, folder or link"));
        }
    }
    // What follows the end of the tar is read too, so that its digest is known.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(stream)?;
    Ok(())
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Where a member goes in the target; none when its name is absolute, climbs, or would pass a
/// tablespace's link.
fn place(name: &Path) -> Option<PathBuf> {
    let parts: Vec<_> = name.components().filter(|part| *part != Component::CurDir).collect();
    let is_plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    let passes_link = parts.len() > 2 && parts.first() == Some(&Component::Normal("pg_tblspc".as_ref()));
    (is_plain && !passes_link).then(|| parts.iter().collect())
}

/// What an earlier restore left in the server's data folder (`lifeboat_wal` and
/// its like): the server never reads it, and this restore writes its own.
fn is_ours(name: &Path) -> bool {
    let first = name.components().find(|part| *part != Component::CurDir);
    first.is_some_and(|part| part.as_os_str().to_string_lossy().starts_with("lifeboat_"))
}

fn is_tablespace(name: &Path, link: &Path) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match (name.to_str().and_then(|n| n.strip_prefix("pg_tblspc/")), link.to_str()) {
        (Some(oid), Some(link)) => digits(oid) && link == format!("../tblspc/{oid}"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(name: &str, link: Option<&str>) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let mut header = tar::Header::new_ustar();
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o600);
        header.set_size(0);
        if let Some(link) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, io::empty()).unwrap();
        let tar = builder.into_inner().unwrap();
        let key = ObjectKey::new("part").unwrap();
        let target = folder.path().join("target");
        fs::create_dir(&target).unwrap();
        let done = AtomicU64::new(0);
        let damaged = |what| VaultError::Refused { vault: "test".parse().unwrap(), what };
        let mut sink = Target::new(&target, &done);
        unpack(&key, tar.as_slice(), &CancellationToken::new(), damaged, &mut sink).is_ok()
    }

    #[test]
    fn nothing_leaves_the_target() {
        assert!(unpacked("base/1", None));
        assert!(unpacked("pg_tblspc/16384", Some("../tblspc/16384")));
        for (name, link) in [
            ("../escape", None),
            ("/etc/escape", None),
            ("base/../../escape", None),
            ("pg_tblspc/16384/escape", None),
            ("pg_tblspc/16384", Some("/etc")),
            ("pg_tblspc/16384", Some("../tblspc/1")),
            ("base/1", Some("../tblspc/1")),
        ] {
            assert!(!unpacked(name, link), "{name} {link:?}");
        }
    }
}
