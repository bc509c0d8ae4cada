//! What the facts of one database come to.

use jiff::Timestamp;

use super::{DatabaseStatus, StreamingState};
use crate::{
    decide::exposure,
    domain::{BackupState, RecoveryAlgorithm, Verdict},
    report::words,
};

impl DatabaseStatus {
    /// Fills `verdict` and `headline`: the first reason for alarm, else the first
    /// reason for doubt, else how much is proven.
    #[must_use]
    pub fn judged(mut self, now: Timestamp) -> Self {
        (self.verdict, self.headline) = self.alarm(now).or_else(|| self.doubt(now)).unwrap_or_else(|| {
            let at = self.last_proven.as_ref().map_or(now, |test| test.at);
            (
                Verdict::Pass,
                format!("Recoverable; last proven {} ago.", words::seconds(&words::between(&at, &now).max(0.0))),
            )
        });
        self
    }

    fn alarm(&self, now: Timestamp) -> Option<(Verdict, String)> {
        let text = if let [first, ..] = self.unseen_faults.as_slice() {
            format!("Restore tests are blind and prove nothing: the planted fault {first} was not seen.")
        } else if self.newest_backup.is_none() || self.recoverable_to.is_none() {
            "Not recoverable: there is no usable backup.".to_owned()
        } else if self.wal_streaming.state == StreamingState::Stopped {
            format!(
                "No daemon streams WAL ({}): new commits reach no vault. Start `lifeboat serve`, or see that it reaches the primary.",
                self.heard(now)
            )
        } else if self.broken_windows.iter().any(|window| window.until.is_none()) {
            "The chain of WAL is broken: what is written now cannot be restored before a full backup is complete."
                .to_owned()
        } else if let Some(exposure) = self.exposure.iter().find(|exposure| exposure.over_objective) {
            format!(
                "Vault {} lacks commits of the last {}; the objective is {}.",
                exposure.vault,
                words::seconds_or_not(&exposure.seconds),
                self.objectives.rpo
            )
        } else if let Some(test) = self.last_restore_test.as_ref().filter(|test| test.verdict > Verdict::Inconclusive) {
            format!("The last restore test ended {}.", test.verdict)
        } else if let Some((point, verdict)) = self.failed_point() {
            format!("The last restore test of `{point}` ended {verdict}.")
        } else if let Some(seconds) =
            self.would_take_seconds.filter(|seconds| *seconds > self.objectives.rto.as_secs_f64())
        {
            format!(
                "A restore would take about {} (estimated), longer than the RTO of {}.",
                words::seconds(&seconds),
                self.objectives.rto
            )
        } else {
            return None;
        };
        Some((Verdict::Fail, text))
    }

    /// What of a rotation failed when it was tested last.
    fn failed_point(&self) -> Option<(RecoveryAlgorithm, Verdict)> {
        let failed = self.recovery_points.iter().find(|point| point.failed())?;
        Some((failed.algorithm, failed.last_verdict?))
    }

    /// When a heartbeat was last acknowledged, in words.
    fn heard(&self, now: Timestamp) -> String {
        self.last_heartbeat.map_or_else(
            || "there never was a heartbeat".to_owned(),
            |at| format!("the last heartbeat was {}", words::ago(&at, &now)),
        )
    }

    fn doubt(&self, now: Timestamp) -> Option<(Verdict, String)> {
        let text = match &self.last_restore_test {
            None => "Backed up, but never proven by a restore test.".to_owned(),
            Some(test) if test.verdict != Verdict::Pass => format!("The last restore test ended {}.", test.verdict),
            Some(_) if exposure::is_silent(now, self.last_heartbeat) => {
                format!("What the vaults lack is not measured: {}.", self.heard(now))
            }
            Some(_) if self.exposure.iter().any(|exposure| exposure.seconds.is_none()) => {
                "Exposure of a vault is unknown.".to_owned()
            }
            Some(_) if let Some(point) = self.recovery_points.iter().find(|point| point.is_in_doubt()) => {
                format!("The recovery point `{}` was not proven when it was tested last.", point.algorithm)
            }
            Some(_) if self.copies.iter().any(|copies| copies.fell_behind) => {
                "A vault lacks backups that should have been copied to it.".to_owned()
            }
            Some(_) if self.weakest_state == Some(BackupState::Degraded) => {
                "A kept backup was taken from damaged pages.".to_owned()
            }
            Some(_) if !self.findings.is_empty() => {
                format!("Recoverable, with {} to fix.", words::count(self.findings.len(), "finding"))
            }
            Some(_) => return None,
        };
        Some((Verdict::Inconclusive, text))
    }
}
