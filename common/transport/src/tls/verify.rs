//! The judge of both sides: chain, fleet, role, name, revocation.
//!
//! Host names play no part: a certificate proves a member, whatever address it was reached by.

use crate::identity::{PeerName, Role};
use crate::pki::credentials::provider;
use crate::pki::{CertificateFacts, Revoked, TrustedAuthority};
use pgconvoy_core::units::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::sync::Arc;

/// Which members of the fleet are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    pub roles: Vec<Role>,
    /// Only this one, where the caller knows whom it is about to meet.
    pub name: Option<PeerName>,
}

impl Admission {
    pub fn of(roles: impl Into<Vec<Role>>) -> Admission {
        Admission { roles: roles.into(), name: None }
    }

    #[must_use]
    pub fn named(mut self, name: PeerName) -> Admission {
        self.name = Some(name);
        self
    }

    fn roles(&self) -> String {
        self.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" or ")
    }
}

/// Why a certificate was not accepted, where rustls has no words for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn refusal(reason: String) -> Error {
    Error::Other(OtherError(Arc::new(Refusal(reason))))
}

/// An error of rustls about a certificate, in words that say what to do about it. Others stay what they are.
pub(super) fn in_words(error: &Error) -> Error {
    let time = |time: &UnixTime| Timestamp::from_seconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
            refusal(format!("the certificate expired at {}", time(not_after)))
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            refusal(format!("the certificate is valid from {} only", time(not_before)))
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            refusal("the certificate was not issued by this fleet's authority".to_owned())
        }
        other => other.clone(),
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct FleetVerifier {
    authority: TrustedAuthority,
    admission: Admission,
    revoked: Revoked,
    chain: Arc<dyn ClientCertVerifier>,
}

impl FleetVerifier {
    pub(super) fn new(authority: TrustedAuthority, admission: Admission, revoked: Revoked) -> FleetVerifier {
        let chain = authority.client_chain();
        FleetVerifier { authority, admission, revoked, chain }
    }

    /// Judges a certificate whose chain was found good.
    fn admit(&self, end_entity: &CertificateDer<'_>) -> Result<(), Error> {
        let facts = CertificateFacts::from_der(end_entity).map_err(|error| refusal(error.to_string()))?;
        let peer = &facts.member.identity;
        if facts.member.fleet != *self.authority.fleet() {
            let (theirs, ours) = (&facts.member.fleet, self.authority.fleet());
            return Err(refusal(format!("the certificate of {peer} is of fleet {theirs}, not of {ours}")));
        }
        if self.revoked.contains(&facts.serial) {
            return Err(refusal(format!("the certificate of {peer} was revoked (serial {})", facts.serial)));
        }
        if !self.admission.roles.contains(&peer.role) {
            let wanted = self.admission.roles();
            return Err(refusal(format!("the certificate is that of {peer}, a {wanted} is expected")));
        }
        match &self.admission.name {
            Some(name) if *name != peer.name => {
                Err(refusal(format!("the certificate is that of {peer}, {name} is expected")))
            }
            _ => Ok(()),
        }
    }
}

impl ClientCertVerifier for FleetVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| in_words(&error))?;
        self.admit(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for FleetVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name_that_the_caller_dialled: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            self.authority.roots(),
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )
        .map_err(|error| in_words(&error))?;
        self.admit(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
