//! Why a provider refuses what a store asks of it, each with its remedy. These
//! are for a person to mend: the same request can only be refused again.

use jiff::Timestamp;

use crate::domain::Region;

/// Why a provider refuses. No secret is ever part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the bucket `{bucket}` does not exist at {endpoint}; correct `bucket` or `endpoint`, or make the bucket")]
    NoBucket { bucket: String, endpoint: String },
    #[error(
        "the bucket `{bucket}` is in the region `{actual}`, and `{configured}` is configured; correct `region`, and make sure that the data may be there"
    )]
    WrongRegion { bucket: String, actual: String, configured: Region },
    #[error("the store does not accept the credentials for `{bucket}` ({code}); replace them where they are kept")]
    WrongCredential { bucket: String, code: String },
    #[error(
        "there are no credentials for `{bucket}` ({reason}); set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` or `AWS_PROFILE` in the environment, or write `credentials` of this vault in lifeboat.yaml"
    )]
    NoCredential { bucket: String, reason: String },
    #[error("access is denied; allow `{right}` on `{bucket}` to the credentials of this vault")]
    AccessDenied { bucket: String, right: &'static str },
    #[error(
        "the store cannot encrypt with {} ({code}); enable it, let the credentials use it, or name another under `encryption`",
        shown_key(key.as_deref())
    )]
    NoKey { key: Option<String>, code: String },
    #[error(
        "the clock of this machine and the store's are too far apart; correct it, and keep it so with an NTP service"
    )]
    ClockSkew,
    #[error(
        "the store overwrote an object although it was told not to ({how}); it cannot hold a vault: use one that honours `If-None-Match`"
    )]
    Overwrites { how: &'static str },
    #[error("{what} came back than was written; do not use this store")]
    OtherContent { what: &'static str },
    #[error(
        "the bucket `{bucket}` would delete objects of this vault by itself (lifecycle rule {rules}); let them leave out the vault's prefix: what expires is decided by `keep`"
    )]
    Expires { bucket: String, rules: String },
    #[error("a deleted object is still there; backups could never expire: use another store")]
    NotDeleted,
    #[error(
        "`object_lock` is configured, and the bucket `{bucket}` {lacks}; make a bucket with versions and Object Lock, or remove `object_lock`"
    )]
    NoLock { bucket: String, lacks: &'static str },
    #[error("an object locked until {until} could be deleted; do not rely on the locks of this store")]
    LockIgnored { until: Timestamp },
    #[error("an upload has at most {parts_max} parts of {part_mib} MiB; make smaller objects")]
    TooLarge { parts_max: i32, part_mib: usize },
    #[error(
        "{endpoint} does not answer as S3 does ({status} {content_type}); correct `endpoint`, or look for a proxy or login page in between"
    )]
    NotS3 { endpoint: String, status: u16, content_type: String },
    #[error("the store answered {status} {code} ({message}); mend that on the store's side")]
    Other { status: u16, code: String, message: String },
}

fn shown_key(key: Option<&str>) -> String {
    key.map_or_else(|| "the bucket's default key".to_owned(), |key| format!("the key `{key}`"))
}
