//! The checks of a copy, as the schedule lists them. Each is asked over connections
//! of its own and takes as long as it takes; what could not be asked is no answer.

use std::{fmt, time::Instant};

use super::Test;
use crate::{
    config::check::{CheckConfig, NamedCheck, RowCountsConfig, SqlCheckConfig, SqlFile, SqlText},
    decide::{answer::Expectation, collation, indexes, reading},
    domain::{Check, Phase, Verdict, with_causes},
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

impl Test {
    fn wants(&self, check: NamedCheck) -> bool {
        self.config.checks.contains(&CheckConfig::Named(check))
    }

    /// All but those that need the copy to be shut down.
    pub(super) async fn ask(&self, instance: &dyn Ask, cx: &StepContext) -> Asked {
        cx.progress("checking the data", None, None);
        let begun = Instant::now();
        let mut checks = Vec::new();
        for config in &self.config.checks {
            match config {
                CheckConfig::Sql(check) => checks.push(query(check, instance, cx).await),
                CheckConfig::RowCounts(counts) => checks.extend(count(counts, instance, cx).await),
                // Below, or judged from what the copy told before.
                CheckConfig::Named(_) => {}
            }
        }
        let collations = Instant::now();
        let check = match instance.collations().await {
            Ok(found) => collation::judge(&found),
            Err(error) => not_asked("collations", "text sorted as where it was indexed", &error),
        };
        checks.push(check.taking(collations.elapsed()));
        let mut asked = Asked { checks, phases: vec![phase("check", begun)] };
        if self.wants(NamedCheck::Amcheck) {
            cx.progress("checking the indexes", None, None);
            let begun = Instant::now();
            let check = match instance.indexes().await {
                Ok(looked) => indexes::judge(&looked),
                Err(error) => not_asked("amcheck", "every B-tree index agrees with its table", &error),
            };
            asked.push("check_indexes", check, begun);
        }
        if self.wants(NamedCheck::FullRead) {
            cx.progress("reading every database", None, None);
            let begun = Instant::now();
            let check = match instance.read_all().await {
                Ok(read) => reading::judge_read(&read),
                Err(error) => not_asked("full_read", "a dump reads every database to its end", &error),
            };
            asked.push("read", check, begun);
        }
        asked
    }

    /// What is asked of the copy's files, if anything is. It answers nothing afterwards.
    pub(super) async fn ask_files(&self, instance: &dyn Ask, cx: &StepContext, asked: &mut Asked) -> bool {
        let is_wanted = self.wants(NamedCheck::PageChecksums);
        if is_wanted {
            cx.progress("verifying the checksums of all pages", None, None);
            let begun = Instant::now();
            let check = match instance.page_checksums().await {
                Ok(pages) => reading::judge_pages(&pages),
                Err(error) => not_asked("page_checksums", "every page bears the checksum of its content", &error),
            };
            asked.push("check_pages", check, begun);
        }
        is_wanted
    }
}

impl Asked {
    fn push(&mut self, name: &str, check: Check, begun: Instant) {
        self.checks.push(check.taking(begun.elapsed()));
        self.phases.push(phase(name, begun));
    }
}

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

/// An error of the query itself is its answer; anything else, such as a time limit, is
/// none. The server's message may quote rows: it goes to the log, not into evidence.
fn failed(name: &str, expected: &impl fmt::Display, error: &EngineError, cx: &StepContext) -> Check {
    tracing::warn!(check = name, %error, "a check failed");
    cx.tell(format!("check `{name}` failed: {}", with_causes(error)));
    let is_answer = matches!(error, EngineError::Copy { .. }) && error.is_permanent();
    let verdict = if is_answer { Verdict::Fail } else { Verdict::Inconclusive };
    Check::new(name, verdict, expected.to_string(), FAILED)
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
fn not_asked(name: &str, expected: &str, error: &EngineError) -> Check {
    Check::new(name, Verdict::Inconclusive, expected, with_causes(error))
}
