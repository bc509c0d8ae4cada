//! References to secrets: where each is found. A secret itself never stands in a file of
//! ours. What reads them is `secrets`, with one file for each form below.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::domain::Region;

/// Where a secret is found. A trailing newline is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretRef {
    /// An environment variable of this process.
    Env(String),
    /// A file that only this process's user should be able to read.
    File(PathBuf),
    /// A program by its absolute path and its arguments; what it prints within 10 s.
    Command(Vec<String>),
    #[serde(untagged)]
    SecretsManager(SecretsManagerRef),
    #[serde(untagged)]
    Ssm(SsmRef),
    #[serde(untagged)]
    HashicorpVault(HashicorpVaultRef),
}

/// A secret of AWS Secrets Manager.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretsManagerRef {
    /// Its name or ARN; the ARN where it is another account's.
    #[schemars(extend("format" = "filled"))]
    pub secretsmanager: String,
    /// The region that it is asked for in.
    pub region: Region,
    /// The field of a secret that is a JSON object; the whole text when absent.
    #[schemars(extend("format" = "filled"))]
    pub key: Option<String>,
    /// Which of its versions, by staging label; `AWSCURRENT` when absent.
    #[schemars(extend("format" = "filled"))]
    pub version_stage: Option<String>,
}

/// A parameter of the AWS Systems Manager Parameter Store; it is decrypted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SsmRef {
    /// Its name, such as `/prod/wallet/password`, or its ARN.
    #[schemars(extend("format" = "filled"))]
    pub ssm: String,
    /// The region that it is asked for in.
    pub region: Region,
}

/// A field of what a `HashiCorp` Vault keeps or makes at a path: of a key-value store of
/// version 1 or 2, or credentials that are made for us and leased.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashicorpVaultRef {
    /// As `vault kv get` and `vault read` take it: `secret/wallet`, `database/creds/wallet`.
    #[schemars(extend("format" = "filled"))]
    pub vault: String,
    /// The field: `password`.
    #[schemars(extend("format" = "filled"))]
    pub key: String,
}

impl SecretRef {
    /// Makes a path in it absolute; it starts from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        if let Self::File(file) = self {
            *file = folder.join(&*file);
        }
    }

    /// Where it comes from, for messages.
    pub fn origin(&self) -> String {
        match self {
            Self::Env(name) => format!("the environment variable `{name}`"),
            Self::File(file) => file.display().to_string(),
            // Arguments may name more than the operator wants in a log.
            Self::Command(argv) => format!("`{}`", argv.first().map_or("", String::as_str)),
            Self::SecretsManager(secret) => {
                format!("the secret `{}` of Secrets Manager in {}", secret.secretsmanager, secret.region)
            }
            Self::Ssm(parameter) => format!("the parameter `{}` of SSM in {}", parameter.ssm, parameter.region),
            Self::HashicorpVault(secret) => format!("`{}` of HashiCorp Vault", secret.vault),
        }
    }

    /// Whether reading it is a call over the network.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Env(_) | Self::File(_) | Self::Command(_) => false,
            Self::SecretsManager(_) | Self::Ssm(_) | Self::HashicorpVault(_) => true,
        }
    }

    /// The field of it that is meant, where it has several.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::SecretsManager(secret) => secret.key.as_deref(),
            Self::HashicorpVault(secret) => Some(&secret.key),
            Self::Env(_) | Self::File(_) | Self::Command(_) | Self::Ssm(_) => None,
        }
    }

    /// The same for all of its fields: what they are read from together.
    #[must_use]
    pub fn whole(&self) -> Self {
        let mut whole = self.clone();
        match &mut whole {
            Self::SecretsManager(secret) => secret.key = None,
            Self::HashicorpVault(secret) => secret.key.clear(),
            Self::Env(_) | Self::File(_) | Self::Command(_) | Self::Ssm(_) => {}
        }
        whole
    }
}
