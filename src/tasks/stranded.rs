//! Finds runs that no living node may drive: those of a region where none
//! serves. Each is a finding until it is taken. All nodes look, also those that
//! drive nothing themselves.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    db::{
        DbError, findings, nodes,
        runs::{self, Claimable},
    },
    decide::placement,
    domain::{Placement, Region},
};

const EVERY: Duration = Duration::from_secs(10);
/// What the ids of these findings begin with; the run's id follows.
const PREFIX: &str = "stranded/";

/// Looks until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut before = BTreeSet::new();
    loop {
        match app.resources.db.within(EVERY, "look for stranded runs", look(&app, &before)).await {
            Ok(stranded) => before = stranded,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "stranded runs are not looked for; trying again"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Opens a finding of each run that is stranded now and was the last time: a node
/// that starts again needs a moment. Closes those of the others.
async fn look(app: &App, before: &BTreeSet<String>) -> Result<BTreeSet<String>, DbError> {
    let db = &app.resources.db;
    let nodes = nodes::list(db).await?;
    let waiting = runs::claimable(db).await?;
    let stranded: Vec<&Claimable> = waiting.iter().filter(|run| !placement::has_node(&run.placement, &nodes)).collect();
    let open: BTreeSet<String> = findings::open_findings(db).await?.into_iter().map(|finding| finding.id).collect();
    for run in stranded.iter().filter(|run| before.contains(&run.id)) {
        let id = format!("{PREFIX}{}", run.id);
        if !open.contains(&id) {
            let subject = run.placement.database.as_ref().map_or(run.id.clone(), ToString::to_string);
            findings::open(db, &id, &subject, &message(run)).await?;
        }
    }
    for id in &open {
        let is_stranded = |run: &str| stranded.iter().any(|stranded| stranded.id == run);
        if id.strip_prefix(PREFIX).is_some_and(|run| !is_stranded(run)) {
            findings::close(db, id).await?;
        }
    }
    Ok(stranded.into_iter().map(|run| run.id.clone()).collect())
}

fn message(run: &Claimable) -> String {
    format!(
        "run `{}` waits: no living node with the role `worker` {}; start one there, or see why it is silent (`lifeboat status`)",
        run.id,
        whereabouts(&run.placement)
    )
}

fn whereabouts(placement: &Placement) -> String {
    let regions: Vec<&str> = placement.regions.iter().map(Region::as_str).collect();
    match regions.as_slice() {
        [] => "serves".to_owned(),
        [only] => format!("stands in {only}"),
        _ => format!("stands in one of {}", regions.join(", ")),
    }
}
