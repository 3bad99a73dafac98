//! What a member shows, and whom it trusts: the three files of `[fleet]`, checked against each other before anything is
//! connected, since a mistake found here has a clear name and at the peer has not.

use super::PkiError;
use super::authority::COMMON_NAME_PREFIX;
use super::certificate::{CertificateFacts, Member, parse};
use pgconvoy_core::ids::FleetName;
use pgconvoy_core::units::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;

/// The one TLS provider of this program, passed on explicitly: a process-wide default is somebody else's to set.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What an authority's certificate says.
pub(super) struct AuthorityFacts {
    pub(super) fleet: FleetName,
    pub(super) not_after: Timestamp,
}

impl AuthorityFacts {
    pub(super) fn from_der(der: &[u8]) -> Result<AuthorityFacts, PkiError> {
        let fields = parse(der)?.tbs_certificate;
        let name = fields.subject.0.iter().flat_map(|relative| relative.0.iter()).find(|part| part.oid == CN);
        let name = name.and_then(|part| {
            let utf8 = part.value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
            utf8.or_else(|_| {
                part.value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned())
            })
            .ok()
        });
        let fleet = name.as_deref().and_then(|name| name.strip_prefix(COMMON_NAME_PREFIX));
        let fleet = fleet.and_then(|fleet| fleet.parse().ok()).ok_or_else(|| PkiError::Unreadable {
            what: "the authority's certificate",
            reason: format!("its common name is not '{COMMON_NAME_PREFIX}NAME'"),
        })?;
        let seconds = fields.validity.not_after.to_unix_duration().as_secs();
        let not_after = Timestamp::from_seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
        Ok(AuthorityFacts { fleet, not_after })
    }
}

/// The fleet's authority as its members know it: without its key.
#[derive(Debug, Clone)]
pub struct TrustedAuthority {
    fleet: FleetName,
    roots: Arc<RootCertStore>,
}

impl TrustedAuthority {
    /// Takes one certificate, or several of the same fleet while it changes its authority.
    pub fn from_pem(pem: &str) -> Result<TrustedAuthority, PkiError> {
        let unreadable =
            |reason: String| PkiError::Unreadable { what: "the authority's certificate", reason };
        let mut roots = RootCertStore::empty();
        let mut fleets: Vec<FleetName> = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let der = der.map_err(|error| unreadable(error.to_string()))?;
            fleets.push(AuthorityFacts::from_der(&der)?.fleet);
            roots.add(der).map_err(|error| unreadable(error.to_string()))?;
        }
        let Some(fleet) = fleets.pop() else { return Err(unreadable("there is none".to_owned())) };
        if fleets.iter().any(|other| *other != fleet) {
            return Err(unreadable("it holds authorities of several fleets".to_owned()));
        }
        Ok(TrustedAuthority { fleet, roots: Arc::new(roots) })
    }

    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Whether whoever trusts one of them trusts the other.
    pub fn is_same(&self, other: &TrustedAuthority) -> bool {
        self.fleet == other.fleet && self.roots.roots == other.roots.roots
    }

    pub(crate) fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// Checks that a certificate was signed by this authority, may prove a client, and is valid now.
    pub(crate) fn client_chain(&self) -> Arc<dyn ClientCertVerifier> {
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider())
            .build()
            .expect("a trusted authority has at least one root and no revocation lists")
    }
}

/// A member's certificate and key, and the authority that it trusts.
#[derive(Clone)]
pub struct Credentials {
    authority: TrustedAuthority,
    facts: CertificateFacts,
    certified: Arc<CertifiedKey>,
}

impl Credentials {
    /// `cert_pem` begins with the member's own certificate. Refuses what a peer would refuse at `now`.
    pub fn from_pem(
        ca_pem: &str,
        cert_pem: &str,
        key_pem: &str,
        now: Timestamp,
    ) -> Result<Credentials, PkiError> {
        let unreadable = |what, reason: String| PkiError::Unreadable { what, reason };
        let authority = TrustedAuthority::from_pem(ca_pem)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect();
        let chain = chain.map_err(|error| unreadable("the certificate", error.to_string()))?;
        let Some(own) = chain.first() else {
            return Err(unreadable("the certificate", "there is none".to_owned()));
        };
        let facts = CertificateFacts::from_der(own)?;
        check(&authority, &facts, &chain, now)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| unreadable("the private key", error.to_string()))?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => PkiError::KeyMismatch,
            other => unreadable("the private key", other.to_string()),
        })?;
        Ok(Credentials { authority, facts, certified: Arc::new(certified) })
    }

    pub fn authority(&self) -> &TrustedAuthority {
        &self.authority
    }

    /// Who this process is.
    pub fn member(&self) -> &Member {
        &self.facts.member
    }

    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("facts", &self.facts).finish_non_exhaustive()
    }
}

fn check(
    authority: &TrustedAuthority,
    facts: &CertificateFacts,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
) -> Result<(), PkiError> {
    let member = &facts.member;
    let invalid = |reason: String| PkiError::Invalid { member: member.identity.to_string(), reason };
    if member.fleet != authority.fleet {
        let reason = format!("it is of fleet {}, the authority is that of {}", member.fleet, authority.fleet);
        return Err(invalid(reason));
    }
    let seconds = u64::try_from(now.seconds()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let [own, intermediates @ ..] = chain else { return Err(invalid("it is empty".to_owned())) };
    let verified = authority.client_chain().verify_client_cert(own, intermediates, now);
    verified.map(|_| ()).map_err(|error| invalid(crate::tls::plain_reason(&error)))
}
