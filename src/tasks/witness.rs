//! Asks the source on a schedule what restore tests will ask of its copies, and keeps
//! what it answers: digests, and parts of the cluster. Nodes that share a state take
//! turns, as each looks when the newest sample was taken.
//!
//! It never asks more often than it is told, whatever fails, and keeps no value of a query.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::finding::{Finding, close_gone};
use crate::{
    app::App,
    config::check::CheckConfig,
    db::{DbError, samples},
    decide::witness,
    domain::{Question, Sample, with_causes},
    engine::EngineError,
    flows::Database,
};

/// What the findings are called, before what was asked.
const ABOUT: &str = "witness-";

/// Samples until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let checks = database.schedule.config.restore_test.as_ref().map(|test| test.checks.as_slice()).unwrap_or_default();
    let mut asked: Vec<Asked> = Vec::new();
    for (question, every) in checks.iter().filter_map(CheckConfig::question) {
        let (key, every) = (witness::key(&question), every.as_duration());
        // Asked twice, the more frequent one serves both.
        match asked.iter_mut().find(|other| other.key == key) {
            Some(other) => other.every = other.every.min(every),
            None => asked.push(Asked { question, key, every }),
        }
    }
    let kept = witness::kept(database.schedule.config.wal.window.as_duration(), asked.iter().map(|asked| asked.every));
    let is_gone = |what: &str| asked.iter().all(|asked| asked.about() != what);
    close_gone(&app, &database.name, |what| what.starts_with(ABOUT) && is_gone(what)).await;
    join_all(asked.iter().map(|asked| asked.sample_until((&app, &database), kept, &stop))).await;
}

/// What a source is asked, and how often.
struct Asked {
    question: Question,
    key: String,
    every: Duration,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Asked {
    /// The first digits of the key are enough to tell two of one database apart.
    fn about(&self) -> String {
        let digits = self.key.rsplit(':').next().unwrap_or_default();
        format!("{ABOUT}{}", digits.get(..8).unwrap_or(digits))
    }

    async fn sample_until(&self, (app, database): (&Arc<App>, &Database), kept: Duration, stop: &CancellationToken) {
        let mut finding = Finding::new(&self.about(), app, &database.name);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            let begun = Instant::now();
            let sampled = tokio::select! {
                () = stop.cancelled() => break,
                sampled = self.sample(app, database, kept) => sampled,
            };
            match sampled {
                Ok(left) => {
                    pause = left;
                    finding.close().await;
                }
                Err(error) => {
                    tracing::warn!(database = %database.name, asked = self.key, error = %with_causes(&error), "the source was not sampled");
                    finding.open(&self.told(database, &error)).await;
                    pause = witness::again_after(begun.elapsed(), self.every);
                }
            }
        }
    }

    /// Takes a sample where it is time; answers how long until it is. Samples of the
    /// database that are older than `kept` go.
    async fn sample(&self, app: &App, database: &Database, kept: Duration) -> Result<Duration, Missed> {
        let (db, name) = (&app.resources.db, &database.name);
        let newest = samples::newest(db, name, &self.key).await?;
        let left = witness::wait(newest, app.clock.now(), self.every);
        if !left.is_zero() {
            return Ok(left);
        }
        let (moment, told) = database.engine.sample(&self.question).await?;
        let taken_at = app.clock.now();
        samples::append(db, name, &self.key, &Sample { taken_at, moment, told }).await?;
        if let Some(older_than) =
            jiff::SignedDuration::try_from(kept).ok().and_then(|kept| taken_at.checked_sub(kept).ok())
        {
            samples::trim(db, name, older_than).await?;
        }
        Ok(self.every)
    }

    /// What a server says of an error may quote rows, and a finding is shown and sent: of
    /// such an error its code alone is told.
    fn told(&self, database: &Database, error: &Missed) -> String {
        let why = match error {
            Missed::Engine(EngineError::Server { member, code, .. }) => {
                format!("member `{member}` answered with SQLSTATE {code}; the daemon's log tells more")
            }
            other => with_causes(other),
        };
        let what = match &self.question {
            Question::Witness { sql, dbname, .. } => format!("the witness `{sql}` in `{dbname}`"),
            Question::Parts => "`restored_config`".to_owned(),
        };
        format!(
            "{what} of `{}` has no new sample, so that later recovery points are not held against it: {why}",
            database.name
        )
    }
}
