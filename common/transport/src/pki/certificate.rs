//! What a certificate says: reading only, no judgement of who signed it or whether it is still valid.
//!
//! Invariants
//! 1. A certificate names exactly one member, or none; of two names neither counts.

use super::PkiError;
use crate::identity::{PeerIdentity, PeerName, Role};
use pgconvoy_core::ids::FleetName;
use pgconvoy_core::units::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What the URI of a member begins with.
pub const URI_SCHEME: &str = "pgconvoy://";

/// The number of a certificate, unique among those of its authority. Reads and prints as hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

/// Bytes of a serial number, by RFC 5280.
const SERIAL_BYTES_MAX: usize = 20;

impl Serial {
    fn new(bytes: &[u8]) -> Serial {
        // A leading zero byte is DER's way to write a positive number, and no part of it.
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Serial(bytes[zeros..].to_vec())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Serial {
    type Err = PkiError;
    fn from_str(text: &str) -> Result<Self, PkiError> {
        let unreadable = |reason: &str| PkiError::Unreadable {
            what: "the serial number",
            reason: format!("'{text}': {reason}"),
        };
        // `openssl x509` prints colons between the bytes.
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        if digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() > 2 * SERIAL_BYTES_MAX {
            return Err(unreadable("it is not 1 to 20 bytes in hexadecimal"));
        }
        let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let bytes = digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?));
        let bytes: Option<Vec<u8>> = bytes.collect();
        Ok(Serial::new(&bytes.ok_or_else(|| unreadable("it is not hexadecimal"))?))
    }
}

/// Somebody of a fleet, as the URI in a certificate names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub fleet: FleetName,
    pub identity: PeerIdentity,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{URI_SCHEME}{}/{}/{}", self.fleet, self.identity.role, self.identity.name)
    }
}

impl FromStr for Member {
    type Err = PkiError;
    fn from_str(uri: &str) -> Result<Self, PkiError> {
        let strange = |reason: String| PkiError::NotAMember { reason };
        let parts: Option<Vec<&str>> = uri.strip_prefix(URI_SCHEME).map(|rest| rest.split('/').collect());
        let Some([fleet, role, name]) = parts.as_deref() else {
            return Err(strange(format!("'{uri}' is not {URI_SCHEME}FLEET/ROLE/NAME")));
        };
        let fleet = fleet.parse::<FleetName>().map_err(|error| strange(error.to_string()))?;
        let role = role.parse::<Role>().map_err(|error| strange(error.to_string()))?;
        let name = name.parse::<PeerName>().map_err(|error| strange(error.to_string()))?;
        Ok(Member { fleet, identity: PeerIdentity { name, role } })
    }
}

/// What `cert list` shows of a member's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    pub member: Member,
    pub serial: Serial,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Host names and addresses, as `--san` takes them.
    pub hosts: Vec<String>,
}

impl CertificateFacts {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(pem: &str) -> Result<CertificateFacts, PkiError> {
        CertificateFacts::from_der(&CertificateDer::from_pem_slice(pem.as_bytes()).map_err(unreadable)?)
    }

    pub fn from_der(der: &[u8]) -> Result<CertificateFacts, PkiError> {
        let certificate = parse(der)?;
        let fields = &certificate.tbs_certificate;
        let names = match fields.get::<SubjectAltName>() {
            Ok(found) => found.map(|(_, names)| names.0).unwrap_or_default(),
            Err(error) => return Err(unreadable(error)),
        };
        let mut members = names.iter().filter_map(|name| match name {
            GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str()),
            _ => None,
        });
        let member = match (members.next(), members.next()) {
            (Some(uri), None) => uri.parse()?,
            (None, _) => return Err(PkiError::NotAMember { reason: "it has no URI".to_owned() }),
            (Some(_), Some(_)) => {
                return Err(PkiError::NotAMember { reason: "it has several URIs".to_owned() });
            }
        };
        Ok(CertificateFacts {
            member,
            serial: Serial::new(fields.serial_number.as_bytes()),
            not_before: timestamp(fields.validity.not_before),
            not_after: timestamp(fields.validity.not_after),
            hosts: names.iter().filter_map(host).collect(),
        })
    }
}

pub(super) fn parse(der: &[u8]) -> Result<Certificate, PkiError> {
    Certificate::from_der(der).map_err(unreadable)
}

fn unreadable(error: impl fmt::Display) -> PkiError {
    PkiError::Unreadable { what: "the certificate", reason: error.to_string() }
}

fn timestamp(time: x509_cert::time::Time) -> Timestamp {
    Timestamp::from_seconds(i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX))
}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(bytes) => match *bytes.as_bytes() {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref long => <[u8; 16]>::try_from(long).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}
