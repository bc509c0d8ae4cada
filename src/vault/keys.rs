//! The key envelope: each backup and each stretch of WAL has an age identity of
//! its own, and only that identity is encrypted to the operators' recipients.

use age::x25519::{Identity, Recipient};
use futures::{StreamExt, stream};
use secrecy::ExposeSecret;

use super::{Object, ObjectKey, SharedStore, VaultError, seal};
use crate::domain::with_causes;

/// Key objects read at once.
const READS_AT_ONCE: usize = 16;

/// Reads an age identity file: one `AGE-SECRET-KEY-1…` per line, `#` comments.
pub fn identities_from(text: &str) -> Result<Vec<Identity>, VaultError> {
    let identities: Vec<Identity> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.parse().map_err(|what: &str| VaultError::BadIdentity { what: instead_of_one(line, what) }))
        .collect::<Result<_, _>>()?;
    if identities.is_empty() {
        return Err(VaultError::BadIdentity { what: "it is empty".to_owned() });
    }
    Ok(identities)
}

/// What stands where an identity belongs; the line itself may be a secret.
fn instead_of_one(line: &str, what: &str) -> String {
    if line.starts_with("age1") {
        "this is a public key; name the file with the line `AGE-SECRET-KEY-1…`".to_owned()
    } else if line.contains("PRIVATE KEY") || line.starts_with("ssh-") {
        "this is an SSH key; make an age identity with `lifeboat keygen`".to_owned()
    } else {
        what.to_owned()
    }
}

/// Reads the operators' recipients, `age1…` each.
pub fn recipients_from<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Recipient>, VaultError> {
    texts
        .iter()
        .map(|text| {
            let failed = |what: &str| VaultError::Seal { what: format!("`{}` is no recipient: {what}", text.as_ref()) };
            text.as_ref().trim().parse().map_err(failed)
        })
        .collect()
}

/// The key object of an identity.
pub(super) fn wrap(identity: &Identity, recipients: &[Recipient]) -> Result<Object, VaultError> {
    let text = secrecy::SecretString::from(format!("{}\n", identity.to_string().expose_secret()));
    Object::seal_key(text.expose_secret().as_bytes(), recipients)
}

/// What a set of key objects gave.
pub(super) struct Keyring {
    pub(super) identities: Vec<Identity>,
    /// One that is sound and that none of the identities at hand opens.
    closed: Option<ObjectKey>,
    pub(super) lost: Lost,
}

impl Keyring {
    /// Opens each key object from the first source whose copy lets it. One that
    /// cannot be read anywhere ends nothing: whether anything needs it shows when
    /// that is opened.
    pub(super) async fn open(sources: &[SharedStore], keys: Vec<ObjectKey>, identities: &[Identity]) -> Self {
        let mut ring = Self { identities: Vec::new(), closed: None, lost: Lost(Vec::new()) };
        let reads = stream::iter(keys).map(|key| async move {
            let read = read_key(sources, &key, identities).await;
            (key, read.and_then(|text| identities_from(&String::from_utf8_lossy(&text))))
        });
        let mut reads = std::pin::pin!(reads.buffered(READS_AT_ONCE));
        while let Some((key, read)) = reads.next().await {
            match read {
                Ok(identities) => ring.identities.extend(identities),
                Err(VaultError::NoIdentity { key }) => ring.closed = Some(key),
                Err(error) => {
                    tracing::warn!(%key, error = %with_causes(&error), "a key is lost; what needs it cannot be opened");
                    ring.lost.0.push((key, error));
                }
            }
        }
        ring
    }

    /// An error where there were key objects and none was opened.
    pub(super) fn usable(self) -> Result<Self, VaultError> {
        match self.closed {
            Some(key) if self.identities.is_empty() => Err(self.lost.explain(VaultError::NoIdentity { key })),
            None if self.identities.is_empty() && !self.lost.0.is_empty() => Err(self.lost.first()),
            _ => Ok(self),
        }
    }
}

/// Key objects that could not be read, and why.
#[derive(Default)]
pub(super) struct Lost(Vec<(ObjectKey, VaultError)>);

impl Lost {
    /// Why an object could not be had: where no identity opens it, one that is
    /// lost may be what it lacks.
    pub(super) fn explain(self, error: VaultError) -> VaultError {
        match error {
            VaultError::NoIdentity { key } if !self.0.is_empty() => {
                let lost = self.0.iter().map(|(key, _)| key.clone()).collect();
                VaultError::LostKeys { key, lost, source: Box::new(self.first()) }
            }
            error => error,
        }
    }

    fn first(self) -> VaultError {
        self.0.into_iter().next().map_or(VaultError::Pipeline, |(_, error)| error)
    }
}

/// A key object from the first source whose copy opens. Where none does, the
/// answer of a sound copy counts before that of a missing or damaged one.
async fn read_key(sources: &[SharedStore], key: &ObjectKey, identities: &[Identity]) -> Result<Vec<u8>, VaultError> {
    let mut failed = None;
    for source in sources {
        match seal::read_sealed(source.as_ref(), key, false, identities).await {
            Ok(text) => return Ok(text),
            Err(error @ VaultError::NoIdentity { .. }) => failed = Some(error),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| VaultError::NoIdentity { key: key.clone() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_file_is_read_with_comments_and_refused_when_empty() {
        let identity = Identity::generate();
        let text =
            format!("# created\n# public key: {}\n{}\n", identity.to_public(), identity.to_string().expose_secret());
        assert_eq!(identities_from(&text).unwrap()[0].to_public(), identity.to_public());
        assert!(identities_from("# nothing\n").is_err());
        assert!(identities_from("AGE-SECRET-KEY-1NONSENSE").is_err());
        let public = identity.to_public().to_string();
        for (other, remedy) in [(public.as_str(), "AGE-SECRET-KEY-1"), ("ssh-ed25519 AAAA", "lifeboat keygen")] {
            let told = identities_from(other).map(drop).unwrap_err().to_string();
            assert!(told.contains(remedy), "{told}");
        }
    }
}
