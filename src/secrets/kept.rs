//! What a store has answered, and how long that serves.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{Document, lease::Lease};

/// Where no lease says otherwise. Each call costs money, and those who log in at the same
/// time are many; a rotated secret that is refused before is read anew at once.
const SERVES: Duration = Duration::from_secs(60);
/// What was read so lately is not asked for again: it would be the same, and whoever is
/// refused keeps trying.
const ANEW_AFTER: Duration = Duration::from_secs(5);
/// The same of what is leased: each lease makes a role at the database.
const LEASED_ANEW_AFTER: Duration = Duration::from_secs(60);

/// What is kept of one name, and the turn of whoever asks for it.
pub(super) type Slot = Arc<Mutex<Option<Kept>>>;

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Usual,
    /// What was read before is of no use.
    Anew,
}

/// What a source has answered.
pub(super) struct Fetched {
    pub(super) document: Document,
    lease: Option<Arc<Lease>>,
}

impl Fetched {
    /// What is kept at all is for all who ask within a minute.
    pub(super) fn shared(document: Document) -> Self {
        Self { document, lease: None }
    }

    /// For all who ask while the lease goes on.
    pub(super) fn leased(document: Document, lease: Arc<Lease>) -> Self {
        Self { document, lease: Some(lease) }
    }
}

/// An answer that is kept.
pub(super) struct Kept {
    fetched: Fetched,
    read_at: Instant,
}

impl Kept {
    pub(super) fn new(fetched: Fetched) -> Self {
        Self { fetched, read_at: Instant::now() }
    }

    pub(super) fn serves(&self, age: Age) -> bool {
        let elapsed = self.read_at.elapsed();
        match (&self.fetched.lease, age) {
            (None, Age::Usual) => elapsed < SERVES,
            (None, Age::Anew) => elapsed < ANEW_AFTER,
            (Some(lease), Age::Usual) => lease.goes_on(),
            (Some(lease), Age::Anew) => lease.goes_on() && elapsed < LEASED_ANEW_AFTER,
        }
    }

    pub(super) fn document(&self) -> &Document {
        &self.fetched.document
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.fetched.document.version()
    }

    pub(super) fn lease(&self) -> Option<&str> {
        self.fetched.lease.as_ref().map(|lease| lease.id())
    }

    /// Nobody will ask for it again: whoever is connected with it stays so until it ends.
    pub(super) fn give_up(self) {
        if let Some(lease) = self.fetched.lease {
            lease.end();
        }
    }
}
