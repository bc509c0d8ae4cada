//! TLS as `sslmode` asks for it. The cryptography is always aws-lc, so that a
//! second provider somewhere in the build cannot change it.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use base64::Engine as _;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use super::super::{ClientCertificate, Login, Member, Tls};
use crate::engine::EngineError;

pub(in super::super) const REMEDY: &str =
    "check `sslmode`, the authority's certificate and that `host` is a name in the server's certificate";

/// How to talk TLS to this member; `None` where TLS is off.
pub(super) fn config(member: &Member, login: &Login) -> Result<Option<Arc<ClientConfig>>, EngineError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unfit(member, format!("TLS cannot be set up: {error}")))?;
    let builder = match &login.tls {
        Tls::Disable => return Ok(None),
        Tls::Require => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate { provider })),
        Tls::VerifyFull { root_certificate } => {
            builder.with_root_certificates(roots(member, root_certificate.as_deref())?)
        }
    };
    let Some(own) = own(member, login)? else { return Ok(Some(Arc::new(builder.with_no_client_auth()))) };
    let unusable = |what: String| unusable(member, what);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&own.chain).collect();
    let chain = chain.map_err(|error| unusable(format!("`sslcert` cannot be read: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(&own.key);
    let key = key.map_err(|error| unusable(format!("`sslkey` cannot be read: {error}")))?;
    let config = builder.with_client_auth_cert(chain, key);
    config.map(Arc::new).map(Some).map_err(|error| unusable(format!("`sslcert` and `sslkey` are of no use: {error}")))
}

/// Our own certificate and its key, as PEM.
pub(in super::super) struct Own {
    pub(in super::super) chain: Vec<u8>,
    pub(in super::super) key: Vec<u8>,
}

/// What proves who we are, where that is configured.
pub(in super::super) fn own(member: &Member, login: &Login) -> Result<Option<Own>, EngineError> {
    let Some(ClientCertificate { chain, key }) = &login.certificate else { return Ok(None) };
    let read = |what: &str, path: &Path| {
        let read = fs::read(path);
        read.map_err(|error| unusable(member, format!("cannot read `{what}` in {}: {error}", path.display())))
    };
    let found = Own { chain: read("sslcert", chain)?, key: read("sslkey", key)? };
    // What libpq demands: ours and private, or root's and readable by a group of ours.
    let state =
        fs::metadata(key).map_err(|error| unusable(member, format!("cannot look at {}: {error}", key.display())))?;
    let forbidden = if state.uid() == 0 { 0o037 } else { 0o077 };
    if state.mode() & forbidden != 0 {
        return Err(EngineError::Unfit {
            member: member.name.clone(),
            what: format!("others can read the private key in {}", key.display()),
            remedy: "run `chmod 600` on it; where root owns it, a group of this process may read it (`chmod 640`)"
                .to_owned(),
        });
    }
    Ok(Some(found))
}

fn unusable(member: &Member, what: String) -> EngineError {
    let remedy = "name PEM files with our certificate and the key that belongs to it in `login`".to_owned();
    EngineError::Unfit { member: member.name.clone(), what, remedy }
}

/// The error of a handshake, where TLS itself refused: that stays so until a
/// person acts. A connection that merely broke is given back.
pub(in super::super) fn refused(member: &Member, error: io::Error) -> Result<EngineError, io::Error> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(reason) => Ok(unfit(member, format!("its TLS certificate or protocol is refused: {reason}"))),
        None => Err(error),
    }
}

fn unfit(member: &Member, what: String) -> EngineError {
    EngineError::Unfit { member: member.name.clone(), what, remedy: REMEDY.to_owned() }
}

fn roots(member: &Member, root_certificate: Option<&Path>) -> Result<RootCertStore, EngineError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&authorities(member, root_certificate)?).collect();
    let certificates = certificates.map_err(|error| unfit(member, format!("a certificate cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(unfit(member, "no authority's certificate was found".to_owned())),
        _ => Ok(roots),
    }
}

/// Whose certificates are trusted, as PEM: those in the file, else this machine's list.
pub(in super::super) fn authorities(member: &Member, root_certificate: Option<&Path>) -> Result<Vec<u8>, EngineError> {
    match root_certificate {
        Some(path) => fs::read(path)
            .map_err(|error| unfit(member, format!("cannot read the certificates in {}: {error}", path.display()))),
        None => Ok(rustls_native_certs::load_native_certs().certs.iter().flat_map(pem).collect()),
    }
}

fn pem(certificate: &CertificateDer<'static>) -> Vec<u8> {
    let body = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n").into_bytes()
}

/// Accepts whoever answers, as libpq's `sslmode=require` does, but still checks
/// that they hold the key of the certificate they show.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_survive_the_way_through_pem() {
        let certificates: Vec<CertificateDer<'static>> =
            [vec![7; 1], vec![9; 3000]].into_iter().map(CertificateDer::from).collect();
        let text: Vec<u8> = certificates.iter().flat_map(pem).collect();
        let read: Vec<_> = CertificateDer::pem_slice_iter(&text).map(Result::unwrap).collect();
        assert_eq!(read, certificates);
    }
}
