//! How the keys of a fleet are spelled: one place, so that two readers never disagree.
//!
//! ```text
//! /pgconvoy/<fleet>/leader/<shard>               held by the leading coordinator of that shard
//! /pgconvoy/<fleet>/workers/<worker>             held for a connected worker
//! /pgconvoy/<fleet>/drained/<worker>             record: an operator wants it to take nothing new
//! /pgconvoy/<fleet>/jobs/<job>                   record: specification and durable state
//! /pgconvoy/<fleet>/jobs/<job>/done/<part>       record: accepted units, their attempts and repositories; `stop`
//! /pgconvoy/<fleet>/leases/<job>/<unit>.<attempt> held for the worker that makes that attempt at the unit
//! /pgconvoy/<fleet>/locks/<stanza>/<repo>/<kind> held by the job that changes that stanza there
//! /pgconvoy/<fleet>/tokens/<id>  revoked/<id>  schedules/<stanza>  audit/<id>   records
//! ```
//!
//! Invariants
//! 1. No part of a key contains a slash, so no name can leave its place.
//! 2. A prefix ends with a slash, so job `1` never covers job `10`.
//! 3. Numbers are padded: keys list in the order of what they name.

use pgconvoy_core::ids::{Attempt, IdError, RepoKey, StanzaName, UnitId, WorkerName};
use std::borrow::Borrow;
use std::fmt;

const ROOT: &str = "/pgconvoy";

/// One key of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A key that a store handed back. Checks that it lies under the common root.
    pub fn parse(text: &str) -> Result<Key, IdError> {
        match text.strip_prefix(ROOT) {
            Some(rest) if rest.starts_with('/') && !rest.ends_with('/') => Ok(Key(text.to_owned())),
            _ => Err(IdError {
                what: "lease store key",
                text: text.to_owned(),
                reason: "it is not of the form /pgconvoy/<fleet>/..",
            }),
        }
    }

    /// What follows the last slash: the unit, the worker, the kind of lock.
    pub fn last_part(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets ordered maps find the keys under a prefix; order and equality are those of the text.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The keys that begin with this and a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// Ends with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn covers(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part of the fleet's stanzas that has a leader of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub u16);

/// What a lock on a stanza keeps others from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockKind {
    Backup,
    Expire,
    Stanza,
}

impl LockKind {
    pub const fn name(self) -> &'static str {
        match self {
            LockKind::Backup => "backup",
            LockKind::Expire => "expire",
            LockKind::Stanza => "stanza",
        }
    }
}

/// Spells the keys of one fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetKeys {
    base: String,
}

impl FleetKeys {
    pub fn new(fleet: &str) -> Result<FleetKeys, IdError> {
        Ok(FleetKeys { base: format!("{ROOT}/{}", part("fleet name", fleet)?) })
    }

    /// Everything of this fleet.
    pub fn all(&self) -> Prefix {
        Prefix(format!("{}/", self.base))
    }

    pub fn leader(&self, shard: Shard) -> Key {
        self.key(format_args!("leader/{}", shard.0))
    }

    pub fn worker(&self, worker: &WorkerName) -> Key {
        self.key(format_args!("workers/{worker}"))
    }

    pub fn workers(&self) -> Prefix {
        self.prefix("workers")
    }

    pub fn drained(&self, worker: &WorkerName) -> Key {
        self.key(format_args!("drained/{worker}"))
    }

    pub fn all_drained(&self) -> Prefix {
        self.prefix("drained")
    }

    /// The keys of one job.
    pub fn job(&self, job: &str) -> Result<JobKeys, IdError> {
        Ok(JobKeys { base: self.base.clone(), job: part("job", job)?.to_owned() })
    }

    /// All jobs, and what they have done.
    pub fn jobs(&self) -> Prefix {
        self.prefix("jobs")
    }

    pub fn lock(&self, stanza: &StanzaName, repository: RepoKey, kind: LockKind) -> Key {
        self.key(format_args!("locks/{stanza}/{repository}/{}", kind.name()))
    }

    pub fn locks(&self) -> Prefix {
        self.prefix("locks")
    }

    pub fn token(&self, id: &str) -> Result<Key, IdError> {
        Ok(self.key(format_args!("tokens/{}", part("token", id)?)))
    }

    pub fn tokens(&self) -> Prefix {
        self.prefix("tokens")
    }

    pub fn revoked(&self, id: &str) -> Result<Key, IdError> {
        Ok(self.key(format_args!("revoked/{}", part("certificate", id)?)))
    }

    pub fn all_revoked(&self) -> Prefix {
        self.prefix("revoked")
    }

    pub fn schedule(&self, stanza: &StanzaName) -> Key {
        self.key(format_args!("schedules/{stanza}"))
    }

    pub fn schedules(&self) -> Prefix {
        self.prefix("schedules")
    }

    pub fn audit(&self, id: &str) -> Result<Key, IdError> {
        Ok(self.key(format_args!("audit/{}", part("audit record", id)?)))
    }

    pub fn audits(&self) -> Prefix {
        self.prefix("audit")
    }

    fn key(&self, rest: fmt::Arguments<'_>) -> Key {
        Key(format!("{}/{rest}", self.base))
    }

    fn prefix(&self, place: &str) -> Prefix {
        Prefix(format!("{}/{place}/", self.base))
    }
}

/// Spells the keys of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobKeys {
    base: String,
    job: String,
}

impl JobKeys {
    /// The job's specification and durable state.
    pub fn spec(&self) -> Key {
        Key(format!("{}/jobs/{}", self.base, self.job))
    }

    /// One part of the accepted units: a record is rewritten as units are accepted, and parts keep it small.
    pub fn done(&self, part: u32) -> Key {
        Key(format!("{}/jobs/{}/done/{part:08}", self.base, self.job))
    }

    /// Stands among the accepted units: from here on none is accepted.
    pub fn stop_order(&self) -> Key {
        Key(format!("{}/jobs/{}/done/stop", self.base, self.job))
    }

    pub fn all_done(&self) -> Prefix {
        Prefix(format!("{}/jobs/{}/done/", self.base, self.job))
    }

    pub fn lease(&self, unit: UnitId, attempt: Attempt) -> Key {
        Key(format!("{}/leases/{}/{:08}.{:04}", self.base, self.job, unit.0, attempt.0))
    }

    pub fn leases(&self) -> Prefix {
        Prefix(format!("{}/leases/{}/", self.base, self.job))
    }
}

/// The attempt that a key under `leases/<job>/` names.
pub fn leased_unit(key: &Key) -> Option<(UnitId, Attempt)> {
    let (unit, attempt) = key.last_part().split_once('.')?;
    Some((UnitId(unit.parse().ok()?), Attempt(attempt.parse().ok()?)))
}

/// The job that a key of a job's specification names; `None` for the keys below it.
pub fn specified_job<'a>(fleet: &FleetKeys, key: &'a Key) -> Option<&'a str> {
    key.as_str().strip_prefix(fleet.jobs().as_str()).filter(|rest| !rest.contains('/'))
}

/// Parts keep to the alphabet of names, which has no slash.
fn part<'a>(what: &'static str, text: &'a str) -> Result<&'a str, IdError> {
    match text.parse::<WorkerName>() {
        Ok(_) => Ok(text),
        Err(error) => Err(IdError { what, ..error }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    #[test]
    fn keys_are_spelled_as_documented() {
        let fleet = FleetKeys::new("blue").unwrap();
        let job = fleet.job("01HX").unwrap();
        let stanza: StanzaName = "main".parse().unwrap();
        let worker: WorkerName = "w-1".parse().unwrap();
        let spelled = [
            fleet.leader(Shard(0)),
            fleet.worker(&worker),
            job.spec(),
            job.done(3),
            job.lease(UnitId(42), Attempt(1)),
            fleet.lock(&stanza, RepoKey(2), LockKind::Expire),
            fleet.schedule(&stanza),
        ];
        let expected = [
            "/pgconvoy/blue/leader/0",
            "/pgconvoy/blue/workers/w-1",
            "/pgconvoy/blue/jobs/01HX",
            "/pgconvoy/blue/jobs/01HX/done/00000003",
            "/pgconvoy/blue/leases/01HX/00000042.0001",
            "/pgconvoy/blue/locks/main/2/expire",
            "/pgconvoy/blue/schedules/main",
        ];
        assert_eq!(spelled.each_ref().map(Key::as_str), expected);
        assert_eq!(leased_unit(&job.lease(UnitId(42), Attempt(1))), Some((UnitId(42), Attempt(1))));
        for key in &spelled {
            assert_eq!(&Key::parse(key.as_str()).unwrap(), key);
            assert!(fleet.all().covers(key));
        }
    }

    #[test]
    fn a_job_never_covers_another_whose_name_begins_alike() {
        let fleet = FleetKeys::new("blue").unwrap();
        let one = fleet.job("1").unwrap();
        let ten = fleet.job("10").unwrap();
        assert!(one.leases().covers(&one.lease(UnitId(0), Attempt(1))));
        assert!(!one.leases().covers(&ten.lease(UnitId(0), Attempt(1))));
        assert!(!one.all_done().covers(&one.spec()));
        assert_eq!(specified_job(&fleet, &one.spec()), Some("1"));
        assert_eq!(specified_job(&fleet, &one.done(0)), None);
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        assert!(FleetKeys::new("a/b").is_err());
        let fleet = FleetKeys::new("blue").unwrap();
        for bad in ["", "..", "1/done", "a b"] {
            assert!(fleet.job(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/other/x", "/pgconvoyx/a", "/pgconvoy/blue/"] {
            assert!(Key::parse(bad).is_err(), "{bad:?}");
        }
    }
}
