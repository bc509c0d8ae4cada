//! What the tier of a database asks for and the estate lacks: a finding per need,
//! from the files, the servers and the evidence, until it is there. An edit of the
//! files begins this task anew, which looks at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{finding::Finding, near};
use crate::{
    app::App,
    db::{DbError, findings},
    decide::tier::{self, Answer, Need, Proven, Seen, Written},
    domain::{SiteName, Verdict, record::kind, with_causes},
    evidence::{Entry, Filter},
    flows::{Database, backup},
};

const EVERY: Duration = Duration::from_secs(30);
/// How soon is looked again where a standby was seen not to follow: one that restarts
/// needs a moment.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// What the ids of these findings begin with; the need and the database follow.
const PREFIX: &str = "tier-";

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut watched = Vec::new();
    for database in near(&app) {
        watched.extend(Watched::new(&app, database));
        // Of many that takes a while.
        tokio::task::yield_now().await;
    }
    close_others(&app, &watched).await;
    while !watched.is_empty() {
        let Some(is_sure) = stop.run_until_cancelled(look(&app, &mut watched)).await else { break };
        let pause = if is_sure { EVERY } else { AGAIN_AFTER };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
}

/// Closes what was found of tiers that are no more.
async fn close_others(app: &App, watched: &[Watched]) {
    let db = &app.resources.db;
    let ours: BTreeSet<&str> = near(app).map(|database| database.name.as_str()).collect();
    let needed: BTreeSet<String> =
        watched.iter().flat_map(|watched| watched.findings.keys().map(|need| watched.id(*need))).collect();
    let closed = async {
        for finding in findings::open_findings(db).await? {
            let is_of_tier = finding.id.starts_with(PREFIX) && ours.contains(finding.subject.as_str());
            if is_of_tier && !needed.contains(&finding.id) {
                findings::close(db, &finding.id).await?;
            }
        }
        Ok::<_, DbError>(())
    };
    if let Err(error) = closed.await {
        tracing::warn!(%error, "what was found of a tier that is no more is not closed");
    }
}

/// Answers whether all that was seen is told.
async fn look(app: &App, watched: &mut [Watched]) -> bool {
    let entries = match app.resources.evidence.records(&Filter::default()).await {
        Ok(entries) => Some(entries),
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "what was drilled and tested is not known");
            None
        }
    };
    let looked = join_all(watched.iter_mut().map(|watched| watched.look(app, entries.as_deref()))).await;
    looked.into_iter().all(|is_sure| is_sure)
}

/// A database with a tier.
struct Watched {
    database: Arc<Database>,
    written: Written,
    findings: BTreeMap<Need, Finding>,
    /// Whether the last look found no standby that follows.
    was_alone: bool,
}

impl Watched {
    fn new(app: &Arc<App>, database: &Arc<Database>) -> Option<Self> {
        let written = app.estate.tiered(&database.schedule.config, app.clock.now())?;
        let of = |need: &Need| (*need, Finding::new(&about(*need), app, &database.name));
        let findings = tier::terms(written.tier).needs.iter().map(of).collect();
        Some(Self { database: Arc::clone(database), written, findings, was_alone: false })
    }

    fn id(&self, need: Need) -> String {
        format!("{}/{}", about(need), self.database.name)
    }

    async fn look(&mut self, app: &App, entries: Option<&[Entry]>) -> bool {
        let seen = Seen { evidence: entries.map(|entries| self.proven(entries)), ..self.ask().await };
        let mut is_sure = true;
        for (need, answer) in tier::look(&self.written, &seen, app.clock.now()) {
            let Some(finding) = self.findings.get_mut(&need) else { continue };
            let is_lacking = matches!(answer, Answer::Lacks(_));
            let was_alone = need != Need::Standby || std::mem::replace(&mut self.was_alone, is_lacking);
            match answer {
                Answer::Lacks(what) if was_alone => finding.open(&what).await,
                Answer::Lacks(_) => is_sure = false,
                Answer::Met => finding.close().await,
                Answer::Unknown => {}
            }
        }
        is_sure
    }

    /// What the servers say, as far as the tier wants to know it.
    async fn ask(&self) -> Seen {
        let wants = |need| self.findings.contains_key(&need);
        let mut seen = Seen::default();
        if wants(Need::Standby) {
            let sites: BTreeMap<_, SiteName> =
                self.database.schedule.config.all_members().into_iter().map(|(name, of)| (name, of.site)).collect();
            let members = self.database.engine.inspect().await.into_iter();
            let members = members
                .filter_map(|(member, facts)| Some((sites.get(&member)?.clone(), backup::seen(&member, &facts))));
            seen.members = Some(members.collect());
        }
        if wants(Need::Commits) {
            seen.commits_wait = match self.database.engine.commits_wait().await {
                Ok(wait) => Some(wait),
                Err(error) => {
                    tracing::debug!(database = %self.database.name, error = %with_causes(&error), "whether commits wait is not known");
                    None
                }
            };
        }
        seen
    }

    fn proven(&self, entries: &[Entry]) -> Proven {
        let runbooks: BTreeSet<&str> = self.written.runbooks.iter().map(|runbook| runbook.name.as_str()).collect();
        let passed = |wanted: &'static str| {
            let is_such = move |entry: &&Entry| entry.record.kind == wanted && entry.record.verdict == Verdict::Pass;
            entries.iter().filter(is_such).map(|entry| &entry.record)
        };
        let of_this = |wanted| passed(wanted).filter(|record| record.subject == self.database.name.as_str());
        let drills = passed(kind::DRILL).filter(|record| runbooks.contains(record.subject.as_str()));
        Proven {
            backed_up_at: of_this(kind::BACKUP).map(|record| record.finished_at).min(),
            tested_at: of_this(kind::RESTORE_TEST).map(|record| record.finished_at).max(),
            drilled: drills.map(|record| (record.finished_at, record.subject.clone())).max(),
        }
    }
}

fn about(need: Need) -> String {
    format!("{PREFIX}{}", need.as_str())
}
