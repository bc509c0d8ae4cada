//! The evidence log: one signed entry per run, chained by hash to the entry
//! before it, copied to every vault. What an outsider needs to check it offline
//! is a public key and the bytes.
//!
//! An entry is never changed or removed; a correction is a new record. A vault
//! that fails never loses a record: the state database has it, and `mirror`
//! catches up. Nothing here is trusted because of where it was read: `verify`
//! looks at bytes alone.

use futures::future::join_all;

use crate::{
    clock::Clock,
    db::{self, Db, DbError, evidence::Row, findings},
    domain::{EvidenceRecord, VaultName},
    vault::{SharedStore, StoreError, VaultError, signature::SignatureError, signature::Signer, visit},
};

pub mod checkpoint;
pub mod entry;
pub mod export;
pub mod filter;
mod mirror;
pub mod source;
pub mod verify;

pub use checkpoint::{Checkpoint, StoredCheckpoint};
pub use entry::{Entry, EvidenceRef, StoredEntry};
pub use export::export;
pub use filter::{Filter, Month};
pub use source::{from_db, from_file, from_folder, from_store};
pub use verify::{VerifyReport, verify};

use mirror::Mirror;

/// What can go wrong with the evidence log.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    #[error("the evidence log in the state database cannot be used")]
    Db(#[from] DbError),
    #[error("cannot sign evidence")]
    Sign(#[from] SignatureError),
    #[error("the record of run `{run_id}` cannot be written as JSON")]
    Encode {
        run_id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("evidence entry {index} cannot be read; `lifeboat evidence verify` tells what happened to it")]
    Unreadable {
        index: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("evidence cannot be copied to a vault; it is retried")]
    Vault(#[from] StoreError),
    #[error("evidence cannot be stored as what it is")]
    Unstorable(#[from] VaultError),
    #[error(
        "vault `{vault}` holds another `{key}` than the state database: a node with a state database of its own writes there, or one of the two is an old or edited copy; stop all nodes but those that share one state database, then run `lifeboat evidence verify`"
    )]
    Diverged { vault: VaultName, key: String },
    #[error(
        "vault `{vault}` holds {vault_size} evidence entries and the state database only {size}: an old or empty state database is in use; `lifeboat serve` takes the log over from the vault when it starts"
    )]
    Behind { vault: VaultName, vault_size: u64, size: u64 },
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("evidence that does not verify is not taken over: {problem}")]
    Unsound { problem: String },
    #[error("the state database holds other evidence already; a log is only taken over into an empty one")]
    NotEmpty,
}

impl EvidenceError {
    /// Whether the same call can only fail again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Db(error) => error.is_permanent(),
            Self::Vault(error) => error.is_permanent(),
            Self::File { .. } => false,
            _ => true,
        }
    }
}

/// How the ids of findings begin that tell of another log in a vault.
const DIVERGED: &str = "evidence/";

/// The log of this estate. Cheap to share by reference; all nodes of an estate
/// sign with one key.
#[derive(Debug)]
pub struct EvidenceLog {
    db: Db,
    signer: Signer,
    mirrors: Vec<Mirror>,
    clock: Clock,
}

impl EvidenceLog {
    /// `stores` are the vaults that get a copy, each with the prefix in which
    /// its `evidence/` stands; empty for none.
    pub fn new(db: Db, signer: Signer, stores: Vec<(SharedStore, String)>, clock: Clock) -> Self {
        let mirrors = stores.into_iter().map(|(store, prefix)| Mirror::new(store, &prefix)).collect();
        Self { db, signer, mirrors, clock }
    }

    /// Signs and appends the record of a run, then copies it to the vaults. A
    /// run that has an entry keeps it: the existing reference is answered. A
    /// vault that fails is logged and caught up later.
    pub async fn append(&self, record: &EvidenceRecord) -> Result<EvidenceRef, EvidenceError> {
        let row = db::evidence::append(&self.db, &record.run_id, |head| self.next_row(head, record)).await?;
        let looked = self.catch_up().await;
        self.tell(&looked).await?;
        for (vault, error) in failures(looked) {
            tracing::warn!(%vault, error = &error as &dyn std::error::Error, "evidence is not in this vault yet");
        }
        Ok(EvidenceRef { index: row.index, leaf_hash: row.leaf_hash })
    }

    fn next_row(&self, head: Option<Row>, record: &EvidenceRecord) -> Result<Row, EvidenceError> {
        let (index, previous) =
            head.map_or((0, entry::NO_PREVIOUS.to_owned()), |head| (head.index + 1, head.leaf_hash));
        let text = entry::canonical(index, &previous, self.clock.now(), record)
            .map_err(|source| EvidenceError::Encode { run_id: record.run_id.clone(), source })?;
        let signature = self.signer.sign(entry::NAMESPACE, text.as_bytes())?;
        let leaf_hash = entry::leaf_hash(text.as_bytes());
        Ok(Row { index, run_id: record.run_id.clone(), entry: text, leaf_hash, signature })
    }

    /// Brings every vault up to date with the log; repeating it is harmless.
    /// Answers the vaults that are not, and why. Call it at start.
    pub async fn mirror(&self) -> Vec<(VaultName, EvidenceError)> {
        failures(self.catch_up().await)
    }

    /// All vaults at once: one that does not answer holds up neither the others nor
    /// the run that ends.
    async fn catch_up<'a>(&'a self) -> Vec<(&'a Mirror, Result<(), EvidenceError>)> {
        let catch_up =
            async |mirror: &'a Mirror| (mirror, visit(mirror.vault(), mirror.catch_up(&self.db, &self.signer)).await);
        join_all(self.mirrors.iter().map(catch_up)).await
    }

    /// A vault whose log is another one is a finding until it is the same again.
    async fn tell(&self, looked: &[(&Mirror, Result<(), EvidenceError>)]) -> Result<(), DbError> {
        for (mirror, result) in looked {
            let (vault, id) = (mirror.vault(), format!("{DIVERGED}{}", mirror.vault()));
            match result {
                Ok(()) => findings::close(&self.db, &id).await?,
                Err(error @ EvidenceError::Diverged { .. }) => {
                    findings::open(&self.db, &id, vault.as_str(), &error.to_string()).await?;
                }
                // It tells nothing of what the vault holds.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// What speaks against this node being the only one that writes with its state:
    /// nothing may be deleted before that is settled.
    pub async fn rivals(&self) -> Result<Vec<String>, EvidenceError> {
        let open = findings::open_findings(&self.db).await?.into_iter();
        Ok(open.filter(|finding| finding.id.starts_with(DIVERGED)).map(|finding| finding.message).collect())
    }

    /// The entries that fit the filter, oldest first.
    pub async fn records(&self, filter: &Filter) -> Result<Vec<Entry>, EvidenceError> {
        Ok(filter.apply(self.records_from(0).await?))
    }

    /// All entries from this index on, oldest first.
    pub async fn records_from(&self, index: u64) -> Result<Vec<Entry>, EvidenceError> {
        let rows = db::evidence::rows_from(&self.db, index).await?;
        rows.iter().map(Entry::from_row).collect()
    }

    /// The entry of one run, or at an index where `which` is a number.
    pub async fn get(&self, which: &str) -> Result<Option<Entry>, EvidenceError> {
        let row = match which.parse() {
            Ok(index) => db::evidence::by_index(&self.db, index).await?,
            Err(_) => db::evidence::by_run(&self.db, which).await?,
        };
        row.as_ref().map(Entry::from_row).transpose()
    }

    /// All checkpoints that can be read from the vaults, for `verify`, and the
    /// vaults that could not be asked.
    pub async fn checkpoints(&self) -> (Vec<StoredCheckpoint>, Vec<(VaultName, EvidenceError)>) {
        let (mut checkpoints, mut failed) = (Vec::new(), Vec::new());
        let read = async |mirror: &Mirror| {
            visit(mirror.vault(), source::checkpoints_in(mirror.store(), mirror.prefix())).await
        };
        let found = join_all(self.mirrors.iter().map(read)).await;
        for (mirror, found) in self.mirrors.iter().zip(found) {
            match found {
                Ok(found) => checkpoints.extend(found),
                Err(error) => failed.push((mirror.vault().clone(), error)),
            }
        }
        (checkpoints, failed)
    }

    /// Brings log and vaults together: an old or empty state database takes over
    /// what a vault holds beyond it, so that no fork is ever signed, and then
    /// every vault gets what it lacks. Answers what could not be done. Call it
    /// before a run is driven.
    pub async fn settle(&self) -> Vec<(VaultName, EvidenceError)> {
        let looked = self.catch_up().await;
        let is_ahead = |result: &Result<(), EvidenceError>| matches!(result, Err(EvidenceError::Behind { .. }));
        if !looked.iter().any(|(_, result)| is_ahead(result)) {
            return failures(looked);
        }
        for (mirror, _) in looked.into_iter().filter(|(_, result)| is_ahead(result)) {
            // What was taken over from the one before may be all.
            let again = visit(mirror.vault(), mirror.catch_up(&self.db, &self.signer)).await;
            if is_ahead(&again) {
                let taken = match from_store(mirror.store(), mirror.prefix()).await {
                    Ok(log) => self.adopt(&log.entries, &log.checkpoints).await,
                    Err(error) => Err(error),
                };
                match taken {
                    Ok(size) => {
                        tracing::info!(vault = %mirror.vault(), size, "took the evidence log over from the vault");
                    }
                    Err(error) => return vec![(mirror.vault().clone(), error)],
                }
            }
        }
        self.mirror().await
    }

    /// Takes over what one vault holds beyond the log, and answers how many entries
    /// that were. Nothing is written to a vault.
    pub async fn take_over(&self, vault: &VaultName) -> Result<u64, EvidenceError> {
        let Some(mirror) = self.mirrors.iter().find(|mirror| mirror.vault() == vault) else { return Ok(0) };
        let log = from_store(mirror.store(), mirror.prefix()).await?;
        let present = db::evidence::rows_from(&self.db, 0).await?;
        if present.len() < log.entries.len() {
            return Ok(self.adopt(&log.entries, &log.checkpoints).await?.saturating_sub(present.len() as u64));
        }
        match log.entries.iter().zip(&present).find(|(stored, row)| stored.text != row.entry) {
            Some((stored, _)) => {
                Err(EvidenceError::Diverged { vault: vault.clone(), key: format!("evidence/{:08}.json", stored.index) })
            }
            None => Ok(0),
        }
    }

    /// Takes over a log that was read from a vault, after the state database was
    /// lost; may be repeated after a crash. Refuses one that does not verify, and
    /// a state database that holds anything else. Answers the number of entries.
    async fn adopt(&self, entries: &[StoredEntry], checkpoints: &[StoredCheckpoint]) -> Result<u64, EvidenceError> {
        let report = verify(entries, checkpoints, &self.signer.verifier());
        if let Some(problem) = report.problems.into_iter().next() {
            return Err(EvidenceError::Unsound { problem });
        }
        let present = db::evidence::rows_from(&self.db, 0).await?;
        let is_beginning =
            present.len() <= entries.len() && present.iter().zip(entries).all(|(row, stored)| row.entry == stored.text);
        if !is_beginning {
            return Err(EvidenceError::NotEmpty);
        }
        for stored in entries.iter().skip(present.len()) {
            let row = Entry::parse(stored.index, &stored.text, &stored.signature)?.into_row();
            let run_id = row.run_id.clone();
            db::evidence::append(&self.db, &run_id, |head| {
                if head.map_or(0, |head| head.index + 1) == row.index { Ok(row) } else { Err(EvidenceError::NotEmpty) }
            })
            .await?;
        }
        Ok(report.size)
    }

    /// The key that `verify` trusts.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }
}

/// The vaults that are not up to date, and why.
fn failures(visited: Vec<(&Mirror, Result<(), EvidenceError>)>) -> Vec<(VaultName, EvidenceError)> {
    visited.into_iter().filter_map(|(mirror, result)| Some((mirror.vault().clone(), result.err()?))).collect()
}
