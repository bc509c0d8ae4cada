//! Version 1 of the API: JSON for programs, and the probes of orchestrators and
//! monitors.

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header,
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};

use super::{Problem, Shared};
use crate::{
    domain::{Backup, DatabaseName, RunId},
    evidence::{Entry, Filter, Month},
    flow::RunSummary,
    report::{
        managed::ListedSnapshot,
        status::{DatabaseStatus, EstateStatus},
    },
};

/// A list under a name, so that fields can be added beside it.
#[derive(Debug, Serialize)]
pub(super) struct Items<T> {
    items: Vec<T>,
}

type Answer<T> = Result<Json<T>, Problem>;

#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
}

/// The process lives; nothing else is asked.
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// This node can do its work.
pub(super) async fn readyz(State(source): State<Shared>) -> Answer<Health> {
    source.ready().await?;
    Ok(Json(Health { status: "ok" }))
}

/// The gauges are as old as the last status: it is read anew first.
pub(super) async fn metrics(State(source): State<Shared>) -> impl IntoResponse {
    if let Err(error) = source.status().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "metrics show what was known before");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], source.metrics_text())
}

pub(super) async fn status(State(source): State<Shared>) -> Answer<EstateStatus> {
    Ok(Json(source.status().await?))
}

pub(super) async fn databases(State(source): State<Shared>) -> Answer<Items<DatabaseStatus>> {
    Ok(Json(Items { items: source.status().await?.databases }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupsQuery {
    database: Option<DatabaseName>,
}

pub(super) async fn backups(
    State(source): State<Shared>,
    query: Result<Query<BackupsQuery>, QueryRejection>,
) -> Answer<Items<Backup>> {
    let Query(query) = query?;
    Ok(Json(Items { items: source.backups(query.database.as_ref()).await? }))
}

/// What providers keep, as `backups` has what vaults hold.
pub(super) async fn snapshots(
    State(source): State<Shared>,
    query: Result<Query<BackupsQuery>, QueryRejection>,
) -> Answer<Items<ListedSnapshot>> {
    let Query(query) = query?;
    Ok(Json(Items { items: source.snapshots(query.database.as_ref()).await? }))
}

/// How many items a list has at most.
const MOST: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    limit: Option<usize>,
}

pub(super) async fn runs(
    State(source): State<Shared>,
    query: Result<Query<RunsQuery>, QueryRejection>,
) -> Answer<Items<RunSummary>> {
    let Query(query) = query?;
    Ok(Json(Items { items: source.runs(query.limit.unwrap_or(50).min(MOST)).await? }))
}

pub(super) async fn run(State(source): State<Shared>, Path(id): Path<String>) -> Answer<RunSummary> {
    let id = RunId::from(id);
    source.run(&id).await?.map(Json).ok_or_else(|| Problem::not_found(format!("there is no run `{id}`")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EvidenceQuery {
    month: Option<Month>,
    kind: Option<String>,
    subject: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn evidence(
    State(source): State<Shared>,
    query: Result<Query<EvidenceQuery>, QueryRejection>,
) -> Answer<Items<Entry>> {
    let Query(EvidenceQuery { month, kind, subject, limit }) = query?;
    let filter = Filter { month, kind, subject, limit: Some(limit.unwrap_or(100).min(MOST)) };
    Ok(Json(Items { items: source.evidence(&filter).await? }))
}
