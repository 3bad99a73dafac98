//! How much of a server's certificate is believed, in libpq's terms.
//!
//! `prefer` and `require` encrypt against listeners only; `require` with a CA file also checks who signed (libpq calls
//! that `verify-ca`); `verify-full` checks the name too. The crypto provider is named here, never the process default,
//! so that a second provider somewhere in the tree changes nothing.

use crate::PostgresError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    /// TLS where the server offers it.
    Prefer,
    Require,
    /// The certificate is signed by the CA file and names the host.
    VerifyFull,
}

/// The rustls configuration of a mode, `None` for [`TlsMode::Disable`]. Reads the CA file.
pub(crate) fn client_config(
    mode: TlsMode,
    ca_file: Option<&Path>,
    place: &str,
) -> Result<Option<ClientConfig>, PostgresError> {
    let provider = Arc::new(ring::default_provider());
    let believed = match (mode, ca_file) {
        (TlsMode::Disable, _) => return Ok(None),
        (TlsMode::VerifyFull, None) => {
            return Err(PostgresError::TlsCaMissing { place: place.to_owned(), mode: "verify-full" });
        }
        (TlsMode::VerifyFull, Some(path)) => Believed::SignedAndNamed(signed_by(path, &provider)?),
        (TlsMode::Require, Some(path)) => Believed::Signed(signed_by(path, &provider)?),
        (TlsMode::Prefer | TlsMode::Require, _) => Believed::Anything,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3");
    let verifier = Arc::new(Verifier { believed, provider });
    Ok(Some(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn signed_by(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, PostgresError> {
    let invalid = |reason: String| PostgresError::TlsCaInvalid { path: path.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| invalid(error.to_string()))? {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| invalid(error.to_string()))
}

#[derive(Debug)]
enum Believed {
    Anything,
    Signed(Arc<WebPkiServerVerifier>),
    SignedAndNamed(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    believed: Believed,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |verifier: &WebPkiServerVerifier| {
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match &self.believed {
            Believed::Anything => Ok(ServerCertVerified::assertion()),
            Believed::SignedAndNamed(verifier) => verify(verifier),
            // webpki looks at the name last, so a wrong name means that everything else was right.
            Believed::Signed(verifier) => match verify(verifier) {
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                other => other,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
