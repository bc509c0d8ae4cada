//! The journal of one run: append-only, in the state database, with a copy in
//! memory of what was read and written. The page `docs/journal.md` specifies it.
//!
//! A driver's append is repeated through blips of the database until it is
//! known to be durable or this node is known to be fenced: an event is never
//! written twice, and nothing goes on before it is written.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::{
    event::{Entry, Event},
    lease::Lease,
    progress,
    wake::heard,
};
use crate::{
    db::{
        Db, DbError,
        runs::{self, Appended},
    },
    domain::RunId,
    fault,
    process::Tasks,
};

/// Why a driver must let go of a run.
#[derive(Debug, thiserror::Error)]
pub(super) enum LetGo {
    #[error("another node owns the run")]
    Fenced,
    #[error("this process is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The journal of a run that this process drives.
#[derive(Debug)]
pub(super) struct Journal {
    db: Db,
    run_id: RunId,
    pub(super) lease: Arc<Lease>,
    pub(super) shutdown: CancellationToken,
    entries: watch::Sender<Vec<Entry>>,
    /// Appends one after the other, so that the cached state follows the journal.
    appending: Mutex<()>,
    /// Appends that outlive whoever asked for them.
    appends: Tasks,
    /// The database's clock at an instant of ours.
    read_at: (Instant, i64),
}

impl Journal {
    pub(super) async fn open(
        db: Db,
        run_id: RunId,
        lease: Arc<Lease>,
        shutdown: CancellationToken,
    ) -> Result<Self, LetGo> {
        let patience = lease.call_limit();
        let (now_ms, rows) = through_blips(&lease, &shutdown, || {
            db.within(patience, "read the journal", runs::journal(&db, run_id.as_str()))
        })
        .await?;
        let read_at = (Instant::now(), now_ms);
        let entries: Vec<Entry> = rows.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?;
        Ok(Self {
            db,
            run_id,
            lease,
            shutdown,
            entries: watch::Sender::new(entries),
            appending: Mutex::new(()),
            appends: Tasks::new(),
            read_at,
        })
    }

    /// Looks at what is known of the journal. Not to be held across an await.
    pub(super) fn entries(&self) -> watch::Ref<'_, Vec<Entry>> {
        self.entries.borrow()
    }

    /// Changes whenever an entry is added.
    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<Entry>> {
        self.entries.subscribe()
    }

    /// How long ago a journaled instant was.
    pub(super) fn since(&self, at_ms: i64) -> Duration {
        let (instant, now_ms) = self.read_at;
        let before = Duration::from_millis(u64::try_from(now_ms - at_ms).unwrap_or(0));
        let ahead = Duration::from_millis(u64::try_from(at_ms - now_ms).unwrap_or(0));
        (before + instant.elapsed()).saturating_sub(ahead)
    }

    /// Writes `event`, durably, or finds that it must not. A caller that is
    /// dropped meanwhile, as in a `select!`, does not leave it half known.
    pub(super) async fn append(self: &Arc<Self>, event: Event) -> Result<(), LetGo> {
        let journal = Arc::clone(self);
        self.appends.spawn(async move { journal.append_now(event).await }).await.unwrap_or(Err(LetGo::ShuttingDown))
    }

    async fn append_now(&self, event: Event) -> Result<(), LetGo> {
        let _turn = self.appending.lock().await;
        let cached = progress::cached(&self.entries(), &event)?;
        let nonce = nonce();
        let json = event.to_json()?;
        fault::point(&format!("flow.{}.before", event.name()));
        let appended = through_blips(&self.lease, &self.shutdown, || {
            self.db.within(
                self.lease.call_limit(),
                "write the journal",
                runs::append(&self.db, self.run_id.as_str(), self.lease.fence(), &nonce, &json, &cached),
            )
        })
        .await?;
        fault::point(&format!("flow.{}.after", event.name()));
        match appended {
            Appended::Fenced => {
                self.lease.lose();
                Err(LetGo::Fenced)
            }
            Appended::At { seq, at_ms } => {
                self.entries.send_modify(|entries| entries.push(Entry { seq, at_ms, event }));
                Ok(())
            }
        }
    }

    /// Takes signals in as they arrive, for ever.
    pub(super) async fn follow(&self, bell: &mut watch::Receiver<()>, beat: Duration) {
        loop {
            bell.mark_unchanged();
            let beat = match self.read_signals().await {
                Ok(()) => beat,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for signals; trying again");
                    Duration::from_secs(1).min(beat)
                }
            };
            heard(bell, beat).await;
        }
    }

    /// Waits until no append is under way.
    pub(super) async fn close(&self) {
        self.appends.shut_down().await;
    }

    /// Takes in the signals that arrived meanwhile.
    pub(super) async fn read_signals(&self) -> Result<(), DbError> {
        let call = runs::signals(&self.db, self.run_id.as_str());
        for row in self.db.within(self.lease.call_limit(), "read the signals", call).await? {
            let entry = Entry::try_from(row)?;
            self.entries.send_if_modified(|entries| {
                let new = !entries.iter().any(|known| known.seq == entry.seq);
                if new {
                    let place = entries.partition_point(|known| known.seq < entry.seq);
                    entries.insert(place, entry);
                }
                new
            });
        }
        Ok(())
    }
}

/// Makes a call again until the database answers, unless the run is lost or
/// this process shuts down meanwhile.
pub(super) async fn through_blips<T, F: Future<Output = Result<T, DbError>>>(
    lease: &Lease,
    shutdown: &CancellationToken,
    mut call: impl FnMut() -> F,
) -> Result<T, LetGo> {
    let mut pause = Duration::from_millis(50);
    loop {
        match call().await {
            Err(error) if !error.is_permanent() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the state database does not answer; trying again"
                );
            }
            other => return Ok(other?),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
            () = lease.lost() => return Err(LetGo::Fenced),
            () = shutdown.cancelled() => return Err(LetGo::ShuttingDown),
        }
    }
}

/// Makes two appends of one event one append.
pub(super) fn nonce() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
