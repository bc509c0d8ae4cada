//! Damages a page of a restored copy, for the self-test of restore tests.
//!
//! The page is one of the tables that `initdb` makes for the information schema and that
//! nothing ever writes, such as `sql_features`: the copy runs on as if nothing had happened,
//! recovery does not write it anew, and only a look at every page can find it.

use std::{
    fs, io,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::engine::{DamagedPage, EngineError, postgres::restored::file_error};

/// The numbers of what `initdb` makes after the catalogs, which have theirs from the
/// source: `FirstUnpinnedObjectId` and `FirstNormalObjectId` in PostgreSQL's `transam.h`.
const OF_INITDB: Range<u32> = 12_000..16_384;
/// No page is smaller.
const PAGE_BYTES_MIN: u64 = 1024;
/// Where a page's header tells where its free space ends; 0 in one that was never used,
/// which bears no checksum: `pd_upper` in PostgreSQL's `bufpage.h`.
const UPPER: u64 = 14;
/// Behind the header of a page.
const OFFSET: u64 = 40;

pub(super) fn page(data: &Path) -> Result<Option<DamagedPage>, EngineError> {
    let base = data.join("base");
    let found = candidate(&base).map_err(file_error("look for a page in", &base))?;
    let Some(file) = found else { return Ok(None) };
    flip(&file).map(Some).map_err(file_error("damage a page of", &file))
}

/// The largest such table of the first database that has one.
fn candidate(base: &Path) -> io::Result<Option<PathBuf>> {
    let mut databases = numbered(base)?;
    databases.sort();
    for (_, database) in databases {
        let mut tables = Vec::new();
        for (number, file) in numbered(&database)? {
            let bytes = fs::metadata(&file)?.size();
            if OF_INITDB.contains(&number) && bytes >= PAGE_BYTES_MIN && is_used(&file)? {
                tables.push((bytes, file));
            }
        }
        if let Some((_, file)) = tables.into_iter().max() {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// What of a folder is named by a number alone.
fn numbered(folder: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found
            .extend(entry.file_name().to_str().and_then(|name| name.parse().ok()).map(|number| (number, entry.path())));
    }
    Ok(found)
}

/// Whether its first page was ever written.
fn is_used(file: &Path) -> io::Result<bool> {
    let mut upper = [0; 2];
    fs::File::open(file)?.read_exact_at(&mut upper, UPPER)?;
    Ok(upper != [0; 2])
}

fn flip(file: &Path) -> io::Result<DamagedPage> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, OFFSET)?;
    let byte = byte.map(|byte| !byte);
    opened.write_all_at(&byte, OFFSET)?;
    opened.sync_all()?;
    let [byte] = byte;
    Ok(DamagedPage { file: file.to_owned(), offset: OFFSET, byte })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_of_the_largest_table_of_initdb_and_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        let write = |name: &str, pages: usize, byte: u8| {
            let file = base.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, vec![byte; pages * 8192]).unwrap();
            file
        };
        assert!(page(folder.path()).is_err(), "no data folder");
        write("1/1259", 9, 7);
        write("1/13468_fsm", 9, 7);
        write("1/13470", 0, 7);
        write("1/13471", 9, 0);
        write("1/16400", 9, 7);
        assert_eq!(page(folder.path()).unwrap(), None, "a catalog, another fork, empty, never used, a user's");
        write("5/13460", 9, 7);
        write("4/13460", 1, 7);
        let expected = write("4/13465", 7, 7);
        let damaged = page(folder.path()).unwrap().unwrap();
        assert_eq!(damaged, DamagedPage { file: expected.clone(), offset: OFFSET, byte: !7 });
        assert!(damaged.is_still_there().unwrap());
        let changed = fs::read(&expected).unwrap().iter().filter(|byte| **byte != 7).count();
        assert_eq!(changed, 1);
        fs::write(&expected, vec![7; 8192]).unwrap();
        assert!(!damaged.is_still_there().unwrap(), "mended");
    }
}
