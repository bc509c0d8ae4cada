//! *choose*: which recovery point is tested, and the vault's listing, frozen at
//! the instant of the disaster.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::Value;

use super::{Chosen, Point, Test, window};
use crate::{
    config::schedule::RecoveryPointAlgorithm,
    decide::escrow,
    domain::{Opener, RecoveryTarget, amount::Span, with_causes},
    durable, fault,
    flow::{Policy, Step, StepContext, StepError, read},
    flows::{Vault, output, restore},
    vault::{self, Inventory, Listing},
};

/// A disaster instant is drawn between these many milliseconds from now: long
/// enough to fall anywhere between two flushes, short enough to wait for.
const DISASTER_MS: std::ops::RangeInclusive<u64> = 1_000..=6_000;
/// How long choosing may take: the vault is listed and its manifests are read.
const CHOOSE_LIMIT: Duration = Duration::from_secs(600);

/// Chooses the recovery point and freezes the vault's listing.
pub(super) struct Choose {
    pub(super) test: Arc<Test>,
    pub(super) point: Point,
}

#[async_trait]
impl Step for Choose {
    fn name(&self) -> &'static str {
        "choose"
    }

    fn policy(&self) -> Policy {
        Policy { limit: CHOOSE_LIMIT, ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let name = format!("lifeboat-{}", cx.run_id().as_str().replace(['/', ':'], "-"));
        output(&self.test.database.scratch.join(name)).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let folder: PathBuf = read("folder", cx.undo_plan().unwrap_or(&Value::Null))?;
        output(&self.begin(folder, cx).await?)
    }

    async fn undo(&self, _cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        self.test.tear_down(&read::<PathBuf>("folder", plan)?).await
    }
}

impl Choose {
    /// Makes the folder anew, and keeps in it what was chosen and frozen.
    pub(super) async fn begin(&self, folder: PathBuf, cx: &StepContext) -> Result<Chosen, StepError> {
        self.test.tear_down(&folder).await?;
        let scratch = &self.test.database.scratch;
        let made = durable::create_folder(scratch).and_then(|()| std::fs::create_dir(&folder));
        made.map_err(|error| {
            StepError::permanent(format!("cannot make {}: {error}; choose another `node.scratch`", folder.display()))
        })?;
        // The server's user must be able to reach its own folder inside.
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .map_err(|error| StepError::transient(format!("cannot open {}: {error}", folder.display())))?;
        let (chosen, listing) = tokio::select! {
            frozen = self.freeze(folder, cx) => frozen?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped),
        };
        durable::replace(
            &chosen.listing_file(),
            &serde_json::to_vec(&listing).map_err(|error| StepError::from_error(error, true))?,
        )
        .map_err(|error| StepError::transient(format!("cannot keep the frozen listing: {error}")))?;
        fault::point("restore_test.frozen");
        Ok(chosen)
    }

    /// What is restored, and the listing of the vault that it is restored from.
    async fn freeze(&self, folder: PathBuf, cx: &StepContext) -> Result<(Chosen, Listing), StepError> {
        let database = &self.test.database;
        let vault = database.vault(None).ok_or_else(|| StepError::permanent("the database has no vault"))?;
        // Found before the disaster, so that freezing is one listing and no more.
        let held = restore::newest(database, vault).await?;
        let (opener, escrow_problem) = self.opener(vault, &held.listing, cx).await?;
        let chosen = Chosen { opener, escrow_problem, ..self.choose(folder, (vault, &held), cx).await? };
        let listing = Listing::take(vault.store.as_ref(), held.listing.layout()).await?;
        // What arrived while the vault was listed counts; so the disaster is when that ended.
        let disaster_at = chosen.disaster_at.map(|_| cx.clock().now());
        Ok((Chosen { disaster_at, ..chosen }, listing))
    }

    /// Whose turn it is, and why it is the node's all the same.
    async fn opener(
        &self,
        vault: &Vault,
        listing: &Listing,
        cx: &StepContext,
    ) -> Result<(Opener, Option<String>), StepError> {
        let keys = &self.test.database.keys;
        if keys.escrow.is_none() {
            return Ok((Opener::Node, None));
        }
        let last = vault::last_escrow_proof(vault.store.as_ref(), listing, &keys.verifier).await?;
        let opener = escrow::whose_turn(cx.clock().now(), last, true);
        match keys.identities_of(opener).await {
            Err(error) if opener == Opener::Escrow => Ok((Opener::Node, Some(with_causes(&error)))),
            _ => Ok((opener, None)),
        }
    }

    async fn choose(
        &self,
        folder: PathBuf,
        (vault, held): (&Vault, &Inventory),
        cx: &StepContext,
    ) -> Result<Chosen, StepError> {
        if let Some((target, timeline)) = self.point.asked() {
            let along = timeline.map(|timeline| format!(" along timeline {timeline}")).unwrap_or_default();
            let scenario = format!("asked for: {target}{along}");
            return Ok(Chosen {
                folder,
                scenario,
                target: target.clone(),
                timeline,
                disaster_at: None,
                opener: Opener::Node,
                escrow_problem: None,
            });
        }
        let seed: u64 = rand::random();
        let now = cx.clock().now();
        match self.test.config.recovery_point.algorithm {
            RecoveryPointAlgorithm::LatestAtDisaster => {
                let delay = drawn(seed, *DISASTER_MS.start(), *DISASTER_MS.end());
                let disaster_at = now + SignedDuration::from_millis(i64::try_from(delay).unwrap_or_default());
                cx.progress(format!("disaster drawn for {disaster_at:.3}, seed {seed}"), None, None);
                while let Ok(left) = Duration::try_from(disaster_at.duration_since(cx.clock().now()))
                    && !left.is_zero()
                {
                    cx.sleep(left).await?;
                }
                let scenario = format!(
                    "latest state at a disaster instant drawn {delay} ms ahead (seed {seed}); the vault's listing was frozen then"
                );
                Ok(Chosen {
                    folder,
                    scenario,
                    target: RecoveryTarget::Latest,
                    timeline: None,
                    disaster_at: Some(disaster_at),
                    opener: Opener::Node,
                    escrow_problem: None,
                })
            }
            RecoveryPointAlgorithm::RandomWithinWindow => {
                let window = self.test.config.recovery_point.window.map(Span::as_duration).unwrap_or_default();
                let (oldest, newest) = window::window(&self.test.database, vault, held, now, window).await?;
                let span = u64::try_from(newest.duration_since(oldest).as_millis()).unwrap_or_default();
                let at = oldest + SignedDuration::from_millis(i64::try_from(drawn(seed, 0, span)).unwrap_or_default());
                let scenario = format!("a random instant between {oldest} and {newest} (seed {seed})");
                Ok(Chosen {
                    folder,
                    scenario,
                    target: RecoveryTarget::Time(at),
                    timeline: None,
                    disaster_at: None,
                    opener: Opener::Node,
                    escrow_problem: None,
                })
            }
        }
    }
}

/// A number from `least` to `most` that the seed determines.
fn drawn(seed: u64, least: u64, most: u64) -> u64 {
    use rand::{Rng, SeedableRng};
    rand::rngs::StdRng::seed_from_u64(seed).random_range(least..=most.max(least))
}
