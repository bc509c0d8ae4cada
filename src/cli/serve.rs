//! `lifeboat serve`: the daemon.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use super::{Invocation, UsageError, interrupt::Interrupt, open};
use crate::{
    api,
    app::{Role, live::Live},
    domain::NodeRole,
    process::Tasks,
    tasks::{
        presence,
        reload::{self, Files},
        running::Running,
    },
    telemetry,
};

pub async fn run(invocation: &Invocation) -> Result<u8> {
    // One that comes before the daemon serves must not end it.
    let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let files = Files::at(&invocation.config).await;
    let app = open(invocation, Role::Everything).await?;
    // What is counted before the first scrape counts too.
    telemetry::metrics_handle()?;
    let background = Tasks::new();
    app.settle().await?;
    // First, as it is what a second daemon fails at.
    let live = Live::new(Arc::clone(&app));
    let node = &app.estate.daemon.node;
    let has = |role| node.roles.contains(&role);
    let listen = match &app.estate.daemon.api {
        Some(_) if has(NodeRole::Api) => Some(start_api(&live, &background).await?),
        Some(_) | None => None,
    };
    // Before a run waits for a node.
    presence::tell(&app).await;
    background.spawn(presence::run(Arc::clone(&app), background.stop().clone()));
    let mut running = Running::start(&app);
    if has(NodeRole::Worker) {
        let runs_max = usize::try_from(node.runs_max.get()).unwrap_or(usize::MAX);
        let (runner, stop) = (Arc::clone(&app.runner), background.stop().clone());
        background.spawn(async move { runner.serve(stop, runs_max).await });
    }
    tracing::info!(
        node = node.name,
        databases = app.resources.databases.len() + app.resources.managed.len(),
        fingerprint = app.signer.verifier().fingerprint(),
        page = listen.map(|listen| format!("http://{listen}/")),
        "serving"
    );
    serve(&live, &mut running, files, hangup).await?;
    tokio::join!(background.shut_down(), running.shut_down());
    app.resources.db.close().await;
    Ok(0)
}

/// Takes edits of the files over until somebody wants the daemon to end.
async fn serve(live: &Live, running: &mut Running, files: Files, mut hangup: Signal) -> Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let (asked, stop) = (Notify::new(), CancellationToken::new());
    let ended = async {
        interrupt.heard().await;
        tracing::info!("stopping: steps are asked to stop and awaited, runs go on at the next start");
        stop.cancel();
    };
    let hung_up = async {
        while hangup.recv().await.is_some() {
            asked.notify_one();
        }
    };
    let hung_up = stop.run_until_cancelled(hung_up);
    tokio::join!(ended, hung_up, reload::run(live, running, files, &asked, &stop));
    Ok(())
}

/// Starts the status API and page; answers where they listen.
pub async fn start_api(live: &Arc<Live>, tasks: &Tasks) -> Result<SocketAddr> {
    let app = live.app();
    let wanted = app.estate.daemon.api.as_ref().context("lifeboat.yaml has no `api: {listen: …}`")?.listen;
    let listener = tokio::net::TcpListener::bind(wanted).await.map_err(|error| {
        UsageError(format!("cannot listen on {wanted}: {error}; choose another `api.listen` or end who uses it"))
    })?;
    let listen = listener.local_addr()?;
    let router = api::router(Arc::clone(live) as Arc<dyn api::Source>, Arc::clone(live) as Arc<dyn api::Control>);
    let stop = tasks.stop().clone();
    tasks.spawn(async move {
        if let Err(error) = api::serve(listener, router, stop).await {
            tracing::error!(%error, "the status API stopped");
        }
    });
    Ok(listen)
}
