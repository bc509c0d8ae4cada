//! What of a database that a provider runs can be restored in a region: instants, and
//! snapshots. Which of it a restore test takes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::domain::{Snapshot, SnapshotOrigin, SnapshotState};

/// What the provider can restore in one region.
#[derive(Debug, Clone, Copy)]
pub struct Restorable<'a> {
    /// The instants; none where the provider keeps no log there.
    pub earliest: Option<Timestamp>,
    pub latest: Option<Timestamp>,
    pub snapshots: &'a [Snapshot],
}

/// What is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    At(Timestamp),
    Snapshot(Snapshot),
}

impl Restorable<'_> {
    /// The newest state: an instant, or a snapshot where there is none that is as new.
    pub fn newest(&self) -> Option<Held> {
        let snapshot = self.whole().max_by_key(|snapshot| snapshot.taken_at);
        let latest = self.latest.and_then(whole_second);
        let latest = latest.filter(|latest| self.earliest.is_none_or(|earliest| earliest <= *latest));
        match (latest, snapshot) {
            (Some(latest), Some(snapshot)) if snapshot.taken_at > Some(latest) => {
                Some(Held::Snapshot(snapshot.clone()))
            }
            (Some(latest), _) => Some(Held::At(latest)),
            (None, snapshot) => snapshot.cloned().map(Held::Snapshot),
        }
    }

    /// The snapshots that somebody keeps on purpose, the oldest first. What the provider
    /// took itself goes when it likes.
    pub fn kept(&self) -> Vec<&Snapshot> {
        let mut kept: Vec<&Snapshot> =
            self.whole().filter(|snapshot| snapshot.origin != SnapshotOrigin::Automated).collect();
        kept.sort_by_key(|snapshot| (snapshot.taken_at, &snapshot.id));
        kept
    }

    /// From when to when an instant can be drawn, in whole seconds, as the provider takes no
    /// finer ones; no more than `reach` back where that is said.
    pub fn window(&self, now: Timestamp, reach: Option<Duration>) -> Option<(Timestamp, Timestamp)> {
        let since =
            reach.and_then(|reach| SignedDuration::try_from(reach).ok().and_then(|reach| now.checked_sub(reach).ok()));
        let (earliest, latest) = (self.earliest?, self.latest?);
        let from = since.map_or(earliest, |since| since.max(earliest));
        let from = Timestamp::from_second(from.as_second() + i64::from(from.subsec_nanosecond() > 0)).ok()?;
        let to = whole_second(latest)?;
        (from <= to).then_some((from, to))
    }

    /// This instant, as it can be restored; why it cannot.
    pub fn reaches(&self, at: Timestamp) -> Result<Held, String> {
        let whole = || match whole_second(at) {
            Some(second) if second == at => Ok(Held::At(at)),
            _ => Err(format!(
                "a provider restores to whole seconds, and {at} is none: ask for the second before it or after it"
            )),
        };
        match (self.earliest, self.latest) {
            (Some(earliest), Some(latest)) if earliest <= at && at <= latest => whole(),
            (Some(earliest), Some(latest)) => {
                Err(format!("the provider restores instants from {earliest} to {latest}, and {at} is none of them"))
            }
            // Of another region the first one is not told; the provider itself refuses what is before it.
            (None, Some(latest)) if at <= latest => whole(),
            (None, Some(latest)) => {
                Err(format!("the provider restores instants up to {latest} there, and {at} is after it"))
            }
            (_, None) => Err("the provider restores no instants there, as it keeps no log".to_owned()),
        }
    }

    /// Those that can be restored from.
    fn whole(&self) -> impl Iterator<Item = &Snapshot> {
        let is_whole = |one: &&Snapshot| one.state == SnapshotState::Available && one.taken_at.is_some();
        self.snapshots.iter().filter(is_whole)
    }
}

/// Providers take no finer instants: what was committed later in the second is left out.
fn whole_second(at: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(at.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn snapshot(id: &str, second: i64, origin: SnapshotOrigin, state: SnapshotState) -> Snapshot {
        Snapshot {
            id: id.to_owned(),
            arn: format!("arn:{id}"),
            region: "eu-west-1".parse().unwrap(),
            origin,
            state,
            progress_percent: 100,
            taken_at: Some(at(second)),
            size_bytes: 1,
            kms_key: None,
            server_version: "15.4".to_owned(),
            copy_of: None,
        }
    }

    fn told(held: Option<Held>) -> String {
        match held {
            None => "nothing".to_owned(),
            Some(Held::At(at)) => format!("at {}", at.as_second() - 1_000_000),
            Some(Held::Snapshot(snapshot)) => snapshot.id,
        }
    }

    #[test]
    fn the_newest_state_is_an_instant_or_what_is_newer() {
        use {SnapshotOrigin::*, SnapshotState::*};
        let snapshots = [
            snapshot("automated", 10, Automated, Available),
            snapshot("adopted", 20, Adopted, Available),
            snapshot("ours", 30, Ours, Available),
            snapshot("unfinished", 40, Ours, Creating),
            snapshot("failed", 5, Ours, Failed),
        ];
        let newest = |latest, snapshots| told(Restorable { earliest: None, latest, snapshots }.newest());
        assert_eq!(newest(Some(at(50)), &snapshots), "at 50");
        assert_eq!(newest(Some(at(30)), &snapshots), "at 30");
        assert_eq!(newest(Some(at(29)), &snapshots), "ours");
        assert_eq!(newest(None, &snapshots), "ours");
        let half = at(50) + SignedDuration::from_millis(500);
        assert_eq!(newest(Some(half), &snapshots), "at 50", "to the second");
        let young = Restorable { earliest: Some(half), latest: Some(half), snapshots: &[] };
        assert_eq!(told(young.newest()), "nothing", "none that is whole");
        assert_eq!(newest(None, &snapshots[3..]), "nothing");
        let all = Restorable { earliest: None, latest: None, snapshots: &snapshots };
        assert_eq!(all.kept().iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["adopted", "ours"]);
    }

    #[test]
    fn instants_are_within_what_the_provider_restores() {
        let half = |second| at(second) + SignedDuration::from_millis(500);
        let all = Restorable { earliest: Some(half(10)), latest: Some(half(50)), snapshots: &[] };
        assert_eq!(all.window(at(60), None), Some((at(11), at(50))));
        assert_eq!(all.window(at(60), Some(Duration::from_secs(20))), Some((at(40), at(50))));
        assert_eq!(all.window(at(60), Some(Duration::from_secs(5))), None);
        assert_eq!(Restorable { earliest: None, ..all }.window(at(60), None), None);
        assert!(all.reaches(at(11)).is_ok() && all.reaches(at(10)).is_err() && all.reaches(at(51)).is_err());
        assert!(
            all.reaches(half(11)).unwrap_err().contains("whole seconds"),
            "no instant near the one that was asked for"
        );
        let elsewhere = Restorable { earliest: None, ..all };
        assert!(elsewhere.reaches(at(1)).is_ok() && elsewhere.reaches(at(51)).is_err());
        assert!(Restorable { latest: None, ..all }.reaches(at(11)).is_err());
    }
}
