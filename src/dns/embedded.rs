//! An authoritative DNS server inside this process, for labs, demos and tests.
//!
//! A change replaces a whole record set under the zone's write lock, together
//! with the SOA serial, so that every query sees either the old answer or the
//! new one: never both, never none. It must never be used with `upsert` of the
//! library underneath, which appends a second address.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use hickory_proto::rr::{
    LowerName, Name, RData, RecordSet as RrSet, RecordType, RrKey,
    rdata::{A, AAAA, NS, SOA},
};
use hickory_server::{
    Server,
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Mutex,
};

use super::{Change, Dns, DnsError, RecordSet, query::parse_name};
use crate::{clock::Clock, durable};

/// A connection over TCP that asks nothing for this long is closed.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Bytes kept for answers of one connection.
const TCP_BUFFER: usize = 4096;
/// How often a free port for both transports is looked for when port 0 is asked for.
const PORT_TRIES: usize = 16;

type Zone = InMemoryZoneHandler;

/// A running server for one zone. Dropping it ends it at once; `stop` lets
/// queries in hand finish.
pub struct EmbeddedDns {
    origin: Name,
    zone: Arc<Zone>,
    address: SocketAddr,
    clock: Clock,
    kept: Option<Kept>,
    server: Mutex<Server<Catalog>>,
}

/// What `swap` changed, in a file: a restart answers what was answered before.
#[derive(Debug)]
struct Kept {
    file: PathBuf,
    configured: BTreeMap<String, RecordSet>,
    changed: Mutex<BTreeMap<String, Changed>>,
}

/// A record set that is no longer as configured. It stands only as long as the
/// configuration that it was changed from does.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Changed {
    configured: RecordSet,
    now: RecordSet,
}

impl Kept {
    fn read(file: PathBuf, configured: BTreeMap<String, RecordSet>) -> io::Result<Self> {
        let mut changed: BTreeMap<String, Changed> = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        changed.retain(|name, changed| configured.get(name) == Some(&changed.configured));
        Ok(Self { file, configured, changed: Mutex::new(changed) })
    }

    /// Must return before anybody gets the new answer.
    async fn keep(&self, now: &RecordSet) -> io::Result<()> {
        let name = now.name.to_ascii_lowercase();
        let mut changed = self.changed.lock().await;
        let Some(configured) = self.configured.get(&name).cloned() else { return Ok(()) };
        changed.insert(name, Changed { configured, now: now.clone() });
        durable::replace(&self.file, &serde_json::to_vec_pretty(&*changed)?)
    }
}

impl fmt::Debug for EmbeddedDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedDns")
            .field("origin", &self.origin)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl EmbeddedDns {
    /// Serves `zone` on `listen`, over UDP and TCP, with one address for each
    /// name of `records`. Names are fully qualified; port 0 takes a free port.
    /// Changes are kept in `file`, or forgotten when the server ends.
    pub async fn start(
        listen: SocketAddr,
        zone: &str,
        records: &BTreeMap<String, IpAddr>,
        ttl_seconds: u32,
        file: Option<PathBuf>,
        clock: Clock,
    ) -> Result<Self, DnsError> {
        let origin = parse_name(zone)?;
        let configured = records.iter().map(|(name, address)| {
            let set = RecordSet { name: name.clone(), ttl_seconds, addresses: vec![*address] };
            (name.to_ascii_lowercase(), set)
        });
        let mut sets: BTreeMap<String, RecordSet> = configured.collect();
        let kept = match file {
            Some(file) => {
                let shown = file.display().to_string();
                let unreadable = |source| DnsError::Io { server: shown, action: "reading the zone's changes", source };
                let mut kept = Kept::read(file, sets.clone()).map_err(unreadable)?;
                sets.extend(kept.changed.get_mut().iter().map(|(name, changed)| (name.clone(), changed.now.clone())));
                Some(kept)
            }
            None => None,
        };
        let (udp, tcp) = bind(listen).await.map_err(|source| DnsError::Io {
            server: listen.to_string(),
            action: "listening",
            source,
        })?;
        let address = udp.local_addr().map_err(|source| DnsError::Io {
            server: listen.to_string(),
            action: "listening",
            source,
        })?;
        let content = content(&origin, &sets, ttl_seconds, address.ip())?;
        let handler = Zone::new(origin.clone(), content, ZoneType::Primary, AxfrPolicy::Deny).map_err(|reason| {
            DnsError::Io { server: listen.to_string(), action: "making the zone", source: io::Error::other(reason) }
        })?;
        let handler = Arc::new(handler);
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::new(&origin), vec![handler.clone()]);
        let mut server = Server::new(catalog);
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
        Ok(Self { origin, zone: handler, address, clock, kept, server: Mutex::new(server) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more queries, answers those in hand, and closes its sockets.
    pub async fn stop(&self) -> Result<(), DnsError> {
        self.server.lock().await.shutdown_gracefully().await.map_err(|error| DnsError::Io {
            server: self.address.to_string(),
            action: "stopping",
            source: io::Error::other(error),
        })
    }

    /// The name as a key of the zone; a name of another zone has no records here.
    fn name(&self, text: &str) -> Result<Name, DnsError> {
        let name = parse_name(text)?;
        if self.origin.zone_of(&name) { Ok(name) } else { Err(DnsError::NoSuchRecord { name: text.to_owned() }) }
    }
}

#[async_trait]
impl Dns for EmbeddedDns {
    async fn read(&self, name: &str) -> Result<RecordSet, DnsError> {
        let key = LowerName::new(&self.name(name)?);
        let records = self.zone.records().await;
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .find_map(|kind| records.get(&RrKey::new(key.clone(), kind)))
            .map(|set| from_zone(name, set))
            .ok_or_else(|| DnsError::NoSuchRecord { name: name.to_owned() })
    }

    async fn swap(&self, old: &RecordSet, new: &RecordSet) -> Result<Change, DnsError> {
        let changed = |found: String| DnsError::Changed { name: new.name.clone(), expected: describe(old), found };
        let name = self.name(&new.name)?;
        let first = new.addresses.first().ok_or_else(|| DnsError::Empty { name: new.name.clone() })?;
        let kind = kind(first);
        let same_kind = old.addresses.iter().chain(&new.addresses).all(|address| self::kind(address) == kind);
        if old.name != new.name || !same_kind {
            return Err(changed(describe(new)));
        }
        let key = RrKey::new(LowerName::new(&name), kind);
        let wanted = to_zone(&name, new);
        let mut records = self.zone.records_mut().await;
        let found = records.get(&key).map(|set| from_zone(&new.name, set));
        match found {
            None => return Err(DnsError::NoSuchRecord { name: new.name.clone() }),
            Some(found) if same(&found, new) => {}
            Some(found) if same(&found, old) => {
                if let Some(kept) = &self.kept {
                    kept.keep(new).await.map_err(|source| DnsError::Io {
                        server: kept.file.display().to_string(),
                        action: "keeping the change",
                        source,
                    })?;
                }
                records.insert(key, Arc::new(wanted));
                advance_serial(&mut records, &self.origin);
            }
            Some(found) => return Err(changed(describe(&found))),
        }
        let accepted_at = self.clock.now();
        Ok(Change { id: format!("embedded-{}", accepted_at.as_nanosecond()), accepted_at })
    }

    async fn is_in_sync(&self, _change: &Change) -> Result<bool, DnsError> {
        // There is one server, and it answers from what `swap` wrote.
        Ok(true)
    }

    async fn authoritative_servers(&self, name: &str) -> Result<Vec<SocketAddr>, DnsError> {
        self.name(name).map(|_| vec![self.address])
    }
}

/// Both transports on one port.
async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(listen).await?;
        tries -= 1;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// The zone at the start: SOA, NS, the name server's own address, the records.
fn content(
    origin: &Name,
    records: &BTreeMap<String, RecordSet>,
    ttl_seconds: u32,
    own: IpAddr,
) -> Result<BTreeMap<RrKey, RrSet>, DnsError> {
    let bad = |name: &str| DnsError::BadName { name: name.to_owned() };
    let label = |label: &str| {
        Name::from_ascii(label)
            .and_then(|name| name.append_domain(origin))
            .map_err(|_| bad(&format!("{label}.{origin}")))
    };
    let server = label("ns")?;
    // Refresh, retry and expire matter to secondaries, of which there are none;
    // the minimum is how long a resolver may remember that a name does not exist.
    let soa = SOA::new(server.clone(), label("hostmaster")?, 1, 3600, 600, 86_400, ttl_seconds);
    let own_records = RecordSet { name: server.to_string(), ttl_seconds, addresses: vec![own] };
    let mut sets = vec![
        single(origin, RecordType::SOA, ttl_seconds, RData::SOA(soa)),
        single(origin, RecordType::NS, ttl_seconds, RData::NS(NS(server.clone()))),
        to_zone(&server, &own_records),
    ];
    for set in records.values() {
        let name = parse_name(&set.name)?;
        if !origin.zone_of(&name) {
            return Err(bad(&set.name));
        }
        sets.push(to_zone(&name, set));
    }
    Ok(sets.into_iter().map(|set| (RrKey::new(LowerName::new(set.name()), set.record_type()), set)).collect())
}

fn single(name: &Name, kind: RecordType, ttl_seconds: u32, data: RData) -> RrSet {
    let mut set = RrSet::with_ttl(name.clone(), kind, ttl_seconds);
    set.add_rdata(data);
    set
}

const fn kind(address: &IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}

/// All addresses of `set` must be of one family.
fn to_zone(name: &Name, set: &RecordSet) -> RrSet {
    let kind = set.addresses.first().map_or(RecordType::A, kind);
    let mut records = RrSet::with_ttl(name.clone(), kind, set.ttl_seconds);
    for address in &set.addresses {
        records.add_rdata(match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        });
    }
    records
}

fn from_zone(name: &str, set: &RrSet) -> RecordSet {
    let mut addresses: Vec<IpAddr> = set
        .records_without_rrsigs()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect();
    addresses.sort_unstable();
    RecordSet { name: name.to_owned(), ttl_seconds: set.ttl(), addresses }
}

/// Equal but for the order of addresses and the case of the name.
fn same(a: &RecordSet, b: &RecordSet) -> bool {
    let sorted = |set: &RecordSet| {
        let mut addresses = set.addresses.clone();
        addresses.sort_unstable();
        addresses
    };
    a.ttl_seconds == b.ttl_seconds && sorted(a) == sorted(b)
}

fn describe(set: &RecordSet) -> String {
    let addresses: Vec<String> = set.addresses.iter().map(ToString::to_string).collect();
    format!("{} (TTL {} s)", addresses.join(", "), set.ttl_seconds)
}

/// A new serial tells secondaries and people that the zone changed.
fn advance_serial(records: &mut BTreeMap<RrKey, Arc<RrSet>>, origin: &Name) {
    let key = RrKey::new(LowerName::new(origin), RecordType::SOA);
    let next = records.get(&key).and_then(|set| {
        let record = set.records_without_rrsigs().next()?;
        let RData::SOA(soa) = &record.data else { return None };
        let mut soa = soa.clone();
        soa.serial = soa.serial.wrapping_add(1);
        Some(single(origin, RecordType::SOA, record.ttl, RData::SOA(soa)))
    });
    if let Some(next) = next {
        records.insert(key, Arc::new(next));
    }
}
