//! What each algorithm takes: the target, the backup where it is a certain one,
//! and what else could have been taken.

use std::{collections::BTreeSet, path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{Test, catalog, window};
use crate::{
    decide::recovery::{
        Facts,
        point::{self, Choice, Choices},
    },
    domain::{BackupId, Check, RecoveryAlgorithm, RecoveryTarget, Timeline, Verdict},
    flow::{StepContext, StepError},
    flows::{
        Vault,
        restore::{self, RestoreError},
        retention::{self, Memory},
    },
    vault::Inventory,
};

/// A disaster instant is drawn between these many milliseconds from now: long
/// enough to fall anywhere between two flushes, short enough to wait for.
const DISASTER_MS: std::ops::RangeInclusive<u64> = 1_000..=6_000;

/// What is restored.
pub(super) struct Picked {
    /// In words: how it was chosen.
    pub(super) scenario: String,
    pub(super) target: RecoveryTarget,
    pub(super) timeline: Option<Timeline>,
    /// This one and no other.
    pub(super) backup: Option<BackupId>,
    /// Whether the instant at which the listing is frozen was drawn ahead.
    pub(super) is_disaster: bool,
    pub(super) candidates: Vec<String>,
    pub(super) seed: Option<u64>,
    /// None where there is nothing of what was looked for; then `checks` say so.
    pub(super) choice: Option<String>,
    /// What choosing it has shown already.
    pub(super) checks: Vec<Check>,
}

impl Picked {
    pub(super) fn of(scenario: String, target: RecoveryTarget) -> Self {
        Self {
            scenario,
            target,
            timeline: None,
            backup: None,
            is_disaster: false,
            candidates: Vec::new(),
            seed: None,
            choice: None,
            checks: Vec::new(),
        }
    }

    /// What a person asked for.
    pub(super) fn asked(target: &RecoveryTarget, timeline: Option<Timeline>) -> Self {
        let along = timeline.map(|timeline| format!(" along timeline {timeline}")).unwrap_or_default();
        let scenario = format!("asked for: {target}{along}");
        Self { timeline, choice: Some(target.to_string()), ..Self::of(scenario, target.clone()) }
    }

    /// There is nothing of what was looked for, and nothing takes its place.
    pub(super) fn nothing(verdict: Verdict, expected: &str, actual: String) -> Self {
        let check = Check::new("recovery_point", verdict, expected, actual.clone());
        Self { checks: vec![check], ..Self::of(actual, RecoveryTarget::Latest) }
    }

    /// This backup, and those that could have been taken instead.
    fn backup(scenario: String, chosen: &Choice, candidates: Vec<String>) -> Self {
        Self {
            backup: Some(chosen.backup.clone()),
            candidates,
            choice: Some(chosen.backup.to_string()),
            ..Self::of(scenario, chosen.target.clone())
        }
    }
}

impl Test {
    /// As the algorithm chooses, in what the vault holds of the database.
    pub(super) async fn pick(
        &self,
        algorithm: RecoveryAlgorithm,
        (vault, held): (&Vault, &Inventory),
        folder: &Path,
        cx: &StepContext,
    ) -> Result<Picked, StepError> {
        match algorithm {
            RecoveryAlgorithm::LatestAtDisaster => drawn_ahead("", LISTING, cx).await,
            RecoveryAlgorithm::OtherVault => {
                drawn_ahead(&format!(" of vault `{}` alone", vault.store.place().vault), LISTING, cx).await
            }
            RecoveryAlgorithm::RandomWithinWindow => self.random((vault, held), cx).await,
            RecoveryAlgorithm::Oldest => self.oldest((vault, held), cx).await,
            RecoveryAlgorithm::IncrementChain => Ok(self.chain((vault, held), cx).await?),
            RecoveryAlgorithm::CatalogLost => {
                cx.progress("rebuilding the state database from the vault", None, None);
                let checks = catalog::rebuilt(self, vault, folder, cx).await?;
                let scenario = "latest state, as if the state database were gone".to_owned();
                let candidates = held.catalog.entries.iter().rev().map(|entry| entry.manifest.backup.to_string());
                let (candidates, choice) = (candidates.collect(), Some("latest".to_owned()));
                Ok(Picked { candidates, choice, checks, ..Picked::of(scenario, RecoveryTarget::Latest) })
            }
        }
    }

    async fn random(&self, (vault, held): (&Vault, &Inventory), cx: &StepContext) -> Result<Picked, StepError> {
        let kept = self.database.schedule.config.wal.window;
        let window = self.config.recovery_point.window.unwrap_or(kept).as_duration();
        let (oldest, newest) = window::window(&self.database, vault, held, cx.clock().now(), window).await?;
        let span = u64::try_from(newest.duration_since(oldest).as_millis()).unwrap_or_default();
        let seed = rand::random();
        let at = oldest + SignedDuration::from_millis(i64::try_from(drawn(seed, 0, span)).unwrap_or_default());
        let scenario = format!("a random instant between {oldest} and {newest} (seed {seed})");
        Ok(Picked {
            candidates: vec![format!("every instant from {oldest} to {newest}")],
            seed: Some(seed),
            choice: Some(at.to_string()),
            ..Picked::of(scenario, RecoveryTarget::Time(at))
        })
    }

    async fn oldest(&self, (vault, held): (&Vault, &Inventory), cx: &StepContext) -> Result<Picked, StepError> {
        let memory = Memory::read(&self.resources, &self.database, Some(cx.run_id())).await?;
        let survey = retention::survey(&self.database, vault, &memory, &[], cx.clock().now()).await?;
        let kept: Vec<BackupId> =
            survey.into_iter().flat_map(|survey| survey.plan.keep).map(|kept| kept.backup).collect();
        let (facts, restorable) = known(vault, held, cx.clock().now()).await?;
        let Choices { candidates, passed_over } = point::oldest(&facts, &kept, &restorable);
        let Some(chosen) = candidates.first() else {
            let actual = format!(
                "none of the {} backups that are kept has all its WAL and all that it is built upon; `lifeboat vault verify {}` names what is missing",
                kept.len(),
                self.database.name
            );
            return Ok(Picked::nothing(Verdict::Fail, "a kept backup that can be restored", actual));
        };
        let passed_over = match passed_over.as_slice() {
            [] => String::new(),
            older => {
                let older: Vec<&str> = older.iter().map(BackupId::as_str).collect();
                format!("; older, and not to be restored from this vault: {}", older.join(", "))
            }
        };
        let scenario = format!("the oldest backup that is kept, {}, to its end{passed_over}", chosen.backup);
        Ok(Picked::backup(scenario, chosen, candidates.iter().map(|one| one.backup.to_string()).collect()))
    }

    async fn chain(&self, (vault, held): (&Vault, &Inventory), cx: &StepContext) -> Result<Picked, RestoreError> {
        let (facts, restorable) = known(vault, held, cx.clock().now()).await?;
        let Choices { candidates, .. } = point::increment_chain(&facts, &restorable);
        let Some(chosen) = candidates.first() else {
            let actual = format!(
                "vault `{}` holds no backup that is built upon another one; take one with `lifeboat backup {} --kind incremental`, or see in `lifeboat findings` and the last backup why a full one was taken instead",
                vault.store.place().vault,
                self.database.name
            );
            return Ok(Picked::nothing(Verdict::Inconclusive, "a chain of increments", actual));
        };
        let scenario = format!(
            "backup {}, {} that are built upon each other, recovered to: {}",
            chosen.backup, chosen.length, chosen.target
        );
        let named = |one: &Choice| format!("{} (chain of {})", one.backup, one.length);
        Ok(Picked::backup(scenario, chosen, candidates.iter().map(named).collect()))
    }
}

/// What is frozen when the disaster is there.
const LISTING: &str = "the vault's listing";

/// Waits for a disaster that is drawn ahead: when this returns it is there.
pub(super) async fn drawn_ahead(of: &str, frozen: &str, cx: &StepContext) -> Result<Picked, StepError> {
    let seed = rand::random();
    let (least, most) = (*DISASTER_MS.start(), *DISASTER_MS.end());
    let delay = drawn(seed, least, most);
    let disaster_at = cx.clock().now() + SignedDuration::from_millis(i64::try_from(delay).unwrap_or_default());
    cx.tell(format!("disaster drawn for {disaster_at:.3}, seed {seed}"));
    while let Ok(left) = Duration::try_from(disaster_at.duration_since(cx.clock().now()))
        && !left.is_zero()
    {
        cx.sleep(left).await?;
    }
    let scenario = format!(
        "latest state{of} at a disaster instant drawn {delay} ms ahead (seed {seed}); {frozen} was frozen then"
    );
    Ok(Picked {
        is_disaster: true,
        candidates: vec![format!("every instant from {least} to {most} ms ahead")],
        seed: Some(seed),
        choice: Some(disaster_at.to_string()),
        ..Picked::of(scenario, RecoveryTarget::Latest)
    })
}

/// What one vault holds, and the backups whose own WAL is there.
async fn known(vault: &Vault, held: &Inventory, now: Timestamp) -> Result<(Facts, BTreeSet<BackupId>), RestoreError> {
    let facts = restore::facts(&[(vault, held)], now).await?.ok_or_else(|| RestoreError::Nothing {
        vault: vault.store.place().vault.to_string(),
        database: held.listing.layout().database().to_string(),
    })?;
    let restorable = held.catalog.entries.iter().filter(|entry| entry.lists_wal);
    Ok((facts, restorable.map(|entry| entry.manifest.backup.clone()).collect()))
}

/// A number from `least` to `most` that the seed determines.
pub(super) fn drawn(seed: u64, least: u64, most: u64) -> u64 {
    use rand::{Rng, SeedableRng};
    rand::rngs::StdRng::seed_from_u64(seed).random_range(least..=most.max(least))
}
