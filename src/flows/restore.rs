//! Brings a recovery point back into folders: reads the catalog, has `decide`
//! choose backup and WAL, fetches and verifies both, and writes settings with a
//! known target. Needs no state database, no lease and no living server.
//!
//! What must never happen: a point that is near the one asked for, or a folder
//! that was not empty.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Database, Vault, guarded::guarded};
use crate::{
    clock::Clock,
    decide::{
        recovery::{self, Coverage, Facts, Selection},
        tablespaces::Wanted,
    },
    domain::{Backup, BackupId, ByteSize, Lsn, Opener, Phase, RecoveryTarget, Timeline, record::Source},
    engine::{Awaited, EngineError, RecoveryPlan},
    fault,
    flow::StepContext,
    process,
    vault::{
        self, CatalogEntry, EmptyFolder, Fetch, Inventory, Layout, Listing, Manifest, Proof, Remembered, SharedStore,
        VaultError,
    },
};

mod archive;
mod chain;
mod choice;
mod error;
mod locate;
mod tablespaces;
mod unfinished;
mod wal;

use archive::Archive;
pub use archive::{frozen, frozen_latest};
pub use chain::size_min;
pub use choice::doubt;
pub use error::RestoreError;
pub use locate::refuse_unreachable;
use unfinished::Unfinished;
pub use unfinished::unfinished;
pub use wal::Ahead;

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct Request {
    pub target: RecoveryTarget,
    /// Along this timeline to its end; along the newest when none is named.
    pub timeline: Option<Timeline>,
    /// This backup and no other.
    pub backup: Option<BackupId>,
    /// The cluster with this system id and no other.
    pub system_id: Option<String>,
    /// Becomes the data folder; empty or new.
    pub data: PathBuf,
    /// Gets the WAL, plain; empty or new, may lie in `data`.
    pub wal_folder: PathBuf,
    /// For an isolated instance, whose WAL `Ahead` brings while it recovers, or for an
    /// operator to start and use, with all WAL there.
    pub is_isolated: bool,
    /// Whose identity opens it.
    pub opener: Opener,
    /// How much of the disk it may take; all that is free when absent.
    pub disk_max: Option<ByteSize>,
}

impl Request {
    /// Whether this backup is one that was asked for.
    fn is_of_use(&self, entry: &CatalogEntry, layout: &Layout) -> bool {
        self.backup.as_ref().is_none_or(|asked| *asked == entry.manifest.backup)
            && self.system_id.as_ref().is_none_or(|asked| asked == layout.system_id())
    }
}

/// What was restored. The server still has to replay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restored {
    pub vault: String,
    pub backup: Backup,
    /// Plain bytes of the backup and of what it builds upon.
    #[serde(default)]
    pub chain_bytes: Option<u64>,
    pub layout: Layout,
    pub source: Source,
    pub timeline: Timeline,
    /// The known target of recovery: "latest" has become a position.
    pub target: RecoveryTarget,
    /// Folders that must be there before a server is started: the WAL makes
    /// tablespaces in them. None is known of an isolated copy's.
    #[serde(default)]
    pub new_tablespaces: Vec<Wanted>,
    pub opener: Opener,
    /// Public keys of the identities that opened the backup.
    pub opened_by: Vec<String>,
    pub phases: Vec<Phase>,
}

/// Tells how far a restore is: what, bytes done, bytes in all.
pub type Say<'a> = dyn Fn(&str, Option<u64>, Option<u64>) + Send + Sync + 'a;

/// Restores from what all vaults hold now of one cluster: each object from the
/// first that has a sound copy. `stop` ends it; nothing of it writes any more
/// when this returns.
pub async fn run(
    database: &Database,
    vaults: &[Vault],
    request: &Request,
    stop: &CancellationToken,
    say: &Say<'_>,
) -> Result<Restored, RestoreError> {
    let mut found = look(database, vaults, request, stop, say).await?;
    let mut waited = Duration::ZERO;
    if found.iter().any(|(_, held)| held.catalog.has_archived()) {
        let all: Vec<(&Vault, &Inventory)> = found.iter().map(|(vault, held)| (*vault, held)).collect();
        let documents = Archive::of(&all, stop, say);
        documents.bring(archive::cold_documents(&all)).await?;
        waited = documents.waited();
        found = look(database, vaults, request, stop, say).await?;
    }
    let layout = choice::choose(database, &found, request)?;
    let same: Vec<(&Vault, &Inventory)> =
        found.iter().filter(|(_, held)| *held.listing.layout() == layout).map(|(vault, held)| (*vault, held)).collect();
    from_held(database, &same, request, (stop, waited), say).await
}

/// What the vaults hold of it now.
async fn look<'a>(
    database: &Database,
    vaults: &'a [Vault],
    request: &Request,
    stop: &CancellationToken,
    say: &Say<'_>,
) -> Result<Vec<(&'a Vault, Inventory)>, RestoreError> {
    say("reading the vault", None, None);
    tokio::select! {
        found = choice::look(database, vaults, |entry, layout| request.is_of_use(entry, layout), say) => found,
        () = stop.cancelled() => Err(VaultError::Stopped.into()),
    }
}

/// The history of the database with the newest backup, where a vault holds several.
pub async fn newest(database: &Database, vault: &Vault) -> Result<Inventory, RestoreError> {
    Inventory::newest_of(database.histories(vault).await?).ok_or_else(|| RestoreError::Nothing {
        vault: vault.store.place().vault.to_string(),
        database: database.name.to_string(),
    })
}

/// What the choice of a recovery point is made from: all that the vaults hold
/// of one history together. None where there is no backup.
pub async fn facts(found: &[(&Vault, &Inventory)], now: Timestamp) -> Result<Option<Facts>, RestoreError> {
    let entries = || found.iter().flat_map(|(_, held)| &held.catalog.entries);
    let Some(segment_size) = entries().next_back().map(|entry| entry.manifest.segment_size) else {
        return Ok(None);
    };
    let mut facts = Facts {
        backups: Vec::new(),
        histories: BTreeMap::new(),
        coverage: Coverage::default(),
        segment_size,
        not_after: Some(now),
    };
    for entry in entries() {
        let candidate = entry.candidate();
        if facts.backups.iter().all(|other| other.id != candidate.id) {
            facts.backups.push(candidate);
        }
    }
    for (vault, held) in found {
        facts.histories.append(&mut held.listing.histories(vault.store.as_ref()).await?);
        held.listing.add_coverage(segment_size, &mut facts.coverage);
    }
    Ok(Some(facts))
}

/// Restores from a frozen listing of one vault and from nothing else, whatever
/// it holds by now.
pub async fn from_listing(
    database: &Database,
    vault: &Vault,
    listing: &Listing,
    request: &Request,
    stop: &CancellationToken,
    say: &Say<'_>,
) -> Result<Restored, RestoreError> {
    let (store, verifier) = (vault.store.as_ref(), &database.keys.verifier);
    let read = async || Inventory::read(listing.clone(), store, verifier, &mut Remembered::default()).await;
    let mut held = read().await?;
    let mut waited = Duration::ZERO;
    if held.catalog.has_archived() {
        let all = [(vault, &held)];
        let documents = Archive::of(&all, stop, say);
        documents.bring(archive::cold_documents(&all)).await?;
        waited = documents.waited();
        held = read().await?;
    }
    from_held(database, &[(vault, &held)], request, (stop, waited), say).await
}

async fn from_held(
    database: &Database,
    found: &[(&Vault, &Inventory)],
    request: &Request,
    (stop, waited): (&CancellationToken, Duration),
    say: &Say<'_>,
) -> Result<Restored, RestoreError> {
    let mut stopwatch = Stopwatch::start();
    let identities = database.keys.identities_of(request.opener).await?;
    let nothing = || RestoreError::Nothing {
        vault: found.first().map_or_else(String::new, |(vault, _)| vault.store.place().vault.to_string()),
        database: database.name.to_string(),
    };
    let archive = Archive::of(found, stop, say);
    archive.bring(archive::cold_histories(found)).await?;
    let facts = facts(found, Clock::system().now()).await?.ok_or_else(nothing)?;
    let sources: Vec<SharedStore> = found.iter().map(|(vault, _)| Arc::clone(&vault.store)).collect();
    let fetch = Fetch { sources: &sources, identities: &identities, stop };
    let folder = EmptyFolder::open(&request.data)?;
    let unfinished = Unfinished::mark(&database.name, database.engine.start_lock(), request, Clock::system().now())?;
    let look = request.data.join("lifeboat_look");
    bring_likely(&archive, found, &facts, request).await?;
    let selection = locate::select(database, (found, &archive), (&facts, &fetch), request, look, say).await?;
    unfinished.of_backup(&selection.backup)?;
    let holder = found.iter().find_map(|(vault, held)| Some((vault, held, held.catalog.find(&selection.backup)?)));
    let (vault, Inventory { listing, .. }, entry) = holder.ok_or_else(nothing)?;
    let store = &vault.store;
    archive.bring(archive::needed(found, listing.layout(), &selection)?).await?;
    stopwatch.lap_but("select", archive.waited());
    stopwatch.add(archive::WAIT, waited + archive.waited());
    let all = |backup| found.iter().find_map(|(_, held)| held.catalog.find(backup));
    let chain: Vec<&CatalogEntry> = selection.chain.iter().filter_map(all).collect();
    let wal_bytes = selection.segment_size.bytes().saturating_mul(selection.wal.len() as u64);
    let chain_bytes = size_min(&chain);
    let room = chain::room(&database.engine, &fetch, &chain, wal_bytes).await?;
    chain::refuse_too_small(&request.data, room, request.disk_max)?;
    chain::fetch(&database.engine, &fetch, &chain, folder, say).await?;
    fault::point("restore.fetched");
    stopwatch.lap("fetch_backup");
    say("fetching WAL", None, None);
    let (target, awaited) = wal::stage(database, &fetch, listing.layout(), &selection, request, say).await?;
    stopwatch.lap("fetch_wal");
    let new_tablespaces =
        configure(database, &fetch, (&selection, entry), request, (target.clone(), awaited), say).await?;
    stopwatch.lap("configure");
    let opened_by = vault::openers(&fetch, listing.layout(), &selection.chain).await?;
    fault::point("restore.configured");
    unfinished.finish()?;
    Ok(Restored {
        vault: store.place().vault.to_string(),
        backup: entry.summary(),
        chain_bytes: Some(chain_bytes),
        layout: listing.layout().clone(),
        source: database.source(store, &entry.manifest, entry.manifest_sha256.clone()),
        timeline: selection.timeline,
        target,
        new_tablespaces,
        opener: request.opener,
        opened_by,
        phases: stopwatch.phases,
    })
}

/// Asks at once for all that the restore will need as far as it is known before the WAL is
/// looked into, so that the look, the backup and the rest are waited for once.
async fn bring_likely(
    archive: &Archive<'_>,
    found: &[(&Vault, &Inventory)],
    facts: &Facts,
    request: &Request,
) -> Result<(), RestoreError> {
    let Some((_, first)) = found.first() else { return Ok(()) };
    // What is refused here is refused with more words where it is chosen.
    let Ok(likely) = recovery::choose(facts, &request.target, request.backup.as_ref()) else { return Ok(()) };
    archive.bring(archive::needed(found, first.listing.layout(), &likely)?).await
}

/// Writes the settings of the copy; answers the folders that its WAL makes tablespaces in.
async fn configure(
    database: &Database,
    fetch: &Fetch<'_>,
    (selection, entry): (&Selection, &CatalogEntry),
    request: &Request,
    (target, awaited): (RecoveryTarget, Option<Awaited>),
    say: &Say<'_>,
) -> Result<Vec<Wanted>, RestoreError> {
    // An isolated copy's WAL is not there yet; its server can write nowhere else.
    let new_tablespaces = if request.is_isolated {
        Vec::new()
    } else {
        say("looking for new tablespaces in the WAL", None, None);
        tablespaces::wanted(fetch, selection, entry.manifest.start_lsn, &target, request).await?
    };
    let plan = RecoveryPlan {
        data: request.data.clone(),
        wal_folder: request.wal_folder.clone(),
        awaited,
        target: target.clone(),
        timeline: selection.timeline,
        consistent_from: consistent_from(&entry.manifest, &target),
        required_settings: entry.manifest.required_settings.clone().into_iter().collect(),
        isolated: request.is_isolated,
    };
    database.engine.configure(&plan).await?;
    Ok(new_tablespaces)
}

/// Before this no recovery to `target` can have ended. A standby's backup stops behind a
/// record that the primary wrote for it, and is consistent before that: its own
/// `pg_control` alone says where, and the server goes by it.
fn consistent_from(manifest: &Manifest, target: &RecoveryTarget) -> Lsn {
    let is_of_standby = manifest.from.as_ref().is_some_and(|from| from.is_standby);
    if is_of_standby && *target == RecoveryTarget::Immediate { manifest.start_lsn } else { manifest.stop_lsn }
}

/// Awaits what the engine's programs do in `folder`, which is ours; once stopped,
/// until none of them is left.
async fn or_stopped<T>(
    work: impl Future<Output = Result<T, EngineError>>,
    folder: &Path,
    stop: &CancellationToken,
) -> Result<T, RestoreError> {
    tokio::select! {
        done = work => return Ok(done?),
        () = stop.cancelled() => {}
    }
    let ended = process::end_all_of(folder).await;
    ended.map_err(|source| VaultError::File { action: "end the programs in", path: folder.to_owned(), source })?;
    Err(VaultError::Stopped.into())
}

impl Restored {
    /// Writes the signed proof that exactly this backup was restored, replayed,
    /// queried and torn down.
    pub async fn prove(&self, database: &Database, cx: &StepContext, at: Timestamp) -> Result<(), VaultError> {
        let proof = Proof {
            backup: self.backup.id.clone(),
            manifest_sha256: self.source.manifest_sha256.clone(),
            run: cx.run_id().clone(),
            proven_at: at,
            opener: self.opener,
            opened_by: self.opened_by.clone(),
        };
        let vault = database.vaults.iter().find(|vault| vault.store.place().vault.as_str() == self.vault);
        match vault {
            Some(vault) => {
                let store = guarded(&vault.store, cx);
                vault::put_proof(store.as_ref(), &self.layout, &proof, &database.keys.signer).await
            }
            None => Ok(()),
        }
    }
}

/// Measures the stretches of a restore.
struct Stopwatch {
    since: Instant,
    phases: Vec<Phase>,
}

impl Stopwatch {
    fn start() -> Self {
        Self { since: Instant::now(), phases: Vec::new() }
    }

    fn lap(&mut self, name: &str) {
        self.lap_but(name, Duration::ZERO);
    }

    /// Without a stretch in it that is told for itself.
    fn lap_but(&mut self, name: &str, other: Duration) {
        let elapsed = self.since.elapsed().saturating_sub(other);
        self.phases.push(Phase { name: name.to_owned(), seconds: elapsed.as_secs_f64() });
        self.since = Instant::now();
    }

    /// None of no length.
    fn add(&mut self, name: &str, elapsed: Duration) {
        if !elapsed.is_zero() {
            self.phases.push(Phase { name: name.to_owned(), seconds: elapsed.as_secs_f64() });
        }
    }
}
