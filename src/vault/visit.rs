//! Visits a vault for as long as something is heard of it. What hangs, such as
//! a store that accepts and never answers or a mount whose server is gone, is
//! told apart from what is large: every answer counts, a page of a listing or
//! an entry of a folder, and not how long all of it takes.
//!
//! Whoever looks into several vaults visits all of them at once (`join_all`), so
//! that none waits for another.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::StoreError;
use crate::domain::VaultName;

/// How much silence is borne.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// A vault of which nothing was heard for so long is named.
    slow: Duration,
    /// One of which nothing was heard for so long is away for now.
    silent: Duration,
    look_every: Duration,
}

const PATIENCE: Patience =
    Patience { slow: Duration::from_secs(3), silent: Duration::from_secs(10), look_every: Duration::from_millis(250) };

tokio::task_local! {
    static HEARD: Heard;
}

/// When the vault that is visited last answered something.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    at: Arc<Mutex<Instant>>,
    /// Of the visit that this one is part of.
    outer: Option<Box<Heard>>,
}

impl Heard {
    /// Of the visit that this task is on; none where it is on none.
    pub(super) fn of_this_visit() -> Option<Self> {
        HEARD.try_with(Self::clone).ok()
    }

    /// The vault has answered something.
    pub(super) fn note(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.outer.iter().for_each(|outer| outer.note());
    }

    fn silence(&self) -> Duration {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// The store that this task visits has answered something.
pub(super) fn heard() {
    if let Some(heard) = Heard::of_this_visit() {
        heard.note();
    }
}

/// Visits a vault until nothing is heard of it for 10 s: `Silent`.
pub async fn visit<T, E: From<StoreError>>(
    vault: &VaultName,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // The outermost visit tells.
    let is_part = Heard::of_this_visit().is_some();
    let slow = || {
        if !is_part {
            tracing::warn!(%vault, "waiting for a vault that does not answer");
        }
    };
    visit_while_needed(vault, slow, || false, work).await
}

/// The same, where a silent vault is waited for as long as `is_needed`. `slow` is
/// called once, after 3 s of silence.
pub async fn visit_while_needed<T, E: From<StoreError>>(
    vault: &VaultName,
    slow: impl FnOnce(),
    is_needed: impl Fn() -> bool,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    with_patience(PATIENCE, vault, slow, is_needed, work).await
}

async fn with_patience<T, E: From<StoreError>>(
    patience: Patience,
    vault: &VaultName,
    slow: impl FnOnce(),
    is_needed: impl Fn() -> bool,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let heard = Heard { at: Arc::new(Mutex::new(Instant::now())), outer: Heard::of_this_visit().map(Box::new) };
    let mut work = std::pin::pin!(HEARD.scope(heard.clone(), work));
    let mut ticker = interval(patience.look_every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut slow = Some(slow);
    loop {
        tokio::select! {
            // What is there by now is taken, however late.
            biased;
            done = &mut work => return done,
            _ = ticker.tick() => {}
        }
        let silence = heard.silence();
        if let Some(slow) = slow.take_if(|_| silence >= patience.slow) {
            slow();
        }
        if silence >= patience.silent && !is_needed() {
            return Err(StoreError::Silent { vault: vault.clone(), seconds: silence.as_secs() }.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    const SHORT: Patience = Patience {
        slow: Duration::from_millis(10),
        silent: Duration::from_millis(30),
        look_every: Duration::from_millis(1),
    };

    fn hole() -> VaultName {
        "hole".parse().unwrap()
    }

    #[tokio::test]
    async fn who_never_answers_is_named_once_and_given_up() {
        let named = AtomicU32::new(0);
        let slow = || {
            named.fetch_add(1, Ordering::SeqCst);
        };
        let visited: Result<(), StoreError> =
            with_patience(SHORT, &hole(), slow, || false, std::future::pending()).await;
        assert!(matches!(visited, Err(StoreError::Silent { .. })), "{visited:?}");
        assert_eq!(named.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn who_answers_may_take_long_however_the_visits_are_nested() {
        let begun = Instant::now();
        let answers = async {
            while begun.elapsed() < SHORT.silent * 10 {
                heard();
                tokio::task::yield_now().await;
            }
            Ok::<_, StoreError>(())
        };
        let hole = hole();
        let inner = with_patience(SHORT, &hole, || {}, || false, answers);
        let visited = with_patience(SHORT, &hole, || {}, || false, inner).await;
        assert!(visited.is_ok(), "{visited:?}");
    }

    #[tokio::test]
    async fn who_is_needed_is_waited_for() {
        let is_needed = AtomicBool::new(true);
        let begun = Instant::now();
        let visit = async {
            let visited: Result<(), StoreError> =
                with_patience(SHORT, &hole(), || {}, || is_needed.load(Ordering::SeqCst), std::future::pending()).await;
            (visited, begun.elapsed())
        };
        let found_elsewhere = async {
            tokio::time::sleep(SHORT.silent * 5).await;
            is_needed.store(false, Ordering::SeqCst);
        };
        let ((visited, waited), ()) = tokio::join!(visit, found_elsewhere);
        assert!(visited.is_err() && waited >= SHORT.silent * 5, "{waited:?}");
    }
}
