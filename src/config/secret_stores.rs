//! Stores that keep secrets and need more than a reference says: where they are and how
//! they let this node in. Written once, in `lifeboat.yaml`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::SecretRef;

/// Stores that keep secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretStoresConfig {
    /// The `HashiCorp` Vault of references `{vault: PATH, key: FIELD}`.
    pub vault: Option<HashicorpVaultConfig>,
}

/// A `HashiCorp` Vault, or what speaks as one, and how it lets this node in: by `token` or by `approle`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashicorpVaultConfig {
    /// `https://HOST:8200`, or `http://` to this machine alone.
    #[schemars(extend("format" = "vault-address"))]
    pub address: String,
    /// The namespace that all paths start from; the root when absent.
    #[schemars(extend("format" = "filled"))]
    pub namespace: Option<String>,
    /// PEM file of the authority that signed its certificate; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// Where a token is found, such as the file that a sidecar of Vault keeps. Who made it keeps it alive.
    pub token: Option<SecretRef>,
    /// A role to log in as; its token is kept alive, and given back at the end.
    pub approle: Option<AppRoleConfig>,
}

/// A role of the auth method `AppRole`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppRoleConfig {
    /// Its role ID, which is no secret.
    #[schemars(extend("format" = "filled"))]
    pub role_id: String,
    /// Where its secret ID is found.
    pub secret_id: SecretRef,
    /// Where the method is mounted.
    #[serde(default = "approle")]
    #[schemars(extend("format" = "filled"))]
    pub mount: String,
}

fn approle() -> String {
    "approle".to_owned()
}

impl SecretStoresConfig {
    /// Makes the paths in it absolute; they start from `folder`.
    pub(super) fn anchor(&mut self, folder: &Path) {
        let Some(vault) = &mut self.vault else { return };
        if let Some(file) = &mut vault.ca_file {
            *file = folder.join(&*file);
        }
        let secret_id = vault.approle.as_mut().map(|role| &mut role.secret_id);
        for secret in [vault.token.as_mut(), secret_id].into_iter().flatten() {
            secret.anchor(folder);
        }
    }
}
