//! The sole owner of system time. Everything that asks for the time is handed
//! a `Clock`, so that tests can hold it still.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

/// Tells the time of day. Durations are measured with `std::time::Instant`.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    held: Option<Arc<Mutex<Timestamp>>>,
}

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `at` until it is set.
    pub fn held_at(at: Timestamp) -> Self {
        Self { held: Some(Arc::new(Mutex::new(at))) }
    }

    pub fn now(&self) -> Timestamp {
        match &self.held {
            Some(held) => *held.lock().unwrap_or_else(PoisonError::into_inner),
            #[expect(clippy::disallowed_methods, reason = "this is its owner")]
            None => Timestamp::now(),
        }
    }

    /// Moves a held clock; the system clock does not move.
    pub fn set(&self, at: Timestamp) {
        if let Some(held) = &self.held {
            *held.lock().unwrap_or_else(PoisonError::into_inner) = at;
        }
    }
}
