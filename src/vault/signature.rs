//! SSH signatures by an Ed25519 key. age proves nothing about the sender, so
//! manifests, scripts and evidence carry one. Anybody can check it with
//! `ssh-keygen -Y verify -n NAMESPACE`.

use std::{
    io,
    path::{Path, PathBuf},
};

use ssh_key::{Algorithm, Fingerprint, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use crate::durable;

/// What can go wrong with keys and signatures.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("cannot {action} the signing key {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not an unencrypted OpenSSH Ed25519 private key; make one with `ssh-keygen -t ed25519 -N ''`")]
    Key { path: PathBuf },
    #[error("`{text}` is no whole fingerprint; one looks like `SHA256:` with 43 characters behind it")]
    Fingerprint { text: String },
    /// What was given instead may be a private key, and is never shown.
    #[error("it holds no OpenSSH Ed25519 public key, which looks like `ssh-ed25519 AAAA…`")]
    NoPublicKey,
    #[error("cannot sign")]
    Sign(#[source] ssh_key::Error),
    #[error("the signature of {subject} is unreadable; the file was changed or cut")]
    Unreadable { subject: String },
    #[error("{subject} is signed by {found}, not by the trusted key {expected}")]
    Foreign { subject: String, found: String, expected: String },
    #[error("{subject} does not fit its signature: it was changed after it was signed")]
    Forged { subject: String },
}

/// Signs. Debug output shows the fingerprint alone.
#[derive(Clone)]
pub struct Signer {
    key: PrivateKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.verifier().fingerprint()).finish()
    }
}

impl Signer {
    /// Reads the key, or makes one when the file does not exist. The flag tells
    /// whether it was made.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), SignatureError> {
        let file = |action| move |source| SignatureError::File { action, path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text)
                .map(|signer| (signer, false))
                .ok_or_else(|| SignatureError::Key { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::ephemeral().key;
                let text = key.to_openssh(LineEnding::LF).map_err(SignatureError::Sign)?;
                durable::create_private(path, text.as_bytes()).map_err(file("make"))?;
                Ok((Self { key }, true))
            }
            Err(error) => Err(file("read")(error)),
        }
    }

    /// A new key that is kept nowhere.
    pub fn ephemeral() -> Self {
        let mut seed = [0u8; 32];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut seed);
        Self { key: PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&seed)) }
    }

    fn parse(text: &str) -> Option<Self> {
        let key = PrivateKey::from_openssh(text).ok()?;
        (key.algorithm() == Algorithm::Ed25519 && !key.is_encrypted()).then_some(Self { key })
    }

    /// An armored SSH signature of `message`.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, SignatureError> {
        SshSig::sign(&self.key, namespace, HashAlg::Sha512, message)
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(SignatureError::Sign)
    }

    pub fn verifier(&self) -> Verifier {
        Verifier::of(self.key.public_key())
    }
}

/// Checks signatures against the one trusted key, of which the fingerprint is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    fingerprint: Fingerprint,
    key: Option<PublicKey>,
}

impl Verifier {
    fn of(key: &PublicKey) -> Self {
        Self { fingerprint: key.fingerprint(HashAlg::Sha256), key: Some(key.clone()) }
    }

    /// From the line `ssh-ed25519 AAAA… comment`.
    pub fn from_openssh(text: &str) -> Result<Self, SignatureError> {
        let key = PublicKey::from_openssh(text.trim()).map_err(|_| SignatureError::NoPublicKey)?;
        if key.algorithm() == Algorithm::Ed25519 { Ok(Self::of(&key)) } else { Err(SignatureError::NoPublicKey) }
    }

    /// From `SHA256:…`, as `ssh-keygen -l` and the daemon print it.
    pub fn from_fingerprint(text: &str) -> Result<Self, SignatureError> {
        let invalid = |_| SignatureError::Fingerprint { text: text.to_owned() };
        Ok(Self { fingerprint: text.trim().parse().map_err(invalid)?, key: None })
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.to_string()
    }

    /// `ssh-ed25519 AAAA…`; empty where the fingerprint alone is known.
    pub fn to_openssh(&self) -> String {
        self.key.as_ref().and_then(|key| key.to_openssh().ok()).unwrap_or_default()
    }

    /// Checks that `signature` is the trusted key's over `message`. `subject`
    /// names what is checked in errors.
    pub fn verify(
        &self,
        namespace: &str,
        subject: &str,
        message: &[u8],
        signature: &str,
    ) -> Result<(), SignatureError> {
        let subject = subject.to_owned();
        let Ok(signature) = SshSig::from_pem(signature) else {
            return Err(SignatureError::Unreadable { subject });
        };
        let found = PublicKey::from(signature.public_key().clone());
        if found.fingerprint(HashAlg::Sha256) != self.fingerprint {
            let found = found.fingerprint(HashAlg::Sha256).to_string();
            return Err(SignatureError::Foreign { subject, found, expected: self.fingerprint() });
        }
        found.verify(namespace, message, &signature).map_err(|_| SignatureError::Forged { subject })
    }

    /// The same whatever it was signed as: for a copy, which does not judge what
    /// the message is good for.
    pub fn vouch(&self, subject: &str, message: &[u8], signature: &str) -> Result<(), SignatureError> {
        let Ok(read) = SshSig::from_pem(signature) else {
            return Err(SignatureError::Unreadable { subject: subject.to_owned() });
        };
        self.verify(read.namespace(), subject, message, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_and_a_foreign_key_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (signer, made) = Signer::load_or_create(&folder.path().join("a")).unwrap();
        assert!(made);
        let (again, made) = Signer::load_or_create(&folder.path().join("a")).unwrap();
        assert!(!made);
        assert_eq!(signer.verifier(), again.verifier());
        let (other, _) = Signer::load_or_create(&folder.path().join("b")).unwrap();
        let signature = signer.sign("test", b"message").unwrap();
        let verifier = Verifier::from_openssh(&signer.verifier().to_openssh()).unwrap();
        assert!(verifier.verify("test", "it", b"message", &signature).is_ok());
        let known = Verifier::from_fingerprint(&signer.verifier().fingerprint()).unwrap();
        assert!(known.verify("test", "it", b"message", &signature).is_ok());
        assert!(matches!(known.verify("test", "it", b"massage", &signature), Err(SignatureError::Forged { .. })));
        let foreign = Verifier::from_fingerprint(&other.verifier().fingerprint()).unwrap();
        assert!(matches!(foreign.verify("test", "it", b"message", &signature), Err(SignatureError::Foreign { .. })));
        assert!(matches!(verifier.verify("test", "it", b"massage", &signature), Err(SignatureError::Forged { .. })));
        assert!(matches!(verifier.verify("tent", "it", b"message", &signature), Err(SignatureError::Forged { .. })));
        assert!(matches!(
            other.verifier().verify("test", "it", b"message", &signature),
            Err(SignatureError::Foreign { .. })
        ));
        assert!(matches!(verifier.verify("test", "it", b"message", "x"), Err(SignatureError::Unreadable { .. })));
    }
}
