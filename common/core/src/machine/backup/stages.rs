//! Which stage of a backup limits it: where the slots' time went lately, or that slots have nothing to do.
//!
//! Words, as the API tells them: `read`, `compute`, `bandwidth` (a worker's own limit), `upload repo N`, and `workers` (units wait and
//! nobody does any, or more slots are free than are busy).

use crate::ids::RepoKey;
use crate::units::Timestamp;
use crate::wire::Spent;
use std::collections::VecDeque;
use std::fmt;

/// Over how long it is looked: long enough to be calm, short enough to follow a change.
const WINDOW_MS: i64 = 15_000;
/// Receipts of one window that are kept: a fleet may deliver hundreds a second, and the newest tell enough.
const SAMPLES_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Read,
    Compute,
    Bandwidth,
    Upload(RepoKey),
    Workers,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Read => f.write_str("read"),
            Stage::Compute => f.write_str("compute"),
            Stage::Bandwidth => f.write_str("bandwidth"),
            Stage::Upload(repository) => write!(f, "upload repo {repository}"),
            Stage::Workers => f.write_str("workers"),
        }
    }
}

/// How slots are occupied at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupation {
    /// Units that somebody does.
    pub held: u32,
    /// Units that workers ask for and do not get.
    pub idle: u32,
}

/// Time spent in each stage, receipt by receipt.
#[derive(Debug, Default)]
pub struct Stages(VecDeque<(Timestamp, Spent)>);

impl Stages {
    pub fn add(&mut self, now: Timestamp, spent: Spent) {
        if !spent.is_nothing() {
            self.0.push_back((now, spent));
        }
        self.forget(now);
    }

    pub fn forget(&mut self, now: Timestamp) {
        let is_old = |(at, _): &(Timestamp, Spent)| now.0 - at.0 > WINDOW_MS;
        while self.0.len() > SAMPLES_MAX || self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
    }

    /// `None`: nothing was measured lately.
    pub fn limiting(&self, occupation: Occupation) -> Option<Stage> {
        if occupation.held == 0 || occupation.idle > occupation.held {
            return Some(Stage::Workers);
        }
        let (mut stages, mut sum) = (Vec::new(), Spent::default());
        for (_, spent) in &self.0 {
            sum.read_us = sum.read_us.saturating_add(spent.read_us);
            sum.compute_us = sum.compute_us.saturating_add(spent.compute_us);
            sum.bandwidth_us = sum.bandwidth_us.saturating_add(spent.bandwidth_us);
            for (repository, waited) in &spent.upload_us {
                add(&mut sum.upload_us, *repository, *waited);
            }
        }
        stages.extend(sum.upload_us.iter().map(|(repository, waited)| (Stage::Upload(*repository), *waited)));
        stages.extend([
            (Stage::Bandwidth, sum.bandwidth_us),
            (Stage::Compute, sum.compute_us),
            (Stage::Read, sum.read_us),
        ]);
        let (stage, most) = stages.into_iter().max_by_key(|(_, spent)| *spent)?;
        (most > 0).then_some(stage)
    }
}

fn add(sums: &mut Vec<(RepoKey, u64)>, repository: RepoKey, waited: u64) {
    match sums.iter_mut().find(|(known, _)| *known == repository) {
        Some((_, sum)) => *sum = sum.saturating_add(waited),
        None => sums.push((repository, waited)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Occupation = Occupation { held: 4, idle: 0 };

    fn spent(read_us: u64, compute_us: u64, bandwidth_us: u64, uploads: &[(u16, u64)]) -> Spent {
        let upload_us = uploads.iter().map(|(key, waited)| (RepoKey(*key), *waited)).collect();
        Spent { read_us, compute_us, bandwidth_us, upload_us }
    }

    fn limiting(samples: &[Spent]) -> Option<String> {
        let mut stages = Stages::default();
        samples.iter().for_each(|one| stages.add(Timestamp(0), one.clone()));
        stages.limiting(BUSY).map(|stage| stage.to_string())
    }

    #[test]
    fn the_stage_that_took_most_of_the_time_limits() {
        for (samples, word) in [
            (vec![spent(9, 1, 0, &[(1, 2)])], "read"),
            (vec![spent(1, 9, 0, &[(1, 2)])], "compute"),
            (vec![spent(1, 2, 9, &[(1, 2)])], "bandwidth"),
            (vec![spent(1, 2, 0, &[(1, 3), (2, 9)])], "upload repo 2"),
            (vec![spent(5, 0, 0, &[(2, 4)]), spent(0, 0, 0, &[(1, 1), (2, 2)])], "upload repo 2"),
        ] {
            assert_eq!(limiting(&samples).as_deref(), Some(word), "{samples:?}");
        }
    }

    #[test]
    fn what_was_not_measured_limits_nothing() {
        assert_eq!(limiting(&[]), None);
        assert_eq!(limiting(&[Spent::default()]), None);
    }

    #[test]
    fn slots_without_units_and_units_without_slots_are_a_matter_of_workers() {
        let mut stages = Stages::default();
        stages.add(Timestamp(0), spent(9, 1, 0, &[]));
        assert_eq!(stages.limiting(Occupation { held: 2, idle: 3 }), Some(Stage::Workers));
        assert_eq!(stages.limiting(Occupation { held: 0, idle: 0 }), Some(Stage::Workers));
        assert_eq!(stages.limiting(Occupation { held: 3, idle: 3 }), Some(Stage::Read));
    }

    #[test]
    fn a_change_shows_once_the_window_has_passed() {
        let mut stages = Stages::default();
        stages.add(Timestamp(0), spent(1_000, 0, 0, &[]));
        stages.add(Timestamp(WINDOW_MS), spent(0, 10, 0, &[]));
        assert_eq!(stages.limiting(BUSY), Some(Stage::Read));
        stages.forget(Timestamp(WINDOW_MS + 1));
        assert_eq!(stages.limiting(BUSY), Some(Stage::Compute));
    }
}
