//! What we tell the server of where we are, and the clock that messages bear.
//!
//! Nothing but what is durable in the vaults is ever told: not even as written.

use std::io;

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use postgres_protocol::message::frontend;

use super::Connection;
use crate::{clock::Clock, domain::Lsn};

/// PostgreSQL counts microseconds from 2000-01-01, in seconds after 1970 this.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// Sends a status update. A server that is gone takes none, but what it said
/// last, such as that it shuts down, may still wait to be read: so reading, and
/// not this, finds out how the stream ended.
pub(super) async fn say(connection: &mut Connection, durable: Lsn, ask: bool) {
    if let Err(error) = connection.send(|buffer| status(buffer, durable, ask)).await {
        tracing::debug!(member = %connection.member(), %error, "the server takes no status update");
    }
}

/// A standby status update. Written and applied are what is durable: nothing is
/// kept here but what a vault holds, and so no `synchronous_commit` that waits for
/// us is satisfied with less.
fn status(buffer: &mut BytesMut, durable: Lsn, ask: bool) -> io::Result<()> {
    let mut update = BytesMut::with_capacity(34);
    update.put_u8(b'r');
    for _written_flushed_applied in 0..3 {
        update.put_u64(durable.0);
    }
    update.put_i64(now());
    update.put_u8(u8::from(ask));
    frontend::CopyData::new(update.freeze())?.write(buffer);
    Ok(())
}

/// As messages bear it: microseconds since PostgreSQL's epoch.
pub(super) fn now() -> i64 {
    let since_epoch = Clock::system().now().duration_since(Timestamp::UNIX_EPOCH).as_micros();
    i64::try_from(since_epoch).unwrap_or_default() - POSTGRES_EPOCH * 1_000_000
}
