//! What repositories hold, as far as they were read lately: for pages, metrics and the API, which must never wait for a store.
//!
//! Each repository is read by itself, in the background, when somebody looks and what is known is too old.
//!
//! Invariants
//! 1. Nobody waits for a store unless he says how long ([`Survey::awaited`]).
//! 2. A repository is read by one at a time, however many look, and a tenth of the time at most.
//! 3. One that does not answer keeps what was known of it, and is told as such; the others are not concerned.

mod report;

pub use report::{Report, RepositoryReport, Standing};

use crate::actors::backup::now;
use crate::workshop::{Places, Workshop};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::info::{StanzaInfo, gather};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

/// How old what is known may be.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Before it is read anew because a job has ended since.
const AGE_MIN: Duration = Duration::from_secs(2);
/// Reading takes at most this part of the time.
const SHARE: u32 = 10;

/// What is known of a repository.
#[derive(Debug, Clone, Default)]
struct Shelf {
    seen: Option<Seen>,
    /// What was known before, until the others that were asked at the same time have answered as well: else a new backup would
    /// seem to be missing in whichever repository is slower.
    before: Option<Seen>,
    /// It is being read, since then.
    asked: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct Seen {
    /// When it was asked for.
    at: Timestamp,
    begun: Instant,
    took: Duration,
    /// Its stanzas, each with this one repository.
    stanzas: Result<Arc<Vec<StanzaInfo>>, Failure>,
}

impl Shelf {
    /// `changed`: when something last changed that can be seen there.
    fn is_due(&self, now: Instant, changed: Option<Timestamp>) -> bool {
        if self.asked.is_some() {
            return false;
        }
        let Some(seen) = &self.seen else { return true };
        let age = now.duration_since(seen.begun);
        let is_outdated = changed.is_some_and(|changed| changed >= seen.at);
        age >= (seen.took * SHARE).max(if is_outdated { AGE_MIN } else { AGE_MAX })
    }
}

pub struct Survey {
    workshop: Arc<dyn Workshop>,
    /// The multi-thread runtime: stores are not waited for on a thread that answers.
    runtime: Handle,
    shelves: Mutex<BTreeMap<RepoKey, Shelf>>,
    /// Counts what was read.
    news: watch::Sender<u64>,
}

impl Survey {
    pub fn new(workshop: Arc<dyn Workshop>, runtime: Handle) -> Arc<Survey> {
        Arc::new(Survey { workshop, runtime, shelves: Mutex::default(), news: watch::Sender::new(0) })
    }

    /// What the configuration names, of which nothing need be read.
    pub fn places(&self) -> Result<Arc<Places>, Failure> {
        self.workshop.places()
    }

    /// Changes whenever a repository was read.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What is known at once; what is too old is read in the background. `changed`: when the last job ended.
    pub fn report(self: &Arc<Self>, changed: Option<Timestamp>) -> Result<Report, Failure> {
        let places = self.workshop.places()?;
        let due: Vec<RepoKey> = {
            let mut shelves = self.lock();
            shelves.retain(|key, _| places.repositories.iter().any(|place| place.key == *key));
            if shelves.values().all(|shelf| shelf.asked.is_none()) {
                shelves.values_mut().for_each(|shelf| shelf.before = None);
            }
            let keys = places.repositories.iter().map(|place| place.key);
            let due = keys.filter(|key| {
                let shelf = shelves.entry(*key).or_default();
                let is_due = shelf.is_due(Instant::now(), changed);
                if is_due {
                    shelf.asked = Some(now());
                }
                is_due
            });
            due.collect()
        };
        for key in due {
            self.runtime.spawn(Arc::clone(self).read(places.clone(), key));
        }
        Ok(report::merge(&places, &self.lock(), now()))
    }

    /// As [`Survey::report`], but waits so long for repositories that were never read.
    pub async fn awaited(
        self: &Arc<Self>,
        changed: Option<Timestamp>,
        patience: Duration,
    ) -> Result<Report, Failure> {
        let mut news = self.news.subscribe();
        let deadline = Instant::now() + patience;
        loop {
            let report = self.report(changed)?;
            let is_complete = report.repositories.iter().all(|place| place.as_of.is_some());
            if is_complete || tokio::time::timeout_at(deadline, news.changed()).await.is_err() {
                return Ok(report);
            }
        }
    }

    async fn read(self: Arc<Self>, places: Arc<Places>, key: RepoKey) {
        let (at, begun) = (now(), Instant::now());
        let stanzas = match places.set.open(key).await {
            Ok(repository) => report::of_one(gather(&[(key, Ok(repository))], None, None, None).await),
            Err(error) => Err(Failure::from(error)),
        };
        let seen = Seen { at, begun, took: begun.elapsed(), stanzas: stanzas.map(Arc::new) };
        if let Some(shelf) = self.lock().get_mut(&key) {
            *shelf = Shelf { before: shelf.seen.take(), seen: Some(seen), asked: None };
        }
        self.news.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RepoKey, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_before(now: Instant, age: Duration, took: Duration) -> Shelf {
        let seen = Seen { at: Timestamp(1_000), begun: now - age, took, stanzas: Ok(Arc::default()) };
        Shelf { seen: Some(seen), ..Shelf::default() }
    }

    #[tokio::test]
    async fn a_repository_is_read_again_when_it_is_time_and_sooner_after_a_job() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let quick = Duration::from_millis(10);
        let is_due =
            |age: u64, took, changed| read_before(now, Duration::from_secs(age), took).is_due(now, changed);
        assert!(Shelf::default().is_due(now, None));
        assert!(!is_due(30, quick, None) && is_due(61, quick, None));
        assert!(is_due(3, quick, Some(Timestamp(2_000))), "a job has ended since");
        assert!(!is_due(3, quick, Some(Timestamp(500))), "a job had ended before");
        assert!(!is_due(1, quick, Some(Timestamp(2_000))), "jobs end every moment");
    }

    #[tokio::test]
    async fn a_repository_that_takes_long_is_read_more_rarely() {
        let now = Instant::now() + Duration::from_secs(10_000);
        let slow = Duration::from_secs(30);
        assert!(!read_before(now, Duration::from_secs(200), slow).is_due(now, None));
        assert!(read_before(now, Duration::from_secs(301), slow).is_due(now, None));
    }

    #[tokio::test]
    async fn a_repository_that_is_being_read_is_not_asked_again() {
        let shelf = Shelf { asked: Some(Timestamp(1)), ..Shelf::default() };
        assert!(!shelf.is_due(Instant::now() + Duration::from_secs(9_999), Some(Timestamp(5))));
    }
}
