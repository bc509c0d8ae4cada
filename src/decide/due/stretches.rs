//! What was found of a schedule already: stretches of time in which nothing falls due.
//! A search goes through the calendar day by day, and what asks for the next due time asks
//! the same again and again, for very many databases.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

/// How many are kept: what looks at a schedule asks around now, and for what follows that.
const KEPT: usize = 4;

/// The stretches found last, of one schedule.
#[derive(Debug, Default)]
pub(super) struct Stretches(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    stretches: [Option<Stretch>; KEPT],
    /// Which one the next takes the place of.
    oldest: usize,
}

/// From `since` on, itself included, nothing is due after it and before `until`, which is.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    since: Timestamp,
    until: Timestamp,
}

impl Stretches {
    /// The first due time after `after`: as found before, or by `search`.
    pub(super) fn next_after(&self, after: Timestamp, search: impl FnOnce() -> Option<Timestamp>) -> Option<Timestamp> {
        let found = self.kept(|kept| kept.covering(after));
        found.or_else(|| {
            let until = search()?;
            self.kept(|kept| kept.keep(Stretch { since: after, until }));
            Some(until)
        })
    }

    fn kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn covering(&self, after: Timestamp) -> Option<Timestamp> {
        let covers = |stretch: &&Stretch| stretch.since <= after && after < stretch.until;
        self.stretches.iter().flatten().find(covers).map(|stretch| stretch.until)
    }

    /// A stretch that is known in part grows; a new one takes the place of the oldest.
    fn keep(&mut self, found: Stretch) {
        if let Some(known) = self.stretches.iter_mut().flatten().find(|known| known.until == found.until) {
            known.since = known.since.min(found.since);
            return;
        }
        if let Some(place) = self.stretches.get_mut(self.oldest) {
            *place = Some(found);
        }
        self.oldest = (self.oldest + 1) % KEPT;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_was_found_is_not_searched_again() {
        let (stretches, searched) = (Stretches::default(), Cell::new(0));
        // Due every hundred seconds.
        let next = |second: i64| {
            let search = || {
                searched.set(searched.get() + 1);
                Some(at((second / 100 + 1) * 100))
            };
            stretches.next_after(at(second), search).unwrap()
        };
        assert_eq!((next(50), next(99), next(50), searched.get()), (at(100), at(100), at(100), 1));
        // Before what is known, and at the due time itself, is searched.
        assert_eq!((next(10), next(20), next(100), searched.get()), (at(100), at(100), at(200), 3));
        for second in (0..2_000).chain((0..2_000).rev()) {
            assert_eq!(next(second), at((second / 100 + 1) * 100));
        }
    }
}
