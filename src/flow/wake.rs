//! Tells those who wait that there may be something to do: at once within this
//! process, and as fast as `db::changes` hears of them from other processes. A
//! wake-up is a hint. Who waits looks again by itself at a slow beat, so that a
//! lost one costs time and nothing else.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    db::{Db, changes},
    process::Tasks,
};

const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A bell that anybody may ring.
#[derive(Debug, Default)]
pub(super) struct Wake {
    bell: watch::Sender<()>,
    listening: AtomicBool,
}

impl Wake {
    pub(super) fn ring(&self) {
        self.bell.send_replace(());
    }

    /// Hears the bell from now on; starts to listen to other processes when
    /// nobody has yet.
    pub(super) fn hear(&self, db: &Db, tasks: &Tasks) -> watch::Receiver<()> {
        if !self.listening.swap(true, Ordering::Relaxed) {
            let (db, bell, stop) = (db.clone(), self.bell.clone(), tasks.stop().clone());
            tasks.spawn(async move { listen(&db, &bell, &stop).await });
        }
        self.bell.subscribe()
    }
}

/// Waits for the bell, at most `beat`.
pub(super) async fn heard(bell: &mut watch::Receiver<()>, beat: Duration) {
    // Out of time, or the bell is gone: both mean to look again.
    drop(tokio::time::timeout(beat, bell.changed()).await);
}

async fn listen(db: &Db, bell: &watch::Sender<()>, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            ended = changes::listen(db, || { bell.send_replace(()); }) => if let Err(error) = ended {
                tracing::debug!(error = &error as &dyn std::error::Error, "trying again to listen");
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RECONNECT_PAUSE) => { bell.send_replace(()); }
        }
    }
}
