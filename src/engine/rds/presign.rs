//! The signed request that lets a region fetch an encrypted snapshot from another one in
//! our name. The SDK makes none for RDS; what must be in it is told by the API reference
//! (`CopyDBSnapshot`, `PreSignedUrl`).

use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_rds::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4::SigningParams,
};
use aws_smithy_runtime_api::{box_error::BoxError, client::identity::Identity};
use reqwest::Url;

use super::caller::Caller;
use crate::{
    aws::{AwsError, Kind},
    domain::{Region, Snapshot, with_causes},
};

/// How long it can be used: as long as the API reference's own example.
const VALID_FOR: Duration = Duration::from_secs(3600);
/// The version of the API whose parameters these are.
const API_VERSION: &str = "2014-10-31";

/// Which request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyRequest<'a> {
    /// `CopyDBSnapshot`, and the parameters that name the snapshot and its copy.
    pub action: &'static str,
    pub from_parameter: &'static str,
    pub to_parameter: &'static str,
    pub from: &'a Snapshot,
    pub to: &'a str,
    pub region: &'a Region,
    pub kms_key: &'a str,
}

impl CopyRequest<'_> {
    fn parameters(&self) -> [(&'static str, String); 6] {
        [
            ("Action", self.action.to_owned()),
            ("DestinationRegion", self.region.to_string()),
            ("KmsKeyId", self.kms_key.to_owned()),
            (self.from_parameter, self.from.arn.clone()),
            (self.to_parameter, self.to.to_owned()),
            ("Version", API_VERSION.to_owned()),
        ]
    }
}

/// The URL. `reader` calls in the region where the snapshot is.
pub(super) async fn presigned(reader: &Caller, request: &CopyRequest<'_>) -> Result<String, AwsError> {
    let call = reader.call(format!("sign the copy of snapshot {}", request.from.arn), "rds:CopyDBSnapshot");
    let settings = reader.settings();
    let nobody = |why: &str| call.known(Kind::Credentials, why);
    let provider = settings.credentials_provider().ok_or_else(|| nobody("there are no credentials"))?;
    let credentials = provider.provide_credentials().await.map_err(|error| nobody(&with_causes(&error)))?;
    let time = settings.time_source().ok_or_else(|| nobody("there is no clock to sign with"))?.now();
    let base = endpoint(settings).await.map_err(|error| call.known(Kind::Invalid, error.to_string()))?;
    let region = reader.region().to_string();
    signed(&base, request, &credentials.into(), &region, time)
        .map_err(|error| call.known(Kind::Invalid, error.to_string()))
}

/// Where the region's service listens.
async fn endpoint(settings: &SdkConfig) -> Result<Url, BoxError> {
    let params = Params::builder()
        .set_region(settings.region().map(ToString::to_string))
        .use_fips(settings.use_fips().unwrap_or_default())
        .set_endpoint(settings.endpoint_url().map(str::to_owned))
        .build()?;
    let endpoint = DefaultResolver::new().resolve_endpoint(&params).await?;
    Ok(Url::parse(endpoint.url())?)
}

fn signed(
    base: &Url,
    request: &CopyRequest<'_>,
    identity: &Identity,
    region: &str,
    time: SystemTime,
) -> Result<String, BoxError> {
    let mut url = base.clone();
    url.query_pairs_mut().extend_pairs(request.parameters());
    let mut how = SigningSettings::default();
    how.signature_location = SignatureLocation::QueryParams;
    how.expires_in = Some(VALID_FOR);
    let params = SigningParams::builder().identity(identity).region(region).name("rds").time(time).settings(how);
    let params = params.build()?.into();
    let unsigned = SignableRequest::new("GET", url.to_string(), std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(unsigned, &params)?.into_parts();
    url.query_pairs_mut().extend_pairs(instructions.params());
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aws_credential_types::Credentials;
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::domain::{SnapshotOrigin, SnapshotState};

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn snapshot() -> Snapshot {
        Snapshot {
            id: "lifeboat-1".to_owned(),
            arn: "arn:aws:rds:us-west-2:123456789012:snapshot:lifeboat-1".to_owned(),
            region: "us-west-2".parse().unwrap(),
            origin: SnapshotOrigin::Ours,
            state: SnapshotState::Available,
            progress_percent: 100,
            taken_at: None,
            size_bytes: 0,
            kms_key: Some("arn:aws:kms:us-west-2:123456789012:key/west".to_owned()),
            server_version: "16.4".to_owned(),
            copy_of: None,
        }
    }

    /// 2016-11-17T21:54:09Z, the instant of the API reference's example.
    fn instant() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_479_419_649)
    }

    fn signed_url(token: Option<&str>) -> Url {
        let from = snapshot();
        let to = "us-east-1".parse().unwrap();
        let request = CopyRequest {
            action: "CopyDBSnapshot",
            from_parameter: "SourceDBSnapshotIdentifier",
            to_parameter: "TargetDBSnapshotIdentifier",
            from: &from,
            to: "lifeboat-1-us-east-1",
            region: &to,
            kms_key: "arn:aws:kms:us-east-1:123456789012:key/east",
        };
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, token.map(str::to_owned), None, "test");
        let base = Url::parse("https://rds.us-west-2.amazonaws.com/").unwrap();
        signed(&base, &request, &credentials.into(), "us-west-2", instant()).unwrap().parse().unwrap()
    }

    fn mac(key: &[u8], of: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(of.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// As RFC 3986 has it: what is not unreserved becomes `%XX`.
    fn encoded(text: &str) -> String {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        text.bytes()
            .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    }

    /// The signature as the reference of Signature Version 4 has it made of a URL's query.
    fn expected(query: &BTreeMap<String, String>, host: &str) -> String {
        let pairs = query.iter().filter(|(name, _)| *name != "X-Amz-Signature");
        let canonical: Vec<String> =
            pairs.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let empty = hex::encode(Sha256::digest(b""));
        let request = format!("GET\n/\n{}\nhost:{host}\n\nhost\n{empty}", canonical.join("&"));
        let scope = "20161117/us-west-2/rds/aws4_request";
        let hash = hex::encode(Sha256::digest(request.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n20161117T215409Z\n{scope}\n{hash}");
        let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| mac(&key, part));
        hex::encode(mac(&key, &to_sign))
    }

    #[test]
    fn the_url_is_what_the_api_reference_asks_for() {
        for token in [None, Some("a/token+of=a role")] {
            let url = signed_url(token);
            assert_eq!((url.scheme(), url.host_str(), url.path()), ("https", Some("rds.us-west-2.amazonaws.com"), "/"));
            let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
            let mut wanted = vec![
                ("Action", "CopyDBSnapshot"),
                ("DestinationRegion", "us-east-1"),
                ("KmsKeyId", "arn:aws:kms:us-east-1:123456789012:key/east"),
                ("SourceDBSnapshotIdentifier", "arn:aws:rds:us-west-2:123456789012:snapshot:lifeboat-1"),
                ("TargetDBSnapshotIdentifier", "lifeboat-1-us-east-1"),
                ("Version", "2014-10-31"),
                ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
                ("X-Amz-Credential", "AKIDEXAMPLE/20161117/us-west-2/rds/aws4_request"),
                ("X-Amz-Date", "20161117T215409Z"),
                ("X-Amz-Expires", "3600"),
                ("X-Amz-SignedHeaders", "host"),
            ];
            wanted.extend(token.map(|token| ("X-Amz-Security-Token", token)));
            let signature = expected(&query, "rds.us-west-2.amazonaws.com");
            wanted.push(("X-Amz-Signature", &signature));
            let wanted: BTreeMap<String, String> =
                wanted.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            assert_eq!(query, wanted);
            assert!(!url.as_str().contains(SECRET) && !url.as_str().contains("PreSignedUrl"), "{url}");
        }
    }

    #[tokio::test]
    async fn the_region_of_the_snapshot_is_asked() {
        for (region, endpoint_url, fips, wanted) in [
            ("us-west-2", None, false, "https://rds.us-west-2.amazonaws.com/"),
            ("us-west-2", None, true, "https://rds-fips.us-west-2.amazonaws.com/"),
            ("cn-north-1", None, false, "https://rds.cn-north-1.amazonaws.com.cn/"),
            ("eu-west-1", Some("http://127.0.0.1:5000"), false, "http://127.0.0.1:5000/"),
        ] {
            let mut settings = SdkConfig::builder().region(aws_config::Region::new(region)).use_fips(fips);
            settings.set_endpoint_url(endpoint_url.map(str::to_owned));
            assert_eq!(endpoint(&settings.build()).await.unwrap().as_str(), wanted);
        }
    }
}
