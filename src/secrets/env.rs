//! An environment variable of this process.

use super::{Document, SecretError};

pub(super) fn read(name: &str) -> Result<Document, SecretError> {
    #[expect(clippy::disallowed_methods, reason = "where the operator says that a secret is")]
    let found = std::env::var(name);
    found.map(Document::text).map_err(|_| SecretError::Env(name.to_owned()))
}
