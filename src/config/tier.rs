//! What the files say of what a tier asks for.

use jiff::Timestamp;

use super::{Estate, ScheduleConfig, runbook::StepConfig};
use crate::decide::{
    due::Schedule,
    tier::{self, Runbook, Written},
};

impl Estate {
    /// Of one of its schedules, as it goes on from `now`; none where that names no tier.
    pub fn tiered(&self, schedule: &ScheduleConfig, now: Timestamp) -> Option<Written> {
        let tier = schedule.tier?;
        let vaults = schedule.vaults.iter().filter_map(|name| self.daemon.vaults.get(name));
        let runbooks = self.runbooks.iter().map(|runbook| &runbook.config);
        let runbooks = runbooks.filter(|runbook| runbook.database == schedule.database).map(|runbook| Runbook {
            name: runbook.runbook.clone(),
            moves_users: runbook.steps.iter().any(|step| matches!(step, StepConfig::Dns(_))),
        });
        let residency = schedule.residency.as_ref();
        let tests = schedule.restore_test.as_ref();
        let tests = tests.and_then(|test| Schedule::parse(&test.cron, &schedule.timezone).ok());
        Some(Written {
            tier,
            database: schedule.database.clone(),
            objectives: schedule.objectives(),
            sites: schedule.all_members().into_values().map(|member| member.site).collect(),
            regions: vaults.map(|vault| vault.region().clone()).collect(),
            allowed: residency.map(|residency| residency.regions.iter().cloned().collect()).unwrap_or_default(),
            runbooks: runbooks.collect(),
            tested_monthly: tests.map(|due| tier::is_monthly(&due, now)),
        })
    }
}
