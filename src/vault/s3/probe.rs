//! Proves by doing what a bucket can and cannot do. What a vault cannot do
//! without, above all that the store itself refuses a taken name, is an error;
//! everything else that a person should know is a finding.
//!
//! Compliance locks are only read from the bucket's configuration: proving one
//! would leave an object that nobody can delete.

use std::sync::Arc;

use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockRetentionMode};
use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use tokio::io::AsyncReadExt;

use super::{
    Bucket, S3Store,
    connect::LockMode,
    failure::Ask,
    lifecycle::{self, Harm},
    upload::Multipart,
};
use crate::vault::{ObjectKey, Refusal, Store, StoreError};

/// How often an upload is told to end, and the pause in between.
const ABORTS: u32 = 5;
const ABORT_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
const PROBE: &str = "lifeboat-probe-";
const FIRST: &[u8] = b"probe";
const OTHER: &[u8] = b"other";
/// The shortest lock that a request surely sees.
const LOCKED_FOR: SignedDuration = SignedDuration::from_secs(60);
/// Probe objects and uploads older than this were left by a crash.
const LEFTOVER_AGE: SignedDuration = SignedDuration::from_hours(24);

/// What the bucket's own configuration says of locks.
struct LockSetting {
    is_enabled: bool,
    /// How long every new object is locked, in words.
    by_default: Option<String>,
}

pub(super) async fn probe(store: &S3Store) -> Result<Vec<String>, StoreError> {
    let bucket = &store.bucket;
    let mut findings = Vec::new();
    bucket.verify_region().await?;
    if !bucket.place().region_verified {
        findings.push(format!(
            "the store does not say in which region the bucket is: `{}` is only declared",
            bucket.declared.region
        ));
    }
    let is_versioned = bucket.look_for_versions().await?;
    if !is_versioned {
        findings.push(
            "the bucket keeps no versions: what somebody with a writer's credentials puts over an object, or deletes, is gone; switch versioning on"
                .to_owned(),
        );
    }
    let setting = bucket.lock_setting().await?;
    findings.extend(bucket.lock_findings(&setting, is_versioned)?);
    let Harm { deleting, findings: harm } = bucket.lifecycle_harm().await?;
    findings.extend(harm);
    bucket.sweep_uploads().await?;
    let trial = Trial { bucket, key: bucket.probe_key(&setting)?, keeps: setting.by_default.is_some() };
    findings.extend(trial.run(is_versioned).await?);
    if deleting.is_empty() {
        return Ok(findings);
    }
    let refusal = Refusal::Expires { bucket: bucket.name.clone(), rules: deleting.join(", ") };
    Err(bucket.refused(Ask::bucket("rely on", "s3:PutLifecycleConfiguration"), refusal))
}

impl Bucket {
    /// Where every object is locked by default the probe always takes the same
    /// name, so that it leaves one object and not one a day.
    fn probe_key(&self, setting: &LockSetting) -> Result<ObjectKey, StoreError> {
        if setting.by_default.is_some() {
            return ObjectKey::new(format!("{PROBE}kept"));
        }
        let begun = self.clock.now().as_second();
        ObjectKey::new(format!("{PROBE}{begun}-{:016x}", rand::random::<u64>()))
    }

    async fn lock_setting(&self) -> Result<LockSetting, StoreError> {
        let ask = Ask::bucket("read the Object Lock configuration of", "s3:GetBucketObjectLockConfiguration");
        let found = match self.clients.asker.get_object_lock_configuration().bucket(&self.name).send().await {
            Ok(found) => found.object_lock_configuration,
            Err(error) => match self.failed(ask, &error) {
                // A bucket without it, a store that does not know it, and who may not ask where it is not wanted.
                StoreError::Refused { refusal, .. } => {
                    let unknown = matches!(*refusal, Refusal::NoBucket { .. } | Refusal::Other { .. });
                    let unwanted =
                        matches!(*refusal, Refusal::AccessDenied { .. } if self.options.object_lock.is_none());
                    if !unknown && !unwanted {
                        return Err(self.refused(ask, *refusal));
                    }
                    None
                }
                error => return Err(error),
            },
        };
        let is_enabled =
            found.as_ref().and_then(|found| found.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled);
        let rule = found.and_then(|found| found.rule).and_then(|rule| rule.default_retention);
        let by_default = rule.map(|rule| {
            let mode = rule.mode().map_or("an unknown", ObjectLockRetentionMode::as_str).to_ascii_lowercase();
            let time = match (rule.days(), rule.years()) {
                (Some(days), _) => format!("{days} days"),
                (None, Some(years)) => format!("{years} years"),
                (None, None) => "some time".to_owned(),
            };
            format!("{time} in {mode} mode")
        });
        Ok(LockSetting { is_enabled, by_default })
    }

    fn lock_findings(&self, setting: &LockSetting, is_versioned: bool) -> Result<Vec<String>, StoreError> {
        let lacks = match (self.options.object_lock, is_versioned, setting.is_enabled) {
            (Some(_), false, _) => Some("keeps no versions"),
            (Some(_), true, false) => Some("has no Object Lock"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            let refusal = Refusal::NoLock { bucket: self.name.clone(), lacks };
            return Err(self.refused(Ask::bucket("use", "s3:PutObjectRetention"), refusal));
        }
        let mut findings = Vec::new();
        if let Some(time) = &setting.by_default {
            findings.push(format!(
                "the bucket locks every new object for {time}: what a failed backup leaves cannot be swept before, nor can the probe object `{PROBE}kept`"
            ));
        }
        if self.options.object_lock == Some(LockMode::Compliance) {
            findings.push(
                "that compliance locks hold is taken from the bucket's configuration: proving it would leave an object that nobody can delete"
                    .to_owned(),
            );
        }
        Ok(findings)
    }

    async fn lifecycle_harm(&self) -> Result<Harm, StoreError> {
        let ask = Ask::bucket("read the lifecycle rules of", "s3:GetLifecycleConfiguration");
        match self.clients.asker.get_bucket_lifecycle_configuration().bucket(&self.name).send().await {
            Ok(found) => Ok(lifecycle::harm(found.rules(), &self.options.prefix)),
            Err(error) => match self.failed(ask, &error) {
                StoreError::Refused { refusal, .. } => match *refusal {
                    // 404 for the rules: `verify_region` has found the bucket.
                    Refusal::NoBucket { .. } | Refusal::Other { .. } => Ok(Harm::default()),
                    Refusal::AccessDenied { right, .. } => Ok(Harm {
                        findings: vec![format!(
                            "nobody knows whether a lifecycle rule of the bucket deletes objects of this vault: allow `{right}`"
                        )],
                        ..Harm::default()
                    }),
                    refusal => Err(self.refused(ask, refusal)),
                },
                error => Err(error),
            },
        }
    }

    /// Aborts uploads under our prefix that a crash left: no living one is as old.
    async fn sweep_uploads(&self) -> Result<(), StoreError> {
        let Ok(oldest) = self.clock.now().checked_sub(LEFTOVER_AGE) else { return Ok(()) };
        let ask = Ask::bucket("list the uploads of", "s3:ListBucketMultipartUploads");
        // One page: of more than a thousand the next probe takes the rest.
        let page =
            self.clients.asker.list_multipart_uploads().bucket(&self.name).prefix(&self.options.prefix).send().await;
        for upload in page.map_err(|error| self.failed(ask, &error))?.uploads() {
            let is_old = upload.initiated().is_some_and(|at| at.secs() < oldest.as_second());
            if let (Some(key), Some(id), true) = (upload.key(), upload.upload_id(), is_old) {
                self.abort_upload(key, id).await;
            }
        }
        Ok(())
    }

    /// Asked more than once, as parts that are still on their way may cut the
    /// connection or keep the upload alive. One that cannot be aborted now is swept
    /// by a later probe.
    pub(super) async fn abort_upload(&self, full_key: &str, id: &str) {
        for attempt in 1..=ABORTS {
            let abort = self.clients.asker.abort_multipart_upload().bucket(&self.name).key(full_key).upload_id(id);
            let Err(error) = abort.send().await else { return };
            if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 404) {
                return;
            }
            let error = self.failed(Ask::bucket("abort an upload in", "s3:AbortMultipartUpload"), &error);
            if attempt == ABORTS {
                tracing::warn!(%error, key = full_key, "an upload was left behind; the next probe after a day removes it");
            }
            tokio::time::sleep(ABORT_PAUSE).await;
        }
    }
}

/// One object that everything is tried on.
struct Trial<'a> {
    bucket: &'a Arc<Bucket>,
    key: ObjectKey,
    /// The bucket locks every object: the trial's stays.
    keeps: bool,
}

impl Trial<'_> {
    async fn run(&self, is_versioned: bool) -> Result<Vec<String>, StoreError> {
        let tried = self.try_all(is_versioned).await;
        let cleaned = self.clean_up().await;
        // Why it cannot hold a vault matters more than what is left of the trial.
        let mut findings = tried?;
        findings.extend(cleaned?);
        Ok(findings)
    }

    async fn try_all(&self, is_versioned: bool) -> Result<Vec<String>, StoreError> {
        let mut findings = Vec::new();
        match self.create(FIRST).await {
            // A trial that the bucket has kept proves the same.
            Err(StoreError::AlreadyExists { .. }) if self.keeps => {}
            other => other?,
        }
        self.refused_to_overwrite("PutObject", self.create(OTHER).await)?;
        self.refused_to_overwrite("CompleteMultipartUpload", self.create_in_parts().await)?;
        if !self.wrong_checksum_is_refused().await? {
            findings.push(
                "the store accepts an upload with a wrong SHA-256: damage on the way to it is found by `vault verify` only"
                    .to_owned(),
            );
        }
        if is_versioned && !self.keeps {
            self.put_over().await?;
        }
        self.first_content_is_there().await?;
        if self.bucket.options.object_lock == Some(LockMode::Governance) && !self.keeps {
            self.try_lock().await?;
        }
        Ok(findings)
    }

    fn ask(&self) -> Ask<'_> {
        Ask::object(&self.key, "probe with", self.bucket.right_to_write())
    }

    async fn create(&self, bytes: &'static [u8]) -> Result<(), StoreError> {
        let sent = self.bucket.put_request(&self.key, bytes.into()).if_none_match("*").send().await;
        sent.map(drop).map_err(|error| self.bucket.failed(self.ask(), &error))
    }

    async fn create_in_parts(&self) -> Result<(), StoreError> {
        let mut upload = Multipart::begin(Arc::clone(self.bucket), self.key.clone()).await?;
        upload.send(OTHER.into()).await?;
        upload.complete_over_nothing().await
    }

    fn refused_to_overwrite(&self, how: &'static str, again: Result<(), StoreError>) -> Result<(), StoreError> {
        match again {
            Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Ok(()) => Err(self.bucket.refused(self.ask(), Refusal::Overwrites { how })),
            Err(error) => Err(error),
        }
    }

    /// Sends the trial's bytes with the digest of others, under a name of its own.
    async fn wrong_checksum_is_refused(&self) -> Result<bool, StoreError> {
        let key = ObjectKey::new(format!("{}.damaged", self.key))?;
        let digest = <sha2::Sha256 as sha2::Digest>::digest(OTHER);
        let wrong = base64::engine::general_purpose::STANDARD.encode(digest);
        let request = self.bucket.put_request(&key, FIRST.into()).checksum_sha256(wrong);
        let sent = request.if_none_match("*").send().await;
        match sent {
            Ok(_) => Ok(false),
            Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() == 400) => Ok(true),
            Err(error) => match self.bucket.failed(Ask::object(&key, "probe with", "s3:PutObject"), &error) {
                // An earlier trial that the bucket has kept was accepted.
                StoreError::AlreadyExists { .. } => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Puts other bytes over the object, as nobody but an attacker would.
    async fn put_over(&self) -> Result<(), StoreError> {
        let sent = self.bucket.put_request(&self.key, OTHER.into()).send().await;
        sent.map(drop).map_err(|error| self.bucket.failed(self.ask(), &error))
    }

    /// Reads the object as a vault does, and compares.
    async fn first_content_is_there(&self) -> Result<(), StoreError> {
        let mut found = Vec::new();
        let read = self.store().read(&self.key).await?.read_to_end(&mut found).await;
        if read.is_err() || found != FIRST {
            return Err(self.bucket.refused(self.ask(), Refusal::OtherContent { what: "other bytes" }));
        }
        Ok(())
    }

    /// Locks the object for a moment and tries to delete it.
    async fn try_lock(&self) -> Result<(), StoreError> {
        let Some(first) = self.bucket.first_version(&self.key).await? else { return Ok(()) };
        let until = self.bucket.clock.now().checked_add(LOCKED_FOR).unwrap_or(Timestamp::MAX);
        self.bucket.retain(&self.key, &first.version, ObjectLockRetentionMode::Governance, until).await?;
        match self.bucket.delete_version(&self.key, &first.version, false).await {
            Err(StoreError::Locked { .. }) => {}
            Ok(()) => return Err(self.bucket.refused(self.ask(), Refusal::LockIgnored { until })),
            Err(error) => return Err(error),
        }
        // Who may lift the lock takes the trial away at once; for others it is gone with the lock.
        match self.bucket.delete_version(&self.key, &first.version, true).await {
            Ok(()) | Err(StoreError::Locked { .. } | StoreError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the trial, and what crashed ones left. One that is locked goes later.
    async fn clean_up(&self) -> Result<Option<String>, StoreError> {
        let store = self.store();
        let mut names: Vec<ObjectKey> = store.versions(PROBE).await?.into_iter().map(|found| found.key).collect();
        names.dedup();
        let oldest = self.bucket.clock.now().checked_sub(LEFTOVER_AGE).unwrap_or(Timestamp::MIN);
        let is_ours = |key: &ObjectKey| key.as_str().starts_with(self.key.as_str()) && !self.keeps;
        for key in names.iter().filter(|key| is_ours(key) || begun_at(key).is_some_and(|at| at < oldest)) {
            match store.delete(key).await {
                Ok(()) => {
                    if store.versions(key.as_str()).await?.iter().any(|left| left.key == *key) {
                        return Err(self.bucket.refused(self.ask(), Refusal::NotDeleted));
                    }
                }
                Err(StoreError::Locked { .. }) => {}
                Err(StoreError::Refused { refusal, .. }) if matches!(*refusal, Refusal::AccessDenied { .. }) => {
                    return Ok(Some(format!(
                        "the credentials may not delete: what failed backups and probes leave stays ({key} does); name some that may in `delete_credentials`, if this node is to clean up"
                    )));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn store(&self) -> S3Store {
        S3Store { bucket: Arc::clone(self.bucket) }
    }
}

/// When a trial of this name began.
fn begun_at(key: &ObjectKey) -> Option<Timestamp> {
    let (seconds, _) = key.as_str().strip_prefix(PROBE)?.split_once('-')?;
    Timestamp::from_second(seconds.parse().ok()?).ok()
}
