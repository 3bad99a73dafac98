//! Who asked for what, and what came of it.
//!
//! Invariants
//! 1. What a coordinator cannot write down it does not do: the record is there first, with the outcome `asked`.
//! 2. Once the deed has ended its record says so: `done`, or `refused` with the code of the reason.
//! 3. What is done by one transaction on the lease store has its record in the same.
//!
//! Failure story: a coordinator that dies between deed and outcome leaves `asked`: what became of the deed tells its object.

use crate::leader::Leadership;
use bytes::Bytes;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{decode, encode_named};
use pgconvoy_core::ids::Identity;
use pgconvoy_core::record::{AuditOutcome, AuditRecord};
use pgconvoy_core::units::Timestamp;
use pgconvoy_lease::store::{Expected, Write};
use pgconvoy_lease::{FleetKeys, LeaseError};

/// Audit records that are kept.
pub const AUDIT_RECORDS_KEPT: usize = 5_000;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub role: String,
}

/// One record and its place.
#[derive(Debug, Clone)]
pub struct Entry {
    id: String,
    record: AuditRecord,
}

impl Entry {
    /// Places sort by time; `random` tells those of one moment apart.
    pub fn asked(by: &Caller, what: &str, object: &str, at: Timestamp, random: Identity) -> Entry {
        let record = AuditRecord {
            at,
            who: by.name.clone(),
            role: by.role.clone(),
            what: what.to_owned(),
            object: object.to_owned(),
            outcome: AuditOutcome::Asked,
            code: None,
        };
        Entry { id: format!("{:015}-{random}", at.0.max(0)), record }
    }

    pub fn on(mut self, object: String) -> Entry {
        self.record.object = object;
        self
    }

    pub fn done(mut self) -> Entry {
        self.record.outcome = AuditOutcome::Done;
        self
    }

    pub fn refused(mut self, code: ErrorCode) -> Entry {
        (self.record.outcome, self.record.code) = (AuditOutcome::Refused, Some(code.number()));
        self
    }

    pub fn write(&self, keys: &FleetKeys) -> Result<Write, Failure> {
        let key = keys.audit(&self.id).map_err(LeaseError::from)?;
        let value = Bytes::from(encode_named(&self.record));
        Ok(Write::Put { key, value, expected: Expected::Anything })
    }
}

/// The newest last.
pub async fn list(leadership: &Leadership) -> Result<Vec<AuditRecord>, Failure> {
    let entries = leadership.list(&leadership.keys.audits()).await?.entries;
    entries
        .iter()
        .map(|entry| {
            decode("audit record", &entry.value)
                .map_err(|error| Failure::new(ErrorCode::Format, format!("{}: {error}", entry.key)))
        })
        .collect()
}

/// Removes what is older than the records that are kept.
pub async fn trim(leadership: &Leadership) -> Result<(), Failure> {
    let entries = leadership.list(&leadership.keys.audits()).await?.entries;
    let too_many = entries.len().saturating_sub(AUDIT_RECORDS_KEPT);
    for entry in entries.into_iter().take(too_many) {
        leadership.commit(vec![Write::Delete { key: entry.key }]).await?;
    }
    Ok(())
}
