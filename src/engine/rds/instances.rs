//! Copies of one database, whatever its form.

use async_trait::async_trait;

use super::{
    Rds,
    caller::Caller,
    form::{RestoreOrder, Seen, Source},
    own::Own,
    refused, settings,
};
use crate::{
    aws::{AwsError, Kind},
    domain::Region,
    engine::managed::{Duty, InstanceOrder, Instances, RestoreFrom, RestoredInstance, tag},
};

#[async_trait]
impl Instances for Rds {
    async fn restore(&self, order: &InstanceOrder) -> Result<(), AwsError> {
        let caller = self.caller(Duty::Restore, &order.region).await?;
        let name = self.name(&caller, &order.id)?;
        reachable(&caller, order)?;
        let calls = self.instance_calls();
        let source = Source { id: &self.options.source, region: &self.options.region };
        let tags = self.tagged(&order.tags);
        let wanted = RestoreOrder { name: &name, order, tags: &tags, source: &source };
        let before = self.seen(&caller, &order.id).await?;
        let mut is_made_now = false;
        if before.is_none() {
            match calls.restore(&caller, &wanted).await {
                Ok(()) => is_made_now = true,
                // Another call of ours may have come first; its tags tell.
                Err(error) if error.kind == Kind::Exists => {}
                Err(error) => return Err(error),
            }
        }
        let call = caller.call(format!("tell of {}", order.id), "rds:DescribeDBInstances");
        let unseen = || call.known(Kind::Broken, "what was made now is not told of yet");
        let there = match before {
            Some(seen) => seen,
            None => self.seen(&caller, &order.id).await?.ok_or_else(unseen)?,
        };
        if settings::is_going(&there.instance.status) {
            return Err(call.known(Kind::State, "what has its name is being removed"));
        }
        let proven = self.proven(&caller, &there, tags.get(tag::RUN).map(String::as_str));
        let own = proven.map_err(|error| if is_made_now { unseen() } else { error })?;
        calls.complete(&caller, &there, &wanted, &own).await
    }

    async fn instance(&self, region: &Region, id: &str) -> Result<Option<RestoredInstance>, AwsError> {
        let caller = self.caller(Duty::Restore, region).await?;
        Ok(self.seen(&caller, id).await?.map(|seen| seen.instance))
    }

    async fn ours(&self, region: &Region) -> Result<Vec<RestoredInstance>, AwsError> {
        let caller = self.caller(Duty::Restore, region).await?;
        let all = self.instance_calls().seen(&caller, None).await?;
        let is_ours =
            |seen: &Seen| Own::proven(&seen.instance.id, &seen.instance.settings.tags, self.mark(None)).is_ok();
        Ok(all.into_iter().filter(is_ours).map(|seen| seen.instance).collect())
    }

    async fn remove(&self, region: &Region, id: &str, run_id: &str) -> Result<(), AwsError> {
        let caller = self.caller(Duty::Delete, region).await?;
        let Some(seen) = self.seen(&caller, id).await? else { return Ok(()) };
        let own = self.proven(&caller, &seen, Some(run_id))?;
        if settings::is_going(&seen.instance.status) {
            return Ok(());
        }
        match self.instance_calls().remove(&caller, &seen, &own, self.mark(Some(run_id))).await {
            Err(error) if error.kind == Kind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

impl Rds {
    async fn seen(&self, caller: &Caller, id: &str) -> Result<Option<Seen>, AwsError> {
        Ok(self.instance_calls().seen(caller, Some(id)).await?.pop())
    }

    fn proven(&self, caller: &Caller, seen: &Seen, run_id: Option<&str>) -> Result<Own, AwsError> {
        let RestoredInstance { id, settings, .. } = &seen.instance;
        Own::proven(id, &settings.tags, self.mark(run_id)).map_err(|why| refused(caller, id, &why))
    }
}

/// A snapshot is restored where it is.
fn reachable(caller: &Caller, order: &InstanceOrder) -> Result<(), AwsError> {
    let RestoreFrom::Snapshot(arn) = &order.from else { return Ok(()) };
    let region = arn.split(':').nth(3).unwrap_or_default();
    if region == order.region.as_str() {
        return Ok(());
    }
    let call = caller.call(format!("restore snapshot {arn} into {}", order.id), "rds:RestoreDBInstanceFromDBSnapshot");
    Err(call
        .refused(format!("that is in region `{region}`"), format!("copy it to {}, or restore it there", order.region)))
}
