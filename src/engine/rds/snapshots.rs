//! Snapshots of one database, whatever its form.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    Rds,
    caller::Caller,
    form::{CopyOrder, SeenSnapshot},
    own::{Name, Own},
    refused,
};
use crate::{
    aws::{self, AwsError, Identity, Kind},
    domain::{Region, Snapshot, SnapshotOrigin, with_causes},
    engine::managed::{Duty, SnapshotCopy, Snapshots, SourceFacts, tag},
};

/// The digits of an account's number.
const ACCOUNT_DIGITS: usize = 12;

#[async_trait]
impl Snapshots for Rds {
    async fn identity(&self, duty: Duty) -> Result<Identity, AwsError> {
        let caller = self.caller(duty, &self.options.region).await?;
        aws::identity(caller.settings()).await
    }

    async fn source(&self) -> Result<SourceFacts, AwsError> {
        let id = &self.options.source;
        let calls = self.snapshot_calls();
        let caller = self.caller(Duty::Backup, &self.options.region).await?;
        let mut facts = calls.source(&caller, id).await?;
        for region in &self.options.replicated_to {
            // A region that is away keeps nobody from the database itself.
            let there = self.caller(Duty::Backup, region).await?;
            match calls.replicated_until(&there, &facts, id).await {
                Ok(until) => facts.latest_restorable.extend(until.map(|until| (region.clone(), until))),
                Err(error) => drop(facts.unread.insert(region.clone(), with_causes(&error))),
            }
        }
        Ok(facts)
    }

    async fn snapshots(&self, region: &Region) -> Result<Vec<Snapshot>, AwsError> {
        let caller = self.caller(Duty::Backup, region).await?;
        let all = self.snapshot_calls().all(&caller, &self.options.source).await?;
        Ok(all.into_iter().filter(|seen| !seen.is_going).map(|seen| self.owned(seen)).collect())
    }

    async fn take_snapshot(&self, id: &str, tags: &BTreeMap<String, String>) -> Result<Snapshot, AwsError> {
        let caller = self.caller(Duty::Backup, &self.options.region).await?;
        let name = self.name(&caller, id)?;
        let taken = self.snapshot_calls().take(&caller, &name, &self.options.source, &self.tagged(tags)).await;
        self.made(&caller, &name, taken).await
    }

    async fn copy_snapshot(&self, from: &Snapshot, to: &SnapshotCopy) -> Result<Snapshot, AwsError> {
        let caller = self.caller(Duty::Backup, &to.region).await?;
        let name = self.name(&caller, &to.id)?;
        let is_far = from.region != to.region;
        if is_far && from.kms_key.is_some() && to.kms_key.is_none() {
            let call = caller.call(format!("copy snapshot {} to {}", from.arn, to.id), "rds:CopyDBSnapshot");
            let why = "it is encrypted, and no key of this region is named for the copy";
            return Err(call.refused(why, format!("name a KMS key of {} in the schedule", to.region)));
        }
        let mut reader = None;
        if is_far && from.kms_key.is_some() {
            reader = Some(self.caller(Duty::Backup, &from.region).await?);
        }
        let mut tags = self.tagged(&to.tags);
        tags.extend(from.taken_at.map(|at| (tag::TAKEN.to_owned(), at.to_string())));
        let kms_key = to.kms_key.as_deref();
        let order = CopyOrder { name: &name, from, kms_key, reader: reader.as_deref(), tags: &tags };
        let copied = self.snapshot_calls().copy(&caller, &order).await;
        self.made(&caller, &name, copied).await
    }

    async fn share_snapshot(&self, snapshot: &Snapshot, accounts: &[String]) -> Result<(), AwsError> {
        let caller = self.caller(Duty::Backup, &snapshot.region).await?;
        let call = caller.call(format!("share snapshot {}", snapshot.id), "rds:ModifyDBSnapshotAttribute");
        let is_account = |text: &String| text.len() == ACCOUNT_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(wrong) = accounts.iter().find(|account| !is_account(account)) {
            // The word `all` would show it to everybody.
            let why = format!("`{wrong}` is no number of an account");
            return Err(call.refused(why, "name accounts by their 12 digits"));
        }
        let absent = || call.known(Kind::NotFound, "there is no such snapshot");
        let own = self.own(&caller, &snapshot.id).await?.ok_or_else(absent)?;
        if accounts.is_empty() {
            return Ok(());
        }
        self.snapshot_calls().share(&caller, &own, accounts).await
    }

    async fn delete_snapshot(&self, snapshot: &Snapshot) -> Result<(), AwsError> {
        let caller = self.caller(Duty::Delete, &snapshot.region).await?;
        let Some(own) = self.own(&caller, &snapshot.id).await? else { return Ok(()) };
        match self.snapshot_calls().delete(&caller, &own).await {
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            deleted => deleted,
        }
    }
}

impl Rds {
    /// Whose a snapshot is that the provider tells of.
    fn owned(&self, seen: SeenSnapshot) -> Snapshot {
        let SeenSnapshot { mut snapshot, tags, .. } = seen;
        let is_ours = Own::proven(&snapshot.id, &tags, self.mark(None)).is_ok();
        if snapshot.origin == SnapshotOrigin::Adopted && is_ours {
            snapshot.origin = SnapshotOrigin::Ours;
        }
        snapshot
    }

    /// A snapshot that was made now, or before.
    async fn made(
        &self,
        caller: &Caller,
        name: &Name,
        answer: Result<SeenSnapshot, AwsError>,
    ) -> Result<Snapshot, AwsError> {
        let exists = match answer {
            Ok(seen) => return Ok(self.owned(seen)),
            Err(error) if error.kind == Kind::Exists => error,
            Err(error) => return Err(error),
        };
        let Some(seen) = self.snapshot_calls().one(caller, name.as_str()).await? else { return Err(exists) };
        self.prove(caller, &seen)?;
        Ok(self.owned(seen))
    }

    /// A snapshot as something of ours, which was looked at just now; none where it is gone,
    /// or going.
    async fn own(&self, caller: &Caller, id: &str) -> Result<Option<Own>, AwsError> {
        let seen = self.snapshot_calls().one(caller, id).await?;
        let proven = seen.map(|seen| self.prove(caller, &seen).map(|own| (own, seen.is_going))).transpose()?;
        Ok(proven.filter(|(_, is_going)| !is_going).map(|(own, _)| own))
    }

    fn prove(&self, caller: &Caller, seen: &SeenSnapshot) -> Result<Own, AwsError> {
        let id = &seen.snapshot.id;
        let call = caller.call(format!("touch snapshot {id}"), "");
        let remedy = "have it looked at by a person, who can remove or rename it";
        if seen.source != self.options.source {
            let why = format!("it is a snapshot of {}, not of {}", seen.source, self.options.source);
            return Err(call.refused(why, remedy));
        }
        if seen.snapshot.origin == SnapshotOrigin::Automated {
            return Err(call.refused("the provider took it, and expires it", "leave it to the provider"));
        }
        Own::proven(id, &seen.tags, self.mark(None)).map_err(|why| refused(caller, id, &why))
    }
}
