//! Whether the process that sends WAL through our slot still has a client.
//!
//! What must never happen: one whose client lives is taken for one whose client
//! is gone. The time at which a client was last heard is by the client's own
//! clock, which may be any: it proves something only where it moves, or where it
//! stands still for long while somebody looks.

use std::time::Duration;

/// What the server shows of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub pid: i32,
    /// When the client said something last, in microseconds by its own clock.
    pub heard: i64,
    /// When that was seen, in microseconds by the server's clock.
    pub seen: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Lives,
    /// Only looking longer can tell.
    Unknown,
    Gone,
}

/// `watched`: how long lies between the two looks, by a clock of this process. A
/// client that was silent for all of `silence_max` is gone.
pub fn judge(first: Look, last: Look, watched: Duration, silence_max: Duration) -> Client {
    if (first.pid, first.heard) != (last.pid, last.heard) {
        return Client::Lives;
    }
    let age = u64::try_from(last.seen.saturating_sub(last.heard)).map(Duration::from_micros);
    // As a rule the clocks agree, and nobody need look for long.
    if age.is_ok_and(|age| age <= silence_max) {
        return Client::Lives;
    }
    if watched >= silence_max { Client::Gone } else { Client::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn only_a_client_that_was_silent_while_somebody_looked_is_gone() {
        let look = |pid, heard, seen| Look { pid, heard: heard * SECOND, seen: seen * SECOND };
        for (first, last, watched, expected, why) in [
            (look(1, 100, 105), look(1, 100, 105), 0, Client::Lives, "it was heard a moment ago"),
            (look(1, 100, 131), look(1, 100, 131), 0, Client::Unknown, "silent, or its clock is behind"),
            (look(1, 100, 131), look(1, 110, 141), 10, Client::Lives, "its clock is behind, and it speaks"),
            (look(1, 100, 131), look(1, 100, 160), 29, Client::Unknown, "not long enough yet"),
            (look(1, 100, 131), look(1, 100, 161), 30, Client::Gone, "silent all the time"),
            (look(1, 900, 100), look(1, 900, 100), 0, Client::Unknown, "its clock is ahead"),
            (look(1, 900, 100), look(1, 910, 110), 10, Client::Lives, "its clock is ahead, and it speaks"),
            (look(1, 900, 100), look(1, 900, 130), 30, Client::Gone, "its clock was ahead when it fell silent"),
            (look(1, 100, 131), look(2, 100, 161), 30, Client::Lives, "another process by now"),
        ] {
            let judged = judge(first, last, Duration::from_secs(watched), Duration::from_secs(30));
            assert_eq!(judged, expected, "{why}");
        }
    }
}
