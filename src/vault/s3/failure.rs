//! What the answers of an S3 store mean: what may pass when it is asked again,
//! and what a person must mend. Decided by status and error code alone; texts
//! of the store are only shown.

use std::{error::Error, io, time::Duration};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::Bucket;
use crate::{
    domain::with_causes,
    vault::{ObjectKey, Refusal, StoreError},
};

/// A request as messages tell of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    /// None when the bucket as a whole is asked.
    pub(super) key: Option<&'a ObjectKey>,
    pub(super) action: &'static str,
    /// The right that it needs.
    pub(super) right: &'static str,
}

impl<'a> Ask<'a> {
    pub(super) fn object(key: &'a ObjectKey, action: &'static str, right: &'static str) -> Self {
        Self { key: Some(key), action, right }
    }

    pub(super) fn bucket(action: &'static str, right: &'static str) -> Self {
        Self { key: None, action, right }
    }
}

/// What an answer of the store comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The same request may succeed later.
    Passing,
    NotFound,
    Exists,
    Full,
    NoBucket,
    WrongRegion,
    WrongCredential,
    Denied,
    Skewed,
    /// What it asks for lies in an archive.
    Archived,
    /// The key that the store is to encrypt with cannot be used.
    NoKey,
    Other,
}

/// `code` is empty where the answer has no body, as with HEAD.
pub(super) fn classify(status: u16, code: &str) -> Class {
    match code {
        "NoSuchBucket" => return Class::NoBucket,
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            return Class::WrongRegion;
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            return Class::WrongCredential;
        }
        "RequestTimeTooSkewed" => return Class::Skewed,
        "InvalidObjectState" => return Class::Archived,
        code if code.starts_with("KMS.") => return Class::NoKey,
        "XMinioStorageFull" | "QuotaExceeded" | "InsufficientStorage" => return Class::Full,
        // Damaged or cut off on the way, or a part of an upload that is gone; the object is sent anew.
        "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" | "IncompleteBody"
        // An upload in parts may be told so behind a good status, when it took long.
        | "InternalError" | "ServiceUnavailable"
        | "RequestTimeout" | "NoSuchUpload" | "SlowDown" | "Throttling" | "ThrottlingException"
        // Another writer of the same name is at work: whether it succeeds is not known yet.
        | "ConditionalRequestConflict" | "OperationAborted" => return Class::Passing,
        _ => {}
    }
    match status {
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Class::Passing,
        301 | 302 | 307 | 308 => Class::WrongRegion,
        401 => Class::WrongCredential,
        403 => Class::Denied,
        404 => Class::NotFound,
        412 => Class::Exists,
        507 => Class::Full,
        _ => Class::Other,
    }
}

const LATE: &str = "did not answer in time; check `endpoint` and the network";
/// Texts of a store are cut after so many characters.
const SHOWN_MAX: usize = 200;

impl Bucket {
    /// The error of a request that failed.
    pub(super) fn failed<E>(&self, ask: Ask<'_>, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match (error, error.raw_response()) {
            (SdkError::ServiceError(service), Some(raw)) => self.answered(ask, service.err(), raw),
            // An answer that cannot be read, such as a proxy's page; its status still tells.
            (SdkError::ResponseError(_), Some(raw)) if !raw.status().is_success() => {
                let nothing = aws_sdk_s3::error::ErrorMetadata::builder().build();
                self.answered(ask, &nothing, raw)
            }
            // Behind a good status, what no S3 store sends.
            (SdkError::ResponseError(_), Some(raw)) if !speaks_s3(raw) => self.refused(ask, self.not_s3(raw)),
            _ => self.unanswered(ask, error),
        }
    }

    fn not_s3(&self, raw: &HttpResponse) -> Refusal {
        let content_type = raw.headers().get("content-type").unwrap_or("without a type").to_owned();
        Refusal::NotS3 { endpoint: self.endpoint_shown(), status: raw.status().as_u16(), content_type }
    }

    fn answered(&self, ask: Ask<'_>, error: &impl ProvideErrorMetadata, raw: &HttpResponse) -> StoreError {
        let (status, code) = (raw.status().as_u16(), error.code().unwrap_or_default());
        let region = raw.headers().get("x-amz-bucket-region");
        let bucket = self.name.clone();
        let refusal = match (classify(status, code), ask.key) {
            (Class::Passing, _) => {
                let after = raw.headers().get("retry-after").and_then(|text| text.trim().parse().ok());
                return self.busy(ask, after.map(Duration::from_secs), status, code);
            }
            (Class::NotFound, Some(key)) => {
                return StoreError::NotFound { vault: self.declared.vault.clone(), key: key.clone() };
            }
            (Class::Exists, Some(key)) => {
                return StoreError::AlreadyExists { vault: self.declared.vault.clone(), key: key.clone() };
            }
            (Class::Archived, Some(key)) => {
                let (vault, key) = (self.declared.vault.clone(), key.clone());
                return StoreError::Archived { vault, key, class: None };
            }
            (Class::Full, _) => return StoreError::Full { vault: self.declared.vault.clone() },
            // A bucket elsewhere answers requests that were signed for here with a refusal, too.
            (Class::Denied | Class::WrongRegion | Class::Other, _) if region.is_some_and(|r| !self.is_home(r)) => {
                self.wrong_region(region.unwrap_or_default())
            }
            (Class::WrongRegion | Class::Other, _) if code.is_empty() && !speaks_s3(raw) => self.not_s3(raw),
            (Class::WrongRegion, _) => self.wrong_region("another one"),
            (Class::NoBucket, _) | (Class::NotFound, None) => {
                Refusal::NoBucket { bucket, endpoint: self.endpoint_shown() }
            }
            (Class::WrongCredential, _) => Refusal::WrongCredential { bucket, code: or_status(code, status) },
            (Class::NoKey, _) => Refusal::NoKey { key: self.options.kms_key.clone(), code: code.to_owned() },
            (Class::Denied, _) => Refusal::AccessDenied { bucket, right: ask.right },
            (Class::Skewed, _) => Refusal::ClockSkew,
            (Class::Other | Class::Exists | Class::Archived, _) => {
                let message = error.message().unwrap_or("no reason given");
                Refusal::Other { status, code: code.to_owned(), message: message.chars().take(SHOWN_MAX).collect() }
            }
        };
        self.refused(ask, refusal)
    }

    fn unanswered<E: Error + 'static>(&self, ask: Ask<'_>, error: &SdkError<E, HttpResponse>) -> StoreError {
        let mut causes = Vec::new();
        let mut cause: Option<&(dyn Error + 'static)> = error.source();
        while let Some(this) = cause {
            if let Some(reason) = this.downcast_ref::<CredentialsError>().and_then(why_none) {
                return self.refused(ask, Refusal::NoCredential { bucket: self.name.clone(), reason });
            }
            causes.push(this.to_string());
            cause = this.source();
        }
        let causes = causes.join(": ");
        if let SdkError::ConstructionFailure(_) = error {
            return self.unsent(ask, causes);
        }
        let (kind, what) = match error {
            SdkError::TimeoutError(_) => (io::ErrorKind::TimedOut, LATE),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => (io::ErrorKind::TimedOut, LATE),
            SdkError::ResponseError(_) => (io::ErrorKind::InvalidData, "gave an answer that cannot be read"),
            _ => (io::ErrorKind::NotConnected, "cannot be reached; check `endpoint` and the network"),
        };
        let source = io::Error::new(kind, format!("{} {what} ({causes})", self.endpoint_shown()));
        StoreError::Io { vault: self.declared.vault.clone(), subject: self.subject(ask), action: ask.action, source }
    }

    /// Of a request that makes no sense to the SDK.
    pub(super) fn unsent(&self, ask: Ask<'_>, message: String) -> StoreError {
        self.refused(ask, Refusal::Other { status: 0, code: "nothing was sent".to_owned(), message })
    }

    pub(super) fn refused(&self, ask: Ask<'_>, refusal: Refusal) -> StoreError {
        StoreError::Refused {
            vault: self.declared.vault.clone(),
            subject: self.subject(ask),
            action: ask.action,
            refusal: Box::new(refusal),
        }
    }

    fn busy(&self, ask: Ask<'_>, after: Option<Duration>, status: u16, code: &str) -> StoreError {
        let source = io::Error::other(format!("{} answered {status} {code}", self.endpoint_shown()));
        StoreError::Busy {
            vault: self.declared.vault.clone(),
            subject: self.subject(ask),
            action: ask.action,
            after,
            source,
        }
    }

    pub(super) fn wrong_region(&self, actual: &str) -> Refusal {
        let (bucket, configured) = (self.name.clone(), self.declared.region.clone());
        Refusal::WrongRegion { bucket, actual: actual.to_owned(), configured }
    }

    fn subject(&self, ask: Ask<'_>) -> String {
        match ask.key {
            Some(key) => format!("`{key}` in the bucket `{}`", self.name),
            None => format!("the bucket `{}`", self.name),
        }
    }

    fn endpoint_shown(&self) -> String {
        self.options.endpoint.clone().unwrap_or_else(|| format!("Amazon S3 in {}", self.declared.region))
    }
}

/// Why there are no credentials, by references only; none where asking again may help.
fn why_none(error: &CredentialsError) -> Option<String> {
    match error {
        // A service of credentials that is slow now.
        CredentialsError::ProviderTimedOut(_) => None,
        CredentialsError::CredentialsNotLoaded(_) => {
            Some("neither environment, profile, container nor instance has any".to_owned())
        }
        error => Some(with_causes(error)),
    }
}

/// Whether an answer without an error code may be a store's: it names its region, or
/// the request, or sends XML.
fn speaks_s3(raw: &HttpResponse) -> bool {
    let headers = raw.headers();
    headers.get("x-amz-bucket-region").is_some()
        || headers.get("x-amz-request-id").is_some()
        || headers.get("content-type").is_some_and(|kind| kind.contains("xml"))
}

fn or_status(code: &str, status: u16) -> String {
    if code.is_empty() { status.to_string() } else { code.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_a_person_must_mend() {
        for (status, code, class) in [
            (408, "", Class::Passing),
            (429, "", Class::Passing),
            (429, "TooManyRequests", Class::Passing),
            (500, "InternalError", Class::Passing),
            (502, "", Class::Passing),
            (503, "SlowDown", Class::Passing),
            (504, "", Class::Passing),
            (400, "RequestTimeout", Class::Passing),
            (400, "BadDigest", Class::Passing),
            (409, "ConditionalRequestConflict", Class::Passing),
            (404, "NoSuchUpload", Class::Passing),
            (400, "InvalidRequest", Class::Other),
            (400, "ExpiredToken", Class::WrongCredential),
            (401, "", Class::WrongCredential),
            (403, "SignatureDoesNotMatch", Class::WrongCredential),
            (403, "InvalidAccessKeyId", Class::WrongCredential),
            (403, "AccessDenied", Class::Denied),
            (403, "", Class::Denied),
            (403, "RequestTimeTooSkewed", Class::Skewed),
            (403, "InvalidObjectState", Class::Archived),
            (400, "KMS.DisabledException", Class::NoKey),
            (400, "KMS.NotFoundException", Class::NoKey),
            (404, "", Class::NotFound),
            (404, "NoSuchKey", Class::NotFound),
            (404, "NoSuchVersion", Class::NotFound),
            (404, "NoSuchBucket", Class::NoBucket),
            (301, "PermanentRedirect", Class::WrongRegion),
            (301, "", Class::WrongRegion),
            (400, "AuthorizationHeaderMalformed", Class::WrongRegion),
            (412, "PreconditionFailed", Class::Exists),
            (501, "NotImplemented", Class::Other),
            (507, "", Class::Full),
            (507, "XMinioStorageFull", Class::Full),
        ] {
            assert_eq!(classify(status, code), class, "{status} {code}");
        }
    }
}
