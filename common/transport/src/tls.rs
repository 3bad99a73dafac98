//! TLS between members of a fleet, for QUIC and for HTTPS: who is let in, and ready-made configurations.
//!
//! Invariants
//! 1. A peer is judged at every handshake: nothing is resumed where both sides show certificates, because a resumed
//!    session would carry a certificate past its revocation and its end.
//! 2. The provider is passed explicitly, never taken from the process.
//!
//! Failure story: a peer that is not let in learns why in words: the reason travels with the alert. The words tell
//! nothing that the certificate or a look at the port would not.

mod verify;

pub use verify::Admission;

use crate::pki::credentials::provider;
use crate::pki::{Credentials, Revoked, TrustedAuthority};
use crate::protocol::ALPN;
use rustls::client::Resumption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use std::sync::{Arc, PoisonError, RwLock};
use verify::FleetVerifier;

/// The certificate that a listener shows; clones are the same one.
#[derive(Debug, Clone)]
pub struct Shown(Arc<RwLock<Arc<CertifiedKey>>>);

impl Shown {
    pub fn new(credentials: &Credentials) -> Shown {
        Shown(Arc::new(RwLock::new(Arc::clone(credentials.certified()))))
    }

    /// To whoever connects from now on.
    pub fn renew(&self, credentials: &Credentials) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(credentials.certified());
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// For the HTTP API: no client certificate is asked for, tokens say who asks. Set the ALPN protocols before use.
pub fn https_server_config(shown: &Shown) -> ServerConfig {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown.clone()))
}

/// For those who ask the HTTP API: trusts what `admission` admits of the fleet, whatever address it was reached by.
pub fn https_client_config(
    authority: &TrustedAuthority,
    admission: Admission,
    revoked: &Revoked,
) -> ClientConfig {
    let verifier = FleetVerifier::new(authority.clone(), admission, revoked.clone());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// The listening side of a QUIC connection.
pub(crate) fn quic_server_config(
    credentials: &Credentials,
    admission: Admission,
    revoked: &Revoked,
) -> ServerConfig {
    let verifier = FleetVerifier::new(credentials.authority().clone(), admission, revoked.clone());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(resolver(credentials));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config
}

/// The connecting side of a QUIC connection.
pub(crate) fn quic_client_config(
    credentials: &Credentials,
    admission: Admission,
    revoked: &Revoked,
) -> ClientConfig {
    let verifier = FleetVerifier::new(credentials.authority().clone(), admission, revoked.clone());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(resolver(credentials));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

fn resolver(credentials: &Credentials) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(Arc::clone(credentials.certified())))
}

/// An error of TLS, as words for an operator.
pub(crate) fn plain_reason(error: &rustls::Error) -> String {
    plain_text(&verify::in_words(error).to_string()).to_owned()
}

/// The same, of an error's text: all that is left of it when it comes from the peer.
pub(crate) fn plain_text(text: &str) -> &str {
    text.strip_prefix("other error: ").unwrap_or(text)
}

#[cfg(test)]
mod tests;
