//! Tells a person of a heartbeat that is silent and of a vault that does not take
//! what was acknowledged. It looks by itself, so that what hangs is told too.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{Heart, backlog::Pace};
use crate::tasks::finding::Finding;

/// After this much silence a person must look.
const SILENCE: Duration = Duration::from_secs(30);
/// After so long a vault is behind.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Heart<'_> {
    /// Looks until `closed`.
    pub(super) async fn watch(&self, closed: &CancellationToken) {
        let mut silence = Finding::new("heartbeat", self.app, self.of.name);
        let behind = |name| Finding::new(&format!("heartbeats-to-{name}"), self.app, self.of.name);
        let mut behind: Vec<Finding> =
            self.vaults.iter().map(|(vault, _)| behind(&vault.store.place().vault)).collect();
        let looking = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                self.tell_silence(&mut silence).await;
                for ((vault, backlog), finding) in self.vaults.iter().zip(&mut behind) {
                    match backlog.pace(Instant::now(), PATIENCE) {
                        Pace::Unknown => {}
                        Pace::Level => finding.close().await,
                        pace @ Pace::Behind { .. } => {
                            finding.open(&told(vault.store.place().vault.as_str(), &pace)).await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = looking => {}
            () = closed.cancelled() => {}
        }
    }

    async fn tell_silence(&self, finding: &mut Finding) {
        let (silent, is_first_due, error) = {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            (heard.at.elapsed(), heard.is_first_due, heard.error.clone())
        };
        if silent > SILENCE {
            let error = error.unwrap_or_else(|| "the server or the state database does not answer".to_owned());
            finding.open(&format!("no heartbeat was acknowledged for {SILENCE:?}: {error}")).await;
        } else if !is_first_due {
            finding.close().await;
        }
    }
}

/// In words, with the vault's name.
fn told(vault: &str, pace: &Pace) -> String {
    let Pace::Behind { since, waiting, lost, error } = pace else { return String::new() };
    let error = error.as_deref().unwrap_or("a write to it does not end");
    let lost = match lost {
        0 => String::new(),
        lost => format!("; {lost} more had no room and must be copied from another vault"),
    };
    format!("vault `{vault}` has taken no heartbeats for {} s, {waiting} batches wait{lost}: {error}", since.as_secs())
}
