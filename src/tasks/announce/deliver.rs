//! One notice from the outbox to a notifier: claimed, told, noted. What cannot be told
//! is tried again, later each time, and is a finding until something is told.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    app::notifiers::Notifier,
    db::{
        Db, DbError, findings,
        notices::{self, Claimed},
    },
    domain::{NotifierName, with_causes},
    fault,
    notify::{LIMIT, NotifyError},
};

/// What the ids of findings begin with; the notifier's name follows.
pub(super) const PREFIX: &str = "notify/";
/// Longer than a call may take, so that nobody else tells the same meanwhile.
const LEASE: Duration = LIMIT.saturating_add(Duration::from_secs(10));
/// How long the state database may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a call that is under way may hold up an end, or an edit of the files.
const GRACE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// What a person has to mend is tried this often; an edit of the files has it tried at once.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);
/// So many failures in a row are a finding, where none is for good.
const FAILURES_MAX: i64 = 3;

/// What became of the look.
pub(super) enum Outcome {
    Sent,
    Failed,
    /// There is nothing to be told now.
    Nothing,
}

/// Tells the oldest notice that may be told. Where all is to stop, a call that does not
/// end soon is given up, and told again by whoever comes next.
pub(super) async fn one(
    db: &Db,
    name: &NotifierName,
    notifier: &Notifier,
    stop: &CancellationToken,
) -> Result<Outcome, DbError> {
    let claim = notices::claim(db, name, LEASE);
    let Some(claimed) = db.within(PATIENCE, "claim what is to be told", claim).await? else {
        return Ok(Outcome::Nothing);
    };
    // A call that its notifier does not end counts as unanswered.
    let sent = tokio::time::timeout(LIMIT, notifier.to.send(&claimed.notice));
    let sent = tokio::select! {
        sent = sent => sent.unwrap_or_else(|_| Err(NotifyError::Silent { server: name.to_string() })),
        () = given_up(stop) => {
            tracing::info!(notifier = %name, notice = claimed.notice.id, "not told before the end, so told later");
            let give_back = notices::give_back(db, &claimed, FIRST_PAUSE, false);
            db.within(PATIENCE, "note that it could not be told", give_back).await?;
            return Ok(Outcome::Failed);
        }
    };
    match sent {
        Ok(()) => {
            fault::point("notice.sent");
            db.within(PATIENCE, "note that it was told", notices::note_sent(db, &claimed.notice.id)).await?;
            tracing::info!(notifier = %name, notice = claimed.notice.id, "told");
            let id = format!("{PREFIX}{name}");
            db.within(PATIENCE, "close a finding", findings::close(db, &id)).await?;
            Ok(Outcome::Sent)
        }
        Err(error) => {
            failed(db, name, notifier, &claimed, &error).await?;
            Ok(Outcome::Failed)
        }
    }
}

/// Closes what was found about a notifier that can be reached again, where nothing is
/// left that would show it: what could not be told is over.
pub(super) async fn close_mended(
    db: &Db,
    name: &NotifierName,
    notifier: &Notifier,
    stop: &CancellationToken,
) -> Result<(), DbError> {
    let id = format!("{PREFIX}{name}");
    let is_concerned = async {
        let is_open = findings::open_findings(db).await?.iter().any(|finding| finding.id == id);
        Ok::<_, DbError>(is_open && !notices::is_any_untold(db, name).await?)
    };
    if !db.within(PATIENCE, "look what was found about a notifier", is_concerned).await? {
        return Ok(());
    }
    let is_mended = tokio::select! {
        probed = tokio::time::timeout(LIMIT, notifier.to.probe()) => matches!(probed, Ok(Ok(()))),
        () = stop.cancelled() => false,
    };
    if is_mended {
        db.within(PATIENCE, "close a finding", findings::close(db, &id)).await?;
    }
    Ok(())
}

async fn given_up(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

async fn failed(
    db: &Db,
    name: &NotifierName,
    notifier: &Notifier,
    claimed: &Claimed,
    error: &NotifyError,
) -> Result<(), DbError> {
    let pause = pause(error, claimed.attempts);
    let give_back = notices::give_back(db, claimed, pause, error.is_permanent());
    db.within(PATIENCE, "note that it could not be told", give_back).await?;
    let reason = with_causes(error);
    tracing::warn!(notifier = %name, notice = claimed.notice.id, reason, again_in = ?pause, "not told");
    if !error.is_permanent() && claimed.attempts < FAILURES_MAX {
        return Ok(());
    }
    let (id, message) = (format!("{PREFIX}{name}"), message(name, notifier.kind, claimed, &reason));
    db.within(PATIENCE, "open a finding", findings::open(db, &id, name.as_str(), &message)).await
}

fn message(name: &NotifierName, kind: &str, claimed: &Claimed, reason: &str) -> String {
    format!("notifier `{name}` ({kind}) could not tell \"{}\": {reason}", claimed.notice.title)
}

/// How long to wait after so many attempts.
fn pause(error: &NotifyError, attempts: i64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1).clamp(0, 10)).unwrap_or_default();
    let usual =
        if error.is_permanent() { REFUSED_PAUSE } else { FIRST_PAUSE.saturating_mul(1 << doublings).min(PAUSE_MAX) };
    error.retry_after().map_or(usual, |asked| asked.max(usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_what_was_asked_for_is_kept_to() {
        let refused = |is_permanent, retry_after| NotifyError::Refused {
            server: "x".to_owned(),
            answer: "429".to_owned(),
            remedy: "",
            is_permanent,
            retry_after: Option::map(retry_after, Duration::from_secs),
        };
        for (error, attempts, seconds) in [
            (refused(false, None), 1, 5),
            (refused(false, None), 2, 10),
            (refused(false, None), 6, 160),
            (refused(false, None), 7, 300),
            (refused(false, None), i64::MAX, 300),
            (refused(false, Some(30)), 1, 30),
            (refused(false, Some(1)), 1, 5),
            (refused(true, None), 1, 600),
        ] {
            assert_eq!(pause(&error, attempts), Duration::from_secs(seconds), "{error:?} {attempts}");
        }
    }
}
