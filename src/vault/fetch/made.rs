//! Finds the tablespaces that a recovery would make, in WAL that was fetched: up to
//! its target and no further.
//!
//! What must never happen: one that is passed over. Where it is not clear whether
//! recovery comes to a record, it counts.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    decide::{
        recovery::{Selection, instant},
        tablespaces::Made,
    },
    domain::{Lsn, RecoveryTarget},
    vault::{
        VaultError,
        wal::walk::{Kind, Record, Walk, number},
    },
};

/// `commands/tablespace.h`: an oid, then the path.
const CREATE_TABLESPACE: Kind = Kind { manager: 5, mask: 0xF0, info: 0x00 };
/// `access/xact.h`: begin with a time. Those of prepared transactions bear another number than theirs.
const COMMIT: Kind = Kind { manager: 1, mask: 0x70, info: 0x00 };
const ABORT: Kind = Kind { manager: 1, mask: 0x70, info: 0x20 };
const COMMIT_PREPARED: Kind = Kind { manager: 1, mask: 0x70, info: 0x30 };
const ABORT_PREPARED: Kind = Kind { manager: 1, mask: 0x70, info: 0x40 };
/// `access/xlog_internal.h`: a time, then the name.
const RESTORE_POINT: Kind = Kind { manager: 0, mask: 0xF0, info: 0x70 };
static SOUGHT: [Kind; 6] = [CREATE_TABLESPACE, COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED, RESTORE_POINT];

/// PostgreSQL counts microseconds from 2000-01-01 on.
const EPOCH_SECONDS: i64 = 946_684_800;
const CHUNK: usize = 1 << 20;

/// The tablespaces that recovery from `start` to `target` makes, in their order;
/// `folder` holds all WAL of the selection.
pub async fn made_tablespaces(
    folder: &Path,
    selection: &Selection,
    start: Lsn,
    target: &RecoveryTarget,
    stop: &CancellationToken,
) -> Result<Vec<Made>, VaultError> {
    let (folder, selection) = (folder.to_owned(), selection.clone());
    let (target, stop) = (target.clone(), stop.clone());
    let looked = tokio::task::spawn_blocking(move || {
        let mut replay = Replay { reach: start..selection.end, target, made: Vec::new(), is_over: false };
        replay.read(&folder, &selection, &stop).map(|()| replay.made)
    });
    looked.await.map_err(|_| VaultError::Pipeline)?
}

/// What recovery would come to.
struct Replay {
    reach: Range<Lsn>,
    target: RecoveryTarget,
    made: Vec<Made>,
    is_over: bool,
}

impl Replay {
    fn read(&mut self, folder: &Path, selection: &Selection, stop: &CancellationToken) -> Result<(), VaultError> {
        let size = selection.segment_size;
        let Some(first) = selection.wal.first() else { return Ok(()) };
        let mut walk = Walk::from(first.segment.start(size), size, &SOUGHT);
        let mut chunk = vec![0; CHUNK];
        for piece in &selection.wal {
            let path = folder.join(piece.segment.file_name(size));
            let failed = |source: io::Error| VaultError::File { action: "read", path: path.clone(), source };
            let mut file = File::open(&path).map_err(failed)?;
            loop {
                if stop.is_cancelled() {
                    return Err(VaultError::Stopped);
                }
                let read = file.read(&mut chunk).map_err(failed)?;
                if read == 0 {
                    break;
                }
                for record in walk.take(chunk.get(..read).unwrap_or_default()) {
                    self.come_to(&record);
                    if self.is_over {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn come_to(&mut self, record: &Record) {
        let at = record.at.start;
        if at < self.reach.start {
            return;
        }
        self.is_over = at >= self.reach.end || self.ends_with(record);
        if !self.is_over
            && record.is(CREATE_TABLESPACE)
            && let Some(path) = path_of(record)
        {
            self.made.push(Made { path: OsStr::from_bytes(path).into(), at });
        }
    }

    /// Whether recovery stops before this record, or at it without a tablespace.
    fn ends_with(&self, record: &Record) -> bool {
        let ends = record.is(COMMIT) || record.is(ABORT);
        match &self.target {
            // At the first record that starts there or later, and with it.
            RecoveryTarget::Lsn(lsn) => record.previous() >= *lsn,
            RecoveryTarget::BeforeLsn(lsn) => record.at.start >= *lsn,
            RecoveryTarget::Time(_) | RecoveryTarget::BeforeTime(_) => {
                let ends = ends || record.is(COMMIT_PREPARED) || record.is(ABORT_PREPARED);
                ends && time_of(record).is_some_and(|time| instant::stops_before(&self.target, time))
            }
            // Where the transaction was a prepared one, all WAL counts.
            RecoveryTarget::Xid(xid) | RecoveryTarget::BeforeXid(xid) => {
                let number = xid.parse().unwrap_or(0_u64) & u64::from(u32::MAX);
                ends && u64::from(record.xid()) == number
            }
            RecoveryTarget::Name(name) => {
                let told = record.is(RESTORE_POINT).then(|| record.data()).flatten();
                told.and_then(|data| text(data, 8)).is_some_and(|told| told == name.as_bytes())
            }
            // The former has become a position where there is any WAL.
            RecoveryTarget::Latest | RecoveryTarget::Immediate => false,
        }
    }
}

/// Where the tablespace is made; nowhere but in the data folder where the path is empty.
fn path_of(record: &Record) -> Option<&[u8]> {
    text(record.data()?, 4).filter(|path| !path.is_empty())
}

/// A C string.
fn text(data: &[u8], from: usize) -> Option<&[u8]> {
    data.get(from..)?.split(|byte| *byte == 0).next()
}

fn time_of(record: &Record) -> Option<Timestamp> {
    let data = record.data()?;
    let (low, high) = (number(data, 0)?, number(data, 4)?);
    let micros = (u64::from(high) << 32 | u64::from(low)).cast_signed();
    let epoch = Timestamp::from_second(EPOCH_SECONDS).ok()?;
    epoch.checked_add(SignedDuration::from_micros(micros)).ok()
}
