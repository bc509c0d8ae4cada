//! One finding that a reconciler opens and closes as what it watches changes.

use std::{fmt, sync::Arc};

use crate::{
    app::App,
    db::{DbError, findings},
};

/// Something that a person must fix, about one database or vault.
pub(super) struct Finding {
    app: Arc<App>,
    subject: String,
    id: String,
    is_open: bool,
}

impl Finding {
    /// `what` names the reconciler. One of an earlier life may still be open:
    /// the first `close` closes it.
    pub(super) fn new(what: &str, app: &Arc<App>, subject: &impl fmt::Display) -> Self {
        Self { app: Arc::clone(app), subject: subject.to_string(), id: format!("{what}/{subject}"), is_open: true }
    }

    pub(super) async fn open(&mut self, message: &str) {
        self.is_open = true;
        keep(findings::open(&self.app.resources.db, &self.id, &self.subject, message).await);
    }

    pub(super) async fn close(&mut self) {
        if self.is_open {
            let closed = findings::close(&self.app.resources.db, &self.id).await;
            self.is_open = closed.is_err();
            keep(closed);
        }
    }
}

/// Closes what an earlier life opened about `subject` by the name of something that is
/// no more, and that nothing here will look at again.
pub(super) async fn close_gone(app: &Arc<App>, subject: &impl fmt::Display, is_gone: impl Fn(&str) -> bool) {
    let (db, ending) = (&app.resources.db, format!("/{subject}"));
    match findings::open_findings(db).await {
        Ok(open) => {
            for gone in open.iter().filter(|finding| finding.id.strip_suffix(&ending).is_some_and(&is_gone)) {
                keep(findings::close(db, &gone.id).await);
            }
        }
        Err(error) => keep(Err(error)),
    }
}

/// The next look will try again.
fn keep(outcome: Result<(), DbError>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "a finding could not be kept");
    }
}
