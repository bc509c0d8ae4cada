//! *turn*: which algorithm chooses the recovery point, and in which vault. It is
//! journaled before anything is looked for, so that a test that finds nothing, or
//! whose vault is away, has had its turn all the same.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{NAME as FLOW, Point};
use crate::{
    config::schedule::RestoreTestConfig,
    decide::recovery_turn::{Past, Standing, in_turn},
    domain::{DatabaseName, RecoveryAlgorithm, Selection, Turn, VaultName},
    evidence::{Entry, Filter},
    flow::{Step, StepContext, StepError},
    flows::{Resources, output},
};

/// The step's name.
pub(super) const NAME: &str = "turn";

/// Takes the turn. Reads evidence alone.
pub(super) struct TakeTurn {
    pub(super) resources: Arc<Resources>,
    pub(super) database: DatabaseName,
    pub(super) config: RestoreTestConfig,
    pub(super) point: Point,
    /// Those that hold its backups, the first one first; none where a provider keeps them.
    pub(super) vaults: Option<Vec<VaultName>>,
}

#[async_trait]
impl Step for TakeTurn {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn run(&self, _cx: &StepContext) -> Result<Value, StepError> {
        output(&self.taken().await?)
    }
}

impl TakeTurn {
    /// None where a person named the point itself.
    async fn taken(&self) -> Result<Option<Selection>, StepError> {
        let algorithms = match &self.point {
            Point::Asked(_) | Point::Along(..) => return Ok(None),
            Point::By(algorithm) => vec![*algorithm],
            Point::Scheduled => self.config.recovery_point.algorithms(),
        };
        let (kind, subject) = (Some(FLOW.to_owned()), Some(self.database.to_string()));
        let records = self.resources.evidence.records(&Filter { kind, subject, ..Filter::default() }).await?;
        let standing = standing(&algorithms, &records);
        let Some(algorithm) = standing.first().map(|first| first.of) else {
            return Err(StepError::permanent("`recovery_point` names no algorithm to take by turns"));
        };
        let vault = self.vaults.as_deref().map(|vaults| self.vault(vaults, algorithm, &records)).transpose()?;
        let turn =
            |Standing { of: algorithm, last_at, last_passed_at, .. }| Turn { algorithm, last_at, last_passed_at };
        let turns = if standing.len() > 1 { standing.into_iter().map(turn).collect() } else { Vec::new() };
        Ok(Some(Selection::of(algorithm, turns, vault)))
    }

    /// The first vault, or the further one that was restored from longest ago.
    fn vault(
        &self,
        vaults: &[VaultName],
        algorithm: RecoveryAlgorithm,
        records: &[Entry],
    ) -> Result<VaultName, StepError> {
        let (first, further) = vaults.split_first().ok_or_else(|| StepError::permanent("the database has no vault"))?;
        if algorithm != RecoveryAlgorithm::OtherVault {
            return Ok(first.clone());
        }
        let from = |selection: &Selection| selection.vault.clone().filter(|_| selection.algorithm == algorithm);
        let next = in_turn(further, &past(records, from)).into_iter().next();
        next.map(|next| next.of).ok_or_else(|| StepError::permanent(super::no_further_vault(&self.database)))
    }
}

/// These algorithms in the order of their turn, by the records of tests of one database.
pub fn standing(algorithms: &[RecoveryAlgorithm], records: &[Entry]) -> Vec<Standing<RecoveryAlgorithm>> {
    in_turn(algorithms, &past(records, |selection| Some(selection.algorithm)))
}

/// What the records tell of one thing that takes turns, oldest first.
fn past<T>(records: &[Entry], of: impl Fn(&Selection) -> Option<T>) -> Vec<Past<T>> {
    let past = |Entry { record, .. }: &Entry| {
        let of = of(record.why.selection.as_ref()?)?;
        Some(Past { of, ended_at: record.finished_at, verdict: record.verdict })
    };
    records.iter().filter_map(past).collect()
}
