//! How much WAL a member can still keep for us, how long that lasts at the
//! rate at which it writes, and what a person must know of it: a slot keeps what
//! the vaults lack, until it is over its limit or the disk is full.
//!
//! What must never happen: a server that stops, or WAL that is lost, because
//! nobody was told that it piled up; a time that nobody measured.

pub mod limit;
pub mod rate;

use std::{fmt, time::Duration};

use jiff::Timestamp;

use crate::domain::{ByteSize, Lsn, SlotState, Span, WalKept};

/// Without progress for so long beyond the usual, though there is WAL to confirm,
/// it piles up: a restart or a switchover of the server is over sooner.
pub const STILL_AFTER: Duration = Duration::from_secs(30);

/// How often is looked.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A look that is older says nothing of now: one by itself may take half of it where a
/// member is away.
pub const STALE_AFTER: Duration = Duration::from_secs(60);

/// The share of its room that what is kept may take before it is told.
const NEAR: f64 = 0.75;

/// Below that the share of the room says nothing: one segment may be open.
const LITTLE: u64 = 32 << 20;

/// What ends the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `max_slot_wal_keep_size`: the slot is invalidated.
    SlotLimit,
    /// The free space that was measured: the server stops.
    Disk,
    /// `wal.room_on_primary` of the schedule: the server stops.
    Room,
}

impl End {
    pub const ALL: [Self; 3] = [Self::SlotLimit, Self::Disk, Self::Room];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlotLimit => "slot_limit",
            Self::Disk => "disk",
            Self::Room => "room",
        }
    }
}

/// What is known.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub kept: &'a WalKept,
    /// `wal.room_on_primary`; none for a standby.
    pub room_bytes: Option<u64>,
    /// How fast the server writes.
    pub bytes_per_second: Option<f64>,
    /// How long nothing was confirmed, though there was something to confirm.
    pub still_for: Duration,
    /// How often something is confirmed where all is well.
    pub confirmed_every: Duration,
}

/// How much more can be kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headroom {
    pub end: End,
    pub bytes: u64,
    /// How long it lasts from now on if nothing is confirmed; none where the rate is not known.
    pub lasts: Option<Duration>,
}

/// Since when nothing was confirmed, though there is something; none where all is,
/// or there is progress. `before` is what was seen before, and since when it stood.
pub fn still_since(before: Option<(Lsn, Option<Timestamp>)>, kept: &WalKept, now: Timestamp) -> Option<Timestamp> {
    let from = kept.from.filter(|from| *from < kept.written)?;
    match before {
        Some((before, since)) if before == from => since.or(Some(now)),
        _ => Some(now),
    }
}

/// Whether a look of `at` still tells how it is. One from ahead of a clock that was
/// set back does.
pub fn is_current(at: Timestamp, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(at)).map_or(true, |age| age <= STALE_AFTER)
}

/// The primary among what was seen now. Of two, the one on the newer timeline was promoted
/// and is meant; on the same timeline nobody can tell.
pub fn primary<'a>(seen: impl Iterator<Item = &'a WalKept>) -> Option<&'a WalKept> {
    let primaries: Vec<&WalKept> = seen.filter(|kept| kept.is_primary).collect();
    let newest = primaries.iter().map(|kept| kept.timeline).max()?;
    match &primaries.into_iter().filter(|kept| kept.timeline == newest).collect::<Vec<_>>()[..] {
        [one] => Some(one),
        _ => None,
    }
}

/// What ends first.
pub fn headroom(facts: &Facts<'_>) -> Option<Headroom> {
    let Facts { kept, room_bytes, bytes_per_second, .. } = *facts;
    let room = room_bytes.map(|room| (End::Room, room.saturating_sub(kept.bytes())));
    let disk = kept.free_bytes.map(|bytes| (End::Disk, bytes));
    let limit = kept.safe_bytes.map(|bytes| (End::SlotLimit, bytes));
    let (end, bytes) = [limit, disk, room].into_iter().flatten().min_by_key(|(_, bytes)| *bytes)?;
    #[expect(clippy::cast_precision_loss, reason = "a forecast is no exact number")]
    let seconds = bytes_per_second.filter(|rate| *rate > 0.0).map(|rate| bytes as f64 / rate);
    // Longer than a century is for ever.
    let lasts = seconds.filter(|seconds| *seconds < 3e9).map(Duration::from_secs_f64);
    Some(Headroom { end, bytes, lasts })
}

/// What a person must fix, with how; none while all is well.
pub fn finding(facts: &Facts<'_>) -> Option<String> {
    let WalKept { member, slot, state, limit_bytes, .. } = facts.kept;
    let limit = limit_bytes.map_or_else(|| "no limit".to_owned(), |bytes| ByteSize::from_bytes(bytes).to_string());
    let is_still = facts.still_for >= STILL_AFTER + facts.confirmed_every;
    match state {
        SlotState::Lost => Some(format!(
            "member `{member}` invalidated slot `{slot}` (`max_slot_wal_keep_size` is {limit}), and keeps no WAL for us any more: {}; {MEND}, and {MORE}",
            if facts.kept.is_primary {
                "what it writes now is lost unless streaming goes on"
            } else {
                "what the vaults lack is lost when this standby is promoted"
            }
        )),
        SlotState::Unreserved => Some(format!(
            "member `{member}` keeps {} of WAL for slot `{slot}`, which is over its limit (`max_slot_wal_keep_size` is {limit}): the next checkpoint invalidates it, and WAL is lost; {MEND} at once, or {MORE}",
            ByteSize::from_bytes(facts.kept.bytes())
        )),
        SlotState::Reserved | SlotState::Extended if is_still || is_near(facts) => {
            let told = Told { facts, headroom: headroom(facts), is_still };
            Some(told.to_string())
        }
        // Without a slot nothing is kept, so that nothing piles up; what is lost then, the chain tells.
        SlotState::Missing | SlotState::Reserved | SlotState::Extended => None,
    }
}

const MEND: &str =
    "mend what keeps the WAL from the vaults (`lifeboat findings`; is a vault full, or does nobody stream?)";
const MORE: &str = "give `max_slot_wal_keep_size` more room";

/// Whether what is kept takes most of its room.
fn is_near(facts: &Facts<'_>) -> bool {
    let kept = facts.kept.bytes();
    #[expect(clippy::cast_precision_loss, reason = "a share is no exact number")]
    let is_most = |left: u64| kept as f64 >= NEAR * (kept.saturating_add(left)) as f64;
    kept > LITTLE && headroom(facts).is_some_and(|headroom| is_most(headroom.bytes))
}

/// WAL that piles up, in words.
struct Told<'a> {
    facts: &'a Facts<'a>,
    headroom: Option<Headroom>,
    is_still: bool,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { facts: Facts { kept, still_for, bytes_per_second, .. }, headroom, is_still } = self;
        let size = |bytes| ByteSize::from_bytes(bytes);
        let WalKept { member, slot, is_primary, .. } = kept;
        let place = if *is_primary { "the primary" } else { "a standby" };
        write!(f, "WAL piles up on {place}: member `{member}` keeps {} for slot `{slot}`", size(kept.bytes()))?;
        if *is_still {
            write!(f, ", of which nothing was confirmed for {}", about(*still_for))?;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        let rate = bytes_per_second.map(|rate| size(rate as u64));
        match headroom {
            Some(Headroom { end, bytes, lasts }) => {
                let then = match end {
                    End::SlotLimit if *is_primary => {
                        "its slot is over `max_slot_wal_keep_size` and is invalidated, which breaks the chain of WAL"
                    }
                    End::SlotLimit => {
                        "its slot is over `max_slot_wal_keep_size` and is invalidated, which breaks the chain of WAL when it is promoted"
                    }
                    End::Disk => "its disk is full and the server stops",
                    End::Room => "`wal.room_on_primary` is used up, and its disk full",
                };
                match (lasts, rate) {
                    (Some(lasts), Some(rate)) => {
                        write!(
                            f,
                            "; in {} {then}: {} are left, and it writes {rate} a second",
                            about(*lasts),
                            size(*bytes)
                        )?;
                    }
                    _ => write!(f, "; after {} more {then}", size(*bytes))?,
                }
                write!(f, "; {MEND}")?;
                match end {
                    End::SlotLimit => write!(f, ", or {MORE}"),
                    End::Disk | End::Room => write!(
                        f,
                        ", or make room there; with `max_slot_wal_keep_size` the server would rather lose the slot than stop"
                    ),
                }
            }
            None => write!(
                f,
                "; nothing limits that, as `max_slot_wal_keep_size` is -1, and nobody knows how much room its disk has; {MEND}, {}",
                // What the schedule says of the primary's room is not the standby's.
                if *is_primary {
                    "set a limit, or write `room_on_primary` under `wal` in the schedule"
                } else {
                    "or set a limit"
                }
            ),
        }
    }
}

/// As exact as anybody needs it.
fn about(time: Duration) -> Span {
    let seconds = time.as_secs();
    Span::from_secs(match seconds {
        0..60 => seconds,
        60..86_400 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    })
}

#[cfg(test)]
mod tests;
