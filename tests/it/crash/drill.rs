//! A drill under aborts, undos that fail, the safety lever, and a kill -9 of the daemon
//! that drives it and streams its WAL: never do two servers take writes, and no
//! heartbeat that was acknowledged is ever lost.

use std::time::Duration;

use lifeboat::{
    app::Role,
    cli::demo::estate::{ADDRESSES, RECORD, SITES},
    config::{daemon::DnsConfig, runbook::StepConfig},
    db::evidence,
    dns::query::{Question, Transport, ask},
    domain::RunId,
    flow::RunState,
    process::Program,
};
use serde_json::{Value, json};

use super::lab::{LIMIT, Lab};
use crate::support::eventually;

/// Where a kill takes the stream along with which a position is known: once the old
/// primary is fenced, and once the new one is promoted.
const POINTS: [&str; 2] = ["flow.step_succeeded.before:2", "flow.step_started.after:4"];

/// Where clients are sent by a daemon that runs, or just starts.
async fn resolved(lab: &Lab) -> Vec<std::net::IpAddr> {
    let DnsConfig::Embedded(dns) = &lab.app.estate.daemon.dns["lab"];
    let question = Question { name: RECORD, ipv6: false, recursion: false };
    let begun = std::time::Instant::now();
    loop {
        match ask(dns.listen, question, Transport::Udp, Duration::from_millis(200)).await {
            Ok(reply) => return reply.addresses,
            Err(error) => assert!(begun.elapsed() < LIMIT, "the zone is not answered for: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The site that the runbook leads to took over, and the other one follows it.
async fn assert_moved(lab: &Lab, what: &str, site: usize) {
    assert!(lab.writes(site).await, "{what}: {} is the primary", SITES[site]);
    assert!(!lab.writes(1 - site).await, "{what}: {} takes no writes", SITES[1 - site]);
    lab.assert_no_heartbeat_lost(what).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aborts_and_undos_of_a_drill() {
    let mut lab = Lab::start(Role::WithoutDns).await;
    lab.serve(None);
    lab.protected().await;
    let backup = lab.submit(lab.backup()).await;
    assert_eq!(lab.ended(&backup).await.state, RunState::Done);
    let folder = lab.estate.folder().display().to_string();
    let slow = lab.script("fence-slow", &format!("{folder}/fence-a\ntouch {folder}/fenced\nfor _ in $(seq 600); do [ -e {folder}/go ] && break; sleep 0.1; done"));
    lab.watch_primaries();

    // Aborted while the fence goes up: it is taken down again.
    let fence_slowly = |steps: &mut Vec<StepConfig>, release: Option<&str>| {
        let Some(StepConfig::Fence(fence)) = steps.first_mut() else { panic!("a drill begins with its fence") };
        fence.by.command = vec![slow.display().to_string()];
        if let Some(release) = release {
            fence.release.command = vec![release.to_owned()];
        }
    };
    let (fenced, go) = (lab.estate.folder().join("fenced"), lab.estate.folder().join("go"));
    let run = lab.submit(lab.drill("wallet-switchover", |runbook| fence_slowly(&mut runbook.steps, None))).await;
    eventually("the primary is fenced", LIMIT, || async { fenced.exists() }).await;
    lab.app.runner.abort(&run, "tester", "a test").await.unwrap();
    std::fs::write(&go, "").unwrap();
    let run = lab.ended(&run).await;
    let record = lab.assert_ended("aborted fence", &run, RunState::Unwound, "ABORTED").await;
    assert!(record["safety"].to_string().contains("fence released"), "{record:#}");
    assert!(lab.writes(0).await && !lab.writes(1).await, "the old primary takes writes again");
    assert_eq!(resolved(&lab).await, [ADDRESSES[0]]);

    // The undo of the fence fails: a person must act, and is told what.
    std::fs::remove_file(&fenced).unwrap();
    std::fs::remove_file(&go).unwrap();
    lab.follows(1).await;
    lab.protected().await;
    let stuck = lab.drill("wallet-switchover", |runbook| fence_slowly(&mut runbook.steps, Some("/bin/false")));
    let stuck = lab.submit(stuck).await;
    eventually("the primary is fenced", LIMIT, || async { fenced.exists() }).await;
    lab.app.runner.abort(&stuck, "tester", "a test").await.unwrap();
    std::fs::write(&go, "").unwrap();
    let stuck = lab.ended(&stuck).await;
    let record = lab.assert_ended("stuck", &stuck, RunState::Stuck, "FAIL").await;
    assert_eq!(stuck.step.as_deref(), Some("fence"));
    let findings = record["findings"].to_string();
    assert!(findings.contains("`fence` could not be undone") && findings.contains("/bin/false"), "{findings}");
    assert!(!lab.writes(0).await && !lab.writes(1).await);
    Program::new(lab.estate.folder().join("release-a")).output(LIMIT).await.unwrap();

    lab.follows(1).await;
    the_lever_stops_a_drill_that_waits(&mut lab).await;

    // After the promotion an abort is refused, and the drill goes forward.
    let run = approved_after_a_kill(&mut lab).await;
    lab.until_step(&run, "observe").await;
    lab.app.runner.abort(&run, "tester", "too late").await.unwrap();
    let run = lab.ended(&run).await;
    let record = lab.assert_ended("abort after the promotion", &run, RunState::Done, "PASS").await;
    let approvals = record["safety"].as_array().unwrap().iter().find(|check| check["name"] == "approvals").unwrap();
    assert_eq!(approvals["actual"], "ann, bob", "the requester does not count, and nobody counts twice");
    let journal = lab.journal(&run.run_id).await;
    assert!(journal.iter().any(|event| event["event"] == "abort_refused"), "{journal:?}");
    assert_moved(&lab, "abort after the promotion", 1).await;
    lab.kill().await;
    for (point, site) in POINTS.into_iter().zip([0, 1]) {
        let run = lab.drill(["wallet-switchback", "wallet-switchover"][site], |_| {});
        let run = lab.killed_at(point, run).await;
        let record = lab.assert_ended(point, &run, RunState::Done, "PASS").await;
        assert_eq!(record["measured"]["lost_commits"], 0, "{point}: {record:#}");
        assert_moved(&lab, point, site).await;
        lab.serve(None);
        assert_eq!(resolved(&lab).await, [ADDRESSES[site]], "{point}: clients are still sent there after a restart");
        lab.kill().await;
    }
    lab.tear_down().await;
}

/// A drill that waits for `required` approvals.
async fn waiting(lab: &Lab, required: u32) -> RunId {
    let run = lab.submit(lab.drill("wallet-switchover", |runbook| runbook.approvals.required = required)).await;
    eventually("the drill waits for approvals", LIMIT, || async {
        lab.app.runner.get(&run).await.unwrap().state == RunState::Waiting
    })
    .await;
    run
}

/// Turned on while no daemon lives: the next one ends what waits, nothing new
/// begins, and backups go on.
async fn the_lever_stops_a_drill_that_waits(lab: &mut Lab) {
    let run = waiting(lab, 1).await;
    lab.kill().await;
    let args = ["lever", "on", "--who", "eve", "--reason", "a match"];
    lab.command(&args).await.unwrap();
    let refused = lab.command(&["drill", "wallet-switchover", "--live"]).await.unwrap_err();
    for word in ["safety lever is on", "eve: a match", "lifeboat lever off"] {
        assert!(refused.contains(word), "{word} is not in {refused}");
    }
    lab.serve(None);
    let ended = lab.ended(&run).await;
    let record = lab.assert_ended("lever", &ended, RunState::Unwound, "ABORTED").await;
    assert!(record["findings"].to_string().contains("`eve` aborted the drill: safety lever: a match"), "{record:#}");
    let later = lab.submit(lab.drill("wallet-switchover", |_| {})).await;
    let later = lab.ended(&later).await;
    lab.assert_ended("a drill from elsewhere", &later, RunState::Unwound, "ABORTED").await;
    assert!(lab.writes(0).await && !lab.writes(1).await, "nothing was touched");
    let backup = lab.submit(lab.backup()).await;
    assert_eq!(lab.ended(&backup).await.state, RunState::Done, "the lever stops no backup");
    let lever = json!({"on": false, "who": "bob", "reason": "the match is over"});
    assert_eq!(lab.post("/api/v1/lever", &lever).await, 200);
    eventually("both turns are in the evidence", LIMIT, || async {
        let rows = evidence::rows_from(&lab.app.resources.db, 0).await.unwrap();
        let entries: Vec<Value> = rows.iter().map(|row| serde_json::from_str(&row.entry).unwrap()).collect();
        let turns: Vec<&Value> = entries.iter().filter(|entry| entry["record"]["kind"] == "lever").collect();
        let who: Vec<&Value> = turns.iter().map(|turn| &turn["record"]["why"]["requester"]).collect();
        who == ["eve", "bob"]
    })
    .await;
}

/// The daemon is killed while a drill waits; the next one takes approvals by the API.
async fn approved_after_a_kill(lab: &mut Lab) -> RunId {
    let run = waiting(lab, 2).await;
    lab.kill().await;
    lab.serve(None);
    lab.protected().await;
    let path = format!("/api/v1/runs/{run}/approve");
    for who in ["tester", "ann", "ann"] {
        assert_eq!(lab.post(&path, &json!({"who": who, "reason": "it is time"})).await, 202);
    }
    eventually("three approvals are read", LIMIT, || async {
        lab.journal(&run).await.iter().filter(|event| event["event"] == "wait_ended").count() == 3
    })
    .await;
    assert!(!lab.journal(&run).await.iter().any(|event| event["event"] == "step_succeeded"), "one person is not two");
    assert_eq!(lab.post(&path, &json!({"who": "bob", "reason": ""})).await, 202);
    let journal = lab.journal(&run).await;
    let signals = journal.iter().filter(|event| event["event"] == "signalled" && event["name"] == "approve");
    assert_eq!(
        signals.map(|event| event["who"].as_str().unwrap()).collect::<Vec<_>>(),
        ["tester", "ann", "ann", "bob"]
    );
    run
}
