//! Asks the source on a schedule what restore tests will ask of its copies, and keeps
//! what it answers: digests, and parts of the cluster. Nodes that share a state take
//! turns, as each looks when the newest sample was taken.
//!
//! It never asks more often than it is told, whatever fails, and keeps no value of a query.

use std::{sync::Arc, time::Duration};

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

/// How soon a source that was not reached is asked again, where it is asked more seldom.
const RETRY: Duration = Duration::from_secs(60);

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
    /// The source was not asked yet.
    #[error(transparent)]
    NotLooked(DbError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    NotKept(#[from] DbError),
}

impl Missed {
    /// Whether it cost the source nothing. What a server began to answer did, however it ended.
    fn is_free(&self) -> bool {
        match self {
            Self::NotLooked(_) => true,
            Self::Engine(error) => matches!(
                error,
                EngineError::Unreachable { .. } | EngineError::Broken { .. } | EngineError::NoPrimary { .. }
            ),
            Self::NotKept(_) => false,
        }
    }
}

impl Asked {
    /// The first digits of the key are enough to tell two of one database apart.
    fn about(&self) -> String {
        let digits = self.key.rsplit(':').next().unwrap_or_default();
        format!("{ABOUT}{}", digits.get(..8).unwrap_or(digits))
    }

    /// How long it is left in peace after that.
    fn pause(&self, missed: &Missed) -> Duration {
        if missed.is_free() { RETRY.min(self.every) } else { self.every }
    }

    async fn sample_until(&self, (app, database): (&Arc<App>, &Database), kept: Duration, stop: &CancellationToken) {
        let mut finding = Finding::new(&self.about(), app, &database.name);
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
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
                    pause = self.pause(&error);
                }
            }
        }
    }

    /// Takes a sample where it is time; answers how long until it is. Samples of the
    /// database that are older than `kept` go.
    async fn sample(&self, app: &App, database: &Database, kept: Duration) -> Result<Duration, Missed> {
        let (db, name) = (&app.resources.db, &database.name);
        let newest = samples::newest(db, name, &self.key).await.map_err(Missed::NotLooked)?;
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_source_that_answered_is_left_in_peace_until_it_is_time() {
        let member = || "a".parse().unwrap();
        let source = || io::Error::from(io::ErrorKind::TimedOut);
        let db = || DbError::Corrupt { place: "samples", reason: String::new() };
        let server = |code: &str| EngineError::Server {
            member: member(),
            action: "the sampling",
            code: code.to_owned(),
            message: String::new(),
        };
        let unfit = EngineError::Unfit { member: member(), what: String::new(), remedy: String::new() };
        for (missed, is_soon) in [
            (EngineError::Unreachable { member: member(), address: String::new(), source: source() }.into(), true),
            (EngineError::Broken { member: member(), action: "the sampling", source: source() }.into(), true),
            (EngineError::NoPrimary { seen: String::new() }.into(), true),
            (Missed::NotLooked(db()), true),
            // `statement_timeout`, and a server that is short of memory: it worked for us.
            (server("57014").into(), false),
            (server("53200").into(), false),
            (unfit.into(), false),
            (Missed::NotKept(db()), false),
        ] {
            for (every, soon) in [(12 * 3600, RETRY), (10, Duration::from_secs(10))] {
                let every = Duration::from_secs(every);
                let asked = Asked { question: Question::Parts, key: "parts".to_owned(), every };
                assert_eq!(asked.pause(&missed), if is_soon { soon } else { every }, "{missed:?}");
            }
        }
    }
}
