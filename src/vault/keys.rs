//! The key envelope: each backup and each stretch of WAL has an age identity of
//! its own, and only that identity is encrypted to the operators' recipients.

use age::x25519::{Identity, Recipient};
use secrecy::ExposeSecret;

use super::{Object, ObjectKey, SharedStore, VaultError, seal};

/// Reads an age identity file: one `AGE-SECRET-KEY-1…` per line, `#` comments.
pub fn identities_from(text: &str) -> Result<Vec<Identity>, VaultError> {
    let identities: Vec<Identity> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.parse().map_err(|what: &str| VaultError::BadIdentity { what: what.to_owned() }))
        .collect::<Result<_, _>>()?;
    if identities.is_empty() {
        return Err(VaultError::BadIdentity { what: "it is empty".to_owned() });
    }
    Ok(identities)
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

/// Opens all key objects that can be opened, each from the first source that has
/// a sound copy. `NoIdentity` names one of them when none can.
pub(super) async fn unwrap_all(
    sources: &[SharedStore],
    keys: &[ObjectKey],
    identities: &[Identity],
) -> Result<Vec<Identity>, VaultError> {
    let mut opened = Vec::new();
    let mut refused = None;
    for key in keys {
        match read_key(sources, key, identities).await {
            Ok(text) => opened.extend(identities_from(&String::from_utf8_lossy(&text))?),
            Err(error @ VaultError::NoIdentity { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
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
    }
}
