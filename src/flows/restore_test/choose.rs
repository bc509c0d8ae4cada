//! *choose*: which recovery point is tested, and the vault's listing, frozen at
//! the instant of the disaster.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;

use super::{Chosen, Point, Test, pick::Picked, turn};
use crate::{
    decide::escrow,
    domain::{Opener, RecoveryAlgorithm, Selection, Verdict, with_causes},
    durable, fault,
    flow::{Policy, Step, StepContext, StepError, read},
    flows::{
        Vault, output,
        restore::{self, RestoreError},
    },
    vault::{self, Listing},
};

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
        output(&self.begin(folder, cx.output(turn::NAME)?, cx).await?)
    }

    async fn undo(&self, _cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        self.test.tear_down(&read::<PathBuf>("folder", plan)?).await
    }
}

impl Choose {
    /// Makes the folder anew, and keeps in it what was chosen and frozen.
    pub(super) async fn begin(
        &self,
        folder: PathBuf,
        turn: Option<Selection>,
        cx: &StepContext,
    ) -> Result<Chosen, StepError> {
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
            frozen = self.freeze(folder, turn, cx) => frozen?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped),
        };
        if let Some(listing) = listing {
            let listing = serde_json::to_vec(&listing).map_err(|error| StepError::from_error(error, true))?;
            durable::replace(&chosen.listing_file(), &listing)
                .map_err(|error| StepError::transient(format!("cannot keep the frozen listing: {error}")))?;
        }
        fault::point("restore_test.frozen");
        Ok(chosen)
    }

    /// What is restored, and the listing of the vault that it is restored from; no
    /// listing where there is nothing to restore.
    async fn freeze(
        &self,
        folder: PathBuf,
        turn: Option<Selection>,
        cx: &StepContext,
    ) -> Result<(Chosen, Option<Listing>), StepError> {
        let vault = super::vault_of(&self.test.database, turn.as_ref().and_then(|turn| turn.vault.as_ref()))?;
        let chosen = |picked: Picked| Chosen::of(folder.clone(), turn.clone(), picked);
        // Found before the disaster, so that freezing is one listing and no more.
        let held = match restore::newest(&self.test.database, vault).await {
            Err(RestoreError::Nothing { vault, database }) if is_of_other_vault(turn.as_ref()) => {
                let actual = format!(
                    "vault `{vault}` holds no backup of `{database}`; `lifeboat vault copy {database}` brings it what it lacks"
                );
                return Ok((chosen(Picked::nothing(Verdict::Fail, "a backup in this vault", actual)), None));
            }
            held => held?,
        };
        let (opener, escrow_problem) = self.opener(vault, &held.listing, cx).await?;
        let picked = match (self.point.asked(), &turn) {
            (Some((target, timeline)), _) => Picked::asked(target, timeline),
            (None, Some(turn)) => self.test.pick(turn.algorithm, (vault, &held), &folder, cx).await?,
            (None, None) => return Err(StepError::permanent("nobody said which recovery point is meant")),
        };
        if picked.choice.is_none() {
            return Ok((chosen(picked), None));
        }
        let is_disaster = picked.is_disaster;
        let chosen = Chosen { opener, escrow_problem, ..chosen(picked) };
        let listing = Listing::take(vault.store.as_ref(), held.listing.layout()).await?;
        // What arrived while the vault was listed counts; so the disaster is when that ended.
        let disaster_at = is_disaster.then(|| cx.clock().now());
        Ok((Chosen { disaster_at, ..chosen }, Some(listing)))
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
}

fn is_of_other_vault(turn: Option<&Selection>) -> bool {
    turn.is_some_and(|turn| turn.algorithm == RecoveryAlgorithm::OtherVault)
}
