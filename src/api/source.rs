//! The app that serves at the moment as the API's source and control.

use async_trait::async_trait;

use super::{Control, ControlError, Source, SourceError, control::Word};
use crate::{
    app::live::Live,
    domain::{Attribution, Backup, DatabaseName, Lever, RunId},
    evidence::{Entry, Filter, Month},
    flow::{RunSummary, runner::FlowError},
    report::{EstateStatus, Report, managed::ListedSnapshot},
    telemetry,
};

#[async_trait]
impl Source for Live {
    async fn ready(&self) -> Result<(), SourceError> {
        self.app().runner.list(1).await.map(drop).map_err(SourceError::reading("the state database"))
    }

    async fn status(&self) -> Result<EstateStatus, SourceError> {
        self.app().status().await.map_err(SourceError::reading("the status"))
    }

    async fn runs(&self, limit: usize) -> Result<Vec<RunSummary>, SourceError> {
        self.app().runner.list(limit).await.map_err(SourceError::reading("the runs"))
    }

    async fn run(&self, id: &RunId) -> Result<Option<RunSummary>, SourceError> {
        match self.app().runner.get(id).await {
            Ok(run) => Ok(Some(run)),
            Err(FlowError::NoSuchRun(_)) => Ok(None),
            Err(error) => Err(SourceError::reading("the run")(error)),
        }
    }

    async fn backups(&self, database: Option<&DatabaseName>) -> Result<Vec<Backup>, SourceError> {
        let (app, mut backups) = (self.app(), Vec::new());
        for (name, known) in &app.resources.databases {
            if database.is_none_or(|wanted| wanted == name) {
                backups.extend(app.held(known).await.map_err(SourceError::reading("the backups"))?.backups);
            }
        }
        backups.sort_by_key(|backup| std::cmp::Reverse(backup.finished_at));
        Ok(backups)
    }

    async fn snapshots(&self, database: Option<&DatabaseName>) -> Result<Vec<ListedSnapshot>, SourceError> {
        let listed = self.app().snapshots(database).await.map_err(SourceError::reading("the snapshots"))?;
        Ok(listed.snapshots.into_iter().rev().collect())
    }

    async fn evidence(&self, filter: &Filter) -> Result<Vec<Entry>, SourceError> {
        self.app().resources.evidence.records(filter).await.map_err(SourceError::reading("the evidence"))
    }

    async fn report(&self, month: Option<Month>) -> Result<Report, SourceError> {
        self.app().report(month).await.map_err(SourceError::reading("the report"))
    }

    fn metrics_text(&self) -> String {
        telemetry::metrics_handle().map(|handle| handle.render()).unwrap_or_default()
    }
}

#[async_trait]
impl Control for Live {
    async fn signal(&self, run: &RunId, word: Word, by: &Attribution) -> Result<(), ControlError> {
        self.app().signal(run, word.as_str(), by).await.map_err(|error| match error {
            FlowError::NoSuchRun(id) => ControlError::NoSuchRun(id),
            FlowError::Ended(id) => ControlError::Ended(id),
            error => failed("send this to the run")(error),
        })
    }

    async fn lever(&self) -> Result<Lever, ControlError> {
        self.app().lever().await.map_err(failed("read the safety lever"))
    }

    async fn turn_lever(&self, to_on: bool, by: &Attribution) -> Result<Lever, ControlError> {
        self.app().turn_lever(to_on, by).await.map_err(failed("turn the safety lever"))
    }
}

/// For `map_err`: names what was being done.
fn failed<E: std::error::Error + Send + Sync + 'static>(action: &'static str) -> impl FnOnce(E) -> ControlError {
    move |source| ControlError::Failed { action, source: Box::new(source) }
}
