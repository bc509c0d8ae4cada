//! Long work shows how far it is, and an interrupt ends it cleanly: the run is
//! aborted, undone, and only then does the command return.

use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::broadcast;

use super::{interrupt::Interrupt, output};
use crate::{
    app::App,
    flow::{NewRun, Progress, RunSummary},
};

/// A line that shows what is going on; silent when standard error is no terminal.
#[derive(Debug, Clone)]
pub struct Line {
    bar: ProgressBar,
}

impl Line {
    pub fn start(message: impl Into<String>) -> Self {
        let bar = ProgressBar::new_spinner();
        let template = "  {spinner:.cyan} {msg}  {elapsed:.dim}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_message(message.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    pub fn say(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Prints a line that stays above the moving one.
    pub fn keep(&self, line: &str) {
        if self.bar.is_hidden() {
            output::say(line);
        } else {
            self.bar.println(line);
        }
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// What a step of a run says, as one line.
fn describe(progress: &Progress) -> String {
    use crate::domain::ByteSize;
    match (progress.done, progress.total) {
        (Some(done), Some(total)) if total > 0 => {
            let percent = done.saturating_mul(100) / total;
            format!(
                "{}: {} {} of {} ({percent} %)",
                progress.step,
                progress.message,
                ByteSize::from_bytes(done),
                ByteSize::from_bytes(total)
            )
        }
        (Some(done), _) => format!("{}: {} {}", progress.step, progress.message, ByteSize::from_bytes(done)),
        (None, _) => format!("{}: {}", progress.step, progress.message),
    }
}

/// Submits a run, drives it in this process and shows its progress. An interrupt
/// aborts it; a second one leaves it to be resumed.
pub async fn drive(app: &App, run: NewRun) -> Result<RunSummary> {
    let id = run.id.clone();
    let mut interrupt = Interrupt::listen()?;
    let line = Line::start(format!("{id}"));
    let mut progress = app.runner.progress();
    app.settle().await?;
    app.runner.submit(run).await.context("submit the run")?;
    let mut driving = Box::pin(app.runner.drive(&id));
    let mut was_interrupted = false;
    loop {
        tokio::select! {
            summary = &mut driving => {
                while let Ok(said) = progress.try_recv() {
                    if said.run_id == id && said.is_lasting {
                        line.keep(&said.message);
                    }
                }
                line.clear();
                return summary.with_context(|| format!("drive {id}"));
            }
            said = progress.recv() => match said {
                Ok(said) if said.run_id == id && said.is_lasting => line.keep(&said.message),
                Ok(said) if said.run_id == id => line.say(describe(&said)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => progress = app.runner.progress(),
            },
            () = interrupt.heard() => {
                anyhow::ensure!(!was_interrupted, "interrupted twice: {id} is left as it is; `lifeboat serve` or the next command takes it up");
                was_interrupted = true;
                line.keep("stopping the run and undoing what it did; interrupt again to leave at once");
                app.runner.abort(&id, &super::who(), "interrupted").await.context("abort the run")?;
            }
        }
    }
}
