//! A restore that would take longer now than the objective allows is a finding, with what
//! shortens it, before the next restore test shows it. It closes when the forecast is
//! within the objective again.

use std::{collections::BTreeMap, sync::Arc};

use super::{finding::Finding, near};
use crate::{
    app::App,
    decide::forecast::{self, Forecast},
    domain::{DatabaseName, Objectives},
};

/// What the ids of these findings begin with.
const NAME: &str = "forecast";

/// The findings of the databases that this node works on.
#[derive(Default)]
pub(super) struct Forecasts {
    told: BTreeMap<DatabaseName, (Finding, Option<String>)>,
}

impl Forecasts {
    /// Opens and closes what forecasts give reason for. Without one nothing changes.
    pub(super) async fn tell(&mut self, app: &Arc<App>, forecasts: Vec<(DatabaseName, Forecast, Objectives)>) {
        for (database, forecast, objectives) in forecasts {
            if !near(app).any(|ours| ours.name == database) {
                continue;
            }
            let new = || (Finding::new(NAME, app, &database), None);
            let (finding, told) = self.told.entry(database.clone()).or_insert_with(new);
            match forecast::finding(&forecast, &objectives) {
                Some(message) if told.as_ref() == Some(&message) => {}
                Some(message) => {
                    finding.open(&message).await;
                    *told = Some(message);
                }
                None => {
                    finding.close().await;
                    *told = None;
                }
            }
        }
    }
}
