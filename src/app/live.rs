//! The app that serves now. Editing the files puts another one in its place;
//! whoever asks gets one whole state of the files, the old or the new.

use std::sync::{Arc, PoisonError, RwLock};

use super::App;

/// What the daemon serves with at the moment.
pub struct Live(RwLock<Arc<App>>);

impl Live {
    pub fn new(app: Arc<App>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(app)))
    }

    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this one serves, and drives the runs that begin.
    pub fn turn_to(&self, app: Arc<App>) {
        app.take_charge();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = app;
    }
}
