//! The Parameter Store of AWS Systems Manager: `GetParameter` with decryption, which needs
//! `ssm:GetParameter` and, for a `SecureString` under a key of our own, `kms:Decrypt`.

use super::{Document, SecretError, aws};
use crate::{
    aws::Call,
    config::{SecretRef, secret::SsmRef},
};

pub(super) async fn read(regions: &aws::Regions, parameter: &SsmRef) -> Result<Document, SecretError> {
    let settings = regions.settings(&parameter.region).await;
    let origin = SecretRef::Ssm(parameter.clone()).origin();
    let call = Call::of("ssm", &settings, "read it", "ssm:GetParameter");
    let answer = aws_sdk_ssm::Client::new(&settings).get_parameter().name(&parameter.ssm).with_decryption(true);
    let answer = answer.send().await.map_err(|error| aws::failed(origin.clone(), call.failed(error)))?;
    let found = answer.parameter.ok_or_else(|| aws::failed(origin.clone(), call.unreadable("no parameter")))?;
    let text = found.value.ok_or(SecretError::Empty(origin))?;
    Ok(Document::text(text).of_version(Some(found.version.to_string())))
}
