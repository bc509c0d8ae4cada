//! Holds a copy against what its source answered before the recovery point.

use std::time::Instant;

use super::checks::{Questions, failed, not_asked};
use crate::{
    config::check::{CheckConfig, WitnessConfig},
    db::{DbError, samples},
    decide::{
        inventory, statement,
        witness::{self, Absent},
    },
    domain::{Check, Lineage, Question, Sample, Span, Told, with_causes},
    engine::Ask,
    flow::StepContext,
};

/// Of a copy that does not tell where its recovery ended.
const UNPLACED: &str = "the copy does not tell where its recovery ended, so that no sample is known to be of its past";

impl Questions<'_> {
    /// The witness's answer of then.
    pub(super) async fn ask_witness(
        &self,
        config: &WitnessConfig,
        (instance, copy): (&dyn Ask, Option<&Lineage>),
        cx: &StepContext,
    ) -> Check {
        let (begun, name) = (Instant::now(), format!("witness: {}", config.witness));
        let check = match self.sample(&config.question(), config.every, copy).await {
            Ok(Sample { moment, told: Told::Answer(source), .. }) => {
                let sql = statement::bound(&config.witness, moment.as_of);
                match instance.witness(&config.dbname, &sql).await {
                    Ok(answer) => {
                        let check = witness::judge(&name, &moment, &source, &answer);
                        if source != answer {
                            cx.tell(format!("check `{name}` gave {} instead of {}", check.actual, check.expected));
                        }
                        check
                    }
                    Err(error) => failed(&name, &witness::expected(&moment, &source), &error, cx),
                }
            }
            Ok(_) => witness::not_compared(&name, "what is kept of the source is no answer"),
            Err(why) => witness::not_compared(&name, why),
        };
        check.taking(begun.elapsed())
    }

    /// What the copy is made of beside its data, where that is wanted.
    pub(super) async fn ask_parts(
        &self,
        instance: &dyn Ask,
        copy: Option<&Lineage>,
        cx: &StepContext,
    ) -> Option<Check> {
        let begun = Instant::now();
        let is_parts = |check: &CheckConfig| check.question().filter(|(question, _)| *question == Question::Parts);
        let (question, every) = self.config.checks.iter().find_map(is_parts)?;
        let name = inventory::CHECK.0;
        let check = match self.sample(&question, every, copy).await {
            Ok(Sample { moment, told: Told::Parts(source), .. }) => {
                match instance.parts(&inventory::settings_of(&source)).await {
                    Ok(parts) => {
                        if let Some(roles) = inventory::roles_told(&source, &parts) {
                            cx.tell(format!("`{name}`: {roles}"));
                        }
                        inventory::judge(&moment, &source, &parts)
                    }
                    Err(error) => not_asked(inventory::CHECK, &error),
                }
            }
            Ok(_) => witness::not_compared(name, "what is kept of the source is no list of parts"),
            Err(why) => witness::not_compared(name, why),
        };
        Some(check.taking(begun.elapsed()))
    }

    /// The sample that the copy is held against; why there is none.
    async fn sample(&self, question: &Question, every: Span, copy: Option<&Lineage>) -> Result<Sample, String> {
        let copy = copy.ok_or_else(|| UNPLACED.to_owned())?;
        let unread = |error: DbError| with_causes(&error);
        let (db, name, key) = (self.db, self.database, witness::key(question));
        let (taken, moments): (Vec<_>, Vec<_>) =
            samples::moments(db, name, &key).await.map_err(unread)?.into_iter().unzip();
        let absent = |absent: Absent| absent.told(&every.to_string());
        let place = witness::choose(&moments, copy).map_err(absent)?;
        let at = taken.get(place).copied().unwrap_or_default();
        // It may have been trimmed since it was chosen.
        samples::taken_at(db, name, &key, at).await.map_err(unread)?.ok_or_else(|| absent(Absent::Never))
    }
}
