//! From plain tar bytes to stored parts: zstd with its own worker threads, age,
//! SHA-256, all on one blocking thread, with bounded channels before and after
//! it. Memory stays bounded by the channels and zstd's windows.

use std::io::{self, Write};

use age::{stream::StreamWriter, x25519::Recipient};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{
    Layout, ObjectRecord, SharedStore, VaultError,
    seal::{Gate, LEVEL},
    splitter::BLOCK,
};
use crate::domain::BackupId;

/// Stored bytes are handed to the store in pieces of this size.
const CHUNK: usize = 1 << 20;

/// What the encoder is asked to do, in order.
pub(super) enum Work {
    Begin(u32),
    Bytes(Vec<Bytes>),
    End,
}

/// What the encoder hands to the uploader, in order.
pub(super) enum Upload {
    Begin(u32),
    Bytes(Bytes),
    End(ObjectRecord),
}

pub(super) fn part_name(number: u32) -> String {
    format!("data/{number:05}.tar.zst.age")
}

/// Takes stored bytes from age, counts and digests them, hands them on.
struct Output {
    chunk: BytesMut,
    sha256: Sha256,
    size: u64,
    to: mpsc::Sender<Upload>,
}

impl Output {
    fn send(&mut self) -> io::Result<()> {
        let chunk = self.chunk.split().freeze();
        self.to.blocking_send(Upload::Bytes(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        if self.chunk.len() >= CHUNK {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The part being written.
struct Part {
    number: u32,
    encoder: zstd::Encoder<'static, StreamWriter<Output>>,
    size: u64,
}

impl Part {
    fn begin(number: u32, recipient: &Recipient, workers: u32, to: mpsc::Sender<Upload>) -> io::Result<Self> {
        to.blocking_send(Upload::Begin(number)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        let output = Output { chunk: BytesMut::with_capacity(CHUNK), sha256: Sha256::new(), size: 0, to };
        let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient as &dyn age::Recipient))
            .map_err(io::Error::other)?;
        let mut encoder = zstd::Encoder::new(encryptor.wrap_output(output)?, LEVEL)?;
        encoder.multithread(workers)?;
        encoder.include_checksum(true)?;
        Ok(Self { number, encoder, size: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        self.encoder.write_all(bytes)
    }

    fn end(mut self) -> io::Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        let mut output = self.encoder.finish()?.finish()?;
        output.send()?;
        let record = ObjectRecord {
            name: part_name(self.number),
            stored_size: output.size,
            stored_sha256: hex::encode(output.sha256.finalize()),
            plain_size: self.size,
            plain_sha256: None,
        };
        output.to.blocking_send(Upload::End(record)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Runs on a blocking thread until the work ends. Work that stops without
/// `End` leaves the part unfinished, and so uncommitted.
pub(super) fn encode(
    mut work: mpsc::Receiver<Work>,
    recipient: &Recipient,
    workers: u32,
    to: &mpsc::Sender<Upload>,
) -> io::Result<()> {
    let mut part: Option<Part> = None;
    while let Some(work) = work.blocking_recv() {
        match work {
            Work::Begin(number) => part = Some(Part::begin(number, recipient, workers, to.clone())?),
            Work::Bytes(pieces) => {
                let part = part.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
                pieces.iter().try_for_each(|bytes| part.write(bytes))?;
            }
            Work::End => part.take().map_or(Ok(()), Part::end)?,
        }
    }
    Ok(())
}

/// Stores the parts as they come; answers what was stored.
pub(super) async fn upload(
    mut from: mpsc::Receiver<Upload>,
    store: SharedStore,
    layout: Layout,
    backup: BackupId,
) -> Result<Vec<ObjectRecord>, VaultError> {
    let mut open: Option<Gate> = None;
    let mut stored = Vec::new();
    while let Some(upload) = from.recv().await {
        match (upload, open.take()) {
            (Upload::Begin(number), None) => {
                let key = layout.backup_object(&backup, &part_name(number))?;
                open = Some(Gate::create(store.as_ref(), &key).await?);
            }
            (Upload::Bytes(bytes), Some(mut gate)) => {
                gate.write(bytes).await?;
                open = Some(gate);
            }
            (Upload::End(record), Some(gate)) => {
                gate.commit().await?;
                stored.push(record);
            }
            _ => return Err(VaultError::Pipeline),
        }
    }
    if open.is_some() { Err(VaultError::Pipeline) } else { Ok(stored) }
}
