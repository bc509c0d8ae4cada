//! How a lease is kept alive: when it is renewed, and from when on another one is taken.

use std::time::Duration;

/// No pause is shorter, however little is left.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// When to renew a lease that ends after `left`: with a third of it to go, so that a store
/// that is away for a while can be asked again. None once it has ended.
pub fn pause(left: Duration) -> Option<Duration> {
    (!left.is_zero()).then(|| (left * 2 / 3).max(PAUSE_MIN).min(left))
}

/// Whether a lease that was granted for `granted` and renewed for `renewed` goes on. Near
/// the longest time that its store allows it is renewed for less and less.
pub fn goes_on(granted: Duration, renewed: Duration) -> bool {
    renewed >= granted / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_renewed_with_a_third_to_go() {
        for (left, wanted) in
            [(3_600_000, Some(2_400_000)), (900, Some(600)), (600, Some(500)), (100, Some(100)), (0, None)]
        {
            assert_eq!(pause(Duration::from_millis(left)), wanted.map(Duration::from_millis), "{left}");
        }
    }

    #[test]
    fn a_lease_that_is_renewed_for_less_and_less_ends() {
        for (granted, renewed, wanted) in [(60, 60, true), (60, 30, true), (60, 29, false), (60, 0, false)] {
            assert_eq!(goes_on(Duration::from_secs(granted), Duration::from_secs(renewed)), wanted, "{renewed}");
        }
    }
}
