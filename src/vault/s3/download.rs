//! Reads one object. A body that breaks off is taken up again where it ended,
//! from the very same content, so that a large restore does not fail for one
//! broken connection; one that gives nothing several times in a row is an error.

use std::{io, sync::Arc, time::Duration};

use aws_sdk_s3::{
    operation::get_object::{GetObjectError, GetObjectOutput},
    primitives::ByteStream,
    types::{IntelligentTieringAccessTier, StorageClass},
};
use bytes::Bytes;
use futures::stream;
use tokio_util::io::StreamReader;

use super::{Bucket, archive, failure::Ask};
use crate::{
    domain::with_causes,
    vault::{ObjectKey, ObjectReader, StoreError, retry::Patience},
};

/// So often a body may end early without a byte having come.
const BREAKS_MAX: u32 = 4;
const PATIENCE: Patience = Patience::new(3, Duration::from_millis(200));

struct Download {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    version: Option<String>,
    /// What a later request must find unchanged.
    etag: Option<String>,
    length: u64,
    position: u64,
    body: ByteStream,
    breaks: u32,
}

impl Bucket {
    /// The object or one version of it, and that version's id.
    pub(super) async fn get(
        self: &Arc<Self>,
        key: &ObjectKey,
        version: Option<&str>,
    ) -> Result<(ObjectReader, Option<String>), StoreError> {
        let found = self.get_from(key, version, None, 0).await?;
        let shown = found.version_id.clone();
        let length = found.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
        let download = Download {
            bucket: Arc::clone(self),
            key: key.clone(),
            version: version.map(str::to_owned).or(found.version_id),
            etag: found.e_tag,
            length,
            position: 0,
            body: found.body,
            breaks: 0,
        };
        let pieces = stream::try_unfold(download, |mut download| async move {
            Ok::<_, io::Error>(download.next().await?.map(|piece| (piece, download)))
        });
        Ok((Box::pin(StreamReader::new(Box::pin(pieces))), shown))
    }

    async fn get_from(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        etag: Option<&str>,
        position: u64,
    ) -> Result<GetObjectOutput, StoreError> {
        let right = if version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
        self.clients
            .asker
            .get_object()
            .bucket(&self.name)
            .key(self.full(key.as_str()))
            .set_version_id(version.map(str::to_owned))
            .set_if_match(etag.map(str::to_owned))
            .set_range((position > 0).then(|| format!("bytes={position}-")))
            .send()
            .await
            .map_err(|error| match error.as_service_error() {
                Some(GetObjectError::InvalidObjectState(state)) => {
                    let (class, tier) = (state.storage_class().map(StorageClass::as_str), state.access_tier());
                    let class = archive::refused_from(class, tier.map(IntelligentTieringAccessTier::as_str));
                    StoreError::Archived { vault: self.declared.vault.clone(), key: key.clone(), class }
                }
                _ => self.failed(Ask::object(key, "read", right), &error),
            })
    }
}

impl Download {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let ended = match self.body.next().await {
                Some(Ok(piece)) => {
                    self.position += piece.len() as u64;
                    self.breaks = 0;
                    return Ok(Some(piece));
                }
                None if self.position >= self.length => return Ok(None),
                None => io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early"),
                Some(Err(error)) => io::Error::other(with_causes(&error)),
            };
            self.breaks += 1;
            // Whole and refused, its digest is wrong: the same would come again.
            if self.breaks > BREAKS_MAX || self.position >= self.length {
                return Err(ended);
            }
            tracing::debug!(key = %self.key, position = self.position, %ended, "taking a broken download up again");
            self.body = self.reopened().await.map_err(|error| match error {
                // The answer to a condition, and not what it says of a name that is created.
                StoreError::AlreadyExists { .. } => io::Error::other("it is another content than it was"),
                error => io::Error::other(with_causes(&error)),
            })?;
        }
    }

    async fn reopened(&self) -> Result<ByteStream, StoreError> {
        let again = || self.bucket.get_from(&self.key, self.version.as_deref(), self.etag.as_deref(), self.position);
        Ok(PATIENCE.again(again).await?.body)
    }
}
