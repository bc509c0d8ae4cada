//! What went wrong with a call, decided by status and error code alone; texts of a service
//! are only shown.

use std::{error::Error, fmt};

use aws_config::SdkConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::domain::with_causes;

/// Texts of a service are cut after so many characters.
const SHOWN_MAX: usize = 300;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Too many calls.
    Throttled,
    /// No answer, or none that says what became of the call.
    Unanswered,
    /// The service failed.
    Broken,
    NotFound,
    /// What was to be made is there already.
    Exists,
    /// Not in the state that the call needs: something else is done to it now.
    State,
    /// There is no room for it in the region, now.
    Capacity,
    /// The account may have no more of it.
    Quota,
    /// A right is missing.
    Denied,
    /// There are no credentials, or they are of no use any more.
    Credentials,
    /// What was asked for makes no sense to the service.
    Invalid,
    /// We did not ask: what it would act on is not ours, or not allowed.
    Refused,
}

impl Kind {
    /// Whether the same call can only fail again until a person acts.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::Throttled | Self::Unanswered | Self::Broken | Self::State | Self::Capacity => false,
            Self::NotFound
            | Self::Exists
            | Self::Quota
            | Self::Denied
            | Self::Credentials
            | Self::Invalid
            | Self::Refused => true,
        }
    }

    /// `code` is empty where the answer has none.
    fn of(status: u16, code: &str) -> Self {
        let has = |part: &str| code.contains(part);
        match code {
            "RequestLimitExceeded" | "SlowDown" | "TooManyRequestsException" | "PriorRequestNotComplete" => {
                Self::Throttled
            }
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "IncompleteSignature"
            | "MissingAuthenticationToken" => Self::Credentials,
            "AccessDenied"
            | "AccessDeniedException"
            | "UnauthorizedOperation"
            | "AuthFailure"
            | "KMSKeyNotAccessibleFault" => Self::Denied,
            _ if has("Throttl") => Self::Throttled,
            _ if has("InsufficientDBInstanceCapacity")
                || has("InsufficientDBClusterCapacity")
                || has("InsufficientStorageClusterCapacity") =>
            {
                Self::Capacity
            }
            _ if has("QuotaExceeded") || has("LimitExceeded") => Self::Quota,
            _ if has("AlreadyExists") => Self::Exists,
            _ if has("NotFound") || code == "NoSuchEntity" => Self::NotFound,
            _ if code.starts_with("Invalid") && (has("State") || has("Status")) => Self::State,
            _ => match status {
                429 => Self::Throttled,
                401 => Self::Credentials,
                403 => Self::Denied,
                404 => Self::NotFound,
                500..=599 => Self::Broken,
                _ => Self::Invalid,
            },
        }
    }

    fn remedy(self, right: &str) -> String {
        match self {
            Self::Throttled => "the account makes too many calls; it is tried again".to_owned(),
            Self::Unanswered => "check the network, and `aws.endpoint` where one is named".to_owned(),
            Self::Broken => "it is tried again".to_owned(),
            Self::NotFound => "correct its name, or the region".to_owned(),
            Self::Exists => "remove it, or use another name".to_owned(),
            Self::State => "wait until what is done to it has ended".to_owned(),
            Self::Capacity => "name another instance class or subnet group, or wait".to_owned(),
            Self::Quota => "raise the account's quota, or remove what nobody needs".to_owned(),
            Self::Denied => format!("allow `{right}` to the role, on this resource and with its key"),
            Self::Credentials => "renew the credentials that this node has for AWS".to_owned(),
            Self::Invalid | Self::Refused => "correct what is asked for".to_owned(),
        }
    }
}

/// A call as messages tell of it.
#[derive(Debug, Clone)]
pub struct Call {
    service: &'static str,
    region: String,
    action: String,
    right: &'static str,
}

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{service} in {region} did not {action}: {what}; {remedy}")]
pub struct AwsError {
    pub kind: Kind,
    /// As the service spells it; empty where it sent none.
    pub code: String,
    service: &'static str,
    region: Box<str>,
    action: Box<str>,
    what: Box<str>,
    remedy: Box<str>,
}

impl AwsError {
    pub fn is_permanent(&self) -> bool {
        self.kind.is_permanent()
    }
}

impl Call {
    /// `action` is a verb with its object: `take snapshot wallet-1`.
    pub fn of(service: &'static str, settings: &SdkConfig, action: impl Into<String>, right: &'static str) -> Self {
        let region = settings.region().map(ToString::to_string).unwrap_or_default();
        Self { service, region, action: action.into(), right }
    }

    /// The error of a call that failed.
    #[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
    pub fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> AwsError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|raw| raw.status().as_u16());
        match (&error, status) {
            (SdkError::ServiceError(service), Some(status)) => {
                let code = service.err().code().unwrap_or_default();
                let said: String = service.err().message().unwrap_or_default().chars().take(SHOWN_MAX).collect();
                let what = if code.is_empty() { format!("HTTP status {status}") } else { format!("{said} ({code})") };
                self.error(Kind::of(status, code), code, what)
            }
            _ => self.error(unsent(&error), "", with_causes(&error)),
        }
    }

    /// The error of a call that is not made at all.
    pub fn refused(&self, why: impl fmt::Display, remedy: impl Into<String>) -> AwsError {
        let remedy: String = remedy.into();
        let what = format!("it was not asked to, as {why}");
        AwsError { remedy: remedy.into(), ..self.error(Kind::Refused, "", what) }
    }

    /// The error of a call that cannot be sent.
    pub fn known(&self, kind: Kind, what: impl Into<String>) -> AwsError {
        self.error(kind, "", what.into())
    }

    /// An answer that lacks what it should hold.
    pub fn unreadable(&self, absent: &str) -> AwsError {
        self.error(Kind::Broken, "", format!("the answer holds {absent}"))
    }

    fn error(&self, kind: Kind, code: &str, what: String) -> AwsError {
        AwsError {
            kind,
            code: code.to_owned(),
            service: self.service,
            region: self.region.as_str().into(),
            action: self.action.as_str().into(),
            what: what.into(),
            remedy: kind.remedy(self.right).into(),
        }
    }
}

/// What it means that no answer came: nobody knows as whom to ask, or whoever lets us in
/// did not answer, which passes.
fn unsent(error: &(dyn Error + 'static)) -> Kind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)) => {
                return Kind::Credentials;
            }
            Some(_) => return error.source().map_or(Kind::Unanswered, refused_entry),
            None => cause = error.source(),
        }
    }
    Kind::Unanswered
}

/// Why whoever gives credentials gave none: permanent where an answer said so.
fn refused_entry(error: &(dyn Error + 'static)) -> Kind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let assumed = error.downcast_ref::<SdkError<AssumeRoleError, HttpResponse>>();
        if let Some(SdkError::ServiceError(answer)) = assumed {
            let kind = Kind::of(answer.raw().status().as_u16(), answer.err().code().unwrap_or_default());
            return if kind.is_permanent() { Kind::Credentials } else { kind };
        }
        cause = error.source();
    }
    Kind::Unanswered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for (status, code, kind) in [
            (400, "Throttling", Kind::Throttled),
            (400, "ThrottlingException", Kind::Throttled),
            (400, "RequestLimitExceeded", Kind::Throttled),
            (404, "DBSnapshotNotFound", Kind::NotFound),
            (404, "DBInstanceNotFoundFault", Kind::NotFound),
            (400, "DBSnapshotAlreadyExists", Kind::Exists),
            (400, "DBInstanceAlreadyExists", Kind::Exists),
            (400, "InvalidDBInstanceState", Kind::State),
            (400, "InvalidDBSnapshotState", Kind::State),
            (400, "InvalidDBClusterStateFault", Kind::State),
            (400, "InsufficientDBInstanceCapacity", Kind::Capacity),
            (400, "InstanceQuotaExceeded", Kind::Quota),
            (400, "SnapshotQuotaExceeded", Kind::Quota),
            (403, "AccessDenied", Kind::Denied),
            (403, "ExpiredToken", Kind::Credentials),
            (403, "InvalidClientTokenId", Kind::Credentials),
            (400, "InvalidParameterValue", Kind::Invalid),
            (400, "KMSKeyNotAccessibleFault", Kind::Denied),
            (503, "", Kind::Broken),
            (403, "", Kind::Denied),
        ] {
            assert_eq!(Kind::of(status, code), kind, "{status} {code}");
        }
    }
}
