//! The checks of a copy, as the schedule lists them. Each is asked over connections
//! of its own and takes as long as it takes; what could not be asked is no answer.

use std::{fmt, time::Instant};

use futures::future::BoxFuture;

use crate::{
    config::{
        check::{CheckConfig, NamedCheck, RowCountsConfig, SqlCheckConfig, SqlFile, SqlText},
        schedule::RestoreTestConfig,
    },
    db::Db,
    decide::{
        answer::{self, Expectation},
        collation, indexes, reading,
    },
    domain::{Check, DatabaseName, Lineage, Phase, Verdict, with_causes},
    engine::{Ask, EngineError},
    flow::StepContext,
};

/// What evidence says of a query that failed.
const FAILED: &str = "the query failed; `lifeboat restore-test` and the daemon's log tell why";

/// What was found, and how long each kind of check took.
pub(super) struct Asked {
    pub(super) checks: Vec<Check>,
    pub(super) phases: Vec<Phase>,
}

/// What the schedule asks of a copy, and where is kept what the source answered.
#[derive(Clone, Copy)]
pub(super) struct Questions<'a> {
    pub(super) config: &'a RestoreTestConfig,
    pub(super) database: &'a DatabaseName,
    pub(super) db: &'a Db,
}

impl Questions<'_> {
    fn wants(&self, check: NamedCheck) -> bool {
        self.config.checks.contains(&CheckConfig::Named(check))
    }

    /// All but those that need the copy to be shut down. `copy` is none where it does not
    /// tell where it came from.
    pub(super) async fn ask(&self, instance: &dyn Ask, copy: Option<&Lineage>, cx: &StepContext) -> Asked {
        cx.progress("checking the data", None, None);
        let begun = Instant::now();
        let mut checks = Vec::new();
        for config in &self.config.checks {
            match config {
                CheckConfig::Sql(check) => checks.push(query(check, instance, cx).await),
                CheckConfig::Witness(witness) => checks.push(self.ask_witness(witness, (instance, copy), cx).await),
                CheckConfig::RowCounts(counts) => checks.extend(count(counts, instance, cx).await),
                // Below, or judged from what the copy told before.
                CheckConfig::Named(_) => {}
            }
        }
        let collations = Instant::now();
        let check = match instance.collations().await {
            Ok(found) => collation::judge(&found),
            Err(error) => not_asked(collation::CHECK, &error),
        };
        checks.push(check.taking(collations.elapsed()));
        checks.extend(self.ask_parts(instance, copy, cx).await);
        let mut asked = Asked { checks, phases: vec![phase("check", begun)] };
        for whole in [&INDEXES, &READ] {
            self.ask_whole(whole, instance, cx, &mut asked).await;
        }
        asked
    }

    /// What is asked of the copy's files, if anything is. It answers nothing afterwards.
    pub(super) async fn ask_files(&self, instance: &dyn Ask, cx: &StepContext, asked: &mut Asked) -> bool {
        self.ask_whole(&PAGES, instance, cx, asked).await
    }

    /// Makes a check that reads all of the copy, where it is wanted.
    async fn ask_whole(&self, whole: &Whole, instance: &dyn Ask, cx: &StepContext, asked: &mut Asked) -> bool {
        let is_wanted = self.wants(whole.wanted);
        if is_wanted {
            cx.progress(whole.doing, None, None);
            let begun = Instant::now();
            let check = (whole.make)(instance).await.unwrap_or_else(|error| not_asked(whole.check, &error));
            asked.checks.push(check.taking(begun.elapsed()));
            asked.phases.push(phase(whole.phase, begun));
        }
        is_wanted
    }
}

/// A check that reads all of the copy, and has a phase of its own.
struct Whole {
    wanted: NamedCheck,
    /// Name and what is expected.
    check: (&'static str, &'static str),
    phase: &'static str,
    doing: &'static str,
    make: for<'a> fn(&'a dyn Ask) -> BoxFuture<'a, Result<Check, EngineError>>,
}

const INDEXES: Whole = Whole {
    wanted: NamedCheck::Amcheck,
    check: indexes::CHECK,
    phase: "check_indexes",
    doing: "checking the indexes",
    make: |instance| Box::pin(async move { Ok(indexes::judge(&instance.indexes().await?)) }),
};

const READ: Whole = Whole {
    wanted: NamedCheck::FullRead,
    check: reading::FULL_READ,
    phase: "read",
    doing: "reading every database",
    make: |instance| Box::pin(async move { Ok(reading::judge_read(&instance.read_all().await?)) }),
};

const PAGES: Whole = Whole {
    wanted: NamedCheck::PageChecksums,
    check: reading::PAGES,
    phase: "check_pages",
    doing: "verifying the checksums of all pages",
    make: |instance| Box::pin(async move { Ok(reading::judge_pages(&instance.page_checksums().await?)) }),
};

fn phase(name: &str, begun: Instant) -> Phase {
    Phase { name: name.to_owned(), seconds: begun.elapsed().as_secs_f64() }
}

async fn query(config: &SqlCheckConfig, instance: &dyn Ask, cx: &StepContext) -> Check {
    let (begun, expectation) = (Instant::now(), config.expectation());
    let name = match &config.sql {
        SqlText::Written(sql) => sql.clone(),
        SqlText::Kept(SqlFile { file }) => file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let sql = match &config.sql {
        SqlText::Written(sql) => sql.clone(),
        SqlText::Kept(SqlFile { file }) => match tokio::fs::read_to_string(file).await {
            Ok(sql) => sql,
            Err(error) => {
                let why = format!("{} cannot be read: {error}", file.display());
                cx.tell(format!("check `{name}` was not made: {why}"));
                return Check::new(name, Verdict::Inconclusive, expectation.to_string(), why).taking(begun.elapsed());
            }
        },
    };
    let check = match instance.query(&config.dbname, &sql).await {
        Ok(answer) => {
            let holds = expectation.is_met(&answer);
            if !holds {
                let gave = match (&expectation, &answer.first) {
                    (Expectation::NoRow, _) | (_, None) => expectation.shown(&answer, true),
                    (_, Some(text)) => format!("`{text}`"),
                };
                cx.tell(format!("check `{name}` gave {gave} instead of {}", wanted(&expectation)));
            }
            let actual = expectation.shown(&answer, config.public);
            Check::judge(name, expectation.to_string(), actual, holds)
        }
        Err(error) => failed(&name, &expectation, &error, cx),
    };
    check.taking(begun.elapsed())
}

/// The server's message may quote rows: it goes to the log, not into evidence.
pub(super) fn failed(name: &str, expected: &impl fmt::Display, error: &EngineError, cx: &StepContext) -> Check {
    tracing::warn!(check = name, %error, "a check failed");
    cx.tell(format!("check `{name}` failed: {}", with_causes(error)));
    Check::new(name, answer::of_error(error.copy_sqlstate()), expected.to_string(), FAILED)
}

fn wanted(expectation: &Expectation) -> String {
    match expectation {
        Expectation::Exactly(text) => format!("`{text}`"),
        other => other.to_string(),
    }
}

async fn count(config: &RowCountsConfig, instance: &dyn Ask, cx: &StepContext) -> Vec<Check> {
    let mut checks = Vec::new();
    for (table, least) in &config.row_counts {
        let (begun, name) = (Instant::now(), format!("rows of {table}"));
        let expected = format!("at least {least}");
        let check = match instance.count(&config.dbname, table).await {
            Ok(Some(rows)) => Check::judge(name, expected, rows.to_string(), *least <= rows.into()),
            Ok(None) => Check::judge(name, expected, "there is no such table", false),
            Err(error) => failed(&name, &expected, &error, cx),
        };
        checks.push(check.taking(begun.elapsed()));
    }
    checks
}

/// What could not be asked is no answer.
pub(super) fn not_asked((name, expected): (&str, &str), error: &EngineError) -> Check {
    Check::new(name, Verdict::Inconclusive, expected, with_causes(error))
}
