//! How much room a restore needs at least, before replay, which writes more. A file that
//! became shorter since the full backup counts as it was there: what tells its length is
//! inside the increment.

use std::collections::BTreeMap;

/// What a restore brings, as the vaults tell before a byte is fetched. All in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brought {
    /// One full backup, or what is left of it and of the differential laid over it.
    Laid { bytes: u64 },
    /// A full backup and increments upon it: what all of them hold together, and the
    /// files of the first and of the last, by name.
    Combined { chain_bytes: u64, full: BTreeMap<String, u64>, last: BTreeMap<String, u64>, combining: Combining },
}

/// How one cluster is made of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combining {
    /// Every file is written anew.
    Copies,
    /// Files of which no block has changed are linked.
    Links,
}

/// A file of which an increment holds a part.
const PART: &str = "INCREMENTAL.";
/// What such a file is where no block has changed: three numbers of four bytes
/// (`GetIncrementalHeaderSize` in PostgreSQL's `basebackup_incremental.c`).
const PART_WITHOUT_BLOCKS_BYTES: u64 = 12;

/// Room that the files and their WAL take while both are there, at least.
pub fn needed(brought: &Brought, wal_bytes: u64) -> u64 {
    let of_files = match brought {
        Brought::Laid { bytes } => *bytes,
        Brought::Combined { chain_bytes, full, last, combining } => {
            chain_bytes.saturating_add(combined(full, last, *combining))
        }
    };
    of_files.saturating_add(wal_bytes)
}

/// What combining writes beside the chain: the last backup names every file of the cluster.
fn combined(full: &BTreeMap<String, u64>, last: &BTreeMap<String, u64>, combining: Combining) -> u64 {
    let is_linked = |size: u64| combining == Combining::Links && size <= PART_WITHOUT_BLOCKS_BYTES;
    let written = last.iter().map(|(name, size)| match whole_name(name) {
        Some(_) if is_linked(*size) => 0,
        // Of one that came between them, or shrank, are at least the blocks written that changed.
        Some(whole) => full.get(&whole).map_or(*size, |before| *size.max(before)),
        None if combining == Combining::Copies => *size,
        None => 0,
    });
    written.fold(0, u64::saturating_add)
}

/// The name of the whole file where this one is a part of it.
fn whole_name(name: &str) -> Option<String> {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let file = file.strip_prefix(PART)?;
    Some(if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
        of.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    #[test]
    fn a_chain_needs_room_for_itself_and_for_what_is_made_of_it() {
        let full = || files(&[("base/5/1", 1000), ("base/5/2", 300), ("base/5/gone", 50), ("PG_VERSION", 3)]);
        let part = files(&[("base/5/INCREMENTAL.1", 40), ("base/5/INCREMENTAL.2", 12), ("PG_VERSION", 3)]);
        let grown = files(&[("base/5/INCREMENTAL.1", 4000), ("base/5/2", 300), ("base/5/3", 70)]);
        let later = files(&[("base/5/INCREMENTAL.3", 90), ("INCREMENTAL.1", 50)]);
        let combined = |chain_bytes, last: &BTreeMap<String, u64>, combining| Brought::Combined {
            chain_bytes,
            full: full(),
            last: last.clone(),
            combining,
        };
        for (what, brought, wal, room) in [
            ("one backup and its WAL", Brought::Laid { bytes: 1353 }, 16, 1369),
            ("each file is written anew", combined(1408, &part, Combining::Copies), 0, 1408 + 1303),
            ("only what has changed is written", combined(1408, &part, Combining::Links), 16, 1408 + 1000 + 16),
            ("a file that grew", combined(5723, &grown, Combining::Links), 0, 5723 + 4000),
            ("files that the full backup does not know", combined(9000, &later, Combining::Links), 0, 9140),
            ("more than there is", Brought::Laid { bytes: u64::MAX }, 7, u64::MAX),
        ] {
            assert_eq!(needed(&brought, wal), room, "{what}");
        }
    }
}
