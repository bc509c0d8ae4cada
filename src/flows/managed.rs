//! A database that a provider runs, with everything that flows need to work on it. It has
//! neither vaults nor WAL of ours: its backups are the provider's snapshots.

use std::sync::Arc;

use crate::{
    config::{Loaded, ScheduleConfig, managed::ManagedSource},
    decide::{
        managed::{self, EncryptionPolicy, SettingsPolicy},
        sweep,
    },
    domain::{DatabaseName, Placement, Region, record::PlanFile},
    engine::{
        managed::{Managed, SourceFacts},
        postgres::Login,
    },
    flow::StepError,
};

const DAY_SECONDS: u64 = 86_400;

/// One protected database that a provider runs.
#[derive(Debug)]
pub struct ManagedDatabase {
    pub name: DatabaseName,
    pub provider: Arc<dyn Managed>,
    /// How to log in to it, and to an isolated instance of it.
    pub login: Login,
    pub schedule: Arc<Loaded<ScheduleConfig>>,
    /// Where this node stands.
    pub region: Region,
}

impl ManagedDatabase {
    /// What the provider calls it. Only what has a source is opened as one.
    pub fn source(&self) -> Result<ManagedSource<'_>, StepError> {
        let absent = || StepError::permanent(format!("the schedule of `{}` names no instance any more", self.name));
        self.schedule.config.managed().ok_or_else(absent)
    }

    /// What the names of its isolated instances are made of.
    pub fn named(&self) -> Result<sweep::Of<'_>, StepError> {
        let source = self.source()?;
        Ok(sweep::Of { database: &self.name, source: (source.region, source.id) })
    }

    /// The file that defines this database's runs, for evidence.
    pub fn plan_file(&self) -> PlanFile {
        self.schedule.plan_file()
    }

    /// Where a run over it may be driven.
    pub fn placement(&self) -> Placement {
        self.schedule.config.placement([])
    }

    pub fn jurisdiction(&self) -> Option<String> {
        self.schedule.config.jurisdiction()
    }

    /// Refuses a region that the database's data may not be in. Checked when the files are
    /// read, and again before each call that moves data.
    pub fn refuse_outside_residency(&self, region: &Region) -> Result<(), StepError> {
        self.schedule.config.refuse_outside_residency(region).map_err(StepError::permanent)
    }

    /// What of it is not set up as the schedule says. That no single call can delete it, and
    /// that it is neither unencrypted nor on the internet, goes without saying.
    pub fn misset(&self, facts: &SourceFacts) -> Vec<String> {
        let wanted = &self.schedule.config.automated_backups;
        let days = wanted.retention.map(|span| span.as_duration().as_secs() / DAY_SECONDS);
        let policy = SettingsPolicy {
            retention_days_min: Some(days.and_then(|days| days.try_into().ok()).unwrap_or(1)),
            backup_window: wanted.window.clone(),
            encryption: Some(wanted.kms_key.clone().map_or(EncryptionPolicy::AnyKey, EncryptionPolicy::Key)),
            asks_multi_az: wanted.multi_az.unwrap_or(false),
            asks_deletion_protection: true,
            forbids_public_access: true,
        };
        let mut found = managed::findings(&facts.settings, &policy);
        let lacking = wanted.replicated_to.iter().filter(|region| !facts.latest_restorable.contains_key(region));
        found.extend(lacking.map(|region| match facts.unread.get(region) {
            Some(why) => format!("whether its automated backups are replicated to {region} is not known: {why}"),
            None => format!("its automated backups are not replicated to {region}: start their replication there"),
        }));
        found
    }
}
