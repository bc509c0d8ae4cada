//! Tells people of maintenance ahead of it, through the notifiers. What is to be said
//! is stored first, once by its id for all nodes, and told by whichever node claims it:
//! at least once, by the same id, until it was handed over or would be too late.
//!
//! What must never happen: that a notifier which is away keeps another from telling,
//! for longer than one call may take.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, notifiers::Notifier},
    db::{
        Db, DbError, findings,
        notices::{self, NewNotice},
    },
    decide::announce::{self, Saying, Told, Window},
    domain::{NotifierName, with_causes},
};

mod deliver;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The first part of the ids of these notices.
const KIND: &str = "maintenance";

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let windows = app.estate.windows();
    settle(&app).await;
    if app.notifiers.is_empty() {
        return;
    }
    let (looked, looks) = watch::channel(());
    let told = app.notifiers.iter().map(|(name, notifier)| tell(&app, name, notifier, looks.clone(), &stop));
    tokio::join!(look(&app, &windows, looked, &stop), join_all(told));
}

/// Stores what is to be said, again and again, and says each time that it has looked.
async fn look(app: &App, windows: &[Window], looked: watch::Sender<()>, stop: &CancellationToken) {
    loop {
        let db = &app.resources.db;
        let said = db.within(deliver::PATIENCE, "store what is to be announced", say(app, windows)).await;
        if let Err(error) = said {
            tracing::warn!(error = with_causes(&error), "what is to be announced is not stored; trying again");
        }
        looked.send_replace(());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The files may be new: what they mended is tried at once, and nobody asks any more
/// for what went.
async fn settle(app: &App) {
    let db = &app.resources.db;
    let settled = async {
        notices::try_refused(db).await?;
        for finding in findings::open_findings(db).await? {
            let name = finding.id.strip_prefix(deliver::PREFIX);
            if name.is_some_and(|name| !app.notifiers.keys().any(|known| known.as_str() == name)) {
                findings::close(db, &finding.id).await?;
            }
        }
        Ok::<_, DbError>(())
    };
    if let Err(error) = db.within(deliver::PATIENCE, "settle what was found about notifiers", settled).await {
        tracing::warn!(error = with_causes(&error), "what was found about notifiers is not settled");
    }
}

/// Stores what is to be said now.
async fn say(app: &App, windows: &[Window]) -> Result<(), DbError> {
    let (db, now) = (&app.resources.db, app.clock.now());
    let stored = notices::current(db, KIND).await?;
    let told = stored.into_iter().filter(|stored| app.notifiers.contains_key(&stored.notifier));
    let told: Result<Vec<Told>, DbError> = told
        .map(|stored| {
            Ok(Told {
                said: serde_json::from_value(stored.notice.details).map_err(unreadable)?,
                id: stored.notice.id,
                notifier: stored.notifier,
                at: stored.stored_at,
                until: stored.until,
                is_tried: stored.attempts > 0,
                is_sent: stored.sent_at.is_some(),
            })
        })
        .collect();
    let plan = announce::plan(windows, &told?, now);
    if plan.say.is_empty() && plan.withdraw.is_empty() {
        return Ok(());
    }
    let new: Result<Vec<NewNotice>, DbError> = plan.say.into_iter().map(|saying| new_notice(saying, now)).collect();
    let new = new?;
    for NewNotice { notice, .. } in &new {
        tracing::info!(notice = notice.id, title = notice.title, "maintenance is announced");
    }
    notices::store(db, &new, &plan.withdraw).await
}

fn new_notice(saying: Saying, now: Timestamp) -> Result<NewNotice, DbError> {
    let notice = announce::notice(&saying, now).map_err(unreadable)?;
    Ok(NewNotice { notifier: saying.notifier, notice, until: saying.until, over_at: saying.said.occurrence.end })
}

fn unreadable(error: impl std::fmt::Display) -> DbError {
    DbError::Corrupt { place: "the notices", reason: error.to_string() }
}

/// Tells what one notifier has to tell after each look; none waits for another.
async fn tell(
    app: &App,
    name: &NotifierName,
    notifier: &Notifier,
    mut looks: watch::Receiver<()>,
    stop: &CancellationToken,
) {
    let db = &app.resources.db;
    let mut is_first = true;
    // The sender goes when all is to stop.
    while looks.changed().await.is_ok() && !stop.is_cancelled() {
        let mut told = tell_all(db, name, notifier, stop).await;
        if told.is_ok() && is_first {
            told = deliver::close_mended(db, name, notifier, stop).await;
        }
        is_first = false;
        if let Err(error) = told {
            tracing::warn!(notifier = %name, error = with_causes(&error), "what is to be told waits");
        }
    }
}

/// Oldest first, until one fails.
async fn tell_all(db: &Db, name: &NotifierName, notifier: &Notifier, stop: &CancellationToken) -> Result<(), DbError> {
    while !stop.is_cancelled() {
        match deliver::one(db, name, notifier, stop).await? {
            deliver::Outcome::Sent => {}
            deliver::Outcome::Nothing | deliver::Outcome::Failed => break,
        }
    }
    Ok(())
}
