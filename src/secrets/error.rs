//! Why a secret cannot be had. Names the reference, and never what was read.

use std::{io, path::PathBuf, time::Duration};

use super::HashicorpError;
use crate::aws::AwsError;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the environment variable `{0}` is not set, or not text; set it before starting")]
    Env(String),
    #[error("cannot read the secret in {}; {}", file.display(), remedy(source))]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the command for a secret is empty; write `[/path/to/program, …]`")]
    NoProgram,
    #[error("`{program}` did not print a secret ({reason}); run it by hand to see why")]
    Command { program: String, reason: String },
    #[error("{0} is empty; store the secret there")]
    Empty(String),
    #[error("{origin} is not text; store it as text, or as a JSON object of texts")]
    NoText { origin: String },
    #[error("{origin} is no JSON object and has no field `{key}`; store it as one, or remove `key`")]
    NoObject { origin: String, key: String },
    #[error("{origin} has no field `{key}`; it has {known}: correct `key`, or store it")]
    NoField { origin: String, key: String, known: String },
    #[error("the field `{key}` of {origin} is neither a text nor a number; name one that is")]
    NoScalar { origin: String, key: String },
    #[error("{origin} did not come within {}s; see whether this node reaches the store", limit.as_secs())]
    Silent { origin: String, limit: Duration },
    #[error("{origin} cannot be read")]
    Aws {
        origin: String,
        #[source]
        source: Box<AwsError>,
    },
    #[error("{origin} cannot be decrypted; enable its KMS key, and allow `kms:Decrypt` with it to this node's role")]
    Key {
        origin: String,
        #[source]
        source: Box<AwsError>,
    },
    #[error(
        "{origin} cannot be read: no such store is configured; write `secret_stores: {{vault: …}}` in lifeboat.yaml"
    )]
    NoStore { origin: String },
    #[error(transparent)]
    Hashicorp(#[from] HashicorpError),
}

impl SecretError {
    /// Whether it stays so until a person acts.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Silent { .. } => false,
            Self::Aws { source, .. } => source.is_permanent(),
            Self::Hashicorp(error) => error.is_permanent(),
            Self::Env(_)
            | Self::File { .. }
            | Self::NoProgram
            | Self::Command { .. }
            | Self::Empty(_)
            | Self::NoText { .. }
            | Self::NoObject { .. }
            | Self::NoField { .. }
            | Self::NoScalar { .. }
            | Self::Key { .. }
            | Self::NoStore { .. } => true,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "put it there, or correct the path",
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => "name a file",
        io::ErrorKind::InvalidData => "store it as text",
        _ => "make it readable for this process's user only",
    }
}
