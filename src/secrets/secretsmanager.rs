//! AWS Secrets Manager: `GetSecretValue`, which needs `secretsmanager:GetSecretValue` and,
//! with a key of our own, `kms:Decrypt`.

use super::{Document, SecretError, aws};
use crate::{
    aws::Call,
    config::{SecretRef, secret::SecretsManagerRef},
};

pub(super) async fn read(regions: &aws::Regions, secret: &SecretsManagerRef) -> Result<Document, SecretError> {
    let settings = regions.settings(&secret.region).await;
    let origin = SecretRef::SecretsManager(secret.clone()).origin();
    let call = Call::of("secretsmanager", &settings, "read it", "secretsmanager:GetSecretValue");
    let answer = aws_sdk_secretsmanager::Client::new(&settings)
        .get_secret_value()
        .secret_id(&secret.secretsmanager)
        .set_version_stage(secret.version_stage.clone())
        .send()
        .await
        .map_err(|error| aws::failed(origin.clone(), call.failed(error)))?;
    let text = match (answer.secret_string, answer.secret_binary) {
        (Some(text), _) => text,
        (None, Some(bytes)) => String::from_utf8(bytes.into_inner()).map_err(|_| SecretError::NoText { origin })?,
        (None, None) => return Err(SecretError::Empty(origin)),
    };
    Ok(Document::text(text).of_version(answer.version_id))
}
