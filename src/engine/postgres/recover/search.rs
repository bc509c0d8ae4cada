//! Finds records in fetched WAL with PostgreSQL's own `pg_waldump`. It reads and
//! changes no segment.

use std::{fs, path::Path};

use jiff::Timestamp;

use super::{LOOK_LIMIT, record_start};
use crate::{
    domain::{Lsn, Segment, Timeline},
    engine::{
        EngineError, FoundRecord, SoughtRecord, WalRange,
        postgres::{
            cluster::{self, Binaries},
            restored::{file_error, program_error, unfit},
        },
    },
    process::Program,
};

const EXPECTED: &str = "search its WAL";
/// In the WAL folder: all segments under one timeline, as `pg_waldump` follows
/// no history. What it complains of lies beside it.
const ONE_TIMELINE: &str = "one_timeline";
const COMPLAINTS: &str = "complaints";
/// How it tells that the WAL ends before the range does.
const ENDED: [&str; 2] = ["error in WAL record at", "could not find a valid record after"];

pub(super) async fn find(
    server_version: &str,
    range: &WalRange<'_>,
    sought: &SoughtRecord,
) -> Result<Option<FoundRecord>, EngineError> {
    let major = cluster::major(server_version);
    let major = major.ok_or_else(|| unfit(EXPECTED, format!("`{server_version}` is no version of PostgreSQL")))?;
    let pg_waldump = Binaries::find(major)?.path("pg_waldump");
    let Some(newest) = range.segments.iter().max_by_key(|segment| segment.number) else { return Ok(None) };
    let (folder, complaints) = (range.folder.join(ONE_TIMELINE), range.folder.join(COMPLAINTS));
    link_all(range, newest.timeline, &folder)?;
    let (rmgr, filter, patterns) = dump(sought);
    let script = format!(
        "\"$0\" --path \"$1\" --timeline \"$2\" --start \"$3\" --end \"$4\" {rmgr} 2>\"$5\" | {{ {filter} || true; }}"
    );
    let lines = Program::new("sh")
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .args(["-c", &script])
        .arg(pg_waldump)
        .arg(&folder)
        .args([newest.timeline.to_string(), range.from.to_string(), range.to.to_string()])
        .arg(&complaints)
        .args(patterns)
        .output(LOOK_LIMIT)
        .await
        .map_err(|error| program_error("pg_waldump", error))?;
    let complaint = fs::read_to_string(&complaints).map_err(file_error("read", &complaints))?;
    fs::remove_dir_all(&folder).map_err(file_error("remove", &folder))?;
    let mut lines = lines.lines().filter(|line| sought.is(line));
    let (first, mut at) = match sought {
        SoughtRecord::LatestEnd => lines.by_ref().filter_map(ended).max_by_key(|(_, at)| *at).unzip(),
        _ => (lines.find_map(record_start), None),
    };
    if first.is_none() && !complaint.trim().is_empty() && !ENDED.iter().any(|words| complaint.contains(words)) {
        return Err(unfit(EXPECTED, complaint.trim()));
    }
    Ok(first.map(|start| FoundRecord { start, next: lines.find_map(record_start), at: at.take() }))
}

/// Where the record of a transaction's end starts, and the time that it bears:
/// `… lsn: 0/03000148, … desc: COMMIT 2026-11-28 16:18:50.123456 UTC; …`.
fn ended(line: &str) -> Option<(Lsn, Timestamp)> {
    let (_, told) = line.split_once(" desc: ")?;
    let (before, _) = told.split_once(" UTC")?;
    let mut words = before.rsplit(' ');
    let (time, date) = (words.next()?, words.next()?);
    Some((record_start(line)?, format!("{date}T{time}Z").parse().ok()?))
}

/// What is dumped, and how its lines are thinned out; `$6` and `$7` are patterns.
fn dump(sought: &SoughtRecord) -> (&'static str, &'static str, Vec<String>) {
    match sought {
        SoughtRecord::Any => ("", "grep -m 2 -e \"$6\"", vec!["^rmgr: ".to_owned()]),
        SoughtRecord::Last => ("", "grep -e \"$6\" | tail -n 1", vec!["^rmgr: ".to_owned()]),
        SoughtRecord::RestorePoint(name) => {
            ("--rmgr XLOG", "grep -F -e \"$6\"", vec![format!("desc: RESTORE_POINT {name}")])
        }
        SoughtRecord::LatestEnd => (
            "--rmgr Transaction",
            // Times are written so that they sort as text, with 26 characters.
            r#"grep -E -e "$6" | awk '{ at = substr($0, index($0, " UTC") - 26, 26)
if (at > latest) { latest = at; line = $0 } } END { if (line != "") print line }'"#,
            vec![" desc: (COMMIT|ABORT)(_PREPARED [0-9]+:)? ".to_owned()],
        ),
        SoughtRecord::TransactionEnd(xid) => (
            "--rmgr Transaction",
            "grep -m 1 -E -e \"$6\" -e \"$7\"",
            vec![format!(" tx: +{xid}, .* desc: (COMMIT|ABORT) "), format!(" desc: (COMMIT|ABORT)_PREPARED {xid}:")],
        ),
    }
}

impl SoughtRecord {
    /// Whether a line that was let through is one: a name may begin like another.
    fn is(&self, line: &str) -> bool {
        match self {
            Self::RestorePoint(name) => {
                line.split_once("desc: RESTORE_POINT ").is_some_and(|(_, told)| told.trim_end() == name.trim_end())
            }
            Self::Any | Self::Last | Self::LatestEnd | Self::TransactionEnd(_) => line.starts_with("rmgr: "),
        }
    }
}

/// Names every segment as one of `timeline`, in a folder of its own.
fn link_all(range: &WalRange<'_>, timeline: Timeline, folder: &Path) -> Result<(), EngineError> {
    fs::create_dir(folder).map_err(file_error("make", folder))?;
    for segment in range.segments {
        let named = Segment { timeline, number: segment.number };
        let link = folder.join(named.file_name(range.size));
        let file = range.folder.join(segment.file_name(range.size));
        std::os::unix::fs::symlink(&file, &link).map_err(file_error("link", &link))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_transaction_bears_its_time() {
        let line = |desc| {
            format!(
                "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/03000148, prev 0/03000110, desc: {desc}"
            )
        };
        let at = "2026-11-28T16:18:50.123456Z".parse().unwrap();
        for desc in [
            "COMMIT 2026-11-28 16:18:50.123456 UTC",
            "COMMIT 2026-11-28 16:18:50.123456 UTC; inval msgs: catcache 55",
            "COMMIT_PREPARED 735: 2026-11-28 16:18:50.123456 UTC",
            "ABORT 2026-11-28 16:18:50.123456 UTC; rels: base/5/16384",
        ] {
            assert_eq!(ended(&line(desc)), Some((Lsn(0x300_0148), at)), "{desc}");
        }
        assert_eq!(ended(&line("PREPARE")), None);
    }

    #[tokio::test]
    async fn the_latest_end_is_found_although_the_clock_was_set_back() {
        let line = |nth: u32, time: &str| {
            format!(
                "rmgr: Transaction tx: {nth}, lsn: 0/{nth:08X}, prev 0/00000001, desc: COMMIT 2026-11-28 {time} UTC\n"
            )
        };
        let before = [line(1, "16:18:49.000000"), line(2, "16:18:50.123456")].concat();
        let after: String = (3..1500).map(|nth| line(nth, &format!("15:18:50.{nth:06}"))).collect();
        let (_, filter, patterns) = dump(&SoughtRecord::LatestEnd);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines");
        fs::write(&file, before + &after).unwrap();
        let found =
            Program::new("sh").args(["-c", &format!("cat \"$5\" | {{ {filter}; }}")]).args(["sh", "", "", "", ""]);
        let found = found.arg(&file).args(patterns).output(LOOK_LIMIT).await.unwrap();
        assert_eq!(found, line(2, "16:18:50.123456"));
    }

    #[test]
    fn a_restore_point_is_known_by_its_whole_name() {
        let line = "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/020001C0, prev 0/02000188, desc: RESTORE_POINT it's noon";
        let is = |name: &str| SoughtRecord::RestorePoint(name.to_owned()).is(line);
        assert!(is("it's noon") && !is("it's") && !is("noon"));
    }
}
