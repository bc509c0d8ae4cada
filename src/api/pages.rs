//! The pages for people: status, report, and the stylesheet of both.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::header,
    response::{Html, IntoResponse, Response},
};
use serde::Deserialize;

use super::{Problem, Shared};
use crate::{
    evidence::Month,
    report::{self, STYLE},
};

pub(super) async fn status(State(source): State<Shared>) -> Result<Html<String>, Problem> {
    Ok(Html(report::page::page(&source.status().await?)?))
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Html,
    Json,
    Csv,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportQuery {
    month: Option<Month>,
    #[serde(default)]
    format: Format,
}

pub(super) async fn report(
    State(source): State<Shared>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query?;
    let built = source.report(query.month).await?;
    Ok(match query.format {
        Format::Html => Html(report::html::html(&built)?).into_response(),
        Format::Json => Json(built).into_response(),
        Format::Csv => ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], report::csv::csv(&built)).into_response(),
    })
}

pub(super) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)
}
