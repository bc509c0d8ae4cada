//! The report: the evidence, and what is known now of the databases that it is about.

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::Timestamp;

use super::{App, Over, StatusError, tested};
use crate::{
    domain::with_causes,
    evidence::{Entry, Filter, Month},
    flows::Database,
    report::{
        self, Facts, Protected, Report,
        groups::{Bound, Proven},
        status::DatabaseStatus,
    },
};

/// What groups need of a database whose status is known.
pub(super) fn protected(database: &Database, status: &DatabaseStatus, proven: Proven) -> Protected {
    Protected {
        tier: status.tier,
        objectives: status.objectives,
        jurisdiction: database.jurisdiction(),
        recoverable_to: status.recoverable_to,
        forecast: status.forecast.clone(),
        exposure: status.exposure.iter().map(|of| (of.vault.clone(), of.last_day)).collect(),
        proven,
    }
}

impl App {
    /// Objectives against what was achieved, over a month or over all time.
    pub async fn report(&self, month: Option<Month>) -> Result<Report, StatusError> {
        let now = self.clock.now();
        let entries = self.resources.evidence.records(&Filter::default()).await?;
        let over = self.over_month(month, now).await?;
        let mut facts = Facts { bounds: self.bounds(), databases: BTreeMap::new() };
        let databases = || self.resources.databases.values();
        let known = join_all(databases().map(|database| self.reported(database, (&entries, &over), now))).await;
        for (database, known) in databases().zip(known) {
            facts.databases.insert(database.name.to_string(), known?);
        }
        Ok(report::build(&entries, month, &facts, now, self.signer.verifier().fingerprint()))
    }

    async fn reported(
        &self,
        database: &Database,
        (entries, over): (&[Entry], &Over),
        now: Timestamp,
    ) -> Result<Protected, StatusError> {
        let config = &database.schedule.config;
        let objectives = config.objectives();
        let vaults = database.vaults.iter().map(|vault| vault.store.place().vault.clone());
        let mut protected = Protected {
            tier: config.tier,
            objectives,
            jurisdiction: database.jurisdiction(),
            recoverable_to: None,
            forecast: None,
            exposure: vaults.map(|vault| (vault.clone(), over.of(&database.name, &vault))).collect(),
            proven: Proven::default(),
        };
        match self.held(database).await {
            Ok(held) => {
                let beats = self.beats(&database.name, now - super::window(objectives.rpo), now).await?;
                protected.recoverable_to = held.recoverable_to(&beats);
                protected.forecast = tested::forecast(entries, &database.name, held.work());
                protected.proven = Proven::of(&held.backups);
            }
            Err(error) => {
                tracing::warn!(database = %database.name, error = %with_causes(&error), "what the vaults hold is not known");
            }
        }
        Ok(protected)
    }

    /// What `lifeboat.yaml` promises of all, and of each jurisdiction.
    pub(super) fn bounds(&self) -> BTreeMap<Option<String>, Bound> {
        let objectives = &self.estate.daemon.objectives;
        let names = objectives.jurisdictions.keys().cloned().map(Some);
        let bound = |name: Option<String>| {
            let bound = objectives.bound(name.as_deref());
            (name, Bound { rto: bound.rto, rpo: bound.rpo })
        };
        std::iter::once(None).chain(names).map(bound).collect()
    }
}
