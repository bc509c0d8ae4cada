//! `lifeboat serve`: the daemon.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};

use super::{Invocation, UsageError, interrupt::Interrupt, open};
use crate::{
    api,
    app::{App, Role},
    domain::NodeRole,
    process::Tasks,
    tasks::{self, exposure, lever, presence, schedule, stranded},
    telemetry,
};

pub async fn run(invocation: &Invocation) -> Result<u8> {
    let app = open(invocation, Role::Everything).await?;
    // What is counted before the first scrape counts too.
    telemetry::metrics_handle()?;
    let background = Tasks::new();
    app.settle().await?;
    // First, as it is what a second daemon fails at.
    let node = &app.estate.daemon.node;
    let has = |role| node.roles.contains(&role);
    let listen = match &app.estate.daemon.api {
        Some(_) if has(NodeRole::Api) => Some(start_api(&app, &background).await?),
        Some(_) | None => None,
    };
    // A worker publishes the metrics among the rest.
    if has(NodeRole::Api) && !has(NodeRole::Worker) {
        background.spawn(exposure::run(Arc::clone(&app), background.stop().clone()));
    }
    // Before a run waits for a node.
    presence::tell(&app).await;
    background.spawn(presence::run(Arc::clone(&app), background.stop().clone()));
    background.spawn(stranded::run(Arc::clone(&app), background.stop().clone()));
    background.spawn(lever::run(Arc::clone(&app), background.stop().clone()));
    if has(NodeRole::Worker) {
        work(&app, &background);
    }
    if has(NodeRole::Scheduler) {
        schedule(&app, &background);
    }
    tracing::info!(
        node = node.name,
        databases = app.resources.databases.len(),
        fingerprint = app.signer.verifier().fingerprint(),
        page = listen.map(|listen| format!("http://{listen}/")),
        "serving"
    );
    Interrupt::listen()?.heard().await;
    tracing::info!("stopping: steps are asked to stop and awaited, runs go on at the next start");
    background.shut_down().await;
    app.resources.db.close().await;
    Ok(0)
}

/// Drives runs, streams WAL and takes care of the vaults.
fn work(app: &Arc<App>, background: &Tasks) {
    tasks::protect(app, background);
    tasks::care(app, background);
    let runs_max = usize::try_from(app.estate.daemon.node.runs_max.get()).unwrap_or(usize::MAX);
    let (runner, stop) = (Arc::clone(&app.runner), background.stop().clone());
    background.spawn(async move { runner.serve(stop, runs_max).await });
}

/// Stores the runs that are due.
fn schedule(app: &Arc<App>, background: &Tasks) {
    tasks::ask(app, background);
    let (scheduled, stop) = (Arc::clone(app), background.stop().clone());
    background.spawn(async move {
        if let Err(error) = schedule::run(scheduled, stop).await {
            tracing::error!(%error, "the scheduler stopped; restart the daemon");
        }
    });
}

/// Starts the status API and page; answers where they listen.
pub async fn start_api(app: &Arc<App>, tasks: &Tasks) -> Result<SocketAddr> {
    let wanted = app.estate.daemon.api.as_ref().context("lifeboat.yaml has no `api: {listen: …}`")?.listen;
    let listener = tokio::net::TcpListener::bind(wanted).await.map_err(|error| {
        UsageError(format!("cannot listen on {wanted}: {error}; choose another `api.listen` or end who uses it"))
    })?;
    let listen = listener.local_addr()?;
    let router = api::router(Arc::clone(app) as Arc<dyn api::Source>, Arc::clone(app) as Arc<dyn api::Control>);
    let stop = tasks.stop().clone();
    tasks.spawn(async move {
        if let Err(error) = api::serve(listener, router, stop).await {
            tracing::error!(%error, "the status API stopped");
        }
    });
    Ok(listen)
}
