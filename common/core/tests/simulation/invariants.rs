//! What must be true of every run, each by a name of its own. What is seen to be wrong is kept until the step is over.
//!
//! - every byte of every file of a published backup is covered once, by accepted attempts whose packs are in that repository
//! - a backup is the same in every repository that it is published to, and has the record of its stop in each
//! - nobody publishes after a void, or for a job that has failed; nobody gives up after a publication
//! - no attempt at a unit is given twice, whoever leads
//! - no unit that was accepted is read again, unless its pack cannot be shown
//! - no byte of a published backup comes from a standby that was none any more when it had been read
//! - every byte is read within the session, and `pg_control` after all else
//! - a backup that is to hold its WAL holds all of it, and no other holds any
//! - no write of an older epoch reaches the lease store, no order of an older epoch is obeyed
//! - two backups of one stanza never run at once
//! - the order to stop is given when all units are accepted
//! - what is told of a job's end is what stands in the catalogues
//! - once nothing goes wrong any more, every job ends, and ends well unless there is a reason: the death of a source is one only
//!   before its stop is recorded

use crate::leading::short;
use crate::lease_store::Key;
use crate::scenario::{job_id, secret};
use crate::storage::{Entry, Pack};
use crate::world::World;
use crate::{Millis, wall};
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::manifest::{FileRecord, RangeRecord, Record, file_checksum};
use pgconvoy_core::ids::{Attempt, Epoch, FencingToken, RepoKey, StanzaName, UnitId};
use pgconvoy_core::job::JobState;
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::pg::WalSegmentSize;
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::JobId;
use std::collections::{BTreeMap, BTreeSet};

/// Where WAL lies that a backup stores too.
const COPIED: &str = "pg_wal/";
/// All that lies between a backup's start and its stop.
const WAL_OF_BACKUP: [&str; 2] = ["000000010000000000000003", "000000010000000000000004"];

#[derive(Default)]
struct JobLedger {
    accepted: BTreeMap<UnitId, Attempt>,
    /// When its sessions were opened and closed.
    sessions: Vec<(Millis, Option<Millis>)>,
    running: BTreeMap<StanzaName, FencingToken>,
    published: BTreeSet<(RepoKey, BackupLabel)>,
    granted: BTreeSet<(UnitId, Attempt)>,
    /// The record of its stop is in a repository.
    is_stopped: bool,
    /// Before that.
    source_died: bool,
    /// After that: nobody supplies WAL.
    is_unsupplied: bool,
    is_cancelled: bool,
}

/// What was done, for whoever judges it later.
#[derive(Default)]
pub(crate) struct Ledger {
    jobs: BTreeMap<JobId, JobLedger>,
    /// The newest epoch that each process of a worker obeyed.
    obeyed: BTreeMap<(usize, u32), Epoch>,
    wrong: Option<String>,
}

impl Ledger {
    fn job(&mut self, job: JobId) -> &mut JobLedger {
        self.jobs.entry(job).or_default()
    }

    pub(crate) fn accepted(&mut self, job: JobId, unit: UnitId, attempt: Attempt) {
        self.job(job).accepted.insert(unit, attempt);
    }

    /// No attempt is given twice: its pack would bear the name of another one.
    pub(crate) fn granted(&mut self, job: JobId, unit: UnitId, attempt: Attempt) {
        if !self.job(job).granted.insert((unit, attempt)) {
            self.fault(format!("attempt {attempt} at unit {unit} is given a second time"));
        }
    }

    pub(crate) fn session_opened(&mut self, job: JobId, now: Millis) {
        self.job(job).sessions.push((now, None));
    }

    pub(crate) fn session_closed(&mut self, job: JobId, opened: Timestamp, now: Millis) {
        let opened = |session: &&mut (Millis, Option<Millis>)| wall(session.0) == opened;
        if let Some((_, closed)) = self.job(job).sessions.iter_mut().find(opened) {
            closed.get_or_insert(now);
        }
    }

    pub(crate) fn published(&mut self, job: JobId, repository: RepoKey, label: BackupLabel) {
        self.job(job).published.insert((repository, label));
    }

    pub(crate) fn stopped(&mut self, job: JobId) {
        self.job(job).is_stopped = true;
    }

    pub(crate) fn source_died(&mut self, job: JobId) {
        let ledger = self.job(job);
        if ledger.is_stopped {
            ledger.is_unsupplied = true;
        } else {
            ledger.source_died = true;
        }
    }

    pub(crate) fn cancelled(&mut self, job: JobId) {
        self.job(job).is_cancelled = true;
    }

    pub(crate) fn run_ends(&mut self, job: JobId, epoch: FencingToken) {
        self.job(job).running.retain(|_, by| *by != epoch);
    }

    /// Two backups of one stanza never run at once.
    pub(crate) fn run_begins(&mut self, job: JobId, stanza: &StanzaName, epoch: FencingToken) {
        let other = self.jobs.iter().find(|(other, ledger)| {
            **other != job && ledger.running.get(stanza).is_some_and(|by| *by == epoch)
        });
        if let Some((other, _)) = other {
            let message = format!("jobs {} and {} of {stanza} run at once", short(*other), short(job));
            self.fault(message);
        }
        self.job(job).running.insert(stanza.clone(), epoch);
    }

    /// No order of an older epoch is obeyed.
    pub(crate) fn obeyed(&mut self, worker: usize, boot: u32, epoch: Epoch) {
        let newest = self.obeyed.entry((worker, boot)).or_insert(epoch);
        if epoch < *newest {
            let message = format!("worker {worker} obeys epoch {epoch} after {newest}");
            return self.fault(message);
        }
        *newest = epoch;
    }

    pub(crate) fn fault(&mut self, message: String) {
        self.wrong.get_or_insert(message);
    }
}

impl World {
    pub(crate) fn check_step(&mut self) -> Result<(), String> {
        self.ledger.wrong.take().map_or(Ok(()), Err)
    }

    /// No write of an older epoch reaches the lease store.
    pub(crate) fn commit_check(&mut self, epoch: FencingToken) {
        if epoch.0 != self.store.newest_epoch {
            let newest = self.store.newest_epoch;
            self.ledger.fault(format!("epoch {epoch} writes after {newest} was granted"));
        }
    }

    /// No unit that was accepted is read again, unless its pack cannot be shown.
    pub(crate) fn check_not_read_again(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        units: &[(UnitId, Attempt)],
    ) {
        let accepted = self.store.accepted(job);
        let accepted: BTreeMap<UnitId, bool> =
            accepted.into_iter().map(|one| (one.unit, one.standby.is_some())).collect();
        let Some(run) = self.leading(id, epoch).and_then(|leading| leading.jobs.get(&job)?.run.as_ref())
        else {
            return;
        };
        let is_provisional = accepted.values().any(|is_of_standby| *is_of_standby);
        // pg_control is read again when anything else is.
        let last = UnitId(run.machine.board().total() - 1);
        let lost = &run.executor.lost;
        let is_excused = |unit: &UnitId| {
            lost.contains(unit)
                || accepted.get(unit) == Some(&true)
                || (*unit == last && (!lost.is_empty() || is_provisional))
        };
        let again = units.iter().find(|(unit, _)| accepted.contains_key(unit) && !is_excused(unit));
        if let Some((unit, attempt)) = again {
            self.ledger.fault(format!("unit {unit} was accepted and is read again as attempt {attempt}"));
        }
    }

    /// The order to stop is given when all units are accepted.
    pub(crate) fn check_stop(&mut self, id: usize, epoch: FencingToken, job: JobId) {
        let accepted: BTreeSet<UnitId> = self.store.accepted(job).iter().map(|one| one.unit).collect();
        let Some(run) = self.leading(id, epoch).and_then(|leading| leading.jobs.get(&job)?.run.as_ref())
        else {
            return;
        };
        let total = run.machine.board().total();
        // Behind them come those of WAL that an earlier leader had copied.
        let many = accepted.range(..UnitId(total)).count();
        if many != total as usize {
            self.ledger.fault(format!("stop is ordered with {many} of {total} units accepted"));
        }
    }

    /// Nobody publishes for a job that has failed or was cancelled.
    pub(crate) fn check_not_over(&mut self, job: JobId, key: RepoKey, label: BackupLabel) {
        let is_over = |record: &JobRecord| matches!(record.state, JobState::Failed | JobState::Cancelled);
        let was_reached = !self.repositories[&self.place(job, key)].ever_failed;
        if was_reached && self.store.record(job).is_some_and(is_over) {
            self.ledger.fault(format!("{label} is published in repo {key} after its job has failed"));
        }
    }

    /// A catalogue entry was made, or found.
    pub(crate) fn check_entry(&mut self, job: JobId, key: RepoKey, label: BackupLabel) {
        if let Err(reason) = self.check_published(job, key, label) {
            self.ledger.fault(format!("{label} in repo {key}: {reason}"));
        }
    }

    fn check_published(&self, job: JobId, key: RepoKey, label: BackupLabel) -> Result<(), String> {
        let repository = &self.repositories[&self.place(job, key)];
        let contents = repository.manifests.get(&label).ok_or("it is published without a manifest")?;
        if !repository.stops.contains_key(&label) {
            return Err("it is published without the record of its stop".into());
        }
        let ours = self.place(job, key).0;
        for ((_, other), twin) in self.repositories.iter().filter(|((of, _), _)| *of == ours) {
            let is_published = matches!(twin.catalogue.get(&label), Some(Entry::Published(_)));
            if is_published && twin.manifests.get(&label).is_none_or(|twin| !is_same(twin, contents)) {
                return Err(format!("it is another backup than in repo {other}"));
            }
        }
        let cluster = &self.scenario.stanzas[ours];
        let records: BTreeMap<String, FileRecord> = files_of(contents);
        for (path, size) in cluster.files() {
            match records.get(&path) {
                Some(record) => self.check_file(job, key, label, record, size)?,
                None => self.check_vanished(job, key, label, &path)?,
            }
        }
        self.check_copied(job, key, label, &records)?;
        self.check_order(job, key, label, &records)?;
        self.check_wal(job, key)
    }

    fn pack(
        &self,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
        unit: UnitId,
        attempt: Attempt,
    ) -> Result<&Pack, String> {
        let accepted = self.ledger.jobs.get(&job).and_then(|ledger| ledger.accepted.get(&unit));
        if accepted != Some(&attempt) {
            return Err(format!(
                "unit {unit} attempt {attempt} is referred to, and {accepted:?} was accepted"
            ));
        }
        let pack = self.repositories[&self.place(job, key)].packs.get(&(label, unit, attempt));
        pack.ok_or(format!("the pack of unit {unit} attempt {attempt} is missing"))
    }

    /// Of a published backup that this one lists, in the same repository.
    fn earlier_pack(
        &self,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
        earlier: u32,
        range: &RangeRecord,
    ) -> Result<&Pack, String> {
        let repository = &self.repositories[&self.place(job, key)];
        let references = repository.records.get(&label).map_or(&[][..], |record| &record.references);
        let of = references.get(earlier as usize - 1).ok_or("a range of a label that is not listed")?;
        if !matches!(repository.catalogue.get(of), Some(Entry::Published(_))) {
            return Err(format!("it rests on {of}, which is not published there"));
        }
        let pack = repository.packs.get(&(*of, range.unit, range.attempt));
        pack.ok_or(format!("a pack of {of} is missing: unit {} attempt {}", range.unit, range.attempt))
    }

    /// Every byte is covered once, by accepted attempts whose packs are in the repository.
    fn check_file(
        &self,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
        record: &FileRecord,
        size: u64,
    ) -> Result<(), String> {
        let (mut end, mut checksums) = (0, Vec::new());
        for range in &record.ranges {
            let pack = match range.label {
                0 => self.pack(job, key, label, range.unit, range.attempt)?,
                earlier => self.earlier_pack(job, key, label, earlier, range)?,
            };
            let stored = pack.body.ranges.get(range.place as usize).ok_or("a place that is none")?;
            if range.offset != end
                || stored.path != record.path.to_string()
                || stored.offset != range.offset
                || stored.length != range.length
            {
                return Err(format!("{} is not covered once at {end}", record.path));
            }
            checksums.push(stored.checksum);
            end += range.length;
        }
        if end != size {
            return Err(format!("{} has {end} of {size} bytes", record.path));
        }
        if !checksums.is_empty() && file_checksum(&secret(), &checksums) != record.checksum {
            return Err(format!("{} has another checksum than its packs", record.path));
        }
        Ok(())
    }

    /// All WAL from start to stop is in the backup too, or none.
    fn check_copied(
        &self,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
        records: &BTreeMap<String, FileRecord>,
    ) -> Result<(), String> {
        let copied: Vec<&String> = records.keys().filter(|path| path.starts_with(COPIED)).collect();
        let wanted = WAL_OF_BACKUP.map(|name| format!("{COPIED}{name}"));
        let wanted: Vec<&String> = wanted.iter().filter(|_| crate::scenario::copies_wal(job)).collect();
        if copied != wanted {
            return Err(format!("it has copies of {copied:?} instead of {wanted:?}"));
        }
        let size = WalSegmentSize::DEFAULT.bytes();
        wanted.into_iter().try_for_each(|path| self.check_file(job, key, label, &records[path], size))
    }

    fn check_vanished(&self, job: JobId, key: RepoKey, label: BackupLabel, path: &str) -> Result<(), String> {
        let accepted = &self.ledger.jobs[&job].accepted;
        let is_told = accepted.iter().any(|(unit, attempt)| {
            let pack = self.repositories[&self.place(job, key)].packs.get(&(label, *unit, *attempt));
            pack.is_some_and(|pack| pack.body.vanished.iter().any(|gone| gone == path))
        });
        if is_told { Ok(()) } else { Err(format!("{path} is missing")) }
    }

    /// Every byte is read within the session, and `pg_control` after all else.
    fn check_order(
        &self,
        job: JobId,
        key: RepoKey,
        label: BackupLabel,
        records: &BTreeMap<String, FileRecord>,
    ) -> Result<(), String> {
        let started = self.repositories[&self.place(job, key)].manifests[&label].head.started;
        let sessions = &self.ledger.jobs[&job].sessions;
        let session = sessions.iter().find(|(opened, _)| wall(*opened) == started);
        let (opened, closed) = *session.ok_or("no session was opened")?;
        let closed = closed.ok_or("its session was not closed")?;
        let control = records.get("global/pg_control").ok_or("it has no pg_control")?;
        let begun = self.pack(job, key, label, control.ranges[0].unit, control.ranges[0].attempt)?.read_from;
        for record in records.values().filter(|record| !record.path.as_str().starts_with(COPIED)) {
            for range in record.ranges.iter().filter(|range| range.label == 0) {
                let pack = self.pack(job, key, label, range.unit, range.attempt)?;
                if pack.is_astray {
                    return Err(format!("{} has bytes of a standby that was none any more", record.path));
                }
                if pack.read_from < opened || pack.read_to > closed {
                    return Err(format!("{} was read outside of the session", record.path));
                }
                if record.path != control.path && pack.read_to > begun {
                    return Err(format!("{} was read after pg_control", record.path));
                }
            }
        }
        Ok(())
    }

    /// All WAL from start to stop is there.
    fn check_wal(&self, job: JobId, key: RepoKey) -> Result<(), String> {
        let repository = &self.repositories[&self.place(job, key)];
        let is_there = |name: &&str| repository.supplied.iter().any(|segment| segment.to_string() == **name);
        match WAL_OF_BACKUP.iter().find(|name| self.now < repository.archived_from && !is_there(name)) {
            Some(name) => Err(format!("WAL segment {name} is missing")),
            None => Ok(()),
        }
    }

    fn records_by_number(&self) -> Vec<Option<&JobRecord>> {
        (0..self.scenario.jobs.len()).map(|number| self.store.record(job_id(number))).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.records_by_number().iter().all(|record| record.is_some_and(|record| record.state.is_over()))
    }

    pub(crate) fn tell_hang(&self) -> String {
        let told = self.records_by_number().into_iter().map(|record| match record {
            Some(record) => format!("{} is {}", short(record.id), record.state.name()),
            None => "one was never submitted".to_owned(),
        });
        let told = told.collect::<Vec<_>>().join(", ");
        format!("jobs do not end: {told}{}", self.tell_standing())
    }

    /// Where everything stands, for whoever looks for the reason.
    fn tell_standing(&self) -> String {
        let runs = self.coordinators.iter().filter_map(|one| one.leading.as_ref()).flat_map(|leading| {
            leading.jobs.values().filter_map(|live| {
                let machine = &live.run.as_ref()?.machine;
                let board = machine.board();
                let (phase, done, total, busy) = (machine.phase(), board.done(), board.total(), board.busy());
                Some(format!(
                    "\n{}: {phase:?}, {done} of {total} units, busy {busy:?}",
                    short(live.record.id)
                ))
            })
        });
        let workers = self.workers.iter().map(|worker| {
            let (waiting, holds) = (worker.waiting.len(), &worker.holdings);
            let (slots, connection) = (worker.busy_slots, worker.connection);
            format!(
                "\n{}: up {}, connection {connection:?}, {slots} slots busy, {waiting} wait, holds {:?}",
                worker.name,
                worker.is_up,
                holds.keys().map(|(_, unit, attempt)| (unit, attempt)).collect::<Vec<_>>()
            )
        });
        runs.chain(workers).collect()
    }

    /// Once nothing goes wrong any more, jobs end well unless there is a reason.
    pub(crate) fn check_end(&mut self) -> Result<(), String> {
        for record in self.records_by_number().into_iter().flatten() {
            self.check_outcome(record)?;
            if record.state == JobState::Failed && !self.may_fail(record) {
                let failure = record.failure.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(format!("job {} failed without a reason: {failure}", short(record.id)));
            }
        }
        let keys: Vec<&Key> = self.store.entries.keys().filter(|key| matches!(key, Key::Done(_))).collect();
        if keys.is_empty() { Ok(()) } else { Err(format!("records of jobs that are over: {keys:?}")) }
    }

    /// What is told of a job is what stands in the catalogues.
    fn check_outcome(&self, record: &JobRecord) -> Result<(), String> {
        let Some(ledger) = self.ledger.jobs.get(&record.id) else { return Ok(()) };
        let published: BTreeSet<RepoKey> = ledger.published.iter().map(|(key, _)| *key).collect();
        let (stands, all) = (published.len(), self.scenario.repositories.len());
        // One that did not answer could not say what it has.
        let was_silent = |key: &RepoKey| self.repositories[&self.place(record.id, *key)].ever_failed;
        let is_true = match record.state {
            JobState::Done => stands == all,
            JobState::Partial => stands > 0 && (stands < all || published.iter().any(was_silent)),
            _ => published.iter().all(was_silent),
        };
        let (job, state) = (short(record.id), record.state.name());
        if is_true { Ok(()) } else { Err(format!("job {job} is {state} with {stands} entries of {all}")) }
    }

    fn may_fail(&self, record: &JobRecord) -> bool {
        let ledger = self.ledger.jobs.get(&record.id);
        let stanza = self.scenario.stanza_of(record.id);
        let ours = || self.repositories.iter().filter(|((of, _), _)| *of == stanza).map(|(_, one)| one);
        let is_late =
            record.failure.as_ref().is_some_and(|failure| failure.code == ErrorCode::ArchiveTimeout);
        let is_unsupplied = is_late || ledger.is_some_and(|ledger| ledger.is_unsupplied);
        let all_failed = ours().all(|one| one.ever_failed || (is_unsupplied && one.archived_from > 0));
        let is_odd = ledger.is_some_and(|ledger| ledger.source_died || ledger.is_cancelled);
        all_failed || is_odd || self.scenario.unit_failures > 0
    }
}

fn files_of(contents: &BackupContents) -> BTreeMap<String, FileRecord> {
    contents
        .records()
        .filter_map(|record| match record {
            Record::File(file) => Some((file.path.to_string(), file)),
            _ => None,
        })
        .collect()
}

/// What a file is made of: offset, unit and attempt of each range.
type Pieces = Vec<(u64, UnitId, Attempt)>;

/// The same attempts, whoever assembled it.
fn is_same(one: &BackupContents, other: &BackupContents) -> bool {
    let pieces = |contents: &BackupContents| -> Vec<(String, Pieces)> {
        let ranges = |file: FileRecord| {
            let ranges = file.ranges.iter().map(|range| (range.offset, range.unit, range.attempt)).collect();
            (file.path.to_string(), ranges)
        };
        files_of(contents).into_values().map(ranges).collect()
    };
    pieces(one) == pieces(other)
}

/// A server ends the session of every job on that host.
impl World {
    pub(crate) fn lose_session(&mut self, id: usize) {
        let jobs: Vec<JobId> = self.workers[id].keepers.keys().copied().collect();
        for job in jobs {
            let keeper = self.workers[id].keepers.get_mut(&job).expect("it was just listed");
            if !std::mem::replace(&mut keeper.has_session, false) {
                continue;
            }
            keeper.is_session_dead = true;
            self.ledger.source_died(job);
            let failure = pgconvoy_core::failure::Failure::new(
                pgconvoy_core::failure::ErrorCode::HostConnect,
                "the server ended the session",
            );
            self.report(id, job, pgconvoy_core::wire::ReportBody::SessionLost(failure));
        }
    }
}
