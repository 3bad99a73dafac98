//! Where the background process stands: what waits, what was told, and when it is time for what.

use super::{BackgroundPush, News};
use crate::archive::backlog::CaughtUp;
use crate::archive::spool::{Archived, FileMark};
use crate::archive::{Nudge, PushNews, joined, ready};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::machine::push_queue::{Outcome, PushOrder, PushQueue};
use pgconvoy_core::pg::WalFileName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// With much to do what came meanwhile is of less interest, and with nothing to do for a while nothing will be seen.
const LOOK_PAUSE_LONG: Duration = Duration::from_secs(1);
/// After so long without anything that waits, somebody will nudge.
const IDLE: Duration = Duration::from_secs(3);
/// After so long without anything that waits, it is time for other things.
const QUIET: Duration = Duration::from_secs(1);
/// Between two comparisons of what repositories have, where it is never quiet.
const CATCH_UP_PAUSE: Duration = Duration::from_secs(30);
/// After one that failed.
const CATCH_UP_RETRY: Duration = Duration::from_secs(5);
/// Comparisons in a row that may fail before it is left to the next process.
const CATCH_UP_FAILURES_MAX: u32 = 3;

/// With what a failure to push lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// No repository would take it.
    File,
    /// This repository will never take it.
    Both,
    /// It may take it at another time.
    Repository,
}

impl Blame {
    fn of(failure: &Failure, is_of_file: bool) -> Blame {
        match failure.code {
            _ if is_of_file => Blame::File,
            ErrorCode::ArchiveDuplicate | ErrorCode::ArchiveMismatch => Blame::Both,
            _ => Blame::Repository,
        }
    }
}

pub(super) struct State<'a> {
    background: &'a BackgroundPush,
    queue: PushQueue,
    begun: Instant,
    looked: Option<Instant>,
    is_nudged: bool,
    /// Nothing has happened since the last look.
    is_fresh: bool,
    /// Files with a status; true: archived.
    told: BTreeMap<WalFileName, bool>,
    /// Of files that are being pushed, as they were when that began.
    marks: BTreeMap<WalFileName, FileMark>,
    /// The last failure of each repository since its last success.
    troubles: BTreeMap<RepoKey, Failure>,
    /// Since when nothing waits.
    quiet_since: Option<Instant>,
    catch_up_at: Option<Instant>,
    catch_up_failures: u32,
}

impl<'a> State<'a> {
    pub(super) fn new(background: &'a BackgroundPush) -> Self {
        let repositories = background.repositories.iter();
        let lanes = repositories.map(|repository| (repository.key, repository.is_required));
        let now = Instant::now();
        let has_dropped = background.spool.as_ref().is_some_and(|spool| !spool.dropped().is_empty());
        let is_catch_up_due = background.siblings.len() > 1 || has_dropped;
        State {
            background,
            queue: PushQueue::new(lanes, background.width),
            begun: now,
            looked: None,
            is_nudged: false,
            is_fresh: false,
            told: BTreeMap::new(),
            marks: BTreeMap::new(),
            troubles: BTreeMap::new(),
            quiet_since: None,
            catch_up_at: is_catch_up_due.then_some(now + CATCH_UP_PAUSE),
            catch_up_failures: 0,
        }
    }

    pub(super) fn is_time_to_look(&self) -> bool {
        let is_busy = self.queue.waiting().nth(2 * self.background.width).is_some();
        let pause = match is_busy || self.is_quiet_for(IDLE) {
            true => LOOK_PAUSE_LONG,
            false => super::LOOK_PAUSE,
        };
        self.is_nudged || self.looked.is_none_or(|looked| looked.elapsed() >= pause)
    }

    pub(super) fn nudged(&mut self, nudge: Nudge) {
        self.is_nudged = true;
        if nudge == Nudge::CatchUp {
            (self.catch_up_at, self.catch_up_failures) = (Some(Instant::now()), 0);
        }
    }

    /// Takes notice of what waits now.
    pub(super) fn look(&mut self, waiting: &BTreeSet<WalFileName>) -> Result<(), Failure> {
        (self.is_nudged, self.is_fresh) = (false, true);
        if self.looked.replace(Instant::now()).is_none() {
            self.recall(waiting)?;
        }
        let gone: Vec<WalFileName> =
            self.told.keys().filter(|file| !waiting.contains(*file)).copied().collect();
        for file in gone {
            self.told.remove(&file);
            if let Some(spool) = self.background.statuses() {
                spool.forget(&file)?;
            }
        }
        let is_archived = |file: &WalFileName| self.told.get(file) == Some(&true);
        let mut open: BTreeSet<WalFileName> =
            waiting.iter().filter(|file| !is_archived(file)).copied().collect();
        self.drop_what_is_too_much(&mut open)?;
        self.quiet_since = match open.is_empty() {
            true => self.quiet_since.or_else(|| Some(Instant::now())),
            false => None,
        };
        self.queue.offer(open);
        Ok(())
    }

    /// Repositories may have much of what waits already, from processes before this one.
    pub(super) fn note_names(&mut self, key: RepoKey, names: &[WalFileName]) {
        names.iter().for_each(|file| self.queue.note_name(*file, key));
    }

    /// What earlier processes told and still holds.
    fn recall(&mut self, waiting: &BTreeSet<WalFileName>) -> Result<(), Failure> {
        let Some(spool) = self.background.statuses() else { return Ok(()) };
        for (file, archived) in spool.tidy(waiting)? {
            let mark = FileMark::of(&self.background.pg_wal.join(file.to_string()));
            let holds = mark.is_ok_and(|mark| mark == archived.mark);
            self.told.insert(file, holds);
        }
        Ok(())
    }

    /// The server's disk is worth more than the archive, where somebody said so.
    fn drop_what_is_too_much(&mut self, open: &mut BTreeSet<WalFileName>) -> Result<(), Failure> {
        let (Some(max), Some(spool)) = (self.background.queue_max, self.background.statuses()) else {
            return Ok(());
        };
        let pg_wal = &self.background.pg_wal;
        if !ready::is_too_much(open.len(), ready::segment_bytes(pg_wal, open), max) {
            return Ok(());
        }
        for file in std::mem::take(open) {
            let Ok(mark) = FileMark::of(&pg_wal.join(file.to_string())) else { continue };
            let warning = ready::dropped(&file, max);
            tracing::warn!("{warning}");
            spool.note_dropped(&file, &ready::drop_record(&file, max))?;
            spool.tell_archived(&file, &Archived { mark, warnings: vec![warning] })?;
            self.catch_up_at.get_or_insert_with(|| Instant::now() + CATCH_UP_PAUSE);
            self.told.insert(file, true);
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> Option<PushOrder> {
        let order = self.queue.next(self.begun.elapsed())?;
        if let Ok(mark) = FileMark::of(&self.background.pg_wal.join(order.file.to_string())) {
            self.marks.entry(order.file).or_insert(mark);
        }
        Some(order)
    }

    pub(super) fn note(&mut self, News { file, what, is_of_file }: News) -> Result<(), Failure> {
        self.is_fresh = false;
        let is_archived = match what {
            PushNews::SourceRead => self.queue.read(file),
            PushNews::Decided(key, result) => {
                let outcome = match result {
                    Ok(_) => {
                        self.troubles.remove(&key);
                        Outcome::Stored
                    }
                    Err(failure) => {
                        let blame = Blame::of(&failure, is_of_file);
                        self.refused(file, key, failure, blame)?;
                        if blame == Blame::Repository { Outcome::Failed } else { Outcome::Refused }
                    }
                };
                self.queue.report(file, key, outcome, self.begun.elapsed())
            }
        };
        if is_archived { self.archived(file) } else { Ok(()) }
    }

    fn refused(
        &mut self,
        file: WalFileName,
        key: RepoKey,
        failure: Failure,
        blame: Blame,
    ) -> Result<(), Failure> {
        if blame == Blame::Repository {
            self.troubles.insert(key, failure.clone());
        }
        let failure = if blame == Blame::File { failure } else { failure.context(format!("repo {key}")) };
        let told = failure.context(format!("cannot push {file}"));
        if !self.is_required(key) || self.told.get(&file) == Some(&true) {
            tracing::warn!("{told}");
            return Ok(());
        }
        tracing::error!("{told}");
        if let Some(spool) = self.background.statuses() {
            spool.tell_refused(&file, &told)?;
        }
        self.told.insert(file, false);
        Ok(())
    }

    fn is_required(&self, key: RepoKey) -> bool {
        let mut repositories = self.background.repositories.iter();
        repositories.any(|repository| repository.key == key && repository.is_required)
    }

    fn archived(&mut self, file: WalFileName) -> Result<(), Failure> {
        tracing::info!("pushed WAL file {file}");
        let Some(mark) = self.marks.remove(&file) else { return Ok(()) };
        let warnings = self.troubles.iter().map(|(key, failure)| {
            format!("repo {key}, which is not required, may not have WAL file {file}: {failure}")
        });
        let archived = Archived { mark, warnings: warnings.collect() };
        if let Some(spool) = self.background.statuses() {
            spool.tell_archived(&file, &archived)?;
        }
        self.told.insert(file, true);
        if self.background.siblings.len() > 1 {
            self.catch_up_at.get_or_insert_with(|| Instant::now() + CATCH_UP_PAUSE);
        }
        Ok(())
    }

    fn is_quiet_for(&self, span: Duration) -> bool {
        self.quiet_since.is_some_and(|since| since.elapsed() >= span)
    }

    /// True takes the moment away: it is up to whoever asked to compare then.
    pub(super) fn is_time_to_catch_up(&mut self) -> bool {
        let Some(at) = self.catch_up_at else { return false };
        let is_early = self.catch_up_failures == 0 && self.is_quiet_for(QUIET);
        let is_time = at <= Instant::now() || is_early;
        if is_time {
            self.catch_up_at = None;
        }
        is_time
    }

    pub(super) fn caught_up(&mut self, told: CaughtUp) {
        for (key, file) in &told.brought {
            tracing::info!("brought WAL file {file} to repo {key} from another");
        }
        for (key, failure) in &told.failures {
            tracing::warn!("repo {key} could not be compared with the others: {failure}");
        }
        self.catch_up_failures = match told.failures.is_empty() {
            true => 0,
            false if told.brought.is_empty() => self.catch_up_failures + 1,
            false => 1,
        };
        if told.failures.is_empty() && told.left > 0 {
            self.catch_up_at = Some(Instant::now());
        } else if (1..CATCH_UP_FAILURES_MAX).contains(&self.catch_up_failures) {
            self.catch_up_at = Some(Instant::now() + CATCH_UP_RETRY);
        }
    }

    /// Whether nothing is left to do, or nothing can be done. Then what still waits is told.
    pub(super) fn is_over(&mut self, is_moving: bool) -> Result<bool, Failure> {
        let is_waiting = self.queue.waiting().next().is_some();
        let is_stuck = is_waiting && !self.queue.is_busy() && !is_moving;
        if is_stuck && !self.is_fresh {
            // What cannot be pushed may not wait any more.
            self.is_nudged = true;
            return Ok(false);
        }
        if is_stuck && self.catch_up_at.is_some() && self.catch_up_failures == 0 {
            self.catch_up_at = Some(Instant::now());
            return Ok(false);
        }
        if is_stuck {
            self.tell_those_who_wait()?;
            return Ok(true);
        }
        let is_open = is_moving || is_waiting || self.catch_up_at.is_some();
        Ok(!is_open && self.is_quiet_for(self.background.linger))
    }

    fn tell_those_who_wait(&self) -> Result<(), Failure> {
        let Some(spool) = self.background.statuses() else { return Ok(()) };
        let needed = self.troubles.iter().filter(|(key, _)| self.is_required(**key));
        let needed = needed.map(|(key, failure)| (*key, failure.clone())).collect();
        match joined("cannot push WAL", needed) {
            Some(failure) => spool.tell_all_refused(&failure),
            None => Ok(()),
        }
    }
}
