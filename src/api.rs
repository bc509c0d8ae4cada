//! The status API and its pages, for people, monitors and auditors. `Source` is
//! what it shows, `Control` the little that it does; it knows nothing else of
//! the rest. There is no script, no cookie and nothing fetched from elsewhere.
//!
//! Every answer that is no success is problem details (RFC 9457), also for paths
//! and methods that do not exist. What went wrong inside is logged here and not
//! shown to the caller.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    middleware,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Backup, DatabaseName, RunId},
    evidence::{Entry, Filter, Month},
    flow::RunSummary,
    report::{EstateStatus, Report, managed::ListedSnapshot},
};

pub mod control;
mod forms;
pub mod headers;
mod origin;
pub mod pages;
pub mod problem;
mod source;
pub mod v1;

pub use control::{Control, ControlError};
pub use problem::Problem;

/// Why the source could not answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} now; try again, and see the daemon's log when it lasts")]
pub struct SourceError {
    pub what: &'static str,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl SourceError {
    /// For `map_err`: names what was being read.
    pub fn reading<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self { what, source: Box::new(source) }
    }
}

/// What the API shows; the composition root implements it. Every method reads
/// and changes nothing.
#[async_trait]
pub trait Source: Send + Sync {
    /// An error while this node cannot do its work.
    async fn ready(&self) -> Result<(), SourceError>;

    async fn status(&self) -> Result<EstateStatus, SourceError>;

    /// Newest first, at most `limit`.
    async fn runs(&self, limit: usize) -> Result<Vec<RunSummary>, SourceError>;

    async fn run(&self, id: &RunId) -> Result<Option<RunSummary>, SourceError>;

    /// Of one database or of all, newest first.
    async fn backups(&self, database: Option<&DatabaseName>) -> Result<Vec<Backup>, SourceError>;

    /// What providers keep of one database or of all, newest first.
    async fn snapshots(&self, database: Option<&DatabaseName>) -> Result<Vec<ListedSnapshot>, SourceError>;

    /// Oldest first.
    async fn evidence(&self, filter: &Filter) -> Result<Vec<Entry>, SourceError>;

    /// Of one month, or of all time.
    async fn report(&self, month: Option<Month>) -> Result<Report, SourceError>;

    /// In the text format of Prometheus.
    fn metrics_text(&self) -> String;
}

pub(crate) type Shared = Arc<dyn Source>;

/// What handlers need that do something.
#[derive(Clone)]
struct Acting {
    control: Arc<dyn Control>,
    /// Of this process; a form without it is not ours.
    token: Arc<str>,
}

/// What all handlers need.
#[derive(Clone)]
struct Served {
    source: Shared,
    acting: Acting,
}

impl FromRef<Served> for Shared {
    fn from_ref(served: &Served) -> Self {
        Arc::clone(&served.source)
    }
}

impl FromRef<Served> for Acting {
    fn from_ref(served: &Served) -> Self {
        served.acting.clone()
    }
}

/// No request needs more.
const BODY_MAX: usize = 16 * 1024;

/// All routes.
pub fn router(source: Arc<dyn Source>, control: Arc<dyn Control>) -> Router {
    let acting = Acting { control, token: hex::encode(rand::random::<[u8; 32]>()).into() };
    Router::new()
        .route("/", get(pages::status))
        .route("/reports", get(pages::report))
        .route("/runs/{*id}", get(forms::run).post(forms::signal))
        .route("/lever", get(forms::lever).post(forms::turn_lever))
        .route("/style.css", get(pages::style))
        .route("/healthz", get(v1::healthz))
        .route("/readyz", get(v1::readyz))
        .route("/metrics", get(v1::metrics))
        .route("/api/v1/status", get(v1::status))
        .route("/api/v1/databases", get(v1::databases))
        .route("/api/v1/backups", get(v1::backups))
        .route("/api/v1/snapshots", get(v1::snapshots))
        .route("/api/v1/runs", get(v1::runs))
        .route("/api/v1/runs/{*id}", get(v1::run).post(control::signal))
        .route("/api/v1/lever", get(control::lever).post(control::turn_lever))
        .route("/api/v1/evidence", get(v1::evidence))
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::unknown_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(origin::guard))
        .layer(middleware::map_response(headers::protect))
        .with_state(Served { source, acting })
}

/// How long open requests may take to end after the stop.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until `stop`, then lets open requests end within five seconds.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = overdue => Ok(()),
    }
}
