//! What a drill finds by name in the living estate, where its heartbeats are
//! looked up, and where its record goes.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{DrillParams, Estate, Ledger, NAME, Recorder, client::ServiceClient};
use crate::{
    config::{Loaded, RunbookConfig, runbook::ProbeConfig},
    db::{heartbeats, lever},
    decide::hold::{Hold, free_from},
    dns::{Dns, observer::Client},
    domain::{Beat, DatabaseName, EvidenceRecord, Lever, Lsn, MemberName, SiteName},
    engine::Engine,
    evidence::EvidenceRef,
    flow::StepError,
    flows::{Database, Resources, stream},
    vault::Listing,
};

impl DrillParams {
    /// A drill that a person asked for.
    pub fn manual(runbook: &Loaded<RunbookConfig>, jurisdiction: Option<String>) -> Self {
        let (config, plan) = (runbook.config.clone(), runbook.plan_file());
        Self { runbook: config, plan, trigger: "manual".to_owned(), due_at: None, jurisdiction }
    }
}

#[async_trait]
impl Estate for Resources {
    fn engine(&self, database: &DatabaseName) -> Result<Arc<dyn Engine>, StepError> {
        Ok(Arc::clone(&self.database(database)?.engine))
    }

    fn member(&self, database: &DatabaseName, site: &SiteName) -> Result<MemberName, StepError> {
        let members = self.database(database)?.schedule.config.all_members();
        let member = members.into_iter().find(|(_, member)| member.site == *site).map(|(name, _)| name);
        member.ok_or_else(|| StepError::permanent(format!("no member of `{database}` stands at site `{site}`")))
    }

    fn dns(&self, provider: Option<&str>) -> Result<Arc<dyn Dns>, StepError> {
        let found = match provider {
            Some(name) => self.dns.get(name),
            None if self.dns.len() == 1 => self.dns.values().next(),
            None => None,
        };
        found.cloned().ok_or_else(|| match provider {
            Some(name) => StepError::permanent(format!("lifeboat.yaml has no DNS provider `{name}`")),
            None => StepError::permanent(
                "lifeboat.yaml has not exactly one DNS provider; name it in the step: `provider: NAME`",
            ),
        })
    }

    fn client(&self, database: &DatabaseName, probe: &ProbeConfig) -> Result<Arc<dyn Client>, StepError> {
        Ok(Arc::new(ServiceClient::new(self.engine(database)?, probe)))
    }

    fn ledger(&self, database: &DatabaseName) -> Result<Arc<dyn Ledger>, StepError> {
        Ok(Arc::new(KeptBeats { database: self.database(database)?, db: self.db.clone() }))
    }

    fn recorder(&self) -> Arc<dyn Recorder> {
        Arc::clone(&self.evidence) as Arc<_>
    }

    async fn lever(&self) -> Result<Lever, StepError> {
        Ok(lever::current(&self.db).await?)
    }

    fn held_by(&self, database: &DatabaseName, at: Timestamp) -> Result<Option<String>, StepError> {
        let agenda = self.agenda(database);
        let (free, holds) = free_from(&agenda.holds, NAME, at);
        let until = free.map_or_else(|| "nobody knows when".to_owned(), |free| free.to_string());
        let holds: Vec<String> = holds.into_iter().map(Hold::in_words).collect();
        Ok((!holds.is_empty()).then(|| format!("{} until {until}", holds.join(" and "))))
    }
}

/// The heartbeats in the state database, and the WAL in the vault.
struct KeptBeats {
    database: Arc<Database>,
    db: crate::db::Db,
}

#[async_trait]
impl Ledger for KeptBeats {
    async fn acknowledged_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Beat>, StepError> {
        Ok(heartbeats::between(&self.db, &self.database.name, from, to).await?)
    }

    /// The most of what a heartbeat says, what this process's stream received,
    /// and what the vault holds of this cluster. A primary that shuts down sends
    /// all its WAL before it ends.
    async fn fenced_lsn(&self) -> Result<Lsn, StepError> {
        let newest = heartbeats::newest(&self.db, &self.database.name).await?;
        let beat = newest.ok_or_else(|| {
            StepError::permanent(
                "no heartbeat was ever acknowledged, so nobody knows what must not be lost; run `lifeboat serve` first",
            )
        })?;
        let streamed = self.database.streaming.snapshot().filter(|snapshot| snapshot.timeline == Some(beat.timeline));
        let received = streamed.map(|snapshot| snapshot.received).unwrap_or_default();
        // Any member that still answers knows which history is meant: another one of
        // this database, from before an upgrade perhaps, counts from elsewhere.
        let seen = self.database.engine.inspect().await.into_iter().find_map(|(_, facts)| facts.ok());
        let facts =
            seen.ok_or_else(|| StepError::transient("no member answers, so its history in the vault is unknown"))?;
        let layout = stream::newest_layout(&self.database, &facts.system_id).await?;
        let listing = Listing::take(self.database.first_vault()?.as_ref(), &layout).await?;
        let held = listing.coverage(facts.segment_size).tip(beat.timeline, facts.segment_size);
        Ok(beat.commit_lsn.max(received).max(held.unwrap_or_default()))
    }
}

#[async_trait]
impl Recorder for crate::evidence::EvidenceLog {
    async fn record(&self, record: EvidenceRecord) -> Result<EvidenceRef, StepError> {
        Ok(self.append(&record).await?)
    }
}
