//! Keeps our replication slot on the standbys of a database, as the stream keeps
//! that of the primary: so that a standby that is promoted still has all WAL that
//! the vaults lack, and keeps none for ever that they have.
//!
//! Each process makes slots; only the one that streams lets them go on, as it alone
//! knows what is durable. Both need no state database.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::finding::{Finding, close_gone};
use crate::{
    app::App,
    decide::slot::LOOK_EVERY,
    domain::{MemberName, with_causes},
    engine::EngineError,
    flows::Database,
};

/// What the findings are called, before the member's name.
const ABOUT: &str = "slot-on-";

/// Looks until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let members = database.schedule.config.all_members();
    // Where there is one server, its slot is the stream's.
    let is_alone = members.len() < 2;
    let is_gone = |member: &str| is_alone || !members.keys().any(|known| known.as_str() == member);
    close_gone(&app, &database.name, |what| what.strip_prefix(ABOUT).is_some_and(is_gone)).await;
    if is_alone {
        return;
    }
    let mut findings: BTreeMap<MemberName, Finding> = BTreeMap::new();
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        let durable = database.streaming.durable();
        for (member, kept) in database.engine.keep_on_standbys(durable).await {
            let about = format!("{ABOUT}{member}");
            let finding = findings.entry(member.clone()).or_insert_with(|| Finding::new(&about, &app, &database.name));
            match kept {
                Ok(()) => finding.close().await,
                Err(error) => tell(finding, &member, &error).await,
            }
        }
    }
}

/// What the server refuses a person must mend; one that is away comes back.
async fn tell(finding: &mut Finding, member: &MemberName, error: &EngineError) {
    match error {
        EngineError::Unreachable { .. } | EngineError::Broken { .. } => {
            tracing::debug!(%member, error = %with_causes(error), "the standby's slot cannot be looked at");
        }
        _ => {
            let text = format!(
                "standby `{member}` does not keep WAL for the vaults, which may lack some of it after a promotion: {}",
                with_causes(error)
            );
            finding.open(&text).await;
        }
    }
}
