//! The fleet's certificates: who issues them, what they say, and which are not welcome any more.
//!
//! A certificate names its bearer by one URI, `pgconvoy://FLEET/ROLE/NAME`, among its subject alternative names. Peers are
//! judged by that and by the authority's signature; host names are there for browsers only, since workers reach
//! coordinators by whatever address their configuration says.
//!
//! Code map: [`authority`] issues, [`certificate`] reads, [`credentials`] is what a member shows and whom it trusts,
//! [`revoked`] the certificates that are refused. Files, clocks and the list's storage belong to the callers.
//!
//! Invariants
//! 1. A certificate that this module issues is one that it reads, and expires no later than its authority.
//! 2. A private key leaves only as PEM, and the text is wiped when it is dropped.

pub mod authority;
pub mod certificate;
pub mod credentials;
pub mod revoked;

pub use authority::{Authority, IssueRequest, IssuedCert};
pub use certificate::{CertificateFacts, Member, Serial};
pub use credentials::{Credentials, TrustedAuthority};
pub use revoked::Revoked;

use pgconvoy_core::failure::{Classify, ErrorCode};

/// What can be wrong with certificates and keys. None of it heals by trying again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read {what}: {reason}")]
    Unreadable { what: &'static str, reason: String },
    /// A certificate, but not one of a fleet.
    #[error("the certificate names no member of a fleet: {reason}")]
    NotAMember { reason: String },
    #[error("certificate and private key do not belong together")]
    KeyMismatch,
    /// Ours, and our peers would refuse it.
    #[error("the certificate of {member} is not valid: {reason}")]
    Invalid { member: String, reason: String },
    #[error("cannot issue a certificate: {reason}")]
    Issue { reason: String },
}

impl Classify for PkiError {
    fn code(&self) -> ErrorCode {
        match self {
            PkiError::Unreadable { .. } | PkiError::NotAMember { .. } => ErrorCode::FileInvalid,
            PkiError::KeyMismatch => ErrorCode::Crypto,
            PkiError::Invalid { .. } => ErrorCode::Access,
            PkiError::Issue { .. } => ErrorCode::ParamInvalid,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            PkiError::NotAMember { .. } => "use a certificate made by 'pgconvoy cert issue'",
            PkiError::KeyMismatch => "check that cert-file and key-file were issued together",
            PkiError::Invalid { .. } => "issue a new one with 'pgconvoy cert issue'",
            PkiError::Unreadable { .. } | PkiError::Issue { .. } => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

#[cfg(test)]
mod tests;
