//! Tickets: a leader's word that a worker may read the files of one attempt at one unit from a source.
//!
//! The source makes a secret for each job and tells it to the leader alone; a ticket is a code over all that it is for, made
//! with that secret. So a source that was never told of the attempt knows that the leader wants it, and nothing beside it can
//! be asked for: other files, other ranges, another worker.

use crate::ids::{Attempt, UnitId, WorkerName};
use crate::wire::{JobId, UnitPart};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;

/// Of one job at one source.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSecret(#[serde(with = "serde_bytes")] [u8; TicketSecret::BYTES]);

impl TicketSecret {
    pub const BYTES: usize = 32;

    pub const fn from_random_bytes(bytes: [u8; TicketSecret::BYTES]) -> TicketSecret {
        TicketSecret(bytes)
    }

    pub fn sign(&self, admits: &Admits<'_>) -> Ticket {
        Ticket(self.mac(admits).finalize().into_bytes().into())
    }

    /// In constant time.
    pub fn has_signed(&self, admits: &Admits<'_>, ticket: &Ticket) -> bool {
        self.mac(admits).verify_slice(&ticket.0).is_ok()
    }

    fn mac(&self, admits: &Admits<'_>) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        let said = rmp_serde::to_vec_named(admits).expect("names and numbers can be encoded");
        mac.update(&said);
        mac
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(..)")
    }
}

/// What a ticket is for, to the last byte.
#[derive(Debug, Clone, Serialize)]
pub struct Admits<'a> {
    pub job: JobId,
    pub unit: UnitId,
    pub attempt: Attempt,
    /// Who may come with it.
    pub worker: &'a WorkerName,
    pub parts: &'a [UnitPart],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket(#[serde(with = "serde_bytes")] [u8; 32]);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use crate::ids::Identity;
    use crate::pg::FileClass;

    fn part(path: &str, length: u64) -> UnitPart {
        UnitPart {
            path: path.parse().unwrap(),
            class: FileClass::Other,
            offset: 0,
            length,
            block_size: 8192,
            prior_size: None,
            prior: Vec::new(),
        }
    }

    #[test]
    fn a_ticket_is_good_for_what_it_was_made_for_and_for_nothing_beside_it() {
        let secret = TicketSecret::from_random_bytes([7; 32]);
        let (db1, db2): (WorkerName, WorkerName) = ("db1".parse().unwrap(), "db2".parse().unwrap());
        let (parts, longer) = ([part("base/1/2", 10)], [part("base/1/2", 11)]);
        let job = JobId(Identity::from_random_bytes([1; 16]));
        let good = Admits { job, unit: UnitId(3), attempt: Attempt(1), worker: &db1, parts: &parts };
        let ticket = secret.sign(&good);
        assert!(secret.has_signed(&good, &ticket));
        let another_job = JobId(Identity::from_random_bytes([2; 16]));
        for other in [
            Admits { job: another_job, ..good.clone() },
            Admits { unit: UnitId(4), ..good.clone() },
            Admits { attempt: Attempt(2), ..good.clone() },
            Admits { worker: &db2, ..good.clone() },
            Admits { parts: &longer, ..good.clone() },
            Admits { parts: &[], ..good.clone() },
        ] {
            assert!(!secret.has_signed(&other, &ticket), "{other:?}");
        }
        assert!(!TicketSecret::from_random_bytes([8; 32]).has_signed(&good, &ticket));
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", TicketSecret::from_random_bytes([7; 32])), "TicketSecret(..)");
    }
}
