//! From what observers saw to the instants D0 to D7, and what was wrong.
//!
//! An answer counts only from the start of the run that lasted: a server or
//! client that goes back to the old site starts anew. NXDOMAIN or an empty
//! answer fails the drill whenever it was seen. Silence is never taken for
//! agreement.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::between;
use crate::domain::{Check, record::DnsTimes};

/// What is expected to happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expectation {
    /// Every authoritative server that must agree, by address and port.
    pub servers: Vec<String>,
    pub old: Vec<IpAddr>,
    pub new: Vec<IpAddr>,
    /// How the new site names itself in its responses.
    pub new_identity: String,
    /// New answers in a row before a server counts as changed; at least 1.
    pub consecutive: usize,
    /// How long the new state must last.
    pub hold: Duration,
    pub sampling: Duration,
}

/// What one direct question to one authoritative server brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Sorted, not empty.
    Addresses(Vec<IpAddr>),
    NxDomain,
    /// NOERROR without an address.
    Empty,
    /// Another response code.
    Refused(String),
    /// No answer in time.
    Silent,
}

/// One look at one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSample {
    pub at: Timestamp,
    pub server: String,
    pub seen: Seen,
}

/// One look at a site over a fresh connection. No identity: it did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteSample {
    pub at: Timestamp,
    pub identity: Option<String>,
    /// Whether it took a write.
    pub wrote: bool,
}

/// Everything that was seen, each list in order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    pub d0: Option<Timestamp>,
    pub d1: Option<Timestamp>,
    pub d2: Option<Timestamp>,
    pub servers: Vec<ServerSample>,
    /// A client that resolves the name and goes where the answer says.
    pub client: Vec<SiteSample>,
    /// Looks at the old address.
    pub old_site: Vec<SiteSample>,
}

/// What an observation amounts to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    pub times: DnsTimes,
    pub checks: Vec<Check>,
    /// In plain words.
    pub findings: Vec<String>,
}

impl Judgement {
    /// Whether the new state was reached and held.
    pub fn is_stable(&self) -> bool {
        self.times.d7.is_some()
    }
}

/// Judges an observation.
pub fn judge(expected: &Expectation, seen: &Observation) -> Judgement {
    let per_server: Vec<ServerRun> = expected.servers.iter().map(|server| follow(server, expected, seen)).collect();
    let d3 =
        per_server.iter().map(|run| run.since).max().flatten().filter(|_| per_server.iter().all(ServerRun::agrees));
    let is_new = |look: &SiteSample| look.wrote && look.identity.as_deref() == Some(expected.new_identity.as_str());
    let d5 = last_run(&seen.client, is_new);
    let d6 = last_run(&seen.old_site, |look| !look.wrote);
    let settled = d3.max(d5).max(d6).filter(|_| d3.is_some() && d5.is_some() && d6.is_some());
    let d7 =
        settled.filter(|since| last_common(expected, seen).is_some_and(|end| between(*since, end) >= expected.hold));
    let void = voids(seen);
    let judged = |name: &str, what: &str, at: Option<Timestamp>| {
        Check::judge(name, what, at.map_or("never".to_owned(), |at| format!("since {at}")), at.is_some())
    };
    let checks = vec![
        Check::judge(
            "dns_never_empty",
            "no NXDOMAIN and no empty answer",
            format!("{} seen", void.len()),
            void.is_empty(),
        ),
        judged("dns_authoritative", "every server gives the new answer", d3),
        judged("dns_client", "a client reaches the new site and writes", d5),
        judged("dns_drained", "the old site takes no writes", d6),
        judged("dns_stable", &format!("held for {} s", expected.hold.as_secs_f64()), d7),
    ];
    let mut findings: Vec<String> = void.into_iter().collect();
    findings.extend(per_server.iter().flat_map(|run| run.findings(expected)));
    let went_back = reversions(&seen.client, is_new);
    if went_back > 0 {
        findings.push(format!("the client went back from the new site {went_back} times; counting restarted"));
    }
    let sampling_ms = u64::try_from(expected.sampling.as_millis()).unwrap_or(u64::MAX);
    let times = DnsTimes { d0: seen.d0, d1: seen.d1, d2: seen.d2, d3, d4: None, d5, d6, d7, sampling_ms };
    Judgement { times, checks, findings }
}

/// What one server did over time.
struct ServerRun {
    server: String,
    /// The start of the run of new answers that lasts, once long enough.
    since: Option<Timestamp>,
    /// New answers that were taken back.
    reversions: usize,
    silent: usize,
    /// Neither the old nor the new answer.
    strange: BTreeSet<String>,
    samples: usize,
}

impl ServerRun {
    const fn agrees(&self) -> bool {
        self.since.is_some()
    }

    fn findings(&self, expected: &Expectation) -> Vec<String> {
        let server = &self.server;
        let mut findings = Vec::new();
        if self.reversions > 0 {
            findings.push(format!(
                "server {server} went back from the new answer {} times; counting restarted",
                self.reversions
            ));
        }
        if self.silent > 0 {
            findings.push(format!("server {server} was silent in {} of {} questions", self.silent, self.samples));
        }
        if !self.agrees() {
            findings.push(format!(
                "server {server} did not give the new answer {} times in a row; look at its copy of the zone",
                expected.consecutive
            ));
        }
        findings
            .extend(self.strange.iter().map(|answer| format!("server {server} gave an unexpected answer: {answer}")));
        findings
    }
}

/// Until a server has given enough new answers, silence breaks the row; after
/// that only another answer does, as a lost packet takes nothing back.
fn follow(server: &str, expected: &Expectation, seen: &Observation) -> ServerRun {
    let mut run = ServerRun {
        server: server.to_owned(),
        since: None,
        reversions: 0,
        silent: 0,
        strange: BTreeSet::new(),
        samples: 0,
    };
    let (mut first, mut length) = (None, 0);
    for sample in seen.servers.iter().filter(|sample| sample.server == server) {
        run.samples += 1;
        match &sample.seen {
            Seen::Addresses(addresses) if *addresses == expected.new => {
                length += 1;
                let first = *first.get_or_insert(sample.at);
                if length >= expected.consecutive.max(1) {
                    run.since = Some(first);
                }
                continue;
            }
            Seen::Silent => {
                run.silent += 1;
                if run.since.is_some() {
                    continue;
                }
            }
            Seen::Addresses(addresses) if *addresses == expected.old => run.reversions += usize::from(first.is_some()),
            other => {
                run.reversions += usize::from(first.is_some());
                run.strange.insert(describe(other));
            }
        }
        (first, length, run.since) = (None, 0, None);
    }
    run
}

fn describe(seen: &Seen) -> String {
    match seen {
        Seen::Addresses(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Seen::NxDomain => "NXDOMAIN".to_owned(),
        Seen::Empty => "no address".to_owned(),
        Seen::Refused(code) => code.clone(),
        Seen::Silent => "silence".to_owned(),
    }
}

/// Every kind of empty answer, once per server, with its first instant.
fn voids(seen: &Observation) -> Vec<String> {
    let mut known = BTreeSet::new();
    seen.servers
        .iter()
        .filter(|sample| matches!(sample.seen, Seen::NxDomain | Seen::Empty))
        .filter(|sample| known.insert((&sample.server, describe(&sample.seen))))
        .map(|sample| {
            format!(
                "server {} gave an empty answer ({}), first at {}",
                sample.server,
                describe(&sample.seen),
                sample.at
            )
        })
        .collect()
}

/// The start of the run of samples that hold, up to the last sample.
fn last_run(looks: &[SiteSample], holds: impl Fn(&SiteSample) -> bool) -> Option<Timestamp> {
    looks.iter().rev().take_while(|look| holds(look)).last().map(|look| look.at)
}

/// How often a sample that holds is followed by one that does not.
fn reversions(looks: &[SiteSample], holds: impl Fn(&SiteSample) -> bool) -> usize {
    looks.windows(2).filter(|pair| matches!(pair, [a, b] if holds(a) && !holds(b))).count()
}

/// Up to when every observer has looked: the earliest of their last looks that
/// brought an answer. A server that fell silent proves nothing any more.
fn last_common(expected: &Expectation, seen: &Observation) -> Option<Timestamp> {
    let servers = expected.servers.iter().map(|server| {
        seen.servers
            .iter()
            .rev()
            .find(|sample| sample.server == *server && sample.seen != Seen::Silent)
            .map(|sample| sample.at)
    });
    let sites = [seen.client.last(), seen.old_site.last()].map(|look| look.map(|look| look.at));
    servers.chain(sites).min().flatten()
}
