//! Which WAL file goes where next, while some repositories are slow or away.
//!
//! Each repository has a lane of its own: so many files at once, and a pause after several failures in a row. A file is
//! taken for all lanes that want it and are free, so that those in step share one reading of it; a slow lane falls behind
//! alone.
//!
//! Not here: moving bytes, and telling the time. Moments come in as spans since the start.
//!
//! Invariants
//! 1. A file is archived only when every required repository has it and at least one repository does.
//! 2. A file that was told to be archived is never read again: what is still missing then is another's business.
//! 3. What a repository refuses for good is not tried there again.

use crate::ids::RepoKey;
use crate::pg::WalFileName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Failures in a row after which a repository is left alone for a while.
const FAILURES_MAX: u32 = 3;
/// How long it is left alone.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct PushQueue {
    lanes: BTreeMap<RepoKey, Lane>,
    /// Files at once in each lane.
    lane_width: usize,
    files: BTreeMap<Turn, File>,
}

/// What became of a file in one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// It may be taken at another time.
    Failed,
    /// This repository will never take this file.
    Refused,
}

/// A file, and the repositories that are to get it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushOrder {
    pub file: WalFileName,
    pub repositories: Vec<RepoKey>,
}

/// PostgreSQL's order: histories lead to all else, then what is oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(bool, WalFileName);

impl Turn {
    fn of(file: WalFileName) -> Turn {
        Turn(!matches!(file, WalFileName::History(_)), file)
    }
}

#[derive(Debug)]
struct Lane {
    is_required: bool,
    busy: usize,
    failures: u32,
    paused_until: Option<Duration>,
}

impl Lane {
    fn is_paused(&self, now: Duration) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Wanted,
    /// A file of that name is there. Whether it is this one is looked at when that is all that is missing.
    Named,
    Running,
    Stored,
    Refused,
    /// Not needed, and too late.
    Left,
}

#[derive(Debug)]
struct File {
    copies: BTreeMap<RepoKey, Copy>,
    readings: usize,
    is_archived: bool,
}

impl File {
    fn is_running(&self) -> bool {
        self.readings > 0 || self.has(Copy::Running)
    }

    fn has(&self, wanted: Copy) -> bool {
        self.copies.values().any(|copy| *copy == wanted)
    }
}

impl PushQueue {
    /// Repositories, and whether each is required.
    pub fn new(repositories: impl IntoIterator<Item = (RepoKey, bool)>, lane_width: usize) -> PushQueue {
        let lane = |is_required| Lane { is_required, busy: 0, failures: 0, paused_until: None };
        let lanes = repositories.into_iter().map(|(key, is_required)| (key, lane(is_required))).collect();
        PushQueue { lanes, lane_width: lane_width.max(1), files: BTreeMap::new() }
    }

    /// The files that wait now. Those that do not wait any more are forgotten, unless they are on their way.
    pub fn offer(&mut self, waiting: impl IntoIterator<Item = WalFileName>) {
        let turns: BTreeSet<Turn> = waiting.into_iter().map(Turn::of).collect();
        self.files.retain(|turn, file| file.is_running() || turns.contains(turn));
        for turn in turns {
            let copies = || self.lanes.keys().map(|key| (*key, Copy::Wanted)).collect();
            let file = || File { copies: copies(), readings: 0, is_archived: false };
            self.files.entry(turn).or_insert_with(file);
        }
    }

    /// Some repository has a file of this name: for a process that begins where another one ended.
    pub fn note_name(&mut self, file: WalFileName, key: RepoKey) {
        let Some(entry) = self.files.get_mut(&Turn::of(file)) else { return };
        if let Some(copy) = entry.copies.get_mut(&key).filter(|copy| **copy == Copy::Wanted) {
            *copy = Copy::Named;
        }
        self.compare_names(file);
    }

    /// Where no repository that is needed lacks the name, names are not enough any more.
    fn compare_names(&mut self, file: WalFileName) {
        let Some(entry) = self.files.get_mut(&Turn::of(file)) else { return };
        let is_anyone_required = self.lanes.values().any(|lane| lane.is_required);
        let is_needed = |key: &RepoKey| !is_anyone_required || self.lanes[key].is_required;
        let mut needed = entry.copies.iter().filter(|(key, _)| is_needed(key));
        let is_anyone_lacking = needed.any(|(_, copy)| matches!(copy, Copy::Wanted | Copy::Refused));
        if entry.is_archived || entry.is_running() || is_anyone_lacking {
            return;
        }
        for (_, copy) in entry.copies.iter_mut().filter(|(key, _)| is_needed(key)) {
            if *copy == Copy::Named {
                *copy = Copy::Wanted;
            }
        }
    }

    /// What is to be begun now; asked again until there is nothing.
    pub fn next(&mut self, now: Duration) -> Option<PushOrder> {
        let free = |lane: &Lane| lane.busy < self.lane_width && !lane.is_paused(now);
        let free: Vec<RepoKey> =
            self.lanes.iter().filter(|(_, lane)| free(lane)).map(|(key, _)| *key).collect();
        if free.is_empty() {
            return None;
        }
        let wants = |file: &File, key: &RepoKey| file.copies.get(key) == Some(&Copy::Wanted);
        let open = self.files.iter_mut().filter(|(_, file)| !file.is_archived);
        let (turn, file) = open.into_iter().find(|(_, file)| free.iter().any(|key| wants(file, key)))?;
        let repositories: Vec<RepoKey> = free.into_iter().filter(|key| wants(file, key)).collect();
        for key in &repositories {
            file.copies.insert(*key, Copy::Running);
            self.lanes.get_mut(key).expect("a free lane is a lane").busy += 1;
        }
        file.readings += 1;
        Some(PushOrder { file: turn.1, repositories })
    }

    /// An order's reading of the file is over. True: the file is archived now.
    pub fn read(&mut self, file: WalFileName) -> bool {
        if let Some(file) = self.files.get_mut(&Turn::of(file)) {
            file.readings = file.readings.saturating_sub(1);
        }
        self.settle(file)
    }

    /// True: the file is archived now.
    pub fn report(&mut self, file: WalFileName, key: RepoKey, outcome: Outcome, now: Duration) -> bool {
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.busy = lane.busy.saturating_sub(1);
            match outcome {
                Outcome::Stored => (lane.failures, lane.paused_until) = (0, None),
                Outcome::Refused => {}
                Outcome::Failed => {
                    lane.failures += 1;
                    if lane.failures >= FAILURES_MAX {
                        lane.paused_until = Some(now + PAUSE);
                    }
                }
            }
        }
        if let Some(entry) = self.files.get_mut(&Turn::of(file)) {
            let copy = match outcome {
                Outcome::Stored => Copy::Stored,
                Outcome::Refused => Copy::Refused,
                Outcome::Failed if entry.is_archived => Copy::Left,
                Outcome::Failed => Copy::Wanted,
            };
            entry.copies.insert(key, copy);
        }
        self.settle(file)
    }

    /// Whether this made the file archived. One that is archived and at rest is forgotten.
    fn settle(&mut self, file: WalFileName) -> bool {
        let turn = Turn::of(file);
        let Some(entry) = self.files.get_mut(&turn) else { return false };
        let has = |key: &RepoKey| entry.copies.get(key) == Some(&Copy::Stored);
        let is_missing = self.lanes.iter().any(|(key, lane)| lane.is_required && !has(key));
        let is_somewhere = entry.has(Copy::Stored);
        let is_news = !entry.is_archived && entry.readings == 0 && !is_missing && is_somewhere;
        if is_news {
            entry.is_archived = true;
            for copy in entry.copies.values_mut().filter(|copy| matches!(copy, Copy::Wanted | Copy::Named)) {
                *copy = Copy::Left;
            }
        }
        if entry.is_archived && !entry.is_running() {
            self.files.remove(&turn);
        }
        self.compare_names(file);
        is_news
    }

    /// Whether anything is on its way to a repository that is needed for it.
    pub fn is_busy(&self) -> bool {
        self.files.values().any(|file| !file.is_archived && file.is_running())
    }

    /// Files that are not archived yet.
    pub fn waiting(&self) -> impl Iterator<Item = WalFileName> + '_ {
        self.files.iter().filter(|(_, file)| !file.is_archived).map(|(turn, _)| turn.1)
    }

    /// Whether the repository takes part, so that it is worth bringing it what it lacks.
    pub fn is_healthy(&self, key: RepoKey) -> bool {
        self.lanes.get(&key).is_some_and(|lane| lane.failures == 0)
    }
}

#[cfg(test)]
mod tests;
