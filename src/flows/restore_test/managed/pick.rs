//! What each algorithm takes of what the provider keeps.

use jiff::{SignedDuration, Timestamp};

use super::ProviderTest;
use crate::{
    decide::restorable::{Held, Restorable},
    domain::{RecoveryAlgorithm, RecoveryTarget, Region, Snapshot, Span, Verdict},
    engine::managed::SourceFacts,
    flow::{StepContext, StepError},
    flows::restore_test::{
        Point,
        pick::{Picked, drawn, drawn_ahead},
        refuse_of_vaults,
    },
};

/// What is restored, and how it was chosen; nothing held where there is nothing, which the
/// checks of what was picked say.
pub(super) struct PickedHeld {
    pub(super) picked: Picked,
    pub(super) held: Option<Held>,
    /// The source, as it was when what it has was frozen.
    pub(super) source: SourceFacts,
    /// When that was, where a disaster was drawn ahead.
    pub(super) disaster_at: Option<Timestamp>,
}

impl PickedHeld {
    /// With the time of the disaster where one was drawn.
    fn of((picked, held): (Picked, Option<Held>), source: SourceFacts, cx: &StepContext) -> Self {
        let is_disaster = picked.is_disaster && held.is_some();
        Self { picked, held, source, disaster_at: is_disaster.then(|| cx.clock().now()) }
    }
}

impl ProviderTest {
    /// As the algorithm chooses, or as a person asked, in what the provider keeps in `region`.
    pub(super) async fn pick(
        &self,
        (point, algorithm): (&Point, Option<RecoveryAlgorithm>),
        region: &Region,
        cx: &StepContext,
    ) -> Result<PickedHeld, StepError> {
        refuse_of_vaults(point).map_err(StepError::permanent)?;
        let drawn_first = match (point.asked(), algorithm) {
            (None, Some(RecoveryAlgorithm::LatestAtDisaster)) => {
                let kept = format!(" that the provider can restore in {region}");
                Some(drawn_ahead(&kept, "what the provider told", cx).await?)
            }
            _ => None,
        };
        // Behind the disaster: what the provider tells now is what it has, and nothing newer counts.
        let source = self.database.provider.source().await?;
        let snapshots = self.database.provider.snapshots(region).await?;
        let is_own = *region == *self.database.source()?.region;
        let restorable = Restorable {
            earliest: source.earliest_restorable.filter(|_| is_own),
            latest: source.latest_restorable.get(region).copied(),
            snapshots: &snapshots,
        };
        let found = match (point.asked(), algorithm, drawn_first) {
            (_, _, Some(picked)) => newest(picked, &restorable, region),
            (Some((target, _)), ..) => asked(target, &restorable, region)?,
            (None, Some(RecoveryAlgorithm::RandomWithinWindow), _) => {
                let reach = self.config.recovery_point.window.map(Span::as_duration);
                random(&restorable, restorable.window(cx.clock().now(), reach), region)
            }
            (None, Some(RecoveryAlgorithm::Oldest), _) => oldest(&restorable, region, self.database.name.as_str()),
            (None, other, _) => {
                let other = other.map_or("it", RecoveryAlgorithm::as_str);
                return Err(StepError::permanent(format!(
                    "`{other}` is of databases with vaults; a provider restores `latest_at_disaster`, `random_within_window` and `oldest`"
                )));
            }
        };
        Ok(PickedHeld::of(found, source, cx))
    }
}

type Found = (Picked, Option<Held>);

fn nothing(expected: &str, actual: String) -> Found {
    (Picked::nothing(Verdict::Fail, expected, actual), None)
}

fn newest(picked: Picked, restorable: &Restorable<'_>, region: &Region) -> Found {
    let Some(held) = restorable.newest() else {
        let actual = format!(
            "the provider can restore nothing of it in {region}; switch its automated backups on, or copy snapshots there (`snapshot_copies`)"
        );
        return nothing("something that can be restored", actual);
    };
    (Picked { target: target_of(&held), ..picked }, Some(held))
}

fn target_of(held: &Held) -> RecoveryTarget {
    match held {
        Held::At(at) => RecoveryTarget::Time(*at),
        Held::Snapshot(_) => RecoveryTarget::Immediate,
    }
}

fn random(restorable: &Restorable<'_>, window: Option<(Timestamp, Timestamp)>, region: &Region) -> Found {
    let Some((from, to)) = window else {
        let actual = match (restorable.earliest, restorable.latest) {
            (None, Some(_)) => format!("from when on it can be restored in {region} the provider does not tell"),
            _ => format!("no instant can be restored in {region}; switch its automated backups on"),
        };
        return (Picked::nothing(Verdict::Inconclusive, "instants that can be restored", actual), None);
    };
    let span = u64::try_from(to.duration_since(from).as_secs()).unwrap_or_default();
    let seed = rand::random();
    let at = from + SignedDuration::from_secs(i64::try_from(drawn(seed, 0, span)).unwrap_or_default());
    let scenario = format!("a random instant between {from} and {to} (seed {seed})");
    let picked = Picked {
        candidates: vec![format!("every second from {from} to {to}")],
        seed: Some(seed),
        choice: Some(at.to_string()),
        ..Picked::of(scenario, RecoveryTarget::Time(at))
    };
    (picked, Some(Held::At(at)))
}

fn oldest(restorable: &Restorable<'_>, region: &Region, database: &str) -> Found {
    let kept = restorable.kept();
    let Some(first) = kept.first() else {
        let actual = format!(
            "there is no snapshot in {region} that somebody keeps and that is whole; `lifeboat backup {database}` takes one"
        );
        return nothing("a snapshot that can be restored", actual);
    };
    let candidates = kept.iter().map(|one| one.id.clone()).collect();
    let scenario = format!("the oldest snapshot that is kept in {region}, {}", first.id);
    of_snapshot(scenario, first, candidates)
}

fn of_snapshot(scenario: String, snapshot: &Snapshot, candidates: Vec<String>) -> Found {
    let picked =
        Picked { candidates, choice: Some(snapshot.id.clone()), ..Picked::of(scenario, RecoveryTarget::Immediate) };
    (picked, Some(Held::Snapshot(snapshot.clone())))
}

/// What a person asked for: `Immediate` is the newest snapshot that is kept.
fn asked(target: &RecoveryTarget, restorable: &Restorable<'_>, region: &Region) -> Result<Found, StepError> {
    match target {
        RecoveryTarget::Latest => {
            let picked = Picked::asked(target, None);
            Ok(newest(picked, restorable, region))
        }
        RecoveryTarget::Time(at) => {
            let held = restorable.reaches(*at).map_err(StepError::permanent)?;
            Ok((Picked::asked(target, None), Some(held)))
        }
        RecoveryTarget::Immediate => match restorable.kept().last() {
            Some(newest) => {
                Ok(of_snapshot(format!("asked for: the newest snapshot, {}", newest.id), newest, Vec::new()))
            }
            None => Err(StepError::permanent(format!("there is no snapshot in {region} that somebody keeps"))),
        },
        other => Err(StepError::permanent(format!(
            "a provider does not restore to {other}, but to a time, to the latest state, or a snapshot as it is"
        ))),
    }
}
