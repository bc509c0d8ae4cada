//! What is promised of the whole estate, and of what one jurisdiction's law covers: a
//! bound that no schedule may be laxer than, and what holds where a schedule and its
//! tier say nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{schedule::ObjectivesConfig, schedule::ScheduleConfig};
use crate::domain::Span;

/// Recovery objectives of the estate and of its jurisdictions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EstateObjectivesConfig {
    /// Of every database: disaster to healthy users.
    pub rto: Option<Span>,
    /// Of every database: newest acknowledged commit that may be lost, as an age.
    pub rpo: Option<Span>,
    /// Of the databases whose `residency` names the jurisdiction; not laxer than the estate's.
    #[serde(default)]
    pub jurisdictions: BTreeMap<String, ObjectivesConfig>,
}

impl EstateObjectivesConfig {
    /// What bounds a database of this jurisdiction: its own where there is one, else the
    /// estate's.
    pub fn bound(&self, jurisdiction: Option<&str>) -> ObjectivesConfig {
        let own = jurisdiction.and_then(|name| self.jurisdictions.get(name)).copied().unwrap_or_default();
        ObjectivesConfig { rto: own.rto.or(self.rto), rpo: own.rpo.or(self.rpo) }
    }

    /// Writes into a schedule what neither it nor a tier promises.
    pub(super) fn fill(&self, schedule: &mut ScheduleConfig) {
        if schedule.tier.is_none() {
            let bound = self.bound(schedule.residency.as_ref().map(|residency| residency.jurisdiction.as_str()));
            let own = &mut schedule.objectives;
            *own = ObjectivesConfig { rto: own.rto.or(bound.rto), rpo: own.rpo.or(bound.rpo) };
        }
    }
}
