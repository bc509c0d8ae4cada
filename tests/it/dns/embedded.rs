//! The embedded server: one answer at every instant, changed by compare-and-set.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use lifeboat::{
    clock::Clock,
    dns::{
        Dns, DnsError, EmbeddedDns, RecordSet,
        query::{Question, Transport, ask},
    },
};

use super::{LIMIT, RECORD, TTL, ZONE, address, query, server, set};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_exactly_one_answer_through_2000_swaps() {
    let dns = server().await;
    let at = dns.local_addr();
    let (done, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    let ask_on = |transport| {
        let (done, asked) = (&done, &asked);
        async move {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let reply = query(at, RECORD, transport).await;
                assert_eq!(reply.response_code, ResponseCode::NoError);
                assert_eq!(reply.addresses.len(), 1, "{reply:?}");
                assert_eq!(reply.ttl_seconds, Some(TTL));
                assert!(reply.is_authoritative);
                seen.insert(reply.addresses[0]);
                asked.fetch_add(1, Ordering::Relaxed);
            }
            seen
        }
    };
    let swaps = async {
        let mut round = 0;
        // Until the askers have had their share of the time too.
        while round < 2000 || asked.load(Ordering::Relaxed) < 2000 {
            let (old, new) = if round % 2 == 0 { (set(1), set(2)) } else { (set(2), set(1)) };
            dns.swap(&old, &new).await.unwrap();
            round += 1;
            tokio::task::yield_now().await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let askers = [Transport::Udp, Transport::Udp, Transport::Udp, Transport::Tcp].map(ask_on);
    let (results, ()) = tokio::join!(join_all(askers), swaps);
    let seen: BTreeSet<_> = results.into_iter().flatten().collect();
    assert_eq!(seen, BTreeSet::from([address(1), address(2)]));
}

#[tokio::test]
async fn a_change_is_compare_and_set_and_never_empty() {
    let dns = server().await;
    assert_eq!(dns.read(RECORD).await.unwrap(), set(1));
    let stale = dns.swap(&set(3), &set(2)).await.unwrap_err();
    assert!(matches!(&stale, DnsError::Changed { found, .. } if found.contains("127.0.0.1")), "{stale}");
    assert!(stale.is_permanent());
    assert_eq!(dns.read(RECORD).await.unwrap(), set(1), "a refused change changes nothing");

    let empty = RecordSet { addresses: Vec::new(), ..set(1) };
    assert!(matches!(dns.swap(&set(1), &empty).await, Err(DnsError::Empty { .. })));
    assert_eq!(query(dns.local_addr(), RECORD, Transport::Udp).await.addresses, [address(1)]);

    let change = dns.swap(&set(1), &set(2)).await.unwrap();
    assert!(dns.is_in_sync(&change).await.unwrap());
    assert!(dns.swap(&set(1), &set(2)).await.is_ok(), "retried: what is wanted is there");
    assert!(dns.swap(&set(1), &set(3)).await.is_err());
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(query(dns.local_addr(), RECORD, transport).await.addresses, [address(2)]);
    }
    let lower = RecordSet { ttl_seconds: 1, ..set(2) };
    assert!(dns.swap(&lower, &set(1)).await.is_err(), "the TTL is part of what is compared");
}

#[tokio::test]
async fn names_that_do_not_exist_or_are_no_names_are_refused() {
    let dns = server().await;
    let other = |name: &str| RecordSet { name: name.to_owned(), ..set(1) };
    assert!(matches!(dns.read("bets.example.").await, Err(DnsError::NoSuchRecord { .. })));
    assert!(matches!(dns.read("wallet.other.").await, Err(DnsError::NoSuchRecord { .. })));
    assert!(matches!(dns.read("wallet.example").await, Err(DnsError::BadName { .. })));
    let missing = dns.swap(&other("bets.example."), &other("bets.example.")).await;
    assert!(matches!(missing, Err(DnsError::NoSuchRecord { .. })), "a swap never creates");
    let reply = query(dns.local_addr(), "bets.example.", Transport::Udp).await;
    assert_eq!(reply.response_code, ResponseCode::NXDomain);
    assert!(reply.addresses.is_empty());
    let records = BTreeMap::from([("wallet.other.".to_owned(), address(1))]);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let outside = EmbeddedDns::start(listen, ZONE, &records, TTL, None, Clock::system()).await;
    assert!(matches!(outside, Err(DnsError::BadName { .. })));
}

#[tokio::test]
async fn a_stopped_server_is_silent_and_gives_its_port_back() {
    let dns = server().await;
    let at = dns.local_addr();
    query(at, RECORD, Transport::Udp).await;
    dns.stop().await.unwrap();
    let question = Question { name: RECORD, ipv6: false, recursion: false };
    for transport in [Transport::Udp, Transport::Tcp] {
        assert!(matches!(ask(at, question, transport, LIMIT).await, Err(DnsError::Io { .. })));
    }
    let records = BTreeMap::from([(RECORD.to_owned(), address(3))]);
    let again = EmbeddedDns::start(at, ZONE, &records, TTL, None, Clock::system()).await.unwrap();
    assert_eq!(query(at, RECORD, Transport::Udp).await.addresses, [address(3)]);
    again.stop().await.unwrap();
}
