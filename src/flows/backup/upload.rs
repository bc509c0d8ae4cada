//! The step that streams a server's bytes into the first vault. Where a standby that
//! was only preferred gives none, the primary is asked. Where nobody who may send it
//! can send an increment, or what comes is no differential upon its parent, which shows
//! only once it has passed, a full backup is taken.

use std::{iter, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{Database, guarded::guarded, output, stream},
    differential,
    failure::Failure,
    parent,
    source::{self, Manner, Sink},
};
use crate::{
    decide::member::Choice,
    domain::{BackupFrom, BackupId, BackupKind, MemberName, TakenFrom, with_causes},
    engine::{BackupFacts, BackupOrder, EngineError, MemberFacts, Parent, Role},
    fault,
    flow::{Policy, Step, StepContext, StepError, read},
    vault::{self, BackupWriter, Layout, Manifest, PART_SIZE, SharedStore, TakenBackup, VaultError},
};

/// Its name, first part of what the journal holds of it.
pub(super) const NAME: &str = "upload";

/// How long a backup may take.
pub(super) const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What the undo needs to know, recorded before the first byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Uploading {
    backup: BackupId,
    system_id: String,
    /// Absent in journals written before there were increments.
    #[serde(default)]
    parent: Option<BackupId>,
    /// The full backup that is taken where the server sends nothing that fits to a parent.
    #[serde(default)]
    full: Option<BackupId>,
    /// Runs of older versions knew none but the first.
    #[serde(default = "first_incarnation")]
    incarnation: u32,
}

fn first_incarnation() -> u32 {
    vault::FIRST_INCARNATION
}

impl Uploading {
    fn layout(&self, database: &Database) -> Result<Layout, StepError> {
        Ok(Layout::new(database.name.clone(), &self.system_id, self.incarnation)?)
    }
}

/// The manifest, not committed yet, and what a person should know of how it came.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Uploaded {
    #[serde(flatten)]
    pub(super) manifest: Manifest,
    /// Absent in journals written before there were any.
    #[serde(default)]
    pub(super) findings: Vec<String>,
}

impl Uploaded {
    fn told_first(mut self, finding: Option<String>) -> Self {
        self.findings = finding.into_iter().chain(self.findings).collect();
        self
    }
}

/// Its output is `Uploaded`.
pub(super) struct Upload {
    pub(super) database: Arc<Database>,
    pub(super) kind: BackupKind,
    pub(super) standalone: bool,
    pub(super) manner: Manner,
}

#[async_trait]
impl Step for Upload {
    fn name(&self) -> &'static str {
        NAME
    }

    fn policy(&self) -> Policy {
        Policy { limit: LIMIT, backoff: Duration::from_secs(2), ..Policy::default() }
    }

    async fn undo_plan(&self, cx: &StepContext) -> Result<Option<Value>, StepError> {
        let primary: MemberFacts = cx.output("check")?;
        let parentage: Option<parent::Parentage> = cx.output_if_any(parent::NAME)?;
        let parent = parentage.and_then(|parentage| parentage.parent);
        let now = cx.clock().now();
        let id = |kind| BackupId::new(now, kind, rand::random()).map_err(|error| StepError::from_error(error, true));
        let kind = self.kind(parent.as_ref());
        let backup = id(kind)?;
        let full = if kind == BackupKind::Full { None } else { Some(id(BackupKind::Full)?) };
        let incarnation = stream::newest_layout(&self.database, &primary.system_id).await?.incarnation();
        output(&Uploading { backup, full, system_id: primary.system_id, incarnation, parent }).map(Some)
    }

    async fn run(&self, cx: &StepContext) -> Result<Value, StepError> {
        let uploading: Uploading = read(NAME, cx.undo_plan().unwrap_or(&Value::Null))?;
        if let Some(full) = &uploading.full {
            // Of an attempt that was cut off.
            self.sweep(cx, &uploading, full).await?;
        }
        let uploaded = match (self.take(cx, &uploading).await, &uploading.full) {
            (Err(Failure::Unlike(why) | Failure::NoIncrement(why)), Some(full)) => {
                self.take_full(cx, &uploading, full, &why).await?
            }
            (taken, _) => taken?,
        };
        fault::point("backup.uploaded");
        output(&uploaded)
    }

    async fn undo(&self, cx: &StepContext, plan: &Value) -> Result<(), StepError> {
        let uploading: Uploading = read(NAME, plan)?;
        for backup in iter::once(&uploading.backup).chain(&uploading.full) {
            self.sweep(cx, &uploading, backup).await?;
        }
        Ok(())
    }
}

impl Upload {
    /// Of a backup with or without a parent.
    fn kind(&self, parent: Option<&BackupId>) -> BackupKind {
        if parent.is_some() { self.kind } else { BackupKind::Full }
    }

    async fn sweep(&self, cx: &StepContext, uploading: &Uploading, backup: &BackupId) -> Result<(), StepError> {
        let layout = uploading.layout(&self.database)?;
        match vault::sweep(guarded(self.database.first_vault()?, cx).as_ref(), &layout, backup).await {
            // It is a backup by now; a later step's failure does not take it away.
            Ok(_) | Err(VaultError::Committed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// From whom it can be had.
    async fn take(&self, cx: &StepContext, uploading: &Uploading) -> Result<Uploaded, Failure> {
        let from = self.manner.from(&self.database);
        match source::choose(&self.database, from, &cx.output("check")?).await? {
            Choice::Primary { instead } => {
                let uploaded = self.attempt(cx, uploading, None).await?;
                Ok(uploaded.told_first(instead.as_deref().map(source::stood_in)))
            }
            Choice::Standby(member) => match self.attempt(cx, uploading, Some(&member)).await {
                Err(failure) if from == BackupFrom::PreferStandby => {
                    let why = failure.of_member()?;
                    tracing::warn!(%member, "the standby gave no backup: {why}");
                    Ok(self.attempt(cx, uploading, None).await?.told_first(Some(source::stood_in(&why))))
                }
                taken => taken,
            },
        }
    }

    /// Instead of an increment or a differential.
    async fn take_full(
        &self,
        cx: &StepContext,
        uploading: &Uploading,
        full: &BackupId,
        why: &str,
    ) -> Result<Uploaded, StepError> {
        let told = parent::instead_of(self.kind, why);
        tracing::warn!(backup = %uploading.backup, "{told}");
        self.sweep(cx, uploading, &uploading.backup).await?;
        let alone = Uploading { backup: full.clone(), parent: None, full: None, ..uploading.clone() };
        Ok(self.take(cx, &alone).await?.told_first(Some(told)))
    }

    /// Refuses an increment that the primary, or that standby, has no summaries for.
    async fn refuse_increment(
        &self,
        store: &SharedStore,
        layout: &Layout,
        parent: &BackupId,
        standby: Option<&MemberName>,
    ) -> Result<(), Failure> {
        let (manifest, _) =
            vault::signed_manifest(layout, store.as_ref(), &self.database.keys.verifier, parent).await?;
        let upon = Parent { timeline: manifest.timeline, start_lsn: manifest.start_lsn };
        match self.database.engine.increment_hindrance(standby, Some(upon)).await.map_err(Failure::of)? {
            Some(why) => Err(Failure::NoIncrement(why)),
            None => Ok(()),
        }
    }

    /// One backup from the primary, or from that standby.
    async fn attempt(
        &self,
        cx: &StepContext,
        uploading: &Uploading,
        standby: Option<&MemberName>,
    ) -> Result<Uploaded, Failure> {
        let layout = uploading.layout(&self.database)?;
        let store = guarded(self.database.first_vault()?, cx);
        let kind = self.kind(uploading.parent.as_ref());
        let (mut upon, mut base) = (None, None);
        match &uploading.parent {
            Some(parent) if kind == BackupKind::Differential => {
                base = Some(differential::base(&self.database, &store, &layout, parent).await?);
            }
            Some(parent) => {
                self.refuse_increment(&store, &layout, parent, standby).await?;
                upon = Some(parent::manifest(&self.database, &store, &layout, parent).await?);
            }
            None => {}
        }
        // An attempt that was cut off has left parts; BASE_BACKUP cannot resume.
        vault::sweep(store.as_ref(), &layout, &uploading.backup).await?;
        let started_at = cx.clock().now();
        let recipients = self.database.keys.recipients.clone();
        let mut writer =
            BackupWriter::begin(store.clone(), layout.clone(), uploading.backup.clone(), recipients, PART_SIZE)?;
        if let Some(base) = base {
            writer = writer.upon(base);
        }
        let mut sink = Sink::new(writer, cx.clone(), store, layout);
        let label = format!("lifeboat {}", uploading.backup);
        let order = BackupOrder { label: &label, standby, rate_max: self.manner.rate_max(&self.database) };
        let is_increment_of_standby = standby.is_some() && upon.is_some();
        let failed = |error| match Failure::of(error) {
            // Such as no restartpoint since the parent. A full backup can be had all the same.
            Failure::Member(error @ EngineError::Server { .. }) if is_increment_of_standby => {
                Failure::NoIncrement(with_causes(&error))
            }
            failure => failure,
        };
        let taken = tokio::select! {
            facts = self.database.engine.backup(&order, upon, &mut sink) => facts.map_err(failed),
            () = cx.stop().cancelled() => Err(Failure::Other(StepError::Stopped)),
        };
        let mut facts = match taken {
            Ok(facts) => facts,
            Err(error) => {
                // Before this step is over: what follows may sweep, or begin anew.
                sink.writer.abandon().await;
                return Err(error);
            }
        };
        if facts.from.system_id != uploading.system_id {
            let replaced = "the cluster was replaced by another one during the backup; take it again";
            return Err(StepError::permanent(replaced).into());
        }
        let findings = std::mem::take(&mut facts.findings);
        let taken = TakenBackup {
            standalone: self.standalone,
            parent: uploading.parent.clone(),
            ..describe(kind, started_at, cx.clock().now(), facts)
        };
        Ok(Uploaded { manifest: sink.writer.finish(taken).await?, findings })
    }
}

fn describe(kind: BackupKind, started_at: Timestamp, finished_at: Timestamp, facts: BackupFacts) -> TakenBackup {
    TakenBackup {
        kind,
        timeline: facts.timeline,
        segment_size: facts.from.segment_size,
        start_lsn: facts.start_lsn,
        stop_lsn: facts.stop_lsn,
        server_version: facts.from.server_version,
        from: Some(TakenFrom { member: facts.from.member, is_standby: facts.from.role == Role::Standby }),
        started_at,
        finished_at,
        damaged: facts.damaged,
        parent: None,
        standalone: false,
        required_settings: facts.required_settings.into_iter().collect(),
        config_files: facts.config_files,
    }
}
