//! Whom to trust: the system's authorities, or only those of `ca-file`, or nobody's (`verify-tls = false`).
//!
//! The provider is passed explicitly, so that nothing depends on what a process has installed.

use crate::{Place, StorageError};
use pgconvoy_core::config::StoreTls;
use pgconvoy_core::failure::ErrorCode;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::sync::{Arc, OnceLock};

pub(super) const HINT_TRUST: &str = "let ca-file name a PEM file with the certificate of the authority that vouches for the store, or correct endpoint";

/// TLS as `ca-file` and `verify-tls` say.
pub fn client_config(tls: &StoreTls, store: &str) -> Result<ClientConfig, StorageError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3");
    if !tls.verify {
        return Ok(config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth());
    }
    match &tls.ca_file {
        Some(path) => Ok(config.with_root_certificates(roots_of_file(path, store)?).with_no_client_auth()),
        None => Ok(config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(System(provider)))
            .with_no_client_auth()),
    }
}

fn roots_of_file(path: &str, store: &str) -> Result<RootCertStore, StorageError> {
    let unreadable = |reason: String| unusable(store, format!("ca-file {path}: {reason}"));
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unreadable("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

/// The system's authorities. They are read when the first certificate is to be judged, once in a process: who asks nobody by
/// TLS, in a container that knows no authorities, needs none.
#[derive(Debug)]
struct System(Arc<CryptoProvider>);

impl System {
    fn authorities(&self) -> Result<&'static WebPkiServerVerifier, rustls::Error> {
        static READ: OnceLock<Arc<WebPkiServerVerifier>> = OnceLock::new();
        if let Some(read) = READ.get() {
            return Ok(read);
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.0));
        // Without any it is refused. That is not kept: somebody may install some.
        let judge = judge.build().map_err(|_| {
            let cause = found.errors.first().map_or(String::new(), |error| format!(" ({error})"));
            let missing = NoAuthorities(format!("this system has no certificate authorities{cause}"));
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(missing))))
        })?;
        Ok(READ.get_or_init(|| judge))
    }
}

#[derive(thiserror::Error)]
#[error("{0}")]
struct NoAuthorities(String);

/// Errors of certificates are shown so.
impl fmt::Debug for NoAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServerCertVerifier for System {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.authorities()?.verify_server_cert(certificate, between, name, stapled, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn unusable(store: &str, reason: String) -> StorageError {
    StorageError::unusable(Place::new(store, None), ErrorCode::OptionInvalidValue, reason, HINT_TRUST)
}

/// Takes any certificate, as `verify-tls = false` asks; handshakes are checked against it all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
