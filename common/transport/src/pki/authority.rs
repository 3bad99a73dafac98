//! The fleet's own certificate authority: makes itself, and certificates for the members.
//!
//! Not here: where its files lie and who may read them, and what was issued or revoked.
//!
//! Failure story: whoever has the authority's key can pose as any member. It need not be on any host that runs the fleet.

use super::certificate::{CertificateFacts, Member, Serial, parse};
use super::{PkiError, credentials};
use crate::identity::{PeerIdentity, PeerName, Role};
use pgconvoy_core::ids::FleetName;
use pgconvoy_core::units::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::IpAddr;
use std::time::Duration;
use time::OffsetDateTime;
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority outlives its hardware: changing it means new certificates for everybody at once.
pub const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * DAY.as_secs());

/// Short enough that a lost key does not serve for ever where nobody revokes it, long enough that renewal is a yearly
/// chore with a year in reserve.
pub const MEMBER_VALIDITY: Duration = Duration::from_secs(2 * 365 * DAY.as_secs());

/// A certificate is valid from this long before it was issued, for hosts whose clock is behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

/// What the authority's common name says before the fleet's name. The fleet is read from it again.
pub(super) const COMMON_NAME_PREFIX: &str = "pgconvoy fleet ";

/// See the module. Its key is wiped when it is dropped.
pub struct Authority {
    fleet: FleetName,
    certificate_pem: String,
    not_after: Timestamp,
    key: Zeroizing<KeyPair>,
}

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct IssueRequest {
    pub role: Role,
    pub name: PeerName,
    /// Host names and addresses under which browsers and other HTTPS clients reach a coordinator.
    pub sans: Vec<String>,
    /// Usually [`MEMBER_VALIDITY`]; cut at the authority's own end.
    pub validity: Duration,
}

pub struct IssuedCert {
    pub cert_pem: String,
    pub key_pem: Zeroizing<String>,
    pub serial: Serial,
    pub not_after: Timestamp,
}

impl Authority {
    /// A new authority with a new key.
    pub fn create(fleet: &FleetName, now: Timestamp) -> Result<Authority, PkiError> {
        let key = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?);
        let mut params = authority_params(fleet);
        (params.not_before, params.not_after) = validity(now, AUTHORITY_VALIDITY)?;
        let certificate = params.self_signed(&*key).map_err(issue)?;
        let not_after = Timestamp::from_seconds(params.not_after.unix_timestamp());
        Ok(Authority { fleet: fleet.clone(), certificate_pem: certificate.pem(), not_after, key })
    }

    /// The authority of these two texts, as [`Authority::create`] made them.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Authority, PkiError> {
        let unreadable = |what, reason: String| PkiError::Unreadable { what, reason };
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|error| unreadable("the authority's certificate", error.to_string()))?;
        let facts = credentials::AuthorityFacts::from_der(&der)?;
        let key = KeyPair::from_pem(key_pem)
            .map_err(|error| unreadable("the authority's key", error.to_string()))?;
        let key = Zeroizing::new(key);
        let fields = parse(&der)?.tbs_certificate;
        if fields.subject_public_key_info.subject_public_key.raw_bytes() != key.public_key_raw() {
            return Err(PkiError::KeyMismatch);
        }
        let certificate_pem = cert_pem.to_owned();
        Ok(Authority { fleet: facts.fleet, certificate_pem, not_after: facts.not_after, key })
    }

    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// What every member of the fleet needs to know.
    pub fn cert_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What nobody else may know.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// A certificate with a new key.
    pub fn issue(&self, request: &IssueRequest, now: Timestamp) -> Result<IssuedCert, PkiError> {
        if now > self.not_after {
            let reason = format!("the fleet's authority expired at {}", self.not_after);
            return Err(PkiError::Issue { reason });
        }
        let key = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?);
        let issuer_params = authority_params(&self.fleet);
        let issuer = Issuer::from_params(&issuer_params, &*self.key);
        let mut params = self.member_params(request)?;
        (params.not_before, params.not_after) = validity(now, request.validity)?;
        params.not_after = params.not_after.min(offset(self.not_after)?);
        let certificate = params.signed_by(&*key, &issuer).map_err(issue)?;
        let facts = CertificateFacts::from_der(certificate.der())?;
        Ok(IssuedCert {
            cert_pem: certificate.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
            serial: facts.serial,
            not_after: facts.not_after,
        })
    }

    fn member_params(&self, request: &IssueRequest) -> Result<CertificateParams, PkiError> {
        let identity = PeerIdentity { name: request.name.clone(), role: request.role };
        let member = Member { fleet: self.fleet.clone(), identity };
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(request.name.as_str().to_owned());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages(request.role);
        params.subject_alt_names = vec![SanType::URI(member.to_string().try_into().map_err(issue)?)];
        for host in hosts(request) {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(dns_name(&host)?.try_into().map_err(issue)?),
            });
        }
        Ok(params)
    }
}

/// A member that only asks needs to prove itself as a client; whoever may be asked, also as a server: a worker that is a
/// source serves ranges, a coordinator that follows passes requests on to the leader.
fn usages(role: Role) -> Vec<ExtendedKeyUsagePurpose> {
    match role {
        Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Role::Coordinator | Role::Worker => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    }
}

/// A coordinator is also asked on its own host, by a browser or by curl.
const COORDINATOR_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

fn hosts(request: &IssueRequest) -> Vec<String> {
    let own =
        COORDINATOR_HOSTS.iter().filter(|_| request.role == Role::Coordinator).map(|&host| host.to_owned());
    let mut hosts: Vec<String> = request.sans.clone();
    for host in own {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// Refuses what no HTTPS client would take for a host name.
fn dns_name(host: &str) -> Result<String, PkiError> {
    let bare = host.strip_prefix("*.").unwrap_or(host);
    match rustls::pki_types::DnsName::try_from(bare) {
        Ok(_) => Ok(host.to_owned()),
        Err(_) => Err(PkiError::Issue { reason: format!("'{host}' is neither a host name nor an address") }),
    }
}

fn authority_params(fleet: &FleetName) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(format!("{COMMON_NAME_PREFIX}{fleet}"));
    // It issues to members only, never to another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: String) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(now: Timestamp, length: Duration) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
    let now = offset(now)?;
    let out_of_range = || PkiError::Issue { reason: "the validity does not fit a calendar".to_owned() };
    let length = time::Duration::try_from(length).map_err(|_| out_of_range())?;
    let skew = time::Duration::try_from(CLOCK_SKEW).map_err(|_| out_of_range())?;
    let not_before = now.checked_sub(skew).ok_or_else(out_of_range)?;
    let not_after = now.checked_add(length).ok_or_else(out_of_range)?;
    Ok((not_before, not_after))
}

fn offset(time: Timestamp) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(time.seconds()).map_err(issue)
}

fn issue(error: impl std::fmt::Display) -> PkiError {
    PkiError::Issue { reason: error.to_string() }
}
