//! Rotation: the keys of all backups and WAL of a database are wrapped for the
//! recipients configured now, in every vault. Touches no data and revokes
//! nothing; so it tells what former recipients can still open.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Database, Resources, Vault, guarded::guarded, output};
use crate::{
    decide::rotation,
    domain::{Check, DatabaseName, VaultName, Verdict, with_causes},
    flow::{Conclusion, Ending, Flow, Policy, Step, StepContext, StepError, read},
    vault::{KeyFolder, Listing, Opens},
};

/// The flow's name, first part of its runs' ids.
pub const NAME: &str = "rotate_keys";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Params {
    pub database: DatabaseName,
    /// None when a person asked for it.
    pub due_at: Option<Timestamp>,
}

/// The workflow.
#[derive(Debug)]
pub struct RotateKeysFlow {
    resources: Arc<Resources>,
}

impl RotateKeysFlow {
    pub fn new(resources: Arc<Resources>) -> Self {
        Self { resources }
    }
}

#[async_trait]
impl Flow for RotateKeysFlow {
    fn name(&self) -> &'static str {
        NAME
    }

    fn steps(&self, params: &Value) -> Result<Vec<Box<dyn Step>>, StepError> {
        let params: Params = read("parameters", params)?;
        Ok(vec![Box::new(Rotate(self.resources.database(&params.database)?))])
    }

    async fn conclude(&self, cx: &StepContext, ending: &Ending) -> Result<Conclusion, StepError> {
        let params: Params = cx.params()?;
        // It may have left the schedules since; the run ends all the same.
        let database = self.resources.database(&params.database).ok();
        let report: Vec<Rotated> = cx.output_if_any("rotate")?.unwrap_or_default();
        let checks: Vec<Check> = report.iter().flat_map(Rotated::checks).collect();
        let done = Verdict::worst(checks.iter().map(|check| check.verdict));
        let (verdict, mut findings) = super::judged(ending, done);
        findings.extend(report.iter().flat_map(Rotated::findings));
        let mut record = super::record(cx, (&params.database, database.as_deref()), NAME, params.due_at);
        record.checks = checks;
        record.safety = super::unwinding(ending);
        record.verdicts = BTreeMap::from([("rotation".to_owned(), verdict)]);
        record.verdict = verdict;
        record.findings.clone_from(&findings);
        let evidence = self.resources.evidence.append(&record).await?;
        let output = json!({
            "run_id": cx.run_id(), "database": params.database, "verdict": verdict, "vaults": report,
            "findings": findings, "phases": record.phases, "evidence": evidence,
        });
        Ok(Conclusion { verdict, output })
    }
}

/// What rotation found and did in one vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Rotated {
    vault: VaultName,
    backups: usize,
    /// Names under which keys of WAL are kept.
    wal_keys: usize,
    /// Key objects that were added.
    added: usize,
    /// Keys that have to be wrapped on another node: no identity here opens them.
    closed: usize,
    /// Why key objects cannot be read. Another one may hold the same key, or none.
    #[serde(default)]
    damaged: BTreeSet<String>,
    recipients: BTreeMap<String, Reach>,
}

/// What one recipient can open.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Reach {
    is_configured: bool,
    backups: usize,
    wal_keys: usize,
}

impl Rotated {
    fn checks(&self) -> Vec<Check> {
        let expected = format!("opens {} backups and {} keys of WAL", self.backups, self.wal_keys);
        let damaged = self.damaged.len();
        let readable = Check::judge(
            format!("vault {}: key objects", self.vault),
            "all can be read",
            if damaged == 0 { "all can be read".to_owned() } else { format!("{damaged} cannot be read") },
            damaged == 0,
        );
        let configured = self.recipients.iter().filter(|(_, reach)| reach.is_configured);
        let reached = configured.map(|(recipient, reach)| {
            let actual = format!("opens {} backups and {} keys of WAL", reach.backups, reach.wal_keys);
            let holds = (reach.backups, reach.wal_keys) == (self.backups, self.wal_keys);
            Check::judge(format!("vault {}: recipient {recipient}", self.vault), expected.clone(), actual, holds)
        });
        std::iter::once(readable).chain(reached).collect()
    }

    fn findings(&self) -> Vec<String> {
        let closed = (self.closed > 0).then(|| {
            format!(
                "vault `{}`: {} keys are not wrapped for the configured recipients and no identity of this node opens them; run `lifeboat vault rotate-keys` on a node whose identity does",
                self.vault, self.closed
            )
        });
        let former =
            self.recipients.iter().filter(|(_, reach)| !reach.is_configured && reach.backups + reach.wal_keys > 0);
        let former = former.map(|(recipient, reach)| {
            format!(
                "vault `{}`: the former recipient {recipient} can still open {} backups and {} keys of WAL until they expire; rotation revokes nothing",
                self.vault, reach.backups, reach.wal_keys
            )
        });
        let damaged = self.damaged.iter().map(|damaged| {
            format!(
                "{damaged}; it was not wrapped and is left as it is: where another vault has a sound copy, remove this one and run `lifeboat vault copy`"
            )
        });
        damaged.chain(closed).chain(former).collect()
    }
}

struct Rotate(Arc<Database>);

#[async_trait]
impl Step for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn policy(&self) -> Policy {
        Policy { limit: std::time::Duration::from_secs(6 * 3600), ..Policy::default() }
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let mut report = Vec::new();
        for vault in &self.0.vaults {
            report.push(self.rotate(vault, cx).await?);
        }
        output(&report)
    }
}

impl Rotate {
    async fn rotate(&self, vault: &Vault, cx: &StepContext) -> Result<Rotated, StepError> {
        let database = &self.0;
        let name = vault.store.place().vault.clone();
        cx.progress(format!("reading the keys in vault {name}"), None, None);
        let store = guarded(&vault.store, cx);
        let identities = database.keys.identities().await?;
        let configured: BTreeSet<String> = database.keys.recipients.iter().map(ToString::to_string).collect();
        let mut rotated = Rotated {
            vault: name,
            backups: 0,
            wal_keys: 0,
            added: 0,
            closed: 0,
            damaged: BTreeSet::new(),
            recipients: BTreeMap::new(),
        };
        for held in database.histories(vault).await? {
            let folders = KeyFolder::all(store.as_ref(), &held.listing, &held.catalog, &identities).await?;
            let total = Some(folders.len() as u64);
            for (done, folder) in folders.iter().enumerate() {
                if cx.stop().is_cancelled() {
                    return Err(StepError::Stopped);
                }
                cx.progress("wrapping keys", Some(done as u64), total);
                let plan = rotation::plan(&folder.facts(), &configured);
                rotated.closed += plan.closed.len();
                for held in plan.wrap {
                    folder.wrap(store.as_ref(), &held, &database.keys.recipients).await?;
                    rotated.added += 1;
                }
            }
            // Told from what is there afterwards, and not from what was meant.
            let listing = Listing::take(store.as_ref(), held.listing.layout()).await?;
            let folders = KeyFolder::all(store.as_ref(), &listing, &held.catalog, &identities).await?;
            rotated.count(&folders, &configured);
        }
        Ok(rotated)
    }
}

impl Rotated {
    fn count(&mut self, folders: &[KeyFolder], configured: &BTreeSet<String>) {
        let (backups, wal): (Vec<&KeyFolder>, Vec<&KeyFolder>) =
            folders.iter().partition(|folder| matches!(folder.opens, Opens::Backup(_)));
        let facts = |folders: &[&KeyFolder]| folders.iter().map(|folder| folder.facts()).collect::<Vec<_>>();
        self.backups += backups.len();
        self.wal_keys += wal.len();
        self.damaged.extend(folders.iter().flat_map(|folder| &folder.damaged).map(|error| with_causes(error)));
        for (recipient, opened) in rotation::reach(&facts(&backups), configured) {
            self.recipients.entry(recipient).or_default().backups += opened;
        }
        for (recipient, opened) in rotation::reach(&facts(&wal), configured) {
            self.recipients.entry(recipient).or_default().wal_keys += opened;
        }
        for (recipient, reach) in &mut self.recipients {
            reach.is_configured = configured.contains(recipient);
        }
    }
}
