//! What the primary keeps for us, for the status: what the daemon saw last, or,
//! where none of this process has looked, one look of our own.

use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use tokio::time::timeout;

use crate::{
    app::App,
    decide::headroom::End,
    domain::with_causes,
    flows::{
        Database,
        headroom::{self, Last, Look},
    },
    report::status::WalOnPrimary,
    telemetry,
};

/// A status does not wait long for a primary that is away.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// What it keeps, or why it cannot be asked.
pub(super) async fn on_primary(app: &App, database: &Database, now: Timestamp) -> Result<WalOnPrimary, String> {
    let look = match database.watched.last(now) {
        Last::Seen(look) => *look,
        // The daemon looks again soon.
        Last::Failed => return Err("it did not answer the daemon's last look".to_owned()),
        Last::Never => {
            let looking = headroom::look(&app.resources.db, database, None, now);
            let looked = timeout(LOOK_LIMIT, looking).await;
            let looked = looked.map_err(|_| format!("it did not answer within {LOOK_LIMIT:?}"))?;
            looked.map_err(|error| with_causes(&error))?
        }
    };
    Ok(shown(look))
}

fn shown(look: Look) -> WalOnPrimary {
    let headroom = look.headroom();
    let stands_still_seconds = look.still_for().as_secs_f64();
    let Look { at, kept, room_bytes, bytes_per_second, .. } = look;
    WalOnPrimary {
        at,
        slot_state: kept.state,
        slot_active: kept.is_active,
        written_lsn: kept.written,
        kept_bytes: kept.bytes(),
        bytes_per_second,
        slot_limit_bytes: kept.limit_bytes,
        folder_bytes: kept.folder_bytes,
        free_bytes: kept.free_bytes,
        room_bytes,
        headroom_bytes: headroom.map(|headroom| headroom.bytes),
        headroom_seconds: headroom.and_then(|headroom| headroom.lasts).map(|lasts| lasts.as_secs_f64()),
        ends_with: headroom.map(|headroom| headroom.end.as_str().to_owned()),
        stands_still_seconds,
        member: kept.member,
        slot: kept.slot,
    }
}

/// The same figures as metrics. What is not known, and an end that does not apply,
/// is NaN: a gauge would go on telling its last value for ever.
#[expect(clippy::cast_precision_loss, reason = "a monitor needs no single byte")]
pub(super) fn publish(database: &str, on_primary: Option<&WalOnPrimary>) {
    let set =
        |metric, value: Option<f64>| gauge!(metric, "database" => database.to_owned()).set(value.unwrap_or(f64::NAN));
    set(telemetry::WAL_KEPT_BYTES, on_primary.map(|seen| seen.kept_bytes as f64));
    set(telemetry::WAL_RATE_BYTES, on_primary.and_then(|seen| seen.bytes_per_second));
    for end in End::ALL.map(End::as_str) {
        let applies = on_primary.filter(|seen| seen.ends_with.as_deref() == Some(end));
        let labels = [("database", database.to_owned()), ("end", end.to_owned())];
        let bytes = applies.and_then(|seen| seen.headroom_bytes).map(|bytes| bytes as f64);
        gauge!(telemetry::WAL_HEADROOM_BYTES, &labels).set(bytes.unwrap_or(f64::NAN));
        let seconds = applies.and_then(|seen| seen.headroom_seconds);
        gauge!(telemetry::WAL_HEADROOM_SECONDS, &labels).set(seconds.unwrap_or(f64::NAN));
    }
}
