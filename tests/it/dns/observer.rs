//! The observer tells each story of a switch as what it was.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lifeboat::{
    clock::Clock,
    decide::drill::traffic::{Judgement, Observation, judge},
    dns::{Dns, EmbeddedDns, Observer, observer::Watch, query::Transport},
    domain::Verdict,
    process::Tasks,
};
use tokio_util::sync::CancellationToken;

use super::{
    RECORD, address,
    fake::{Says, Sites, WithServers, name_server},
    query, server, set,
};

const SAMPLING: Duration = Duration::from_millis(50);
const HOLD: Duration = Duration::from_millis(600);
/// More than any change takes that comes to rest.
const STABLE: Duration = Duration::from_secs(60);

fn watch() -> Watch {
    Watch { old: set(1), new: set(2), new_identity: "b".to_owned(), sampling: SAMPLING, consecutive: 3, hold: HOLD }
}

/// Switches from 127.0.0.1 to 127.0.0.2 under observation, which lasts until
/// the change is stable or `limit` is over.
async fn observe(dns: Arc<dyn Dns>, client: Arc<Sites>, limit: Duration) -> Judgement {
    let clock = Clock::system();
    let observer = Observer::new(dns.clone(), client, watch(), &clock).await.unwrap();
    let expected = observer.expectation();
    let mut seen = Observation { d0: Some(clock.now()), ..Observation::default() };
    let change = observer.around(&mut seen, dns.swap(&set(1), &set(2))).await.unwrap();
    assert!(!seen.servers.is_empty(), "the old answer was seen before the change");
    seen.d1 = Some(change.accepted_at);
    let sampling = observer.sample(&mut seen, Some(&change), |seen| judge(&expected, seen).is_stable());
    // Not being stable within the limit is what some stories are about.
    drop(tokio::time::timeout(limit, sampling).await);
    judge(&expected, &seen)
}

async fn observe_with(more: Vec<SocketAddr>, limit: Duration) -> Judgement {
    let tasks = Tasks::new();
    let sites = Arc::new(Sites::start(&tasks).await);
    let judgement = observe(Arc::new(WithServers { inner: server().await, more }), sites, limit).await;
    tasks.shut_down().await;
    judgement
}

fn verdict(judgement: &Judgement, name: &str) -> Verdict {
    judgement.checks.iter().find(|check| check.name == name).unwrap().verdict
}

/// When a loop of its own first sees the new answer, and how long it went without
/// one at most, in seconds, until `stop`.
async fn first_seen(dns: &EmbeddedDns, stop: &CancellationToken) -> (Timestamp, f64) {
    let (mut seen, mut longest, mut last) = (None, Duration::ZERO, Instant::now());
    while seen.is_none() || !stop.is_cancelled() {
        let answer = query(dns.local_addr(), RECORD, Transport::Udp).await;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if seen.is_none() && answer.addresses == [address(2)] {
            seen = Some(Clock::system().now());
        }
        tokio::task::yield_now().await;
    }
    (seen.unwrap(), longest.as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_switch_is_timed_as_an_independent_loop_times_it() {
    let tasks = Tasks::new();
    let dns = Arc::new(server().await);
    let sites = Arc::new(Sites::start(&tasks).await);
    let stop = CancellationToken::new();
    let observed = async {
        let judgement = observe(dns.clone(), sites, STABLE).await;
        stop.cancel();
        judgement
    };
    let (judgement, (independent, gap)) = tokio::join!(observed, first_seen(&dns, &stop));
    tasks.shut_down().await;
    assert_eq!(judgement.findings, Vec::<String>::new());
    assert!(judgement.checks.iter().all(|check| check.verdict == Verdict::Pass), "{judgement:?}");
    let times = judgement.times;
    let d3 = times.d3.unwrap();
    let apart = d3.duration_since(independent).as_secs_f64().abs();
    assert!(apart <= 0.2 + gap, "{apart} s apart, and at most {gap} s between two answers");
    let order = [times.d0, times.d1, times.d3].map(Option::unwrap);
    assert!(order.is_sorted(), "{order:?}");
    assert!(times.d2.unwrap() >= order[1] && times.d5.unwrap() >= order[1]);
    assert_eq!(times.d7, times.d3.max(times.d5).max(times.d6));
    assert_eq!((times.d4, times.sampling_ms), (None, 50));
}

#[tokio::test]
async fn a_server_that_keeps_the_old_answer_is_named_and_fails_the_switch() {
    let tasks = Tasks::new();
    let stale = name_server(&tasks, |_| Says::Address(address(1))).await;
    let judgement = observe_with(vec![stale], Duration::from_secs(2)).await;
    tasks.shut_down().await;
    assert_eq!((judgement.times.d3, judgement.times.d7), (None, None));
    assert_eq!(verdict(&judgement, "dns_authoritative"), Verdict::Fail);
    assert_eq!(verdict(&judgement, "dns_never_empty"), Verdict::Pass);
    assert!(judgement.findings.iter().any(|finding| finding.contains(&stale.to_string())), "{judgement:?}");
}

#[tokio::test]
async fn an_answer_that_flickers_restarts_counting_and_is_reported() {
    let tasks = Tasks::new();
    // Old past the change itself, twice the new answer, the old one again, then the new one for good.
    let story = |asked| Says::Address(address(if [8, 9].contains(&asked) || asked > 12 { 2 } else { 1 }));
    let flickering = name_server(&tasks, story).await;
    let judgement = observe_with(vec![flickering], STABLE).await;
    tasks.shut_down().await;
    let found = judgement.findings.iter().find(|finding| finding.contains("went back")).unwrap();
    assert!(found.contains(&flickering.to_string()), "{found}");
    assert!(judgement.is_stable(), "{judgement:?}");
    let waited = judgement.times.d3.unwrap().duration_since(judgement.times.d1.unwrap());
    assert!(waited.as_secs_f64() > 2.0 * SAMPLING.as_secs_f64(), "D3 is after the flicker, not {waited:#}");
}

#[tokio::test]
async fn one_nxdomain_in_between_fails_the_switch() {
    let tasks = Tasks::new();
    let gap = name_server(&tasks, |asked| match asked {
        0..8 => Says::Address(address(1)),
        8 => Says::NxDomain,
        _ => Says::Address(address(2)),
    });
    let gap = gap.await;
    let judgement = observe_with(vec![gap], STABLE).await;
    tasks.shut_down().await;
    assert!(judgement.is_stable(), "it came to rest all the same: {judgement:?}");
    assert_eq!(verdict(&judgement, "dns_never_empty"), Verdict::Fail);
    assert!(judgement.findings.iter().any(|finding| finding.contains("NXDOMAIN")), "{judgement:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_not_taken_for_agreement() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let judgement = observe_with(vec![silent.local_addr().unwrap()], Duration::from_secs(3)).await;
    assert_eq!(judgement.times.d3, None);
    assert!(judgement.findings.iter().any(|finding| finding.contains("silent")), "{judgement:?}");
}
