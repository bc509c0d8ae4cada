//! What is left to chance, and how long it is tried.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Draws what `LIFEBOAT_TORTURE_SEED` leads to.
pub(crate) struct Chance(StdRng);

impl Chance {
    pub(crate) fn new(test: &str) -> Self {
        let seed = number("LIFEBOAT_TORTURE_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()));
        println!("{test}: LIFEBOAT_TORTURE_SEED={seed}");
        Self(StdRng::seed_from_u64(seed))
    }

    /// One of its own, for what runs beside.
    pub(crate) fn fork(&mut self) -> Self {
        Self(StdRng::seed_from_u64(self.0.random()))
    }

    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..to)
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        all.shuffle(&mut self.0);
    }

    /// An instant up to `max` from now.
    pub(crate) async fn instant(&mut self, max: Duration) {
        let wait = self.0.random_range(Duration::ZERO..max);
        tokio::time::sleep(wait).await;
    }
}

/// How many minutes the long form takes; none for the short one.
pub(crate) fn minutes() -> Option<u64> {
    number("LIFEBOAT_TORTURE_MINUTES")
}

fn number(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "what whoever runs the test asks for")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`; write a whole number")))
}
