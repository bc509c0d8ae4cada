//! From which member the backup comes: chosen at each attempt, so that one that
//! was lost or promoted is not asked again. Where a standby was only preferred,
//! what stands in its way is told and the primary sends the backup.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::{Database, refused};
use crate::{
    decide::member::{self, Choice, Primary, Seen, Start, State},
    domain::{BackupFrom, ByteSize, MemberName, with_causes},
    engine::{BackupSink, BackupStart, EngineError, MemberFacts, Parent, Role},
    flow::{StepContext, StepError},
    vault::{BackupWriter, Layout, Listing, SharedStore},
};

/// What a line of the schedule says instead of the database.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manner {
    #[serde(default)]
    pub from: Option<BackupFrom>,
    #[serde(default)]
    pub rate_max: Option<ByteSize>,
}

impl Manner {
    pub(super) fn from(&self, database: &Database) -> BackupFrom {
        self.from.unwrap_or(database.schedule.config.backup_from)
    }

    pub(super) fn rate_max(&self, database: &Database) -> Option<ByteSize> {
        self.rate_max.or(database.schedule.config.backup_rate_max)
    }
}

/// Whom to ask, by what the members say of themselves now.
pub(super) async fn choose(database: &Database, from: BackupFrom, checked: &MemberFacts) -> Result<Choice, StepError> {
    if from == BackupFrom::Primary {
        return Ok(Choice::Primary { instead: None });
    }
    let members = database.engine.inspect().await;
    let of_this = |facts: &&MemberFacts| facts.role == Role::Primary && facts.system_id == checked.system_id;
    let primary = members.iter().filter_map(|(_, facts)| facts.as_ref().ok()).filter(of_this);
    let primary = primary.max_by_key(|facts| facts.timeline).unwrap_or(checked);
    let seen: Vec<Seen> = members.iter().map(|(member, facts)| seen(member, facts)).collect();
    let known = Primary { system_id: primary.system_id.clone(), timeline: primary.timeline, lsn: primary.lsn };
    member::choose(from, &known, &seen).map_err(|why| {
        StepError::transient(format!(
            "no standby can give the backup: {why}; mend it, or write `backup_from: prefer_standby`"
        ))
    })
}

/// Why no increment can be had upon `parent`: of the member that would send it, and
/// where a standby is only preferred, of the primary, which would stand in.
pub async fn increment_hindrance(
    database: &Database,
    from: BackupFrom,
    checked: &MemberFacts,
    parent: Option<Parent>,
) -> Result<Option<String>, EngineError> {
    let engine = &database.engine;
    let standby = match choose(database, from, checked).await {
        Ok(Choice::Standby(member)) => member,
        Ok(Choice::Primary { .. }) => return engine.increment_hindrance(None, parent).await,
        // Whoever takes the backup chooses again, and tells.
        Err(_) => return Ok(None),
    };
    match engine.increment_hindrance(Some(&standby), parent).await {
        Ok(Some(_)) | Err(_) if from == BackupFrom::PreferStandby => engine.increment_hindrance(None, parent).await,
        of_standby => of_standby,
    }
}

/// What a member told, as decisions read it.
pub fn seen(member: &MemberName, facts: &Result<MemberFacts, EngineError>) -> Seen {
    let state = match facts {
        Ok(facts) => Ok(State {
            is_standby: facts.role == Role::Standby,
            system_id: facts.system_id.clone(),
            timeline: facts.timeline,
            lsn: facts.lsn,
        }),
        Err(error) => Err(with_causes(error)),
    };
    Seen { member: member.clone(), state }
}

/// What a person should know where the primary stood in for a standby.
pub(super) fn stood_in(why: &str) -> String {
    format!("the primary gave the backup instead of a standby: {why}")
}

/// Hands the engine's bytes to the vault's writer.
pub(super) struct Sink {
    pub(super) writer: BackupWriter,
    pub(super) cx: StepContext,
    pub(super) store: SharedStore,
    pub(super) layout: Layout,
    received: u64,
}

const PROGRESS_EVERY: u64 = 8 << 20;

impl Sink {
    pub(super) fn new(writer: BackupWriter, cx: StepContext, store: SharedStore, layout: Layout) -> Self {
        Self { writer, cx, store, layout, received: 0 }
    }
}

#[async_trait]
impl BackupSink for Sink {
    async fn begins(&mut self, start: &BackupStart) -> Result<Option<String>, EngineError> {
        let listing = Listing::take(self.store.as_ref(), &self.layout).await.map_err(refused)?;
        let size = start.segment_size;
        let begins = Start { timeline: start.timeline, lsn: start.lsn, kept_from: start.kept_from };
        Ok(member::out_of_reach(&begins, size, &listing.coverage_by_name(size)))
    }

    async fn archive(&mut self, tablespace: Option<u32>) -> Result<(), EngineError> {
        self.writer.archive(tablespace).await.map_err(refused)
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        let before = self.received / PROGRESS_EVERY;
        self.received += bytes.len() as u64;
        if self.received / PROGRESS_EVERY > before {
            self.cx.progress("received", Some(self.received), None);
        }
        self.writer.data(bytes).await.map_err(refused)
    }

    async fn manifest(&mut self, bytes: Bytes) -> Result<(), EngineError> {
        self.writer.manifest(bytes).await.map_err(refused)
    }
}
