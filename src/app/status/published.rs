//! The figures of the status as metrics.

use jiff::Timestamp;
use metrics::gauge;

use crate::{report::EstateStatus, telemetry};

pub(super) fn publish(status: &EstateStatus) {
    for database in &status.databases {
        let name = database.database.to_string();
        for vault in &database.exposure {
            let labels = [("database", name.clone()), ("vault", vault.vault.to_string())];
            let day = &vault.last_day;
            gauge!(telemetry::EXPOSURE_DAY_MAX_SECONDS, &labels).set(day.max_seconds.unwrap_or(f64::NAN));
            gauge!(telemetry::EXPOSURE_DAY_OVER_SECONDS, &labels).set(day.over_seconds);
            gauge!(telemetry::EXPOSURE_DAY_MEASURED_SECONDS, &labels).set(day.measured_seconds);
            if let Some(seconds) = vault.seconds {
                gauge!(telemetry::EXPOSURE_SECONDS, &labels).set(seconds);
            }
        }
        for copies in &database.copies {
            let labels = [("database", name.clone()), ("vault", copies.vault.to_string())];
            gauge!(telemetry::COPY_LAG_SECONDS, &labels).set(copies.lag_seconds);
            #[expect(clippy::cast_precision_loss, reason = "nobody lacks 2^52 segments")]
            gauge!(telemetry::COPY_MISSING_SEGMENTS, &labels).set(copies.missing_wal as f64);
        }
        let age = |at: Timestamp| status.generated_at.duration_since(at).as_secs_f64();
        if let Some(backup) = &database.newest_backup {
            gauge!(telemetry::BACKUP_AGE_SECONDS, "database" => name.clone()).set(age(backup.finished_at));
        }
        if let Some(test) = &database.last_proven {
            gauge!(telemetry::LAST_PROVEN_AGE_SECONDS, "database" => name.clone()).set(age(test.at));
        }
        if let Some(seconds) = database.would_take_seconds {
            gauge!(telemetry::RESTORE_SECONDS, "database" => name.clone()).set(seconds);
        }
    }
    for database in &status.managed {
        let name = database.database.to_string();
        for region in &database.regions {
            let labels = [("database", name.clone()), ("region", region.region.to_string())];
            let seconds = region.exposure_seconds.unwrap_or(f64::NAN);
            gauge!(telemetry::CLAIMED_EXPOSURE_SECONDS, &labels).set(seconds);
        }
        let age = |at: Timestamp| status.generated_at.duration_since(at).as_secs_f64();
        // Not known is not as young as it was when it was.
        let newest = database.newest_snapshot.as_ref().and_then(|snapshot| snapshot.taken_at);
        gauge!(telemetry::BACKUP_AGE_SECONDS, "database" => name.clone()).set(newest.map_or(f64::NAN, age));
        if let Some(test) = &database.last_proven {
            gauge!(telemetry::LAST_PROVEN_AGE_SECONDS, "database" => name.clone()).set(age(test.at));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 findings")]
    gauge!(telemetry::FINDINGS_OPEN).set(status.findings.len() as f64);
}
