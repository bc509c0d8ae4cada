//! *choose*: what is restored and into what, as whom the provider is called, and whether
//! that may be: region and cost. Makes nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KIND, MARGIN, ProviderTest, TestInstance, pick::PickedHeld, removal::Made};
use crate::{
    aws::Identity,
    config::managed::SAME_AS_SOURCE,
    decide::{
        cost::{self, CostFacts},
        restorable::Held,
        sweep,
    },
    domain::{
        BackupKind, Check, InstanceSettings, RecoveryTarget, Region, Selection, Verdict,
        record::{SnapshotSource, Source},
    },
    engine::managed::{Duty, InstanceOrder, PREFIX, RestoreFrom, SourceFacts, tag},
    evidence::Filter,
    fault,
    flow::{Policy, Step, StepContext, StepError, read},
    flows::{
        output,
        restore_test::{NAME, Point, target::Exhausted, turn},
    },
};

/// How long choosing may take, the wait for a disaster included.
const CHOOSE_LIMIT: Duration = Duration::from_secs(600);
/// Of so many tests before it the cost of one is known.
const PAST: usize = 5;

/// What was chosen, and what is to be made of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ChosenCopy {
    made: TestInstance,
    /// None where there is nothing to restore: the checks say so.
    pub(super) order: Option<InstanceOrder>,
    /// Why nothing may be made.
    pub(super) refused: Option<Exhausted>,
    /// In words, with the seed: how the point was chosen.
    pub(super) scenario: String,
    pub(super) target: RecoveryTarget,
    pub(super) disaster_at: Option<Timestamp>,
    /// None where a person named the point.
    pub(super) selection: Option<Selection>,
    /// What choosing has shown already.
    pub(super) checks: Vec<Check>,
    pub(super) source: Option<Source>,
    /// The database itself, as it was then.
    pub(super) database: Option<SourceThen>,
    /// What the test is expected to cost, where that is known.
    pub(super) cost: Option<f64>,
}

/// What a copy is held against.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SourceThen {
    pub(super) arn: String,
    pub(super) settings: InstanceSettings,
}

impl ChosenCopy {
    /// Of which instant the provider says that what it restores is.
    pub(super) fn claimed_at(&self) -> Option<Timestamp> {
        self.source.as_ref()?.snapshot.as_ref()?.taken_at
    }

    /// What is made, or was about to be.
    pub(super) fn instance(&self) -> TestInstance {
        self.made.clone()
    }
}

/// Chooses.
pub(super) struct Choose {
    pub(super) test: Arc<ProviderTest>,
    pub(super) point: Point,
}

#[async_trait]
impl Step for Choose {
    fn name(&self) -> &'static str {
        "choose"
    }

    /// Its undo waits for the provider, too.
    fn policy(&self) -> Policy {
        Policy { limit: CHOOSE_LIMIT.max(self.test.limit() + MARGIN), ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let id = sweep::instance_id(PREFIX, self.test.database.named()?, cx.run_id());
        output(&TestInstance { id, region: self.test.region()? }).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let made: TestInstance = read("instance", cx.undo_plan().unwrap_or(&Value::Null))?;
        let chosen = tokio::select! {
            chosen = self.choose(made, cx) => chosen?,
            () = cx.stop().cancelled() => return Err(StepError::Stopped),
        };
        fault::point("restore_test.frozen");
        output(&chosen)
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        Made::of(&self.test, &read("instance", plan)?).remove(cx).await
    }
}

impl Choose {
    async fn choose(&self, made: TestInstance, cx: &StepContext) -> Result<ChosenCopy, StepError> {
        let database = &self.test.database;
        database.refuse_outside_residency(&made.region)?;
        let turn: Option<Selection> = cx.output(turn::NAME)?;
        let caller = database.provider.identity(Duty::Restore).await?;
        let algorithm = turn.as_ref().map(|turn| turn.algorithm);
        let picked = self.test.pick((&self.point, algorithm), &made.region, cx).await?;
        let (refused, cost) = match self.cost().await? {
            Ok(cost) => (None, cost),
            Err(what) => (Some(Exhausted { resource: "cost".to_owned(), what }), None),
        };
        let PickedHeld { picked, held, source: facts, disaster_at } = picked;
        refuse_other_account(held.as_ref(), &facts, &caller)?;
        let order = held.as_ref().map(|held| self.order(&made, held, &facts, cx)).transpose()?;
        let source = held.as_ref().map(|held| source(held, &facts, (&made.region, &caller)));
        let known = Check::new("caller", Verdict::Pass, "who the provider was called as", caller.arn.clone());
        let checks = picked.checks.into_iter().chain([known]).collect();
        let seed = picked.seed.map(|seed| seed.to_string());
        let selection = turn.map(|turn| Selection { seed, choice: picked.choice, ..turn.among(picked.candidates) });
        Ok(ChosenCopy {
            made,
            order,
            refused: refused.filter(|_| held.is_some()),
            scenario: picked.scenario,
            target: picked.target,
            disaster_at,
            selection,
            checks,
            source,
            database: Some(SourceThen { arn: facts.arn, settings: facts.settings }),
            cost,
        })
    }

    /// What the test is expected to cost; why it may not begin.
    async fn cost(&self) -> Result<Result<Option<f64>, String>, StepError> {
        let target = &self.test.target;
        let (kind, subject) = (Some(NAME.to_owned()), Some(self.test.database.name.to_string()));
        let records = self.test.resources.evidence.records(&Filter { kind, subject, ..Filter::default() }).await?;
        let at_provider = records
            .iter()
            .map(|entry| &entry.record)
            .filter(|record| record.target.as_ref().is_some_and(|target| target.kind == KIND));
        let took =
            at_provider.filter_map(|record| record.finished_at.duration_since(record.started_at).try_into().ok());
        let mut past: Vec<Duration> = took.collect();
        past.drain(..past.len().saturating_sub(PAST));
        Ok(cost::judge(&CostFacts {
            cost_max: target.cost_max,
            hourly_cost: target.hourly_cost,
            past: &past,
            ttl: target.ttl.as_duration(),
        }))
    }

    fn order(
        &self,
        made: &TestInstance,
        held: &Held,
        source: &SourceFacts,
        cx: &StepContext,
    ) -> Result<InstanceOrder, StepError> {
        let (target, database) = (&self.test.target, &self.test.database);
        let ttl = SignedDuration::try_from(target.ttl.as_duration()).ok();
        let expires_at = ttl.and_then(|ttl| cx.clock().now().checked_add(ttl).ok());
        let expires_at = expires_at.ok_or_else(|| StepError::permanent("`restore_test.target.ttl` is too long"))?;
        // The groups of one region are not known in another.
        let is_own = made.region == *database.source()?.region;
        let of_source = source.settings.parameter_groups.first().filter(|_| is_own).cloned();
        let instance_class = match target.instance_class.as_str() {
            SAME_AS_SOURCE => source.settings.instance_class.clone(),
            class => class.to_owned(),
        };
        let tags = [
            (tag::DATABASE, database.name.to_string()),
            (tag::RUN, cx.run_id().to_string()),
            (tag::EXPIRES, expires_at.to_string()),
        ];
        Ok(InstanceOrder {
            id: made.id.clone(),
            region: made.region.clone(),
            from: match held {
                Held::At(at) => RestoreFrom::Time(*at),
                Held::Snapshot(snapshot) => RestoreFrom::Snapshot(snapshot.arn.clone()),
            },
            instance_class,
            subnet_group: target.subnet_group.clone(),
            security_groups: target.security_groups.clone(),
            parameter_group: target.parameter_group.clone().or(of_source),
            tags: tags.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>(),
        })
    }
}

/// A provider restores an instant in the account that has the database, and would take one of
/// the same name in another.
fn refuse_other_account(held: Option<&Held>, source: &SourceFacts, caller: &Identity) -> Result<(), StepError> {
    // An ARN is `arn:partition:service:region:account:resource`.
    let owner = source.arn.split(':').nth(4).unwrap_or_default();
    if caller.account == owner || !matches!(held, Some(Held::At(_))) {
        return Ok(());
    }
    Err(StepError::permanent(format!(
        "an instant is restored in the account {owner} of the database alone, and `roles.restore` is of {}: name a role of that account, or restore a snapshot that is shared (`recovery_point: {{algorithm: oldest}}`)",
        caller.account
    )))
}

/// What is restored, for evidence: a snapshot, or the database itself as it was at an instant.
fn source(held: &Held, facts: &SourceFacts, (region, caller): (&Region, &Identity)) -> Source {
    let settings = &facts.settings;
    let (id, kind, size_bytes, kms_key, (arn, taken_at)) = match held {
        Held::At(at) => {
            let id = format!("{}@{at}", facts.resource_id);
            (id, "point_in_time", settings.allocated_bytes, &settings.kms_key, (&facts.arn, Some(*at)))
        }
        Held::Snapshot(of) => {
            let kind = BackupKind::Snapshot.as_str();
            (of.id.clone(), kind, of.size_bytes, &of.kms_key, (&of.arn, of.taken_at))
        }
    };
    Source {
        vault: format!("aws:{}", caller.account),
        region: region.clone(),
        // The provider of that region answered.
        region_verified: true,
        backup_id: id,
        backup_kind: kind.to_owned(),
        manifest_sha256: String::new(),
        size_bytes,
        recipients: 0,
        from: None,
        snapshot: Some(SnapshotSource { arn: arn.clone(), kms_key: kms_key.clone(), taken_at }),
    }
}
