//! Writes one object: with one request while it is small, in parts sent side by
//! side when it is not. Either way the last request makes it visible, and only
//! where the name is free.
//!
//! A writer holds at most `PARTS_AT_ONCE + 1` parts: 40 MiB. One that is dropped
//! has its unfinished upload aborted; what a crash left is swept by the probe.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    primitives::ByteStream,
    types::{
        ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, ServerSideEncryption, StorageClass,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::{Bucket, failure::Ask};
use crate::vault::{ObjectInfo, ObjectKey, ObjectWriter, Refusal, StoreError, retry::Patience};

/// An object up to this size is sent with one request.
pub(super) const PART_SIZE: usize = 8 << 20;
const PARTS_AT_ONCE: usize = 4;
/// S3's own bound; with it an object has at most 78 GiB.
const PARTS_MAX: i32 = 10_000;
/// A part that fails is sent again by itself: the whole may no longer be in memory.
const PATIENCE: Patience = Patience::new(3, Duration::from_millis(200));
/// All of the object was sent by then, and would be for nothing.
const COMPLETING: Patience = Patience::new(6, Duration::from_millis(500));

pub(super) struct Writer {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    /// What is not sent yet.
    buffer: BytesMut,
    size_bytes: u64,
    multipart: Option<Multipart>,
}

impl Writer {
    pub(super) fn new(bucket: Arc<Bucket>, key: ObjectKey) -> Self {
        Self { bucket, key, buffer: BytesMut::new(), size_bytes: 0, multipart: None }
    }

    async fn send_part(&mut self) -> Result<(), StoreError> {
        let part = self.buffer.split().freeze();
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            none => {
                // Nothing large is sent for a name that is taken.
                self.bucket.refuse_taken(&self.key).await?;
                none.insert(Multipart::begin(Arc::clone(&self.bucket), self.key.clone()).await?)
            }
        };
        multipart.send(part).await
    }
}

#[async_trait]
impl ObjectWriter for Writer {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        self.size_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.len() == PART_SIZE {
                self.send_part().await?;
            }
            let room = PART_SIZE - self.buffer.len();
            self.buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<ObjectInfo, StoreError> {
        if self.multipart.is_some() {
            self.send_part().await?;
        }
        let Self { bucket, key, buffer, size_bytes, multipart } = *self;
        match multipart {
            Some(multipart) => multipart.complete().await?,
            None => bucket.put(&key, buffer.freeze()).await?,
        }
        Ok(ObjectInfo::new(key, size_bytes))
    }
}

impl Bucket {
    /// Stores a small object where its name is free.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        if self.is_versioned().await? {
            self.refuse_taken(key).await?;
        }
        let sent = self.put_request(key, bytes).if_none_match("*").send().await;
        sent.map_err(|error| self.failed(Ask::object(key, "write", self.right_to_write()), &error))?;
        Ok(())
    }

    /// Stores an object over whatever is there, unless it is told more.
    pub(super) fn put_request(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
    ) -> aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder {
        let (encryption, kms_key) = self.encryption();
        self.clients
            .sender
            .put_object()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .set_storage_class(self.storage_class())
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .body(ByteStream::from(bytes))
    }

    /// With a key of its own to encrypt with, the store asks for rights on that too.
    pub(super) fn right_to_write(&self) -> &'static str {
        match self.options.kms_key {
            Some(_) => "s3:PutObject` with `kms:GenerateDataKey` and `kms:Decrypt",
            None => "s3:PutObject",
        }
    }

    fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        let kms_key = self.options.kms_key.clone();
        (kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms), kms_key)
    }

    fn storage_class(&self) -> Option<StorageClass> {
        self.options.storage_class.as_deref().map(StorageClass::from)
    }

    /// Fails when the name has an object, also one that something hides.
    async fn refuse_taken(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let is_taken = if self.is_versioned().await? {
            self.first_version(key).await?.is_some()
        } else {
            let head = self.clients.asker.head_object().bucket(&self.name).key(self.full(key.as_str())).send().await;
            match head
                .map_err(|error| self.failed(Ask::object(key, "look for", "s3:GetObject and s3:ListBucket"), &error))
            {
                Ok(_) => true,
                Err(StoreError::NotFound { .. }) => false,
                Err(error) => return Err(error),
            }
        };
        if is_taken {
            return Err(StoreError::AlreadyExists { vault: self.declared.vault.clone(), key: key.clone() });
        }
        Ok(())
    }
}

/// An upload in parts. Dropped before it is complete, it is aborted.
pub(super) struct Multipart {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    /// None once it is complete or aborted.
    id: Option<String>,
    next: i32,
    size_bytes: u64,
    under_way: JoinSet<Result<Sent, StoreError>>,
    sent: Vec<Sent>,
}

/// A part that the store has.
struct Sent {
    part: CompletedPart,
    /// Of what was sent; not every store tells it in its answer.
    sha256: [u8; 32],
}

impl Multipart {
    pub(super) async fn begin(bucket: Arc<Bucket>, key: ObjectKey) -> Result<Self, StoreError> {
        let (encryption, kms_key) = bucket.encryption();
        let begun = bucket
            .clients
            .asker
            .create_multipart_upload()
            .bucket(&bucket.name)
            .key(bucket.full(key.as_str()))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .set_storage_class(bucket.storage_class())
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .send()
            .await
            .map_err(|error| bucket.failed(Ask::object(&key, "write", bucket.right_to_write()), &error))?;
        let id = begun.upload_id;
        Ok(Self { bucket, key, id, next: 1, size_bytes: 0, under_way: JoinSet::new(), sent: Vec::new() })
    }

    /// Waits until there is room for one more part on its way.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        while self.under_way.len() >= PARTS_AT_ONCE {
            self.await_one().await?;
        }
        let number = self.next;
        if number > PARTS_MAX {
            let refusal = Refusal::TooLarge { parts_max: PARTS_MAX, part_mib: PART_SIZE >> 20 };
            return Err(self.bucket.refused(self.ask(), refusal));
        }
        self.next += 1;
        self.size_bytes += bytes.len() as u64;
        let (bucket, key, id) = (Arc::clone(&self.bucket), self.key.clone(), self.id.clone());
        self.under_way.spawn(async move {
            let (id, sha256) = (id.as_deref().unwrap_or_default(), Sha256::digest(&bytes).into());
            PATIENCE.again(|| send_part(&bucket, &key, id, number, &bytes, sha256)).await
        });
        Ok(())
    }

    /// Makes the object visible where its name is free.
    pub(super) async fn complete(mut self) -> Result<(), StoreError> {
        while !self.under_way.is_empty() {
            self.await_one().await?;
        }
        if self.bucket.is_versioned().await? {
            self.bucket.refuse_taken(&self.key).await?;
        }
        self.complete_over_nothing().await
    }

    /// The same by the store's own condition alone. An answer that is lost leaves
    /// open whether the object is there: then the store is asked for it, and where
    /// it is what was sent, that is a success.
    pub(super) async fn complete_over_nothing(&mut self) -> Result<(), StoreError> {
        while !self.under_way.is_empty() {
            self.await_one().await?;
        }
        self.sent.sort_by_key(|sent| sent.part.part_number());
        let attempt = || async {
            match self.ask_to_complete().await {
                Err(error) if may_have_succeeded(&error) && self.is_there().await => Ok(()),
                other => other,
            }
        };
        match COMPLETING.again(attempt).await {
            Ok(()) => {
                self.id = None;
                Ok(())
            }
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn ask_to_complete(&self) -> Result<(), StoreError> {
        let parts = self.sent.iter().map(|sent| sent.part.clone()).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let completed = self
            .bucket
            .clients
            .sender
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(self.bucket.full(self.key.as_str()))
            .set_upload_id(self.id.clone())
            .multipart_upload(parts)
            .if_none_match("*")
            .send()
            .await;
        completed.map(drop).map_err(|error| self.bucket.failed(self.ask(), &error))
    }

    /// Whether the object of this name consists of exactly these parts, by the
    /// store's digest of their digests. What cannot be asked or told is a no.
    async fn is_there(&self) -> bool {
        let version = match self.bucket.is_versioned().await {
            Ok(true) => match self.bucket.first_version(&self.key).await {
                Ok(Some(first)) => Some(first.version),
                Ok(None) | Err(_) => return false,
            },
            Ok(false) => None,
            Err(_) => return false,
        };
        let looked = self
            .bucket
            .clients
            .asker
            .head_object()
            .bucket(&self.bucket.name)
            .key(self.bucket.full(self.key.as_str()))
            .set_version_id(version)
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let Ok(found) = looked else { return false };
        // Stores write behind it of how many parts it is.
        let sha256 = found.checksum_sha256().map(|shown| shown.split_once('-').map_or(shown, |(sha256, _)| sha256));
        let size = found.content_length().and_then(|size| u64::try_from(size).ok());
        (sha256, size) == (Some(composite_sha256(&self.sent).as_str()), Some(self.size_bytes))
    }

    async fn await_one(&mut self) -> Result<(), StoreError> {
        match self.under_way.join_next().await {
            Some(Ok(part)) => self.sent.push(part?),
            Some(Err(error)) => {
                let (vault, subject) = (self.bucket.declared.vault.clone(), format!("`{}`", self.key));
                return Err(StoreError::Io { vault, subject, action: "write", source: std::io::Error::other(error) });
            }
            None => {}
        }
        Ok(())
    }

    fn ask(&self) -> Ask<'_> {
        Ask::object(&self.key, "write", "s3:PutObject")
    }

    async fn abort(&mut self) {
        self.under_way.shutdown().await;
        if let Some(id) = self.id.take() {
            self.bucket.abort_upload(&self.bucket.full(self.key.as_str()), &id).await;
        }
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        // Without a runtime the process is ending; the probe sweeps what it leaves.
        if let (Some(id), Ok(_)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            let (bucket, key) = (Arc::clone(&self.bucket), self.bucket.full(self.key.as_str()));
            let mut under_way = std::mem::take(&mut self.under_way);
            self.bucket.aborts.spawn(async move {
                under_way.shutdown().await;
                bucket.abort_upload(&key, &id).await;
            });
        }
    }
}

/// Whether the request may have done its work although it failed, or have found
/// what an earlier one of ours did.
fn may_have_succeeded(error: &StoreError) -> bool {
    !error.is_permanent() || matches!(error, StoreError::AlreadyExists { .. })
}

/// The SHA-256 of the parts' SHA-256, in base64 as S3 writes it.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>
fn composite_sha256(parts: &[Sent]) -> String {
    let mut composite = Sha256::new();
    for sent in parts {
        composite.update(sent.sha256);
    }
    STANDARD.encode(composite.finalize())
}

async fn send_part(
    bucket: &Bucket,
    key: &ObjectKey,
    id: &str,
    number: i32,
    bytes: &Bytes,
    sha256: [u8; 32],
) -> Result<Sent, StoreError> {
    let sent = bucket
        .clients
        .sender
        .upload_part()
        .bucket(&bucket.name)
        .key(bucket.full(key.as_str()))
        .upload_id(id)
        .part_number(number)
        .checksum_algorithm(ChecksumAlgorithm::Sha256)
        .checksum_sha256(STANDARD.encode(sha256))
        .body(ByteStream::from(bytes.clone()))
        .send()
        .await
        .map_err(|error| bucket.failed(Ask::object(key, "write", "s3:PutObject"), &error))?;
    let part = CompletedPart::builder()
        .part_number(number)
        .set_e_tag(sent.e_tag)
        .set_checksum_sha256(sent.checksum_sha256)
        .build();
    Ok(Sent { part, sha256 })
}
