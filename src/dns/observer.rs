//! Watches a change of DNS from outside: every authoritative server, a client
//! that goes where the answer says, and the old site. It only collects samples;
//! `decide::drill::traffic` says what they amount to.
//!
//! All instants of one observer are the time of day when it was made plus the
//! monotonic clock since then, so that a step of the system clock during the
//! drill changes no duration. Each server has its own loop: one that is silent
//! does not slow the sampling of the others.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Change, Dns, DnsError, RecordSet,
    query::{Question, Reply, Transport, ask},
};
use crate::{
    clock::Clock,
    decide::drill::traffic::{Expectation, Observation, Seen, ServerSample, SiteSample},
};

/// Longer than this a server or site is silent.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Of this many questions to a server one goes over TCP.
const TCP_EVERY: u64 = 10;

/// Who answered a client, by its own account, and whether it took a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// How the site names itself in the response.
    pub identity: String,
    pub wrote: bool,
}

/// A client of the service.
#[async_trait]
pub trait Client: Send + Sync {
    /// Connects afresh to the service at `address`, tries to write, and tells
    /// who answered. A site that answers but takes no write is an `Ok`.
    async fn look(&self, address: IpAddr) -> Result<Answer, String>;
}

/// What to watch, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    pub old: RecordSet,
    pub new: RecordSet,
    /// How the new site names itself in its responses.
    pub new_identity: String,
    /// Pause between two looks, in each loop; the ± of every instant.
    pub sampling: Duration,
    /// New answers in a row that a server must give.
    pub consecutive: usize,
    pub hold: Duration,
}

/// Watches one record set. The time limits of a whole observation are its caller's.
pub struct Observer {
    dns: Arc<dyn Dns>,
    client: Arc<dyn Client>,
    watch: Watch,
    servers: Vec<SocketAddr>,
    made_at: Timestamp,
    made: Instant,
}

/// One sample on its way to the observation.
enum Sample {
    Server(ServerSample),
    Client(SiteSample),
    OldSite(SiteSample),
    InSync(Timestamp),
}

impl Observer {
    /// Finds out which servers there are. None at all is `DnsError::NoSuchRecord`.
    pub async fn new(
        dns: Arc<dyn Dns>,
        client: Arc<dyn Client>,
        watch: Watch,
        clock: &Clock,
    ) -> Result<Self, DnsError> {
        let servers = dns.authoritative_servers(&watch.new.name).await?;
        if servers.is_empty() {
            return Err(DnsError::NoSuchRecord { name: watch.new.name.clone() });
        }
        Ok(Self { dns, client, watch, servers, made_at: clock.now(), made: Instant::now() })
    }

    /// What `decide::drill::traffic::judge` holds the samples against.
    pub fn expectation(&self) -> Expectation {
        let sorted = |set: &RecordSet| {
            let mut addresses = set.addresses.clone();
            addresses.sort_unstable();
            addresses
        };
        Expectation {
            servers: self.servers.iter().map(ToString::to_string).collect(),
            old: sorted(&self.watch.old),
            new: sorted(&self.watch.new),
            new_identity: self.watch.new_identity.clone(),
            consecutive: self.watch.consecutive,
            hold: self.watch.hold,
            sampling: self.watch.sampling,
        }
    }

    /// Samples into `seen` while `work` runs, from before it starts: every
    /// server has been asked once by then.
    pub async fn around<T>(&self, seen: &mut Observation, work: impl Future<Output = T>) -> T {
        let servers = self.servers.len();
        self.sample(seen, None, |seen| {
            let asked: std::collections::BTreeSet<&str> = seen.servers.iter().map(|s| s.server.as_str()).collect();
            asked.len() == servers
        })
        .await;
        tokio::select! {
            result = work => result,
            () = self.sample(seen, None, |_| false) => unreachable!("sampling that is never done does not end"),
        }
    }

    /// Samples into `seen` until `is_done` says so; asks whether `change` is in
    /// sync as long as `seen.d2` is not known. Dropping the future keeps what
    /// was seen.
    pub async fn sample(
        &self,
        seen: &mut Observation,
        change: Option<&Change>,
        is_done: impl FnMut(&Observation) -> bool,
    ) {
        let (send, receive) = unbounded_channel();
        let sync = change.filter(|_| seen.d2.is_none());
        let loops = async {
            let servers = join_all(self.servers.iter().map(|server| self.watch_server(*server, send.clone())));
            tokio::join!(servers, self.watch_client(&send), self.watch_old_site(&send), self.watch_sync(sync, &send));
        };
        tokio::select! {
            () = loops => {}
            () = collect(seen, receive, is_done) => {}
        }
    }

    fn now(&self) -> Timestamp {
        self.made_at + self.made.elapsed()
    }

    async fn watch_server(&self, server: SocketAddr, send: UnboundedSender<Sample>) {
        let mut ticks = self.ticks();
        let mut count: u64 = 0;
        loop {
            ticks.tick().await;
            count += 1;
            let transport = if count.is_multiple_of(TCP_EVERY) { Transport::Tcp } else { Transport::Udp };
            let sample = self.ask(server, transport).await;
            if send.send(Sample::Server(sample)).is_err() {
                return;
            }
        }
    }

    /// Asks the servers in turn, as a resolver without a cache would. What a
    /// server told the client counts like any other answer of it.
    async fn watch_client(&self, send: &UnboundedSender<Sample>) {
        let mut ticks = self.ticks();
        for server in self.servers.iter().cycle() {
            ticks.tick().await;
            let sample = self.ask(*server, Transport::Udp).await;
            let address = match &sample.seen {
                Seen::Addresses(addresses) => addresses.first().copied(),
                _ => None,
            };
            if send.send(Sample::Server(sample)).is_err() {
                return;
            }
            let look = match address {
                Some(address) => self.look(address).await,
                None => SiteSample { at: self.now(), identity: None, wrote: false },
            };
            if send.send(Sample::Client(look)).is_err() {
                return;
            }
        }
    }

    async fn watch_old_site(&self, send: &UnboundedSender<Sample>) {
        let Some(address) = self.watch.old.addresses.first() else { return };
        let mut ticks = self.ticks();
        loop {
            ticks.tick().await;
            if send.send(Sample::OldSite(self.look(*address).await)).is_err() {
                return;
            }
        }
    }

    async fn watch_sync(&self, change: Option<&Change>, send: &UnboundedSender<Sample>) {
        let Some(change) = change else { return };
        let mut ticks = self.ticks();
        loop {
            ticks.tick().await;
            // An error is not an answer; the next tick asks again.
            if let Ok(true) = self.dns.is_in_sync(change).await {
                // Nobody listening any more means that the observation is over.
                drop(send.send(Sample::InSync(self.now())));
                return;
            }
        }
    }

    async fn ask(&self, server: SocketAddr, transport: Transport) -> ServerSample {
        let ipv6 = self.watch.new.addresses.first().is_some_and(IpAddr::is_ipv6);
        let question = Question { name: &self.watch.new.name, ipv6, recursion: false };
        let seen = ask(server, question, transport, ANSWER_LIMIT).await.map_or(Seen::Silent, read);
        ServerSample { at: self.now(), server: server.to_string(), seen }
    }

    /// The instant is when the answer was there.
    async fn look(&self, address: IpAddr) -> SiteSample {
        match timeout(ANSWER_LIMIT, self.client.look(address)).await {
            Ok(Ok(answer)) => SiteSample { at: self.now(), identity: Some(answer.identity), wrote: answer.wrote },
            Ok(Err(_)) | Err(_) => SiteSample { at: self.now(), identity: None, wrote: false },
        }
    }

    fn ticks(&self) -> tokio::time::Interval {
        // An interval of nothing is refused by the runtime.
        let mut ticks = interval(self.watch.sampling.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

fn read(reply: Reply) -> Seen {
    match reply.response_code {
        ResponseCode::NoError if reply.addresses.is_empty() => Seen::Empty,
        ResponseCode::NoError => Seen::Addresses(reply.addresses),
        ResponseCode::NXDomain => Seen::NxDomain,
        code => Seen::Refused(code.to_str().to_owned()),
    }
}

async fn collect(
    seen: &mut Observation,
    mut receive: UnboundedReceiver<Sample>,
    mut is_done: impl FnMut(&Observation) -> bool,
) {
    while let Some(sample) = receive.recv().await {
        match sample {
            Sample::Server(sample) => seen.servers.push(sample),
            Sample::Client(look) => seen.client.push(look),
            Sample::OldSite(look) => seen.old_site.push(look),
            Sample::InSync(at) => seen.d2 = Some(at),
        }
        if is_done(seen) {
            return;
        }
    }
}
