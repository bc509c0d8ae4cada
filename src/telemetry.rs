//! Logging and metrics. Logs go to standard error, so that standard output
//! stays the one document a command prints. Names of metrics stand here and
//! nowhere else. No secret may be a field of a log line or a label.

use std::{io::IsTerminal, sync::OnceLock};

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Gauge, labels `database`, `vault`: seconds by which acknowledged commits are
/// not durable in the vault yet.
pub const EXPOSURE_SECONDS: &str = "lifeboat_exposure_seconds";
/// Gauge, labels `database`, `region`: age of the newest instant that the provider of a
/// database says it can restore there; NaN where it does not tell.
pub const CLAIMED_EXPOSURE_SECONDS: &str = "lifeboat_claimed_exposure_seconds";
/// Gauge, labels `database`, `vault`: the longest exposure of the last day, in seconds;
/// NaN where nobody looked.
pub const EXPOSURE_DAY_MAX_SECONDS: &str = "lifeboat_exposure_day_max_seconds";
/// Gauge, labels `database`, `vault`: for how long of the last day exposure was over the objective.
pub const EXPOSURE_DAY_OVER_SECONDS: &str = "lifeboat_exposure_day_over_seconds";
/// Gauge, labels `database`, `vault`: for how long of the last day anybody measured it.
pub const EXPOSURE_DAY_MEASURED_SECONDS: &str = "lifeboat_exposure_day_measured_seconds";
/// Gauge, labels `database`, `vault`: WAL position in bytes up to which the vault has everything.
pub const WAL_DURABLE_LSN: &str = "lifeboat_wal_durable_lsn";
/// Histogram, labels `database`, `vault`: seconds from when the server sent WAL to its
/// being durable in the vault; each message counts once. Commits are sent at once by
/// a server that is streamed from.
pub const WAL_DURABLE_SECONDS: &str = "lifeboat_wal_durable_seconds";
/// Gauge, label `database`: seconds since the newest backup began.
pub const BACKUP_AGE_SECONDS: &str = "lifeboat_backup_age_seconds";
/// Gauge, label `database`: seconds since a restore test last passed.
pub const LAST_PROVEN_AGE_SECONDS: &str = "lifeboat_last_proven_age_seconds";
/// Gauge, label `database`: what a restore would take now, in seconds, estimated. No RTO.
pub const RESTORE_SECONDS: &str = "lifeboat_restore_seconds";
/// Gauge, labels `database`, `vault`: age in seconds of the oldest backup that the
/// vault lacks and another one has; 0 when it lacks none.
pub const COPY_LAG_SECONDS: &str = "lifeboat_copy_lag_seconds";
/// Gauge, labels `database`, `vault`: whole WAL segments that the vault lacks and
/// another one has.
pub const COPY_MISSING_SEGMENTS: &str = "lifeboat_copy_missing_segments";
/// Gauge, label `database`: bytes of WAL that the primary's slot keeps for us; NaN
/// while nobody can look.
pub const WAL_KEPT_BYTES: &str = "lifeboat_wal_kept_bytes";
/// Gauge, label `database`: bytes of WAL that the primary writes a second; NaN while
/// that is not known.
pub const WAL_RATE_BYTES: &str = "lifeboat_wal_written_bytes_per_second";
/// Gauge, labels `database`, `end`: bytes that the primary can keep beside that before
/// its slot is over its limit or its disk is full; `end` says which, the others are NaN,
/// and all of them while it is not known.
pub const WAL_HEADROOM_BYTES: &str = "lifeboat_wal_headroom_bytes";
/// Gauge, labels `database`, `end`: how long that lasts in seconds, would nothing be confirmed.
pub const WAL_HEADROOM_SECONDS: &str = "lifeboat_wal_headroom_seconds";
/// Gauge, labels `database`, `member`: bytes of WAL that a standby's slot keeps for us;
/// NaN while nobody can look, and for the primary.
pub const STANDBY_WAL_KEPT_BYTES: &str = "lifeboat_wal_standby_kept_bytes";
/// Gauge, labels `database`, `member`, `end`: as `WAL_HEADROOM_BYTES`, of a standby.
pub const STANDBY_WAL_HEADROOM_BYTES: &str = "lifeboat_wal_standby_headroom_bytes";
/// Gauge, labels `database`, `member`, `end`: as `WAL_HEADROOM_SECONDS`, of a standby.
pub const STANDBY_WAL_HEADROOM_SECONDS: &str = "lifeboat_wal_standby_headroom_seconds";
/// Counter, labels `flow`, `verdict`.
pub const RUNS_TOTAL: &str = "lifeboat_runs_total";
/// Gauge: what a person must fix.
pub const FINDINGS_OPEN: &str = "lifeboat_findings_open";

/// Why logging or metrics could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("logging was started already in this process")]
    Logging(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("metrics of another kind were started already in this process")]
    Metrics(#[source] BuildError),
}

/// Starts logging to standard error, ours from `level` on, others' warnings. What
/// the S3 client would say of a failed request our own error says.
/// `RUST_LOG` overrides both.
pub fn init(level: &str) -> Result<(), TelemetryError> {
    let default = format!("warn,aws_smithy_runtime=error,aws_config=error,lifeboat={level}");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(TelemetryError::Logging)
}

/// Upper bounds of `WAL_DURABLE_SECONDS`; 3 s is what is promised for `flush_every: 1s`.
const WAL_DURABLE_BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 60.0];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The one recorder of this process; installed by the first call.
pub fn metrics_handle() -> Result<PrometheusHandle, TelemetryError> {
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let durable = Matcher::Full(WAL_DURABLE_SECONDS.to_owned());
    let builder = PrometheusBuilder::new().set_buckets_for_metric(durable, &WAL_DURABLE_BOUNDS);
    match builder.and_then(PrometheusBuilder::install_recorder) {
        Ok(handle) => {
            describe();
            Ok(HANDLE.get_or_init(|| handle).clone())
        }
        // Two first calls at once: the other one has installed it.
        Err(error) => HANDLE.get().cloned().ok_or(TelemetryError::Metrics(error)),
    }
}

/// Takes in what was measured, so that it does not pile up where nobody asks for it.
pub fn upkeep() {
    if let Some(handle) = HANDLE.get() {
        handle.run_upkeep();
    }
}

fn describe() {
    describe_gauge!(EXPOSURE_SECONDS, Unit::Seconds, "Age of the oldest acknowledged commit not durable in the vault");
    describe_gauge!(
        CLAIMED_EXPOSURE_SECONDS,
        Unit::Seconds,
        "Age of the newest instant that a provider claims to restore"
    );
    describe_gauge!(EXPOSURE_DAY_MAX_SECONDS, Unit::Seconds, "Longest exposure of the last day");
    describe_gauge!(EXPOSURE_DAY_OVER_SECONDS, Unit::Seconds, "Time of the last day with exposure over the objective");
    describe_gauge!(
        EXPOSURE_DAY_MEASURED_SECONDS,
        Unit::Seconds,
        "Time of the last day in which exposure was measured"
    );
    describe_gauge!(WAL_DURABLE_LSN, Unit::Bytes, "WAL position up to which the vault has everything");
    describe_histogram!(
        WAL_DURABLE_SECONDS,
        Unit::Seconds,
        "From the sending of WAL to its being durable in the vault"
    );
    describe_gauge!(BACKUP_AGE_SECONDS, Unit::Seconds, "Age of the newest backup");
    describe_gauge!(LAST_PROVEN_AGE_SECONDS, Unit::Seconds, "Time since a restore test last passed");
    describe_gauge!(RESTORE_SECONDS, Unit::Seconds, "Estimate of what a restore would take now; not a recovery time");
    describe_gauge!(COPY_LAG_SECONDS, Unit::Seconds, "Age of the oldest backup that is not copied to the vault yet");
    describe_gauge!(COPY_MISSING_SEGMENTS, Unit::Count, "WAL segments that the vault lacks and another one has");
    describe_gauge!(WAL_KEPT_BYTES, Unit::Bytes, "WAL that the primary's slot keeps for us");
    describe_gauge!(WAL_RATE_BYTES, Unit::Bytes, "WAL that the primary writes a second");
    describe_gauge!(WAL_HEADROOM_BYTES, Unit::Bytes, "WAL that the primary can keep beside that");
    describe_gauge!(WAL_HEADROOM_SECONDS, Unit::Seconds, "How long that lasts, would nothing be confirmed");
    describe_gauge!(STANDBY_WAL_KEPT_BYTES, Unit::Bytes, "WAL that a standby's slot keeps for us");
    describe_gauge!(STANDBY_WAL_HEADROOM_BYTES, Unit::Bytes, "WAL that a standby can keep beside that");
    describe_gauge!(STANDBY_WAL_HEADROOM_SECONDS, Unit::Seconds, "How long that lasts, would nothing be confirmed");
    describe_counter!(RUNS_TOTAL, Unit::Count, "Finished runs");
    describe_gauge!(FINDINGS_OPEN, Unit::Count, "Findings that a person must fix");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorder_is_installed_once_and_shown() {
        let first = metrics_handle().unwrap();
        let again = metrics_handle().unwrap();
        metrics::gauge!(EXPOSURE_SECONDS, "database" => "wallet", "vault" => "dr").set(1.5);
        for handle in [first, again] {
            let text = handle.render();
            assert!(text.contains("lifeboat_exposure_seconds{database=\"wallet\",vault=\"dr\"} 1.5"), "{text}");
            assert!(text.contains("# HELP lifeboat_exposure_seconds"), "{text}");
        }
    }
}
