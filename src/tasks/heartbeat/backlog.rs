//! What one place has not taken yet, in order: a vault or the state database.
//! Whoever adds never waits. Its room is bounded: while the place is away for
//! too long the oldest goes, and is counted.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Backlog<T> {
    room: usize,
    state: Mutex<State<T>>,
    more: Notify,
}

#[derive(Debug)]
struct State<T> {
    /// Each with when it was added.
    waiting: VecDeque<(Instant, T)>,
    /// How many went before the first that waits, taken or lost.
    gone: u64,
    lost: u64,
    has_taken: bool,
    /// Why the place took nothing the last time.
    error: Option<String>,
}

/// How a place keeps up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nothing was taken yet, and nothing waits for too long.
    Unknown,
    Level,
    Behind {
        since: Duration,
        waiting: usize,
        lost: u64,
        error: Option<String>,
    },
}

impl<T: Clone> Backlog<T> {
    pub(super) fn new(room: usize) -> Self {
        let waiting = VecDeque::new();
        let state = State { waiting, gone: 0, lost: 0, has_taken: false, error: None };
        Self { room, state: Mutex::new(state), more: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, item: T) {
        let mut state = self.state();
        if state.waiting.len() == self.room && state.waiting.pop_front().is_some() {
            state.gone += 1;
            state.lost += 1;
        }
        state.waiting.push_back((Instant::now(), item));
        self.more.notify_one();
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether what waits has waited for longer than `patience`.
    pub(super) fn pace(&self, now: Instant, patience: Duration) -> Pace {
        let state = self.state();
        let since = state.waiting.front().map_or(Duration::ZERO, |(added, _)| now.saturating_duration_since(*added));
        if since > patience {
            let (waiting, lost, error) = (state.waiting.len(), state.lost, state.error.clone());
            Pace::Behind { since, waiting, lost, error }
        } else if state.has_taken {
            Pace::Level
        } else {
            Pace::Unknown
        }
    }

    /// The first ones, and how many will have gone when they are taken.
    fn first(&self, count: usize) -> (u64, Vec<T>) {
        let state = self.state();
        let items: Vec<T> = state.waiting.iter().take(count).map(|(_, item)| item.clone()).collect();
        (state.gone + items.len() as u64, items)
    }

    /// Some of them may have been lost since.
    fn taken(&self, gone: u64) {
        let mut state = self.state();
        while state.gone < gone && state.waiting.pop_front().is_some() {
            state.gone += 1;
        }
        (state.has_taken, state.error) = (true, None);
        if state.waiting.is_empty() {
            state.lost = 0;
        }
    }

    /// Gives what waits to `put`, up to `at_once` in order, until `closed` and
    /// nothing waits, or the place fails after that. Each is given again, after
    /// `pause`, until it was taken.
    pub(super) async fn drain<F>(
        &self,
        at_once: usize,
        pause: Duration,
        closed: &CancellationToken,
        put: impl Fn(Vec<T>) -> F,
    ) where
        F: Future<Output = Result<(), String>>,
    {
        loop {
            let (gone, items) = self.first(at_once);
            let is_closed = closed.is_cancelled();
            if items.is_empty() {
                if is_closed {
                    break;
                }
                tokio::select! {
                    () = self.more.notified() => {}
                    () = closed.cancelled() => {}
                }
                continue;
            }
            match put(items).await {
                Ok(()) => self.taken(gone),
                Err(error) => {
                    self.state().error = Some(error);
                    if is_closed {
                        break;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = closed.cancelled() => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn who_is_behind_is_told_with_how_much_waits_and_why() {
        let backlog = Backlog::new(3);
        let now = Instant::now();
        let later = now + PATIENCE * 2;
        assert_eq!(backlog.pace(later, PATIENCE), Pace::Unknown);
        for item in 1..=5 {
            backlog.push(item);
        }
        assert_eq!(backlog.first(2), (4, vec![3, 4]), "the room is bounded, and the oldest goes");
        backlog.state().error = Some("no space".to_owned());
        let Pace::Behind { since, waiting, lost, error } = backlog.pace(later, PATIENCE) else { panic!() };
        assert!(since > PATIENCE && (waiting, lost) == (3, 2) && error.as_deref() == Some("no space"));
        backlog.taken(5);
        assert_eq!((backlog.len(), backlog.pace(now, PATIENCE)), (0, Pace::Level));
    }

    #[test]
    fn what_was_lost_while_it_was_given_is_not_taken_twice() {
        let backlog = Backlog::new(2);
        (1..=2).for_each(|item| backlog.push(item));
        let (gone, given) = backlog.first(1);
        assert_eq!(given, [1]);
        (3..=4).for_each(|item| backlog.push(item));
        backlog.taken(gone);
        assert_eq!(backlog.first(9).1, [3, 4], "1 was taken, 2 had no room");
    }

    #[tokio::test]
    async fn everything_is_given_in_order_until_it_was_taken_and_once_after_the_end() {
        let backlog = Backlog::new(100);
        (1..=5).for_each(|item| backlog.push(item));
        let closed = CancellationToken::new();
        let (given, calls) = (Mutex::new(Vec::new()), Mutex::new(0));
        backlog
            .drain(2, Duration::from_millis(1), &closed, |items| {
                let mut calls = calls.lock().unwrap();
                *calls += 1;
                let is_away = [2, 3].contains(&*calls);
                if !is_away {
                    given.lock().unwrap().extend(items);
                }
                if *calls == 4 {
                    backlog.push(6);
                    closed.cancel();
                }
                std::future::ready(if is_away { Err("away".to_owned()) } else { Ok(()) })
            })
            .await;
        assert_eq!(*given.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
        backlog.push(7);
        let away = |_| std::future::ready(Err("away".to_owned()));
        backlog.drain(2, Duration::from_millis(1), &closed, away).await;
        assert_eq!(backlog.len(), 1, "a place that is away when all ends is not waited for");
    }
}
