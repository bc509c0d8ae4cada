//! Finds what names and sizes of objects do not tell: where in the WAL a point
//! lies, and whether a whole record is there for recovery to stop at. Segments
//! are fetched for the look alone and go again.
//!
//! What must never happen: a claim that a point can be restored to which
//! recovery cannot reach.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Request, RestoreError, Say,
    archive::{self, Archive},
    or_stopped,
};
use crate::{
    clock::Clock,
    decide::recovery::{
        self, Facts, Refusal, Selection, WalPiece, instant,
        search::{Look, Search, Unreachable, ahead, behind, reaching, stretches},
    },
    domain::{Lsn, Opener, RecoveryTarget, Timeline, with_causes},
    engine::{FoundRecord, SoughtRecord, WalRange},
    flows::{Database, Vault},
    vault::{self, Fetch, Inventory, Layout, VaultError},
};

/// Chooses backup and WAL for the request's target, after a look into the WAL
/// where only that tells where the point lies. `folder` is made for each look and
/// removed again. All of `found` is one history.
pub(super) async fn select(
    database: &Database,
    (found, archive): (&[(&Vault, &Inventory)], &Archive<'_>),
    (facts, fetch): (&Facts, &Fetch<'_>),
    request: &Request,
    folder: PathBuf,
    say: &Say<'_>,
) -> Result<Selection, RestoreError> {
    let (_, first) = found.first().ok_or(Refusal::NoBackup)?;
    let entry = found.iter().find_map(|(_, held)| held.catalog.entries.last()).ok_or(Refusal::NoBackup)?;
    let (layout, server_version) = (first.listing.layout(), entry.manifest.server_version.as_str());
    let reader = Reader { database, fetch: *fetch, archive, layout, server_version, folder, say };
    let along = match request.timeline {
        Some(timeline) => Some(facts.clone().along(timeline, request.backup.as_ref())?),
        None => None,
    };
    let facts = along.as_ref().unwrap_or(facts);
    match reader.select(facts, request).await {
        Err(refused) => Err(reader.told_in_full(facts, refused).await),
        selected => selected,
    }
}

/// Refuses what a restore test of `target` could not reach, by what its vault
/// holds now, before there is a run.
pub async fn refuse_unreachable(
    database: &Database,
    target: &RecoveryTarget,
    timeline: Option<Timeline>,
    say: &Say<'_>,
) -> Result<(), RestoreError> {
    let vault = database.vault(None).ok_or(Refusal::NoBackup)?;
    let held = super::newest(database, vault).await?;
    let found = [(vault, &held)];
    let facts = super::facts(&found, Clock::system().now()).await?.ok_or(Refusal::NoBackup)?;
    let (identities, stop) = (database.keys.identities().await?, CancellationToken::new());
    let sources = [Arc::clone(&vault.store)];
    let fetch = Fetch { sources: &sources, identities: &identities, stop: &stop };
    let folder = database.scratch.join(format!("lifeboat-look-{:016x}", rand::random::<u64>()));
    let request = Request {
        target: target.clone(),
        timeline,
        backup: None,
        system_id: None,
        data: folder.join("data"),
        wal_folder: folder.join("wal"),
        is_isolated: true,
        opener: Opener::Node,
        disk_max: None,
    };
    let archive = Archive::of(&found, &stop, say).untouched();
    match select(database, (&found, &archive), (&facts, &fetch), &request, folder, say).await {
        // The run asks for it, and finds out.
        Err(RestoreError::Frozen { .. }) => Ok(()),
        selected => selected.map(drop),
    }
}

/// What WAL is read with, and where to.
struct Reader<'a> {
    database: &'a Database,
    fetch: Fetch<'a>,
    archive: &'a Archive<'a>,
    layout: &'a Layout,
    /// The version of the server that wrote it.
    server_version: &'a str,
    folder: PathBuf,
    say: &'a Say<'a>,
}

impl Reader<'_> {
    async fn select(&self, facts: &Facts, request: &Request) -> Result<Selection, RestoreError> {
        let chosen = recovery::choose(facts, &request.target, request.backup.as_ref())?;
        match &request.target {
            RecoveryTarget::Lsn(lsn) | RecoveryTarget::BeforeLsn(lsn) => self.up_to(facts, chosen, *lsn).await,
            RecoveryTarget::Time(_) | RecoveryTarget::BeforeTime(_) => self.to_instant(facts, chosen).await,
            RecoveryTarget::Xid(xid) | RecoveryTarget::BeforeXid(xid) => {
                // As the server takes it: an epoch before the number counts for nothing.
                let number = xid.parse::<u64>().map_err(|_| Unreachable::NoTransaction { xid: xid.clone() })?;
                let sought = SoughtRecord::TransactionEnd(number & u64::from(u32::MAX));
                self.search(facts, &chosen, request, &sought).await
            }
            RecoveryTarget::Name(name) => {
                self.search(facts, &chosen, request, &SoughtRecord::RestorePoint(name.clone())).await
            }
            RecoveryTarget::Latest | RecoveryTarget::Immediate => Ok(chosen),
        }
    }

    /// From the backup that leads to the sought record.
    async fn search(
        &self,
        facts: &Facts,
        latest: &Selection,
        request: &Request,
        sought: &SoughtRecord,
    ) -> Result<Selection, RestoreError> {
        let mut search = Search::default();
        for stretch in stretches(facts, latest, request.backup.as_ref())? {
            let (from, to) = (stretch.start, stretch.end);
            (self.say)(&format!("looking for {} in the WAL from {from} to {to}", request.target), None, None);
            let found = self.find(latest, &stretch.wal, (from, to), sought).await?;
            if search.read(&stretch, found.map(|found| found.start)) {
                return Ok(recovery::choose(facts, &request.target, Some(&stretch.backup))?);
            }
        }
        Err(search.refusal(&request.target, facts).map_or(Refusal::NoBackup.into(), RestoreError::from))
    }

    /// With the whole record that starts at or after `lsn`, where recovery stops.
    async fn up_to(&self, facts: &Facts, chosen: Selection, lsn: Lsn) -> Result<Selection, RestoreError> {
        // Nothing but padding follows a switch of WAL, where `pg_switch_wal` says
        // that it is, up to the next segment.
        let behind_padding = facts.segment_size.floor(lsn).forward(facts.segment_size.bytes());
        for from in [lsn, behind_padding] {
            for wal in ahead(facts, from)? {
                if let Some(found) = self.find(&chosen, &wal.pieces, (from, wal.end), &SoughtRecord::Any).await? {
                    return Ok(reaching(facts, &chosen, found.next.unwrap_or(wal.end))?);
                }
            }
        }
        let mut last = None;
        for wal in behind(facts, &chosen, lsn)? {
            last = self.find(&chosen, &wal.pieces, (wal.start, wal.end), &SoughtRecord::Last).await?;
            if last.is_some() {
                break;
            }
        }
        let last = last.map(|found| found.start);
        Err(Unreachable::after_last_record(facts, chosen, last)?.into())
    }

    /// With a later commit, where recovery to an instant stops.
    async fn to_instant(&self, facts: &Facts, chosen: Selection) -> Result<Selection, RestoreError> {
        (self.say)(&format!("looking for a commit after {}", chosen.target), None, None);
        let mut latest = None;
        for (looked, look) in instant::back_from_end(facts, &chosen)?.iter().enumerate() {
            if !instant::looks_on(looked, latest) {
                break;
            }
            latest = latest.max(self.latest_commit(&chosen, look).await?);
            if latest.is_some_and(|latest| instant::stops_before(&chosen.target, latest)) {
                return Ok(chosen);
            }
        }
        Err(instant::refusal(facts, &chosen, latest).into())
    }

    /// When the last commit was that recovery of `chosen` comes to.
    async fn last_commit(&self, facts: &Facts, chosen: &Selection) -> Result<Option<Timestamp>, RestoreError> {
        for look in instant::back_from_end(facts, chosen)? {
            if let Some(at) = self.latest_commit(chosen, &look).await? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    async fn latest_commit(&self, chosen: &Selection, look: &Look) -> Result<Option<Timestamp>, RestoreError> {
        let found = self.find(chosen, &look.pieces, (look.start, look.end), &SoughtRecord::LatestEnd).await?;
        Ok(found.and_then(|found| found.at))
    }

    /// A refusal that names the recovery points which are there, with the time of
    /// the newest where that can be had.
    async fn told_in_full(&self, facts: &Facts, mut refused: RestoreError) -> RestoreError {
        let bounds = match &mut refused {
            RestoreError::Refused(refusal) => refusal.bounds_mut(),
            RestoreError::Unreachable(unreachable) => unreachable.bounds_mut(),
            _ => None,
        };
        if let Some(bounds) = bounds.filter(|bounds| bounds.newest_at.is_none())
            && let Ok(latest) = recovery::choose(facts, &RecoveryTarget::Latest, None)
        {
            match self.last_commit(facts, &latest).await {
                Ok(last) => bounds.newest_at = last,
                Err(error) => tracing::debug!(error = %with_causes(&error), "when the last commit was is not known"),
            }
        }
        refused
    }

    async fn find(
        &self,
        base: &Selection,
        pieces: &[WalPiece],
        (from, to): (Lsn, Lsn),
        sought: &SoughtRecord,
    ) -> Result<Option<FoundRecord>, RestoreError> {
        if pieces.is_empty() || from >= to {
            return Ok(None);
        }
        if self.folder.exists() {
            return Err(VaultError::NotEmpty { path: self.folder.clone() }.into());
        }
        let staged = Staged(&self.folder);
        let wanted = Selection { wal: pieces.to_vec(), histories: Vec::new(), ..base.clone() };
        self.archive.bring(archive::wal(self.layout, &wanted)).await?;
        let size = base.segment_size.bytes().saturating_mul(pieces.len() as u64);
        let tell = |done: u64| (self.say)("fetching WAL to look through", Some(done), Some(size));
        vault::fetch_wal(&self.fetch, self.layout, &wanted, staged.0, &tell).await?;
        let segments: Vec<_> = pieces.iter().map(|piece| piece.segment).collect();
        let range = WalRange { folder: staged.0, segments: &segments, size: base.segment_size, from, to };
        let finding = self.database.engine.find_record(self.server_version, &range, sought);
        or_stopped(finding, staged.0, self.fetch.stop).await
    }
}

/// A folder that goes away with this value.
struct Staged<'a>(&'a Path);

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove what was fetched for a look");
        }
    }
}
