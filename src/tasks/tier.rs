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
    domain::{EvidenceRecord, SiteName, Verdict, record::kind, with_causes},
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
    let mut read_to = 0;
    while !watched.is_empty() {
        let Some(is_sure) = stop.run_until_cancelled(look(&app, &mut watched, &mut read_to)).await else { break };
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

/// Answers whether all that was seen is told. Evidence is read on from `read_to`: it
/// is kept for ever.
async fn look(app: &App, watched: &mut [Watched], read_to: &mut u64) -> bool {
    let is_known = match app.resources.evidence.records_from(*read_to).await {
        Ok(entries) => {
            for entry in &entries {
                for watched in &mut *watched {
                    watched.learn(&entry.record);
                }
                *read_to = entry.evidence.index + 1;
            }
            true
        }
        Err(error) => {
            tracing::warn!(error = %with_causes(&error), "what was drilled and tested is not known");
            false
        }
    };
    let looked = join_all(watched.iter_mut().map(|watched| watched.look(app, is_known))).await;
    looked.into_iter().all(|is_sure| is_sure)
}

/// A database with a tier.
struct Watched {
    database: Arc<Database>,
    written: Written,
    findings: BTreeMap<Need, Finding>,
    /// What the evidence told so far.
    proven: Proven,
    /// Whether the last look found no standby that follows.
    was_alone: bool,
}

impl Watched {
    fn new(app: &Arc<App>, database: &Arc<Database>) -> Option<Self> {
        let written = app.estate.tiered(&database.schedule.config, app.clock.now())?;
        let of = |need: &Need| (*need, Finding::new(&about(*need), app, &database.name));
        let findings = tier::terms(written.tier).needs.iter().map(of).collect();
        let (database, proven) = (Arc::clone(database), Proven::default());
        Some(Self { database, written, findings, proven, was_alone: false })
    }

    fn id(&self, need: Need) -> String {
        format!("{}/{}", about(need), self.database.name)
    }

    async fn look(&mut self, app: &App, is_evidence_known: bool) -> bool {
        let seen = Seen { evidence: is_evidence_known.then(|| self.proven.clone()), ..self.ask().await };
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

    /// What a record tells of this database.
    fn learn(&mut self, record: &EvidenceRecord) {
        let proven = &mut self.proven;
        let (subject, at) = (record.subject.as_str(), record.finished_at);
        let is_ours = subject == self.database.name.as_str();
        let is_drilled = self.written.runbooks.iter().any(|runbook| runbook.name.as_str() == subject);
        match record.kind.as_str() {
            _ if record.verdict != Verdict::Pass => {}
            kind::DRILL if is_drilled => {
                proven.drilled = proven.drilled.take().max(Some((at, subject.to_owned())));
            }
            kind::BACKUP if is_ours => proven.backed_up_at = proven.backed_up_at.into_iter().chain([at]).min(),
            kind::RESTORE_TEST if is_ours => proven.tested_at = proven.tested_at.max(Some(at)),
            _ => {}
        }
    }
}

fn about(need: Need) -> String {
    format!("{PREFIX}{}", need.as_str())
}
