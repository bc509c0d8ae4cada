//! Name servers that do what name servers do when they misbehave, and sites
//! that say who they are.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, rdata::A},
};
use lifeboat::{
    dns::{
        Change, Dns, DnsError, EmbeddedDns, RecordSet,
        observer::{Answer, Client},
    },
    process::Tasks,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// What a fake server says to one question.
#[derive(Debug, Clone, Copy)]
pub(super) enum Says {
    Address(IpAddr),
    NxDomain,
}

/// A name server on a free port that answers question number n (from 0) as told.
pub(super) async fn name_server(tasks: &Tasks, story: impl Fn(usize) -> Says + Send + Sync + 'static) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let (story, asked, stop) = (Arc::new(story), Arc::new(AtomicUsize::new(0)), tasks.stop().clone());
    let answer = move |query: &[u8]| {
        let query = Message::from_vec(query).unwrap();
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_queries(query.queries.clone());
        match story(asked.fetch_add(1, Ordering::Relaxed)) {
            Says::Address(IpAddr::V4(address)) => {
                let name = query.queries[0].name.clone();
                answer.add_answer(Record::from_rdata(name, 60, RData::A(A(address))));
            }
            Says::Address(IpAddr::V6(_)) => panic!("these tests speak IPv4"),
            Says::NxDomain => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer.to_vec().unwrap()
    };
    tasks.spawn(async move {
        let mut buffer = [0; 512];
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                received = udp.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    udp.send_to(&answer(&buffer[..length]), from).await.unwrap();
                }
                accepted = tcp.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    let length = stream.read_u16().await.unwrap();
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    let bytes = answer(&query);
                    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        }
    });
    address
}

/// A provider with further authoritative servers beside its own.
pub(super) struct WithServers {
    pub(super) inner: EmbeddedDns,
    pub(super) more: Vec<SocketAddr>,
}

impl fmt::Debug for WithServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Dns for WithServers {
    async fn read(&self, name: &str) -> Result<RecordSet, DnsError> {
        self.inner.read(name).await
    }
    async fn swap(&self, old: &RecordSet, new: &RecordSet) -> Result<Change, DnsError> {
        self.inner.swap(old, new).await
    }
    async fn is_in_sync(&self, change: &Change) -> Result<bool, DnsError> {
        self.inner.is_in_sync(change).await
    }
    async fn authoritative_servers(&self, name: &str) -> Result<Vec<SocketAddr>, DnsError> {
        let mut servers = self.inner.authoritative_servers(name).await?;
        servers.extend(&self.more);
        Ok(servers)
    }
}

/// Two sites, 127.0.0.1 and 127.0.0.2, on one port; each says its name and
/// whether it takes writes. The first one is fenced.
pub(super) struct Sites {
    port: u16,
}

impl Sites {
    pub(super) async fn start(tasks: &Tasks) -> Self {
        let (first, second) = loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(second) = TcpListener::bind(("127.0.0.2", first.local_addr().unwrap().port())).await {
                break (first, second);
            }
        };
        let port = first.local_addr().unwrap().port();
        for (listener, line) in [(first, "a r"), (second, "b w")] {
            let stop = tasks.stop().clone();
            tasks.spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        accepted = listener.accept() => accepted.unwrap().0.write_all(line.as_bytes()).await.unwrap(),
                    }
                }
            });
        }
        Self { port }
    }
}

#[async_trait]
impl Client for Sites {
    async fn look(&self, address: IpAddr) -> Result<Answer, String> {
        let look = async {
            let mut line = String::new();
            TcpStream::connect((address, self.port)).await?.read_to_string(&mut line).await?;
            Ok::<_, std::io::Error>(line)
        };
        let line = look.await.map_err(|error| error.to_string())?;
        let (identity, mode) = line.split_once(' ').ok_or("no answer")?;
        Ok(Answer { identity: identity.to_owned(), wrote: mode == "w" })
    }
}
