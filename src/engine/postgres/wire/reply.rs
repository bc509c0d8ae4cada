//! What a server says, taken off the wire. Every length is checked against what
//! is there: a server that speaks nonsense is an error, never a panic.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::{
    AUTHENTICATION_TAG, COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, COPY_IN_RESPONSE_TAG,
    COPY_OUT_RESPONSE_TAG, DATA_ROW_TAG, ERROR_RESPONSE_TAG, NOTICE_RESPONSE_TAG, READY_FOR_QUERY_TAG,
    ROW_DESCRIPTION_TAG,
};

use crate::{domain::MemberName, engine::EngineError};

/// The answer to `START_REPLICATION`; the `postgres-protocol` crate does not know it.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// Longer messages are taken for nonsense: the server cuts WAL and archives far
/// smaller, and only a history file could come near.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The columns of a row as the server wrote them in text; `None` is NULL.
pub(in super::super) type Row = Vec<Option<Bytes>>;

/// One message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Reply {
    /// An authentication request: its kind and the rest of the message.
    Authentication(u32, Bytes),
    /// A result set begins.
    Columns,
    Row(Row),
    /// One command of those asked for is done.
    Complete,
    /// Data follows, or is waited for; with `START_REPLICATION`, both.
    CopyStarts,
    Data(Bytes),
    CopyDone,
    /// The server waits for the next command.
    Ready,
    Failed(Refusal),
    /// What the server says beside the answer.
    Notice(Refusal),
    /// A parameter or anything else that changes nothing for us.
    Aside,
}

/// An error that the server reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Refusal {
    /// SQLSTATE.
    pub(in super::super) code: String,
    pub(in super::super) message: String,
}

impl Refusal {
    /// The error of `action` on `member`.
    pub(in super::super) fn during(self, action: &'static str, member: &MemberName) -> EngineError {
        EngineError::Server { member: member.clone(), action, code: self.code, message: self.message }
    }
}

/// Takes the next whole message off the buffer; `None` while more must be read.
pub(super) fn decode(received: &mut BytesMut) -> io::Result<Option<Reply>> {
    let mut head = received.as_ref();
    let (Ok(tag), Ok(length)) = (head.try_get_u8(), head.try_get_u32()) else { return Ok(None) };
    let length = length as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(nonsense("a message of impossible length"));
    }
    let total = length + 1;
    if received.len() < total {
        received.reserve(total - received.len());
        return Ok(None);
    }
    let mut body = received.split_to(total).freeze();
    body.advance(5);
    Ok(Some(match tag {
        AUTHENTICATION_TAG => Reply::Authentication(body.try_get_u32().map_err(io::Error::other)?, body),
        ROW_DESCRIPTION_TAG => Reply::Columns,
        DATA_ROW_TAG => Reply::Row(row(body)?),
        COMMAND_COMPLETE_TAG => Reply::Complete,
        COPY_IN_RESPONSE_TAG | COPY_OUT_RESPONSE_TAG | COPY_BOTH_RESPONSE_TAG => Reply::CopyStarts,
        COPY_DATA_TAG => Reply::Data(body),
        COPY_DONE_TAG => Reply::CopyDone,
        READY_FOR_QUERY_TAG => Reply::Ready,
        ERROR_RESPONSE_TAG => Reply::Failed(refusal(body)?),
        NOTICE_RESPONSE_TAG => Reply::Notice(refusal(body)?),
        _ => Reply::Aside,
    }))
}

/// Takes a text that ends with a zero byte off the front.
pub(in super::super) fn c_string(bytes: &mut Bytes) -> io::Result<String> {
    let end = bytes.iter().position(|byte| *byte == 0).ok_or_else(|| nonsense("a text without an end"))?;
    let text = String::from_utf8_lossy(&bytes.split_to(end)).into_owned();
    bytes.advance(1);
    Ok(text)
}

pub(in super::super) fn nonsense(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn row(mut body: Bytes) -> io::Result<Row> {
    let count = body.try_get_u16().map_err(io::Error::other)?;
    (0..count)
        .map(|_| {
            // A length of -1 says NULL.
            let Ok(length) = usize::try_from(body.try_get_i32().map_err(io::Error::other)?) else { return Ok(None) };
            super::take(&mut body, length).map(Some).ok_or_else(|| nonsense("a row shorter than it says"))
        })
        .collect()
}

fn refusal(mut body: Bytes) -> io::Result<Refusal> {
    let mut refusal = Refusal { code: String::new(), message: String::new() };
    loop {
        match body.try_get_u8() {
            Ok(b'C') => refusal.code = c_string(&mut body)?,
            Ok(b'M') => refusal.message = c_string(&mut body)?,
            Ok(0) | Err(_) => return Ok(refusal),
            Ok(_) => drop(c_string(&mut body)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::from(&[tag][..]);
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn messages_are_decoded_once_they_are_whole() {
        let whole = message(b'D', b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff");
        for cut in 0..whole.len() {
            assert_eq!(decode(&mut BytesMut::from(&whole[..cut])).unwrap(), None, "{cut} bytes");
        }
        let row = vec![Some(Bytes::from_static(b"abc")), None];
        assert_eq!(decode(&mut whole.clone()).unwrap(), Some(Reply::Row(row)));
        let error = message(b'E', b"SFATAL\0C28P01\0Mno entry\0\0");
        let refusal = Refusal { code: "28P01".to_owned(), message: "no entry".to_owned() };
        assert_eq!(decode(&mut error.clone()).unwrap(), Some(Reply::Failed(refusal)));
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        assert!(decode(&mut BytesMut::from(&b"d\xff\xff\xff\xff"[..])).is_err());
        assert!(decode(&mut BytesMut::from(&b"d\0\0\0\x03"[..])).is_err());
        assert!(decode(&mut message(b'D', b"\0\x01\0\0\0\x09abc")).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, tag: u8) {
            drop(decode(&mut message(tag, &bytes)));
            drop(decode(&mut BytesMut::from(&bytes[..])));
        }
    }
}
