//! A whole switchover, step by step, and drills that are refused or unwound.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use lifeboat::{
    clock::Clock,
    config::runbook::{FenceStep, ProbeConfig, StepConfig},
    decide::drill::{Facts, Instants, Outcome, verdicts},
    dns::{
        Dns, EmbeddedDns,
        observer::{Client, Watch},
    },
    domain::{Beat, Check, DatabaseName, EvidenceRecord, Lever, Lsn, MemberName, SiteName, Verdict, record::PlanFile},
    engine::{
        Engine,
        postgres::{Postgres, cluster::LocalCluster},
    },
    evidence::EvidenceRef,
    flow::{Flow, StepError},
    flows::drill::{
        CONSECUTIVE, Drill, DrillFlow, DrillParams, Estate, Ledger, Recorder, SAMPLING, client::ServiceClient, prepare,
        probe, settle, shift,
    },
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::estate::{LIMIT, Pair, member};
use crate::support::eventually;

const RECORD: &str = "wallet.example.";

/// The estate of one pair: embedded DNS, and the heartbeats that were acknowledged.
struct Lab {
    engine: Arc<Postgres>,
    dns: Arc<EmbeddedDns>,
    beats: Vec<Beat>,
    lever: Mutex<Lever>,
}

impl Lab {
    async fn new(pair: &Pair) -> Arc<Self> {
        let records = BTreeMap::from([(RECORD.to_owned(), [127, 0, 0, 1].into())]);
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let dns = EmbeddedDns::start(listen, "example.", &records, 60, None, Clock::system()).await.unwrap();
        let engine = Arc::new(pair.postgres.clone());
        Arc::new(Self { engine, dns: Arc::new(dns), beats: pair.beats.clone(), lever: Mutex::default() })
    }
}

struct Beats(Vec<Beat>);

#[async_trait]
impl Ledger for Beats {
    async fn acknowledged_between(&self, from: Timestamp, to: Timestamp) -> Result<Vec<Beat>, StepError> {
        Ok(self.0.iter().filter(|beat| (from..=to).contains(&beat.acknowledged_at)).copied().collect())
    }
    async fn fenced_lsn(&self) -> Result<Lsn, StepError> {
        self.0.iter().map(|beat| beat.commit_lsn).max().ok_or_else(|| StepError::permanent("no heartbeat"))
    }
}

struct Nowhere;

#[async_trait]
impl Recorder for Nowhere {
    async fn record(&self, _: EvidenceRecord) -> Result<EvidenceRef, StepError> {
        unreachable!("these tests end before the conclusion")
    }
}

#[async_trait]
impl Estate for Lab {
    fn engine(&self, _: &DatabaseName) -> Result<Arc<dyn Engine>, StepError> {
        Ok(self.engine.clone())
    }
    fn member(&self, _: &DatabaseName, site: &SiteName) -> Result<MemberName, StepError> {
        let found = self.engine.members.iter().find(|member| member.site == *site);
        found.map(|member| member.name.clone()).ok_or_else(|| StepError::permanent(format!("no member at `{site}`")))
    }
    fn dns(&self, _: Option<&str>) -> Result<Arc<dyn Dns>, StepError> {
        Ok(self.dns.clone())
    }
    fn client(&self, _: &DatabaseName, probe: &ProbeConfig) -> Result<Arc<dyn Client>, StepError> {
        Ok(Arc::new(ServiceClient::new(Arc::clone(&self.engine) as Arc<_>, probe)))
    }
    fn ledger(&self, _: &DatabaseName) -> Result<Arc<dyn Ledger>, StepError> {
        Ok(Arc::new(Beats(self.beats.clone())))
    }
    fn recorder(&self) -> Arc<dyn Recorder> {
        Arc::new(Nowhere)
    }
    async fn lever(&self) -> Result<Lever, StepError> {
        Ok(self.lever.lock().unwrap().clone())
    }
    fn held_by(&self, _: &DatabaseName, _: Timestamp) -> Result<Option<String>, StepError> {
        Ok(None)
    }
}

/// `pg_ctl` as the account that PostgreSQL runs as.
fn pg_ctl(cluster: &LocalCluster, action: &[&str]) -> Value {
    let mut command: Vec<String> = match &cluster.account {
        Some(account) => ["setpriv", &format!("--reuid={}", account.uid), &format!("--regid={}", account.gid)]
            .map(ToOwned::to_owned)
            .into_iter()
            .chain(["--init-groups".to_owned(), "--".to_owned()])
            .collect(),
        None => Vec::new(),
    };
    command.push(cluster.binaries.path("pg_ctl").display().to_string());
    command.extend(action.iter().map(ToString::to_string));
    command.extend(["-w", "-s", "-D"].map(ToOwned::to_owned));
    command.push(cluster.data().display().to_string());
    command.extend(["-l".to_owned(), cluster.log().display().to_string()]);
    json!({ "command": command })
}

fn runbook(pair: &Pair) -> Value {
    let cluster = &pair.primary.cluster;
    json!({
        "runbook": "wallet-switchover",
        "mode": "switchover",
        "path": "control_plane",
        "database": "wallet",
        "from": "site-a",
        "to": "site-b",
        "hypothesis": "wallet takes writes at site-b with nothing lost",
        "objectives": {"rto": "1m", "rpo": "0s"},
        "blast_radius": {"records": [RECORD], "max_duration": "30s"},
        "guards": {"max_replica_lag": "30s"},
        "probes": {"bets": {"record": RECORD, "port": pair.primary.port, "dbname": "postgres"}},
        "steady_state": ["bets"],
        "approvals": {"required": 2},
        "steps": [
            {"fence": "from", "by": pg_ctl(cluster, &["stop", "-m", "fast"]), "release": pg_ctl(cluster, &["start"]),
             "prove": ["login", "write"]},
            {"promote": "to"},
            {"dns": "switch", "record": RECORD, "to": "127.0.0.2"},
            {"observe": "dns", "hold": "1s"},
            {"rejoin": "from", "by": {"command": ["true"]}},
        ],
    })
}

fn params(runbook: Value) -> DrillParams {
    DrillParams {
        runbook: serde_json::from_value(runbook).unwrap(),
        plan: PlanFile { file: "runbooks/wallet.yaml".to_owned(), sha256: "0".repeat(64) },
        trigger: "manual".to_owned(),
        due_at: None,
        jurisdiction: None,
    }
}

async fn drill(pair: &Pair) -> (Arc<Lab>, Drill) {
    let lab = Lab::new(pair).await;
    (lab.clone(), Drill::new(lab, params(runbook(pair))).unwrap())
}

fn fence_step(drill: &Drill) -> FenceStep {
    match &drill.runbook().steps[0] {
        StepConfig::Fence(config) => config.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_moves_writes_and_clients_and_loses_nothing() {
    let mut pair = Pair::start().await;
    pair.beat(3).await;
    eventually("heartbeats are replayed", LIMIT, async || {
        pair.on_standby("select count(*) from lifeboat.heartbeat").await == "3"
    })
    .await;
    let (lab, drill) = drill(&pair).await;
    let clock = Clock::system();

    let guarded = prepare::look(&drill, &clock).await.unwrap();
    assert!(guarded.checks.iter().all(|check| check.verdict == Verdict::Pass), "{:?}", guarded.checks);
    assert_eq!(guarded.new_identity, "site-b");

    let t0 = clock.now();
    let fenced = shift::fence(&drill, &fence_step(&drill), &clock).await.unwrap();
    assert!(!pair.primary.cluster.is_running());
    assert!(fenced.lsn >= pair.beats[2].commit_lsn);
    let t3 = clock.now();
    let promoted = shift::promote(&drill, &fenced, &clock).await.unwrap();
    assert_eq!((promoted.loss.expected, promoted.loss.lost_commits), (3, 0));

    let old = guarded.record.clone().unwrap();
    let watch = Watch {
        new: lifeboat::dns::RecordSet { addresses: vec![[127, 0, 0, 2].into()], ..old.clone() },
        old,
        new_identity: guarded.new_identity,
        sampling: SAMPLING,
        consecutive: CONSECUTIVE,
        hold: Duration::from_secs(1),
    };
    let switched = shift::switch(&drill, watch.clone(), clock.now(), &clock, async { Ok(()) }).await.unwrap();
    let judgement = shift::observe(&drill, watch, switched, &clock, LIMIT).await.unwrap();
    assert!(judgement.is_stable(), "{judgement:?}");
    assert_eq!(lab.dns.read(RECORD).await.unwrap().addresses, [std::net::IpAddr::from([127, 0, 0, 2])]);

    pair.rejoin().await;
    let rejoined = settle::wait_to_follow(&pair.postgres, &member("a")).await.unwrap();
    let steady = probe::steady_state(&drill, LIMIT).await.unwrap();
    assert!(steady[0].actual.contains("site-b"), "{steady:?}");

    let instants = Instants {
        t0: Some(t0),
        t3: Some(t3),
        t4: Some(promoted.accepted_at),
        t5: Some(promoted.checked_at),
        t6: promoted.probed_at,
        t7: judgement.times.d5,
        t8: judgement.times.d7,
    };
    let verdicts = verdicts(&Facts {
        outcome: Outcome::Completed,
        objectives: &drill.runbook().objectives,
        instants: &instants,
        loss: Some(&promoted.loss),
        traffic: &judgement.checks,
        cleanup: &[rejoined],
        steady_state: &steady,
    });
    assert!(verdicts.values().all(|verdict| *verdict == Verdict::Pass), "{verdicts:?}");
    assert_eq!(instants.phases().len(), 8);
    assert!(instants.rto_seconds().unwrap() > 0.0);
}

#[tokio::test]
async fn a_fence_that_is_released_leaves_the_primary_as_it_was() {
    let mut pair = Pair::start().await;
    pair.beat(1).await;
    let (_lab, drill) = drill(&pair).await;
    let config = fence_step(&drill);
    shift::fence(&drill, &config, &Clock::system()).await.unwrap();
    assert!(!pair.primary.cluster.is_running());
    shift::release(&drill, &member("a"), &config.release, &CancellationToken::default()).await.unwrap();
    pair.wait_until_following("b").await;
    let steady = probe::steady_state(&drill, LIMIT).await.unwrap();
    assert!(steady.iter().all(|check| check.verdict == Verdict::Pass), "{steady:?}");
}

#[tokio::test]
async fn a_fence_command_that_fences_nothing_is_found_out() {
    let mut pair = Pair::start().await;
    pair.beat(1).await;
    let (_lab, drill) = drill(&pair).await;
    let mut config = fence_step(&drill);
    config.by.command = vec!["true".to_owned()];
    let found = shift::fence(&drill, &config, &Clock::system()).await.unwrap_err();
    assert!(matches!(&found, StepError::Permanent(text) if text.contains("is not fenced")), "{found}");
}

#[tokio::test]
async fn guards_refuse_what_they_do_not_know() {
    let pair = Pair::start().await;
    // No heartbeat was acknowledged: the lag is unknown.
    let (lab, drill) = drill(&pair).await;
    let failed = |checks: Vec<Check>| -> Vec<String> {
        checks.into_iter().filter(|check| check.verdict != Verdict::Pass).map(|check| check.name).collect()
    };
    let guarded = prepare::look(&drill, &Clock::system()).await.unwrap();
    assert_eq!(failed(guarded.checks), ["replica_lag"]);

    // A drill that was asked for before the lever was turned on.
    lab.lever.lock().unwrap().on = true;
    let guarded = prepare::look(&drill, &Clock::system()).await.unwrap();
    assert_eq!(failed(guarded.checks), ["safety lever", "replica_lag"]);
    lab.lever.lock().unwrap().on = false;

    // Somebody moved the record: it points to the standby already.
    let old = lab.dns.read(RECORD).await.unwrap();
    let new = lifeboat::dns::RecordSet { addresses: vec![[127, 0, 0, 2].into()], ..old.clone() };
    lab.dns.swap(&old, &new).await.unwrap();
    let guarded = prepare::look(&drill, &Clock::system()).await.unwrap();
    let names = failed(guarded.checks);
    assert!(names.contains(&"probe bets".to_owned()) && names.contains(&format!("record {RECORD}")), "{names:?}");
}

#[tokio::test]
async fn a_runbook_becomes_its_steps_or_is_refused_with_a_reason() {
    let pair = Pair::start().await;
    let lab = Lab::new(&pair).await;
    let flow = DrillFlow::new(lab);
    let names = |params: &DrillParams| -> Result<Vec<String>, String> {
        let steps = flow.steps(&serde_json::to_value(params).unwrap()).map_err(|error| error.to_string())?;
        Ok(steps.iter().map(|step| step.name().to_owned()).collect())
    };
    let expected = ["approve", "guards", "fence", "promote", "dns", "observe", "rejoin", "steady"];
    assert_eq!(names(&params(runbook(&pair))).unwrap(), expected);

    let mut alone = runbook(&pair);
    alone["approvals"] = json!({"required": 0, "reason": "a lab"});
    assert_eq!(names(&params(alone)).unwrap(), expected[1..]);

    for (place, value, reason) in [
        ("/steps/0/prove", json!([]), "must be proven"),
        ("/steps/1/promote", json!("from"), "old primary is fenced"),
        ("/blast_radius/records", json!([]), "blast_radius"),
        ("/steady_state", json!([]), "`steady_state` is empty"),
        ("/steady_state", json!(["other"]), "unknown probe"),
        ("/probes/bets/record", json!("bets.example."), "no probe looks at"),
        ("/steps", json!([{"promote": "to"}]), "needs `Fence`"),
    ] {
        let mut changed = runbook(&pair);
        *changed.pointer_mut(place).unwrap() = value;
        let refused = names(&params(changed)).unwrap_err();
        assert!(refused.contains(reason), "{place}: {refused}");
    }
}

#[test]
fn an_approval_counts_once_and_never_the_requester() {
    let before = ["ann".to_owned()];
    assert!(prepare::may_approve("bob", "eve", &before));
    assert!(!prepare::may_approve("eve", "eve", &before));
    assert!(!prepare::may_approve("ann", "eve", &before));
    assert!(!prepare::may_approve("", "eve", &before));
}
