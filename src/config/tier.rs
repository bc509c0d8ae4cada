//! What the files say of what a tier asks for.

use super::{Estate, ScheduleConfig, runbook::StepConfig};
use crate::decide::{
    due::Schedule,
    tier::{Runbook, Written},
};

impl Estate {
    /// Of one of its schedules; none where that names no tier.
    pub fn tiered(&self, schedule: &ScheduleConfig) -> Option<Written> {
        let vaults = schedule.vaults.iter().filter_map(|name| self.daemon.vaults.get(name));
        let runbooks = self.runbooks.iter().map(|runbook| &runbook.config);
        let runbooks = runbooks.filter(|runbook| runbook.database == schedule.database).map(|runbook| Runbook {
            name: runbook.runbook.clone(),
            moves_users: runbook.steps.iter().any(|step| matches!(step, StepConfig::Dns(_))),
        });
        let residency = schedule.residency.as_ref();
        let test = schedule.restore_test.as_ref();
        Some(Written {
            tier: schedule.tier?,
            database: schedule.database.clone(),
            objectives: schedule.objectives(),
            sites: schedule.all_members().into_values().map(|member| member.site).collect(),
            regions: vaults.map(|vault| vault.region().clone()).collect(),
            allowed: residency.map(|residency| residency.regions.iter().cloned().collect()).unwrap_or_default(),
            runbooks: runbooks.collect(),
            restore_tests: test.and_then(|test| Schedule::parse(&test.cron, &schedule.timezone).ok()),
        })
    }
}
