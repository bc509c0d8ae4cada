//! What the members keep for us, for the status: what the daemon saw last, or,
//! where none of this process looks again and again, a look of our own, which serves
//! until it is stale.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use metrics::gauge;
use tokio::time::timeout;

use crate::{
    app::App,
    decide::headroom::End,
    domain::{MemberName, with_causes},
    flows::{
        Database,
        headroom::{self, Last, Look},
    },
    report::status::{DatabaseStatus, WalOnMember},
    telemetry,
};

/// A status does not wait long for a primary that is away.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// What the primary keeps, and what the other members do.
#[derive(Debug, Default)]
pub(super) struct OnMembers {
    pub primary: Option<WalOnMember>,
    pub others: Vec<WalOnMember>,
    /// Why the primary cannot be asked; none where it can.
    pub away: Option<String>,
}

pub(super) async fn on_members(app: &App, database: &Database, now: Timestamp) -> OnMembers {
    let (looks, away) = match database.watched.last(now) {
        // Of one that is away the daemon knows soon.
        Last::Seen(looks) => (looks, "it did not answer the daemon's last look".to_owned()),
        Last::Unknown => match timeout(LOOK_LIMIT, headroom::watch(&app.resources.db, database, now)).await {
            Ok(looked) => {
                let (seen, failed): (Vec<_>, Vec<_>) =
                    looked.into_iter().map(|(_, look)| look).partition(Result::is_ok);
                let why = failed.into_iter().find_map(Result::err).map(|error| with_causes(&error));
                let none = || "no member says that it takes writes".to_owned();
                (seen.into_iter().flatten().collect(), why.unwrap_or_else(none))
            }
            Err(_) => (Vec::new(), format!("it did not answer within {LOOK_LIMIT:?}")),
        },
    };
    let primary = headroom::primary(&looks).map(|look| look.kept.member.clone());
    let (of_primary, others): (Vec<WalOnMember>, Vec<WalOnMember>) =
        looks.into_iter().map(shown).partition(|seen| Some(&seen.member) == primary.as_ref());
    let away = primary.is_none().then_some(away);
    OnMembers { primary: of_primary.into_iter().next(), others, away }
}

fn shown(look: Look) -> WalOnMember {
    let headroom = look.headroom();
    let stands_still_seconds = look.still_for().as_secs_f64();
    let Look { at, kept, room_bytes, bytes_per_second, .. } = look;
    WalOnMember {
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
pub(super) fn publish(status: &DatabaseStatus, members: &BTreeSet<MemberName>) {
    let database = || ("database", status.database.to_string());
    let primary = [telemetry::WAL_KEPT_BYTES, telemetry::WAL_HEADROOM_BYTES, telemetry::WAL_HEADROOM_SECONDS];
    set(primary, &[database()], status.wal_on_primary.as_ref());
    let rate = status.wal_on_primary.as_ref().and_then(|seen| seen.bytes_per_second);
    gauge!(telemetry::WAL_RATE_BYTES, &[database()]).set(rate.unwrap_or(f64::NAN));
    let standby = [
        telemetry::STANDBY_WAL_KEPT_BYTES,
        telemetry::STANDBY_WAL_HEADROOM_BYTES,
        telemetry::STANDBY_WAL_HEADROOM_SECONDS,
    ];
    for member in members {
        let seen = status.wal_on_standbys.iter().find(|seen| seen.member == *member);
        set(standby, &[database(), ("member", member.to_string())], seen);
    }
}

/// How much is kept, how much more can be, and how long that lasts.
#[expect(clippy::cast_precision_loss, reason = "a monitor needs no single byte")]
fn set([kept, bytes, seconds]: [&'static str; 3], labels: &[(&'static str, String)], seen: Option<&WalOnMember>) {
    gauge!(kept, labels).set(seen.map_or(f64::NAN, |seen| seen.kept_bytes as f64));
    for end in End::ALL.map(End::as_str) {
        let applies = seen.filter(|seen| seen.ends_with.as_deref() == Some(end));
        let labels: Vec<_> = labels.iter().cloned().chain([("end", end.to_owned())]).collect();
        let left = applies.and_then(|seen| seen.headroom_bytes).map(|bytes| bytes as f64);
        gauge!(bytes, &labels).set(left.unwrap_or(f64::NAN));
        gauge!(seconds, &labels).set(applies.and_then(|seen| seen.headroom_seconds).unwrap_or(f64::NAN));
    }
}
