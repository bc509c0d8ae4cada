//! Exposure over a period, from the history that the daemons keep.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::App;
use crate::{
    db::{DbError, exposure},
    domain::{DatabaseName, Exposed, ExposureOver, VaultName, exposure::Width},
    evidence::Month,
};

/// How far a report over all time looks back at exposure, in days.
const ALL_TIME_DAYS: i64 = 31;

/// What each vault was exposed to.
#[derive(Debug)]
pub(super) struct Over {
    sums: BTreeMap<Exposed, ExposureOver>,
    period: SignedDuration,
}

impl Over {
    /// Nothing is measured of a vault that nobody looked at.
    pub(super) fn of(&self, database: &DatabaseName, vault: &VaultName) -> ExposureOver {
        let exposed = Exposed { database: database.clone(), vault: vault.clone() };
        self.sums.get(&exposed).copied().unwrap_or_else(|| ExposureOver::unmeasured(self.period))
    }
}

impl App {
    pub(super) async fn last_day(&self, now: Timestamp) -> Result<Over, DbError> {
        self.over(Width::FiveMinutes, (now - SignedDuration::from_hours(24), now)).await
    }

    /// Over a month as far as it has passed; over the last days for all time.
    pub(super) async fn over_month(&self, month: Option<Month>, now: Timestamp) -> Result<Over, DbError> {
        let period = month.map_or_else(
            || (now - SignedDuration::from_hours(ALL_TIME_DAYS * 24), now),
            |month| (month.begins(), month.next().begins().min(now)),
        );
        self.over(Width::Day, period).await
    }

    async fn over(&self, width: Width, (from, to): (Timestamp, Timestamp)) -> Result<Over, DbError> {
        let sums = exposure::over(&self.resources.db, width, (from, to)).await?;
        Ok(Over { sums, period: to.duration_since(from).max(SignedDuration::ZERO) })
    }
}
