//! How long WAL takes from when the server sent it to being durable in one vault.
//!
//! What is sent again, as its stream broke, counts from then; and what a vault gets
//! from another one is not measured here. How long a commit was at risk then the
//! exposure tells.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::domain::Lsn;

/// Messages that are remembered while a vault is slow; beyond that several count as one.
const OPEN_MAX: usize = 8192;
/// Measured and not yet asked for.
const DONE_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Delays {
    /// Up to where a message brought WAL, and when it was sent.
    open: VecDeque<(Lsn, Instant)>,
    done: Vec<Duration>,
}

impl Delays {
    pub(super) fn sent(&mut self, end: Lsn, at: Instant) {
        let is_full = self.open.len() >= OPEN_MAX;
        match self.open.back_mut().filter(|_| is_full) {
            // Its time is the earlier one: nothing looks quicker than it is.
            Some(last) => last.0 = end,
            None => self.open.push_back((end, at)),
        }
    }

    /// Everything up to here is durable.
    pub(super) fn stored(&mut self, to: Lsn, now: Instant) {
        while let Some((_, at)) = self.open.pop_front_if(|(end, _)| *end <= to) {
            if self.done.len() < DONE_MAX {
                self.done.push(now.saturating_duration_since(at));
            }
        }
    }

    /// What was sent comes on another way, or again.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    pub(super) fn take(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_measured_once_and_never_as_quicker_than_it_was() {
        let begun = Instant::now();
        let after = |millis| begun + Duration::from_millis(millis);
        let millis = |delays: &mut Delays| delays.take().iter().map(Duration::as_millis).collect::<Vec<_>>();
        let mut delays = Delays::default();
        delays.sent(Lsn(10), after(0));
        delays.sent(Lsn(20), after(5));
        delays.stored(Lsn(15), after(7));
        assert_eq!(millis(&mut delays), [7]);
        delays.stored(Lsn(30), after(9));
        delays.stored(Lsn(40), after(11));
        assert_eq!(millis(&mut delays), [4]);
        delays.sent(Lsn(50), after(11));
        delays.forget();
        delays.stored(Lsn(60), after(12));
        assert_eq!(millis(&mut delays), [0; 0]);
        for nth in 0..OPEN_MAX as u64 + 5 {
            delays.sent(Lsn(100 + nth), after(nth));
        }
        delays.stored(Lsn(1_000_000), after(OPEN_MAX as u64 + 5));
        let measured = millis(&mut delays);
        assert_eq!((measured.len(), measured.last()), (OPEN_MAX, Some(&6)));
    }
}
