//! As if the state database were gone: what the vault brings back of it into one
//! that is thrown away, held against the one that is there.
//!
//! Nothing is written to the living state database or to the vault. `settle` would
//! mend a vault that lacks entries, so it has no place here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::Test;
use crate::{
    db::{Db, runs, vaults},
    decide::catalog::{self, Held, Recorded},
    domain::{BackupId, Check, DatabaseName, EvidenceRecord, RunId, VaultName, Verdict, record},
    durable,
    evidence::{Entry, EvidenceLog},
    flow::{StepContext, StepError},
    flows::{
        Vault, prune,
        rebuild::{Failed, FromVault, Rebuild},
    },
    vault::signature_of,
};

/// So many differences are named, and how many more there are.
const NAMED_MAX: usize = 5;

/// A check for each part that comes back. `folder` gets the state database, for as long as
/// that takes: no copy runs beside it.
pub(super) async fn rebuilt(
    test: &Test,
    vault: &Vault,
    folder: &Path,
    cx: &StepContext,
) -> Result<Vec<Check>, StepError> {
    let folder = folder.join("state");
    durable::create_folder(&folder)
        .map_err(|error| StepError::transient(format!("cannot make {}: {error}", folder.display())))?;
    let db = Db::open(&format!("sqlite:{}", folder.join("state.db").display())).await?;
    let checks = Lost { test, vault, db: &db }.checks(cx).await;
    db.close().await;
    tokio::fs::remove_dir_all(&folder)
        .await
        .map_err(|error| StepError::transient(format!("cannot remove {}: {error}", folder.display())))?;
    checks
}

/// The state database is lost, but for the one that `vault` brings back into `db`.
struct Lost<'a> {
    test: &'a Test,
    vault: &'a Vault,
    db: &'a Db,
}

impl Lost<'_> {
    async fn checks(&self, cx: &StepContext) -> Result<Vec<Check>, StepError> {
        let Test { database, resources, .. } = self.test;
        let (store, begun_at) = (&self.vault.store, cx.clock().now());
        let name = &store.place().vault;
        // Told apart from what is recorded while the vault is read.
        let before = resources.evidence.records_from(0).await?;
        let mirrors = vec![(Arc::clone(store), String::new())];
        let evidence = EvidenceLog::new(self.db.clone(), database.keys.signer.clone(), mirrors, cx.clock().clone());
        let rebuild = Rebuild { db: self.db, evidence: &evidence, clock: cx.clock() };
        let mut came = FromVault::default();
        let mut checks = Vec::new();
        match rebuild.vault(store.as_ref(), store.as_ref(), &mut came).await {
            Ok(()) => {
                let known = vaults::id_of(&resources.db, name).await?;
                let expected = known.clone().unwrap_or_else(|| "the id that is known".to_owned());
                let actual = came.id.clone().unwrap_or_default();
                checks.push(Check::judge("rebuilt_vault", expected, actual, came.id == known));
                let (living, back) = (resources.evidence.records_from(0).await?, evidence.records_from(0).await?);
                let differences = catalog::evidence(&entries(&living), &entries(&back), begun_at);
                let same = format!("{} entries", back.len());
                checks.push(judged("rebuilt_evidence", (Verdict::Fail, &differences), same));
            }
            Err(failed) => checks.push(did_not_come("rebuilt_evidence", failed)?),
        }
        match rebuild.database(database, name, &mut came, &mut Vec::new()).await {
            Ok(()) => checks.push(self.backups(&before, &came).await?),
            Err(failed) => checks.push(did_not_come("rebuilt_backups", failed)?),
        }
        Ok(checks)
    }

    /// Backups and proofs, against what the evidence tells of them.
    async fn backups(&self, before: &[Entry], came: &FromVault) -> Result<Check, StepError> {
        let Test { database, resources, .. } = self.test;
        let under_way = runs::under_way(&resources.db, database.name.as_str()).await?;
        let recorded = self.recorded(before);
        let mut held: BTreeMap<BackupId, Held> = BTreeMap::new();
        for history in database.histories(self.vault).await? {
            for entry in &history.catalog.entries {
                let backup = &entry.manifest.backup;
                let mut proofs = BTreeSet::new();
                for one in recorded.iter().filter(|one| one.proves && one.backup == *backup) {
                    let proof = history.listing.layout().proof(backup, &one.run)?;
                    if [&proof, &signature_of(&proof)].iter().all(|key| history.listing.holds(key)) {
                        proofs.insert(one.run.clone());
                    }
                }
                let manifest_sha256 = entry.manifest_sha256.clone();
                held.insert(backup.clone(), Held { manifest_sha256, proofs, is_proven: entry.proof.is_some() });
            }
        }
        // Read after the vault: what a prune has taken meanwhile is recorded there.
        let after = resources.evidence.records_from(0).await?;
        let place = (&database.name, &self.vault.store.place().vault);
        let pruned = pruned(place, &recorded, self.own(&after).map(|entry| &entry.record));
        let differences = catalog::backups(&recorded, &held, &pruned);
        // A prune is recorded when it has ended.
        let of_vault = prunes_of(&database.name, &self.vault.store.place().vault);
        let is_pruning = under_way.iter().any(|run| run.starts_with(of_vault.as_str()));
        let verdict = if is_pruning { Verdict::Inconclusive } else { Verdict::Fail };
        let same = format!("{} backups, {} PROVEN, {} heartbeats", came.backups, came.proven, came.heartbeats);
        Ok(judged("rebuilt_backups", (verdict, &differences), same))
    }

    /// What was told of backups in this vault by runs that passed.
    fn recorded(&self, entries: &[Entry]) -> Vec<Recorded> {
        let name = self.vault.store.place().vault.as_str();
        let told = |Entry { record, .. }: &Entry| {
            let proves = record.kind == record::kind::RESTORE_TEST;
            if record.verdict != Verdict::Pass || !(proves || record.kind == record::kind::BACKUP) {
                return None;
            }
            let source = record.source.as_ref().filter(|source| source.vault == name)?;
            Some(Recorded {
                backup: source.backup_id.parse().ok()?,
                manifest_sha256: source.manifest_sha256.clone(),
                run: RunId::from(record.run_id.clone()),
                proves,
            })
        };
        self.own(entries).filter_map(told).collect()
    }

    fn own<'a>(&self, entries: &'a [Entry]) -> impl Iterator<Item = &'a Entry> {
        let name = self.test.database.name.to_string();
        entries.iter().filter(move |entry| entry.record.subject == name)
    }
}

/// What the ids of all prunes of a vault begin with.
fn prunes_of(database: &DatabaseName, vault: &VaultName) -> RunId {
    RunId::new(prune::NAME, database.as_str(), vault.as_str(), "")
}

/// Those of them that a prune removed from this vault; what it let go elsewhere excuses
/// nothing here.
fn pruned<'a>(
    (database, vault): (&DatabaseName, &VaultName),
    recorded: &[Recorded],
    records: impl Iterator<Item = &'a EvidenceRecord>,
) -> BTreeSet<BackupId> {
    let of_vault = prunes_of(database, vault);
    let prunes = records.filter(|record| record.run_id.starts_with(of_vault.as_str()));
    let checks = prunes.flat_map(|record| &record.checks);
    let gone: BTreeSet<&str> =
        checks.filter(|check| check.verdict == Verdict::Pass).map(|check| check.name.as_str()).collect();
    let backups = recorded.iter().map(|one| &one.backup);
    backups.filter(|backup| gone.contains(prune::expired(backup).as_str())).cloned().collect()
}

fn entries(log: &[Entry]) -> Vec<catalog::Entry<'_>> {
    log.iter().map(|one| catalog::Entry { text: &one.text, run_id: &one.record.run_id, at: one.at }).collect()
}

/// Why nothing came back; what may be better the next time is no answer.
fn did_not_come(what: &str, failed: Failed) -> Result<Check, StepError> {
    match failed {
        Failed::State(error) => Err(error.into()),
        Failed::Vault { problem, is_permanent: false } => Err(StepError::transient(problem)),
        Failed::Vault { problem, .. } => Ok(Check::new(what, Verdict::Fail, "comes back from the vault", problem)),
    }
}

/// PASS where nothing differs, else `verdict`.
fn judged(name: &str, (verdict, differences): (Verdict, &[String]), same: String) -> Check {
    let expected = "as the state database has it";
    if differences.is_empty() {
        return Check::new(name, Verdict::Pass, expected, same);
    }
    let more = differences.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let named: Vec<&str> = differences.iter().take(NAMED_MAX).map(String::as_str).collect();
    Check::new(name, verdict, expected, named.join("; ") + &more)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::record::{Measured, Why};

    /// The record of a prune that found this backup gone, or not.
    fn prune_of(vault: &str, backup: &BackupId, verdict: Verdict) -> EvidenceRecord {
        EvidenceRecord {
            schema: record::RECORD_SCHEMA,
            run_id: RunId::new(prune::NAME, "wallet", vault, "2026-11-21T05:00:00Z").to_string(),
            kind: prune::NAME.to_owned(),
            subject: "wallet".to_owned(),
            daemon_version: String::new(),
            plan: None,
            jurisdiction: None,
            why: Why::of(None, "ann"),
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            objectives: None,
            source: None,
            target: None,
            phases: Vec::new(),
            measured: Measured::default(),
            checks: vec![Check::new(prune::expired(backup), verdict, "gone: nothing keeps it", "")],
            isolation: Vec::new(),
            safety: Vec::new(),
            verdicts: BTreeMap::new(),
            verdict,
            findings: Vec::new(),
        }
    }

    #[test]
    fn a_prune_of_another_vault_excuses_no_loss() {
        let backup: BackupId = "20261101t000000z-full-0001".parse().unwrap();
        let recorded = [Recorded {
            backup: backup.clone(),
            manifest_sha256: String::new(),
            run: RunId::from("backup/wallet/full/1".to_owned()),
            proves: false,
        }];
        let place: (DatabaseName, VaultName) = ("wallet".parse().unwrap(), "primary".parse().unwrap());
        for (vault, verdict, is_excused) in [
            ("primary", Verdict::Pass, true),
            ("primary", Verdict::Fail, false),
            ("dr", Verdict::Pass, false),
            ("primary-2", Verdict::Pass, false),
        ] {
            let record = prune_of(vault, &backup, verdict);
            let pruned = pruned((&place.0, &place.1), &recorded, std::iter::once(&record));
            assert_eq!(pruned.contains(&backup), is_excused, "{vault} {verdict}");
        }
    }
}
