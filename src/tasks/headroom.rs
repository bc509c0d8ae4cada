//! Watches what the members keep of their WAL for us: a slot near its limit, a
//! disk that fills up, WAL of which nothing is confirmed any more. Each is a
//! finding that says how long it lasts, until what is kept is confirmed again.

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::finding::{Finding, close_gone};
use crate::{
    app::App,
    decide::headroom::LOOK_EVERY,
    domain::{MemberName, with_causes},
    flows::{
        Database,
        headroom::{self, Look},
    },
};

/// What the findings about members that are not the primary are called, before their names.
const ABOUT: &str = "headroom-on-";

/// Looks until told to stop.
pub async fn run(app: Arc<App>, database: Arc<Database>, stop: CancellationToken) {
    let members = database.schedule.config.all_members();
    let is_gone = |member: &str| !members.keys().any(|known| known.as_str() == member);
    close_gone(&app, &database.name, |what| what.strip_prefix(ABOUT).is_some_and(is_gone)).await;
    let of = |about: &str| Finding::new(about, &app, &database.name);
    let mut on_primary = of("headroom");
    let mut on_others: BTreeMap<MemberName, Finding> =
        members.keys().map(|member| (member.clone(), of(&format!("{ABOUT}{member}")))).collect();
    let mut ticker = tokio::time::interval(LOOK_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticker.tick() => {}
        }
        let looked = tokio::select! {
            () = stop.cancelled() => break,
            looked = headroom::watch(&app.resources.db, &database, app.clock.now()) => looked,
        };
        let mut seen = Vec::new();
        for (member, look) in looked {
            match look {
                Ok(look) => seen.push(look),
                // A primary that is away is told by the stream; what piles up there is not known.
                Err(error) => {
                    tracing::debug!(database = %database.name, %member, error = %with_causes(&error), "what the member keeps cannot be seen");
                }
            }
        }
        let primary = headroom::primary(&seen);
        if let Some(look) = primary {
            tell(&mut on_primary, Some(look)).await;
        }
        for look in &seen {
            if let Some(finding) = on_others.get_mut(&look.kept.member) {
                tell(finding, Some(look).filter(|look| primary != Some(look))).await;
            }
        }
    }
}

async fn tell(finding: &mut Finding, about: Option<&Look>) {
    match about.and_then(Look::finding) {
        Some(message) => finding.open(&message).await,
        None => finding.close().await,
    }
}
