//! Ctrl-C, or the polite request to end that a supervisor sends.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from the moment it is made: a signal that comes while nobody waits
/// for it is kept, and none ends this process any more.
#[derive(Debug)]
pub struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub fn listen() -> Result<Self> {
        let interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")? })
    }

    /// Waits for the next one.
    pub async fn heard(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
