//! The embedded DNS server and the observer, on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

mod embedded;
mod fake;
mod observer;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use lifeboat::{
    clock::Clock,
    dns::{
        EmbeddedDns, RecordSet,
        query::{Question, Reply, Transport, ask},
    },
};

const ZONE: &str = "example.";
const RECORD: &str = "wallet.example.";
const TTL: u32 = 60;
const LIMIT: Duration = Duration::from_secs(5);

const fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

fn set(last: u8) -> RecordSet {
    RecordSet { name: RECORD.to_owned(), ttl_seconds: TTL, addresses: vec![address(last)] }
}

/// A server on a free port whose record points to 127.0.0.1.
async fn server() -> EmbeddedDns {
    let records = BTreeMap::from([(RECORD.to_owned(), address(1))]);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    EmbeddedDns::start(listen, ZONE, &records, TTL, None, Clock::system()).await.unwrap()
}

async fn query(server: SocketAddr, name: &str, transport: Transport) -> Reply {
    ask(server, Question { name, ipv6: false, recursion: false }, transport, LIMIT).await.unwrap()
}
