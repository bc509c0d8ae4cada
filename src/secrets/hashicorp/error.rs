//! Why a Vault did not give what was asked of it.

use std::path::PathBuf;

use super::super::SecretError;

/// Why a Vault did not give what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum HashicorpError {
    #[error(
        "HashiCorp Vault at {address} cannot be reached; check its address, the network, a proxy and its certificate"
    )]
    Unreachable {
        address: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{} is no list of authorities for HashiCorp Vault ({why}); name a PEM file in `ca_file`", file.display())]
    Authorities { file: PathBuf, why: String },
    #[error(
        "nothing says how HashiCorp Vault at {address} lets this node in; write `token` or `approle` under `secret_stores.vault`"
    )]
    NoLogin { address: String },
    #[error("what lets this node in to HashiCorp Vault at {address} cannot be read")]
    Key {
        address: String,
        #[source]
        source: Box<SecretError>,
    },
    #[error(
        "HashiCorp Vault at {address} refused the role at auth/{mount} ({said}); correct `role_id`, and issue a new secret ID where it was used up or has expired"
    )]
    Login { address: String, mount: String, said: String },
    #[error("HashiCorp Vault at {address} is sealed; unseal it")]
    Sealed { address: String },
    #[error(
        "HashiCorp Vault at {address} does not know this node's token: it has expired, was revoked, or lacks the policy `default`; put a new one in its place"
    )]
    Token { address: String },
    #[error(
        "HashiCorp Vault at {address} does not let this node's token at `{path}`; add `{policy}` to its policy, or correct the path"
    )]
    Denied { address: String, path: String, policy: String },
    #[error("HashiCorp Vault at {address} has nothing at `{path}`; {remedy}")]
    NotFound { address: String, path: String, remedy: &'static str },
    #[error("HashiCorp Vault at {address} answered {status}: {said}")]
    Refused { address: String, status: u16, said: String },
    #[error("HashiCorp Vault at {address} answered without {absent}; see what stands at that address")]
    Strange { address: String, absent: &'static str },
}

impl HashicorpError {
    /// Whether it stays so until a person acts.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Sealed { .. } => false,
            Self::Key { source, .. } => source.is_permanent(),
            // Overloaded, or another server of the cluster is taking over.
            Self::Refused { status, .. } => !(matches!(status, 412 | 429 | 472 | 473) || *status >= 500),
            Self::Authorities { .. }
            | Self::NoLogin { .. }
            | Self::Login { .. }
            | Self::Token { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Strange { .. } => true,
        }
    }
}
