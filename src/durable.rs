//! Files that survive a crash: temporary name, fsync, rename or link, fsync of
//! the folder. The sole owner of `rename`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// How often a folder is made anew that was removed before something was in it.
const FOLDER_GONE_MAX: u32 = 64;

/// Makes what was done to the names in `folder` durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a bare name is the current folder.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder)?.sync_all()
}

/// Makes `folder` and its missing parents, each durable in its parent.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => sync_folder(parent)?,
        }
    }
    Ok(())
}

/// Gives the finished temporary file its final name, in a folder that is made where
/// it is missing, unless that name is taken: then `AlreadyExists`, and the existing
/// file is untouched. The temporary name is gone afterwards either way.
pub fn publish(temporary: &Path, target: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    let link = || {
        target.parent().map_or(Ok(()), create_folder)?;
        fs::hard_link(temporary, target)
    };
    let mut linked = link();
    // Somebody removes folders that are empty, until something is in them.
    for _ in 0..FOLDER_GONE_MAX {
        match &linked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => linked = link(),
            _ => break,
        }
    }
    let removed = fs::remove_file(temporary);
    linked?;
    removed?;
    target.parent().map_or(Ok(()), sync_folder)
}

/// Writes a whole file that must not exist yet, readable by its owner alone.
pub fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Replaces a small file in one step: a reader sees the old or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_never_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let (temporary, target) = (folder.path().join("t"), folder.path().join("target"));
        fs::write(&temporary, "first").unwrap();
        publish(&temporary, &target).unwrap();
        fs::write(&temporary, "second").unwrap();
        assert_eq!(publish(&temporary, &target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&target).unwrap(), "first");
        assert!(!temporary.exists());
    }
}
