//! How a server uses the memory that each of its processes may have. The limit is one of
//! address space, and what the processes share counts in each of them.
//!
//! It must never lower what replay or the reading of many tables needs: connections and
//! locks stay as the source has them.

use crate::domain::ByteSize;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Address space of a process that shares nothing and has done nothing: program, libraries,
/// the tables of 100 connections. Measured with PostgreSQL 15 on Debian 12: 77 MiB.
const PROGRAM_BYTES: u64 = 96 * MIB;

/// Settings of the server, in PostgreSQL's own units, that fit below `limit`. Where the
/// limit is too small for any, they are PostgreSQL's least that are of use, and the server
/// will say that it cannot start.
pub fn settings(limit: ByteSize) -> [(&'static str, String); 3] {
    let room = limit.as_bytes().saturating_sub(PROGRAM_BYTES);
    let kilobytes = |share: u64, least: u64, most: u64| format!("{}kB", (room / share).clamp(least, most) / KIB);
    [
        ("shared_buffers", kilobytes(3, 4 * MIB, 8 * GIB)),
        // Each process of a parallel build of an index has its own part of it.
        ("maintenance_work_mem", kilobytes(6, MIB, GIB)),
        // A query has several at a time, and for hashes twice as much.
        ("work_mem", kilobytes(128, MIB, 64 * MIB)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_together_fits_below_the_limit() {
        for (limit, shared, maintenance, work) in [
            (0, "4096kB", "1024kB", "1024kB"),
            (96 * MIB, "4096kB", "1024kB", "1024kB"),
            (192 * MIB, "32768kB", "16384kB", "1024kB"),
            (2 * GIB, "666282kB", "333141kB", "15616kB"),
            (64 * GIB, "8388608kB", "1048576kB", "65536kB"),
            (u64::MAX, "8388608kB", "1048576kB", "65536kB"),
        ] {
            let settings = settings(ByteSize::from_bytes(limit));
            let expected = [("shared_buffers", shared), ("maintenance_work_mem", maintenance), ("work_mem", work)];
            assert_eq!(settings.clone().map(|(name, value)| (name, value)), expected.map(|(n, v)| (n, v.to_owned())));
            let used: u64 =
                settings.iter().map(|(_, value)| value[..value.len() - 2].parse::<u64>().unwrap() * KIB).sum();
            assert!(limit <= PROGRAM_BYTES || used + PROGRAM_BYTES < limit, "{limit}: {settings:?}");
        }
    }
}
