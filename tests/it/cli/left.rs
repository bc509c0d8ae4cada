//! Runs whose database has left the schedules: each ends with a verdict, and
//! what it made and could not take back is named.

use std::time::Duration;

use lifeboat::{
    app::App,
    clock::Clock,
    domain::{BackupKind, RecoveryTarget, RunId, Verdict},
    flow::{NewRun, RunState},
    flows::{backup, copy, prune, restore_test, rotate_keys, verify},
};
use serde_json::Value;

use super::{
    prune::{estate, name, open},
    site::Site,
};
use crate::support::eventually;

const LIMIT: Duration = Duration::from_secs(60);

async fn submit(app: &App, flow: &str, params: &impl serde::Serialize) -> RunId {
    let id = RunId::new(flow, "wallet", "manual", &app.stamp());
    app.runner.submit(NewRun::new(id.clone(), name(), params, "tester").unwrap()).await.unwrap();
    id
}

/// One run of each flow that works for a database.
async fn submit_all(app: &App) -> Vec<RunId> {
    let (database, vault, due_at) = (name(), "primary".parse().unwrap(), None);
    let taken = backup::Params {
        database: name(),
        kind: BackupKind::Full,
        standalone: false,
        manner: backup::Manner::default(),
        due_at,
    };
    let pruned = prune::Params { database: name(), vault, due_at, expected: None };
    let verified =
        verify::Params { database: name(), vault: "primary".parse().unwrap(), depth: verify::Asked::Full, due_at };
    let copied = copy::Params { database: name(), from: None, to: "primary".parse().unwrap(), due_at };
    let point = restore_test::Point::Asked(RecoveryTarget::Latest);
    vec![
        submit(app, backup::NAME, &taken).await,
        submit(app, prune::NAME, &pruned).await,
        submit(app, verify::NAME, &verified).await,
        submit(app, copy::NAME, &copied).await,
        submit(app, rotate_keys::NAME, &rotate_keys::Params { database: name(), due_at }).await,
        submit(app, restore_test::NAME, &restore_test::Params { database, point, due_at }).await,
    ]
}

/// Drives a restore test until it has made its folder, and lets go of it there.
async fn interrupted(app: &App, site: &Site) -> (RunId, String) {
    let params = restore_test::Params { database: name(), point: restore_test::Point::Scheduled, due_at: None };
    let id = submit(app, restore_test::NAME, &params).await;
    let folders = || std::fs::read_dir(site.path("scratch")).unwrap().map(|entry| entry.unwrap().path());
    let interrupting = async {
        // The disaster is drawn for some seconds later.
        eventually("the test has a folder", LIMIT, || async { folders().next().is_some() }).await;
        app.runner.shut_down().await;
    };
    let (driven, ()) = tokio::join!(app.runner.drive(&id), interrupting);
    driven.unwrap_err();
    (id, folders().next().unwrap().display().to_string())
}

async fn ended(app: &App, id: &RunId) -> (RunState, Value) {
    let driven = tokio::time::timeout(LIMIT, app.runner.drive(id)).await;
    let run = driven.unwrap_or_else(|_| panic!("{id} does not end")).unwrap();
    let conclusion = run.conclusion.unwrap();
    assert_eq!(conclusion.verdict, Verdict::Error, "{conclusion:?}");
    assert_eq!(conclusion.output["database"], "wallet", "{conclusion:?}");
    let record = app.resources.evidence.get(id.as_str()).await.unwrap().unwrap().record;
    assert_eq!((record.subject.as_str(), record.verdict), ("wallet", Verdict::Error), "{record:?}");
    let told = conclusion.output["findings"].to_string();
    assert!(told.contains("no schedule names the database `wallet` any more"), "{id}: {told}");
    (run.state, conclusion.output)
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_database_that_left_the_schedules_end() {
    let (_lab, site) = estate().await;
    site.run(&["backup", "wallet"]).await.json(0);
    let app = open(&site, Clock::system()).await;
    let waiting = submit_all(&app).await;
    let (begun, folder) = interrupted(&app, &site).await;
    app.resources.db.close().await;

    site.edit("schedules/wallet.yaml", "database: wallet", "database: ledger");
    let app = open(&site, Clock::system()).await;
    let (state, output) = ended(&app, &begun).await;
    assert_eq!(state, RunState::Stuck);
    assert!(output["findings"].to_string().contains(&folder), "what it made is named: {output:#}");
    for id in waiting {
        let (state, _) = ended(&app, &id).await;
        assert_eq!(state, RunState::Unwound, "{id}");
    }
    app.runner.shut_down().await;
}
