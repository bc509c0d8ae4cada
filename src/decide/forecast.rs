//! How long a restore would take now: what the last restore tests measured of its parts,
//! for the backups and the WAL that there are now. Fetching goes by the bytes of the
//! chain, replay by the bytes of WAL, the checks by the bytes that they look at; the
//! rest (choosing, starting, opening) takes as long as it did.
//!
//! What must never happen: that it is called a recovery time. It is an estimate of the
//! duration of a restore, which leaves out noticing, deciding and moving users.

use serde::Serialize;

use crate::domain::{ByteSize, EvidenceRecord, Objectives, Span};

/// Tests that are looked at, the newest.
pub const TESTS_MAX: usize = 3;

/// Phases of a test in which the data is checked; their names in evidence.
const CHECKS: [&str; 4] = ["check", "check_indexes", "read", "check_pages"];
/// The phase in which the chain is fetched, verified, unpacked and made into one.
const FETCH: &str = "fetch_backup";

/// The phase in which what lies in an archive is waited for. It says nothing of the next
/// restore, whose backup may lie elsewhere.
pub const WAIT: &str = "wait_for_archive";

/// What a test did in how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// T5 − T3, without the wait for an archive.
    pub restore_seconds: f64,
    /// None where the record is older than the figures.
    pub parts: Option<Parts>,
}

/// The parts of a restore that grow with what there is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    pub fetch_seconds: f64,
    pub fetched_bytes: u64,
    /// None where the server did not tell: it is part of the rest then.
    pub replay: Option<Replay>,
    pub check_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Replay {
    pub seconds: f64,
    pub bytes: u64,
}

/// What a restore would have to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Plain bytes of the backup and what it builds upon.
    pub chain_bytes: u64,
    /// Backups in the chain: one of a full one alone.
    pub chain_length: usize,
    /// From the backup's start to the end of the vault's WAL.
    pub wal_bytes: u64,
    /// How long what lies in an archive takes at most until it can be read, as the provider
    /// states; 0 where nothing does.
    pub archive_seconds: u64,
}

/// An estimate of what a restore would take now; never an RTO.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// All parts.
    pub seconds: f64,
    pub fetch_seconds: f64,
    pub replay_seconds: f64,
    pub check_seconds: f64,
    pub rest_seconds: f64,
    /// Before anything can be fetched, at most: as the provider states, and not measured.
    pub archive_seconds: f64,
    pub chain_bytes: u64,
    pub chain_length: usize,
    pub wal_bytes: u64,
    /// As measured; none where no test told.
    pub fetch_bytes_per_second: Option<f64>,
    pub replay_bytes_per_second: Option<f64>,
    /// How many tests it is made from.
    pub tests: usize,
}

impl Test {
    /// What a record tells; none where it measured no restore, or one in whose time nobody
    /// drove it for a while.
    pub fn of(record: &EvidenceRecord) -> Option<Self> {
        let measured = &record.measured;
        if measured.interruptions.is_some_and(|times| times > 0) {
            return None;
        }
        let seconds = |names: &[&str]| -> f64 {
            record.phases.iter().filter(|phase| names.contains(&phase.name.as_str())).map(|phase| phase.seconds).sum()
        };
        let parts = measured.restored_bytes.map(|fetched_bytes| Parts {
            fetch_seconds: seconds(&[FETCH]),
            fetched_bytes,
            replay: measured
                .replay_seconds
                .zip(measured.replayed_bytes)
                .map(|(seconds, bytes)| Replay { seconds, bytes }),
            check_seconds: seconds(&CHECKS),
        });
        let restore_seconds = (measured.restore_seconds? - seconds(&[WAIT])).max(0.0);
        Some(Self { restore_seconds, parts })
    }

    /// What does not grow.
    fn rest_seconds(&self) -> f64 {
        let of_parts = |parts: Parts| {
            parts.fetch_seconds + parts.check_seconds + parts.replay.map_or(0.0, |replay| replay.seconds)
        };
        (self.restore_seconds - self.parts.map_or(0.0, of_parts)).max(0.0)
    }
}

/// From the newest tests, the newest first. None without one. Rates are of all tests
/// together, so that a test of much counts for more than one of little.
pub fn forecast(tests: &[Test], work: &Work) -> Option<Forecast> {
    let newest = tests.first()?;
    let told: Vec<&Test> = tests.iter().filter(|test| test.parts.is_some()).take(TESTS_MAX).collect();
    // Records of before: a restore takes about as long as the last one.
    let told = if told.is_empty() { vec![newest] } else { told };
    let parts: Vec<Parts> = told.iter().filter_map(|test| test.parts).collect();
    let replays: Vec<Replay> = parts.iter().filter_map(|part| part.replay).collect();
    let fetched = bytes(parts.iter().map(|part| part.fetched_bytes));
    let fetch = rate(fetched, parts.iter().map(|part| part.fetch_seconds).sum());
    let check = rate(fetched, parts.iter().map(|part| part.check_seconds).sum());
    let replay = rate(bytes(replays.iter().map(|one| one.bytes)), replays.iter().map(|one| one.seconds).sum());
    let at = |rate: Option<f64>, bytes| rate.map_or(0.0, |rate| as_float(bytes) / rate);
    let (fetch_seconds, check_seconds) = (at(fetch, work.chain_bytes), at(check, work.chain_bytes));
    let replay_seconds = at(replay, work.wal_bytes);
    let rest_seconds = told.iter().map(|test| test.rest_seconds()).sum::<f64>() / as_float(told.len() as u64);
    let archive_seconds = as_float(work.archive_seconds);
    Some(Forecast {
        seconds: fetch_seconds + replay_seconds + check_seconds + rest_seconds + archive_seconds,
        archive_seconds,
        fetch_seconds,
        replay_seconds,
        check_seconds,
        rest_seconds,
        chain_bytes: work.chain_bytes,
        chain_length: work.chain_length,
        wal_bytes: work.wal_bytes,
        fetch_bytes_per_second: fetch,
        replay_bytes_per_second: replay,
        tests: told.len(),
    })
}

/// None where nothing was done, or in no time.
fn rate(bytes: f64, seconds: f64) -> Option<f64> {
    (bytes > 0.0 && seconds > 0.0).then(|| bytes / seconds)
}

fn bytes(all: impl Iterator<Item = u64>) -> f64 {
    as_float(all.fold(0, u64::saturating_add))
}

#[expect(clippy::cast_precision_loss, reason = "an estimate needs no single byte")]
fn as_float(number: u64) -> f64 {
    number as f64
}

/// What makes a restore long, and so what shortens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Replay takes the most.
    BackUpMoreOften,
    /// Fetching takes the most, and several backups are fetched.
    ShortenChain,
    /// Fetching takes the most, and it is one backup.
    FetchFaster,
    /// The checks take the most.
    CheckLess,
    /// Everything else does.
    StartFaster,
    /// What lies in an archive takes the most.
    LeaveArchive,
}

impl Advice {
    /// What a person can do.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackUpMoreOften => {
                "take full backups (or increments) more often, so that less WAL is left to be replayed"
            }
            Self::ShortenChain => "take full backups more often, so that fewer increments are fetched and combined",
            Self::FetchFaster => {
                "restore to a larger machine, or from a vault that is nearer or has a higher `limits`, or split the database"
            }
            Self::CheckLess => {
                "have fewer checks in each restore test (`amcheck`, `full_read` and `page_checksums` read everything), or restore to a larger machine"
            }
            Self::StartFaster => {
                "see in the phases of the last restore test what else takes long (choosing the point, starting, opening), and restore to a larger machine"
            }
            Self::LeaveArchive => {
                "let the bucket move later, or not at all, what the newest backup needs to an archive (`archive.retrieval: expedited` of the vault is faster), or name a further vault that answers at once"
            }
        }
    }
}

/// The advice that follows from a forecast; none while it keeps the objective.
pub fn advise(forecast: &Forecast, objectives: &Objectives) -> Option<Advice> {
    if forecast.seconds <= objectives.rto.as_secs_f64() {
        return None;
    }
    let fetch = if forecast.chain_length > 1 { Advice::ShortenChain } else { Advice::FetchFaster };
    let parts = [
        (forecast.replay_seconds, Advice::BackUpMoreOften),
        (forecast.fetch_seconds, fetch),
        (forecast.check_seconds, Advice::CheckLess),
        (forecast.rest_seconds, Advice::StartFaster),
        (forecast.archive_seconds, Advice::LeaveArchive),
    ];
    parts.into_iter().max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, advice)| advice)
}

/// The finding of a forecast that passes the objective; none while it keeps it.
pub fn finding(forecast: &Forecast, objectives: &Objectives) -> Option<String> {
    let advice = advise(forecast, objectives)?;
    let (takes, of) = match advice {
        Advice::BackUpMoreOften => (forecast.replay_seconds, format!("replay of {} of WAL", size(forecast.wal_bytes))),
        Advice::ShortenChain => (
            forecast.fetch_seconds,
            format!("fetching a chain of {} backups, {}", forecast.chain_length, size(forecast.chain_bytes)),
        ),
        Advice::FetchFaster => (forecast.fetch_seconds, format!("fetching {}", size(forecast.chain_bytes))),
        Advice::CheckLess => (forecast.check_seconds, "checking".to_owned()),
        Advice::StartFaster => (forecast.rest_seconds, "neither fetching, replay nor checking".to_owned()),
        Advice::LeaveArchive => (forecast.archive_seconds, "waiting for what lies in an archive, at most".to_owned()),
    };
    Some(format!(
        "a restore would take about {} now, longer than the RTO of {} allows (estimated from {} restore tests; no RTO); {} of it is {of}: {}",
        about(forecast.seconds),
        objectives.rto,
        forecast.tests,
        about(takes),
        advice.as_str()
    ))
}

/// To two digits: an estimate is no better, and a finding is not told anew for less.
fn about(seconds: f64) -> Span {
    let seconds = seconds.max(1.0);
    let step = 10_f64.powf(seconds.log10().floor() - 1.0).max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least one, and far below 2^64")]
    Span::from_secs(((seconds / step).round() * step) as u64)
}

/// To whole MiB, or GiB of many.
fn size(bytes: u64) -> ByteSize {
    let unit = if bytes >= 10 << 30 { 1 << 30 } else { 1 << 20 };
    ByteSize::from_bytes(bytes.div_ceil(unit) * unit)
}

#[cfg(test)]
mod tests;
