//! Takes edits of the files over while the daemon serves: on SIGHUP, and when the
//! files look different and rest. They are asked for every two seconds, as network
//! file systems tell nobody of a change.
//!
//! What must never happen: half an edit, or an end of what protects because of one.
//! A broken edit is refused whole and is a finding; what was before goes on.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::running::Running;
use crate::{
    app::{App, live::Live},
    config::{self, Problems},
    db::{DbError, findings},
    decide::reload::{Edits, Look},
    domain::with_causes,
};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What was refused is tried again: a vault or a password may be what was missing.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Problems that the finding tells of; the log has all.
const TOLD_MAX: usize = 3;

/// The files, and how they looked before they were read first: an edit in between
/// is an edit.
#[derive(Debug)]
pub struct Files {
    file: PathBuf,
    edits: Edits,
}

impl Files {
    pub async fn at(file: &Path) -> Self {
        Self { file: file.to_owned(), edits: Edits::since(look(file).await) }
    }
}

/// Takes edits over until `stop`. `asked` is rung where somebody wants the files
/// to be read at once, changed or not.
pub async fn run(live: &Live, running: &mut Running, files: Files, asked: &Notify, stop: &CancellationToken) {
    let Files { file, mut edits } = files;
    let file = file.as_path();
    let mut reload = Reload { live, file, told: None };
    // An earlier life may have left one, and what it could not read was read now.
    reload.close().await;
    let mut refused_at: Option<Instant> = None;
    loop {
        let is_asked = tokio::select! {
            () = stop.cancelled() => break,
            () = asked.notified() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let are_done = edits.are_done(look(file).await);
        if !is_asked && !are_done && refused_at.is_none_or(|at| at.elapsed() < AGAIN_AFTER) {
            continue;
        }
        if is_asked {
            tracing::info!("reading the files, as asked");
        }
        let Some(read) = stop.run_until_cancelled(reload.read()).await else { break };
        refused_at = match read {
            Ok(app) => {
                let before = live.app();
                live.turn_to(Arc::clone(&app));
                let untouched = running.turn_to(&app).await;
                close_gone(&before, &app).await;
                tracing::info!(
                    databases = app.resources.databases.len() + app.resources.managed.len(),
                    untouched,
                    "serving with the edited files"
                );
                reload.close().await;
                None
            }
            Err(lines) => {
                reload.refuse(&lines, is_asked || are_done).await;
                Some(Instant::now())
            }
        };
    }
}

struct Reload<'a> {
    live: &'a Live,
    file: &'a Path,
    /// What the open finding says.
    told: Option<String>,
}

impl Reload<'_> {
    /// Reads and opens everything; else a line per problem.
    async fn read(&self) -> Result<Arc<App>, Vec<String>> {
        let file = self.file.to_owned();
        let estate = match tokio::task::spawn_blocking(move || config::load(&file)).await {
            Ok(loaded) => loaded.map_err(|problems: Problems| lines(&problems))?,
            Err(error) => return Err(vec![with_causes(&error)]),
        };
        let reopened = self.live.app().reopened(estate).await;
        reopened.map_err(|error| vec![with_causes(&error as &(dyn Error + 'static))])
    }

    fn id(&self) -> (String, String) {
        let node = self.live.app().estate.daemon.node.name.clone();
        (format!("configuration/{node}"), node)
    }

    async fn refuse(&mut self, lines: &[String], is_new: bool) {
        let first = lines.iter().take(TOLD_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
        let more = match lines.len().saturating_sub(TOLD_MAX) {
            0 => String::new(),
            more => format!("; and {more} more, which `lifeboat check` lists"),
        };
        let text = format!("the edited files are not used, and what was before goes on: {first}{more}");
        if is_new || self.told.as_ref() != Some(&text) {
            for problem in lines {
                tracing::error!(problem, "the edited files are not used");
            }
        }
        let (id, node) = self.id();
        match findings::open(&self.live.app().resources.db, &id, &node, &text).await {
            Ok(()) => self.told = Some(text),
            Err(error) => tracing::warn!(%error, "a finding could not be kept"),
        }
    }

    async fn close(&mut self) {
        match findings::close(&self.live.app().resources.db, &self.id().0).await {
            Ok(()) => self.told = None,
            Err(error) => tracing::warn!(%error, "a finding could not be closed"),
        }
    }
}

/// Closes what was found about databases that are not protected any more: nobody looks
/// at them again.
async fn close_gone(before: &App, now: &App) {
    let db = &now.resources.db;
    let is_gone = |subject: &str| {
        let names = |app: &App| {
            let mut all = app.resources.databases.keys().chain(app.resources.managed.keys());
            all.any(|name| name.as_str() == subject)
        };
        names(before) && !names(now)
    };
    let closed = async {
        for finding in findings::open_findings(db).await?.iter().filter(|finding| is_gone(&finding.subject)) {
            findings::close(db, &finding.id).await?;
        }
        Ok::<_, DbError>(())
    };
    if let Err(error) = closed.await {
        tracing::warn!(%error, "what was found about databases that went is not closed");
    }
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// How the files look now.
async fn look(file: &Path) -> Look {
    let file = file.to_owned();
    // Where it fails, nothing is there: a look that differs, and then is read.
    tokio::task::spawn_blocking(move || look_at(&file)).await.unwrap_or_default()
}

fn look_at(file: &Path) -> Look {
    let folder = file.parent().unwrap_or(Path::new(""));
    let beside = ["schedules", "runbooks"].into_iter().flat_map(|name| std::fs::read_dir(folder.join(name)));
    let beside = beside.flatten().flatten().map(|entry| entry.path());
    let is_written =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let seen = |path: PathBuf| {
        // Through a link, as what it leads to is what is read.
        let found = std::fs::metadata(&path).ok();
        let figures = found.map_or((0, 0), |found| {
            let changed = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            (found.len(), changed.map_or(0, |at| i128::try_from(at.as_nanos()).unwrap_or(i128::MAX)))
        });
        (path.display().to_string(), figures)
    };
    std::iter::once(file.to_owned()).chain(beside.filter(is_written)).map(seen).collect()
}
