//! One question to one server, asked directly: no cache, no resolver and no
//! retries stand between the server and the answer that is reported.
//!
//! An observer needs to see exactly what this server said at this moment; a
//! client library that retries or asks the next server would hide it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::DnsError;

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Fully qualified, with the final dot.
    pub name: &'a str,
    /// Whether AAAA records are asked for, else A.
    pub ipv6: bool,
    /// RD: false for an authoritative server, true for a resolver.
    pub recursion: bool,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub response_code: ResponseCode,
    /// Sorted; empty when the name has no such records.
    pub addresses: Vec<IpAddr>,
    /// The smallest TTL of the answer, in seconds.
    pub ttl_seconds: Option<u32>,
    /// Whether the server speaks with authority (AA).
    pub is_authoritative: bool,
}

/// Reads a fully qualified name.
pub(super) fn parse_name(text: &str) -> Result<Name, DnsError> {
    let bad = || DnsError::BadName { name: text.to_owned() };
    let name = Name::from_ascii(text).map_err(|_| bad())?;
    if name.is_fqdn() && !name.is_root() { Ok(name) } else { Err(bad()) }
}

/// Asks `server` once. No answer within `limit`, or one that is not an answer
/// to this question, is `DnsError::Io`; every well-formed answer, also NXDOMAIN,
/// is a `Reply`.
pub async fn ask(
    server: SocketAddr,
    question: Question<'_>,
    transport: Transport,
    limit: Duration,
) -> Result<Reply, DnsError> {
    let kind = if question.ipv6 { RecordType::AAAA } else { RecordType::A };
    let mut query = Message::query();
    query.metadata.recursion_desired = question.recursion;
    query.add_query(Query::query(parse_name(question.name)?, kind));
    let failed = |source| DnsError::Io { server: server.to_string(), action: "the query", source };
    let bytes = query.to_vec().map_err(|error| failed(io::Error::other(error)))?;
    let exchange = async {
        match transport {
            Transport::Udp => over_udp(server, &bytes, query.metadata.id).await,
            Transport::Tcp => over_tcp(server, &bytes, query.metadata.id).await,
        }
    };
    let answer = timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))))
        .map_err(failed)?;
    if answer.queries != query.queries {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question")));
    }
    Ok(read(&answer))
}

fn read(answer: &Message) -> Reply {
    let mut addresses: Vec<IpAddr> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect();
    addresses.sort_unstable();
    Reply {
        response_code: answer.metadata.response_code,
        addresses,
        ttl_seconds: answer.answers.iter().map(|record| record.ttl).min(),
        is_authoritative: answer.metadata.authoritative,
    }
}

/// The answer with this id, none when the bytes are something else.
fn answer_to(id: u16, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.id == id && message.metadata.message_type == MessageType::Response).then_some(message)
}

async fn over_udp(server: SocketAddr, query: &[u8], id: u16) -> io::Result<Message> {
    let unspecified: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // A stray datagram is not an answer; the limit of the caller ends the wait.
        if let Some(answer) = buffer.get(..length).and_then(|bytes| answer_to(id, bytes)) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8], id: u16) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    answer_to(id, &buffer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not a DNS answer"))
}
