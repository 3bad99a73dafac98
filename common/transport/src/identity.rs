//! Who is at the other end: what a certificate proves, or what the process knows of itself.

use pgconvoy_core::ids::{IdError, WorkerName};
use std::fmt;
use std::str::FromStr;

/// What a peer may be spoken to as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Coordinator,
    Worker,
    Client,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Coordinator, Role::Worker, Role::Client];

    /// As `cert issue --role` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
            Role::Client => "client",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| IdError {
            what: "role",
            text: text.to_owned(),
            reason: "it is none of coordinator, worker and client",
        })
    }
}

/// The name of a member of the fleet. Keeps to the alphabet of worker names: a worker's *is* its worker name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName(WorkerName);

impl PeerName {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for PeerName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(PeerName).map_err(|error| IdError { what: "peer name", ..error })
    }
}

impl From<WorkerName> for PeerName {
    fn from(name: WorkerName) -> PeerName {
        PeerName(name)
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A member of the fleet as its peers know it. What it may see in clear is no part of it: a worker's own configuration
/// names its stanzas, and it says them after it has connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub name: PeerName,
    pub role: Role,
}

impl PeerIdentity {
    /// The worker's name, if the peer is one.
    pub fn worker(&self) -> Option<&WorkerName> {
        (self.role == Role::Worker).then_some(&self.name.0)
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    #[test]
    fn a_role_reads_as_it_prints() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
        }
        assert!("Worker ".parse::<Role>().is_err());
    }

    #[test]
    fn only_a_worker_has_a_worker_name() {
        let mut peer = PeerIdentity { name: "a".parse().unwrap(), role: Role::Worker };
        assert_eq!(peer.worker().unwrap().as_str(), "a");
        peer.role = Role::Client;
        assert_eq!(peer.worker(), None);
    }
}
