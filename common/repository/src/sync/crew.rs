//! Objects that others help to copy.
//!
//! Invariant: what somebody else says it has copied is compared with the source before it counts, and copied here where it is not
//! there. So nobody else's failure, lie or late return costs more than that.

use super::Sync;
use super::trouble::Trouble;
use crate::verify::{Checked, Interrupted};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::wire::{CopyObjects, CopyPart};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Objects that are shared out at once: their names fit one message.
const PART_OBJECTS_MAX: usize = 2048;
/// There is nothing to share of fewer.
const PART_OBJECTS_MIN: usize = 2;

/// Whoever else copies.
pub trait Crew: fmt::Debug + Send + std::marker::Sync {
    /// Blocks until each object of the part was settled by `hands` once, or nothing more is wanted.
    fn copy(&self, part: &CopyPart, hands: &dyn Hands) -> Result<(), Failure>;
}

/// What can be done with the objects of a part, on any thread.
pub trait Hands: Send + std::marker::Sync {
    /// Copies one, by its place in the part; where somebody else says that it has, looks first. `None`: nothing more is wanted.
    fn settle(&self, number: usize, said: Said) -> Option<Settled>;
    fn are_bound(&self) -> bool;
}

/// Of an object, by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Copied,
    /// It was in the target before.
    Present,
}

/// An object that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Of a new one.
    pub bytes: Option<u64>,
    /// It is what others said of it.
    pub is_theirs: bool,
}

/// The result of one object's copy.
pub(super) trait Outcome {
    /// Bytes of one that was written just now; `None`: it was there, or is not.
    fn new_bytes(&self) -> Option<u64>;
    /// It was there already, and others have just written it.
    fn credit(&mut self) -> Option<u64>;
}

impl<T: Outcome, E> Outcome for Result<T, E> {
    fn new_bytes(&self) -> Option<u64> {
        self.as_ref().ok()?.new_bytes()
    }

    fn credit(&mut self) -> Option<u64> {
        self.as_mut().ok()?.credit()
    }
}

impl Sync {
    /// As [`crate::verify::Job::each`], with the help of others where there are any.
    pub(super) fn each_shared<T: std::marker::Sync, R: Outcome + Send>(
        &self,
        what: &str,
        items: &[T],
        part: impl Fn(&[T]) -> CopyObjects,
        work: impl Fn(&T, Said) -> Checked<Option<R>> + std::marker::Sync,
    ) -> Result<Vec<(usize, R)>, Trouble> {
        let crew = self.options.crew.as_deref().filter(|_| items.len() >= PART_OBJECTS_MIN);
        let Some(crew) = crew else {
            return Ok(self.source.each(what, items, |item| work(item, Said::Nothing))?);
        };
        let mut told = Vec::with_capacity(items.len());
        for (first, chunk) in (0..).step_by(PART_OBJECTS_MAX).zip(items.chunks(PART_OBJECTS_MAX)) {
            self.source.go_on()?;
            let part = CopyPart {
                source: self.source.repository.identity(),
                target: self.target.repository.identity(),
                objects: part(chunk),
            };
            let results = Mutex::default();
            let hands = Handling { sync: self, what, items: chunk, work: &work, results: &results };
            crew.copy(&part, &hands).map_err(Trouble::Fatal)?;
            self.source.go_on()?;
            let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
            if results.len() < chunk.len() {
                return Err(Trouble::Interrupted);
            }
            let results = results.into_iter();
            told.extend(results.filter_map(|(number, result)| Some((first + number, result?))));
        }
        Ok(told)
    }
}

struct Handling<'a, T, R, W> {
    sync: &'a Sync,
    what: &'a str,
    items: &'a [T],
    work: &'a W,
    /// `None`: there is nothing to tell of it.
    results: &'a Mutex<BTreeMap<usize, Option<R>>>,
}

impl<T, R, W> Hands for Handling<'_, T, R, W>
where
    T: std::marker::Sync,
    R: Outcome + Send,
    W: Fn(&T, Said) -> Checked<Option<R>> + std::marker::Sync,
{
    fn settle(&self, number: usize, said: Said) -> Option<Settled> {
        let nothing = Settled { bytes: None, is_theirs: false };
        let Some(item) = self.items.get(number) else { return Some(nothing) };
        self.sync.source.go_on().ok()?;
        let mut result = match (self.work)(item, said) {
            Ok(result) => result,
            Err(Interrupted) => return None,
        };
        let written = result.as_ref().and_then(Outcome::new_bytes);
        let credited = match (said, written) {
            (Said::Copied, None) => result.as_mut().and_then(Outcome::credit),
            _ => None,
        };
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(number, result);
        let done = results.len();
        drop(results);
        self.sync.source.tell(self.what, done, self.items.len());
        Some(Settled { bytes: written.or(credited), is_theirs: credited.is_some() })
    }

    fn are_bound(&self) -> bool {
        self.sync.source.go_on().is_err()
    }
}
