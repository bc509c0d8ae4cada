//! Deletes from the state database what is over and old: once an hour, in batches.
//! Heartbeats have a period of their own (`heartbeat`), and evidence stays for ever.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::{Db, DbError, forget},
    decide::forget::cut_off,
    domain::{Span, with_causes},
};

/// The first time is so long after the start: it is never urgent.
const EVERY: Duration = Duration::from_secs(3600);
/// Deleted in one transaction.
const AT_ONCE: i64 = 200;
/// Between them others have their turn.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
        let state = &app.estate.daemon.state;
        let forgotten = stop.run_until_cancelled(forget_old(&app.resources.db, state.keep)).await;
        match forgotten {
            Some(Ok(Forgotten { runs: 0, findings: 0, notices: 0 })) | None => {}
            Some(Ok(Forgotten { runs, findings, notices })) => {
                tracing::info!(runs, findings, notices, "deleted what is over and old");
            }
            Some(Err(error)) => tracing::warn!(error = with_causes(&error), "old runs and findings are not deleted"),
        }
    }
}

/// How much was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub runs: u64,
    pub findings: u64,
    pub notices: u64,
}

/// Deletes all that ended longer than `keep` ago.
pub async fn forget_old(db: &Db, keep: Span) -> Result<Forgotten, DbError> {
    let (now, newest_end) = forget::newest_end(db).await?;
    let Some(before) = cut_off(now, newest_end, keep) else { return Ok(Forgotten::default()) };
    Ok(Forgotten {
        runs: all(|| forget::runs(db, before, AT_ONCE)).await?,
        findings: all(|| forget::findings(db, before, AT_ONCE)).await?,
        notices: all(|| forget::notices(db, before, AT_ONCE)).await?,
    })
}

/// Deletes batch after batch, until one is not full; answers how many in all.
async fn all<F: Future<Output = Result<u64, DbError>>>(batch: impl Fn() -> F) -> Result<u64, DbError> {
    let mut all = 0;
    loop {
        let deleted = batch().await?;
        all += deleted;
        if deleted < AT_ONCE.unsigned_abs() {
            return Ok(all);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
