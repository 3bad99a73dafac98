//! What a seed decides before anything happens: the fleet, the clusters, the jobs, and what goes wrong when.

use crate::coordinator::Coordinator;
use crate::network::ConnectionId;
use crate::rng::Rng;
use crate::storage::Repository;
use crate::worker::Worker;
use crate::world::{Action, World};
use crate::{Millis, identity, wall};
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::ids::{ClusterNumber, RepoKey, StanzaName, SystemId};
use pgconvoy_core::pg::{FileClass, Fork, Lsn, PgVersion, TimelineId, WalSegmentName, WalSegmentSize};
use pgconvoy_core::plan::inventory::{EntryKind, ScannedEntry};
use pgconvoy_core::wire::{JobId, PreflightFacts, SessionFacts, SessionStart};

pub(crate) const LEADER_TTL: Millis = 5_000;
pub(crate) const WORKER_TTL: Millis = 15_000;
/// How long a job waits for the worker that keeps its session.
pub(crate) const SOURCE_PATIENCE: Millis = 600_000;
/// Once nothing goes wrong any more, every job ends within this time.
pub(crate) const PATIENCE: Millis = 500_000;
/// How long WAL may take.
pub(crate) const ARCHIVE_TIMEOUT: Millis = 8_000;
pub(crate) const UNIT_MILLISECONDS_MAX: u64 = 1_500;
/// No fault begins later.
const FAULTS_BEGIN_MAX: Millis = 70_000;
const FAULT_LENGTH_MAX: Millis = 40_000;
pub(crate) const UNIT_SIZE: u64 = 1 << 20;

pub(crate) struct Wal;
pub(crate) const WAL: Wal = Wal;

impl Wal {
    fn at(text: &str) -> Lsn {
        text.parse().expect("a position")
    }

    pub(crate) fn start(&self) -> Lsn {
        Wal::at("0/3000028")
    }

    pub(crate) fn stop(&self) -> Lsn {
        Wal::at("0/5000000")
    }

    pub(crate) fn segment(lsn: Lsn) -> WalSegmentName {
        WalSegmentName::containing(TimelineId(1), lsn, WalSegmentSize::DEFAULT)
    }
}

pub(crate) fn secret() -> HashSecret {
    HashSecret::from_random_bytes([3; HashSecret::BYTES])
}

pub(crate) fn stanza(number: usize) -> StanzaName {
    format!("s{number}").parse().expect("a name")
}

/// Every other job stores its WAL too.
pub(crate) fn copies_wal(job: JobId) -> bool {
    (0..1_000).step_by(2).any(|number| job_id(number) == job)
}

/// Two jobs of three rest on an earlier backup, where there is one; one of these believes no times.
pub(crate) fn rests(job: JobId) -> Option<bool> {
    let number = (0..1_000).find(|number| job_id(*number) == job)?;
    (number % 3 > 0).then_some(number % 3 == 2)
}

pub(crate) fn job_id(number: usize) -> JobId {
    JobId(identity(1_000 + number as u64))
}

pub(crate) fn cluster() -> ClusterBody {
    ClusterBody {
        number: ClusterNumber(1),
        system_id: SystemId(42),
        version: PgVersion::V15,
        control_version: 1300,
        catalog_version: 202_209_061,
        page_size: 8192,
        wal_segment_size: WalSegmentSize::DEFAULT,
        hash_secret: secret(),
        created: wall(0),
    }
}

pub(crate) fn preflight_facts() -> PreflightFacts {
    PreflightFacts {
        system_id: SystemId(42),
        version: PgVersion::V15,
        control_version: 1300,
        catalog_version: 202_209_061,
        page_size: 8192,
        checksums: false,
        wal_segment_size: WalSegmentSize::DEFAULT,
        relation_segment_blocks: 131_072,
        timeline: TimelineId(1),
        warnings: Vec::new(),
    }
}

pub(crate) fn session_facts(now: Millis) -> SessionFacts {
    let before = Wal::segment(Wal::at("0/2000028"));
    SessionFacts {
        offline_control: None,
        started: wall(now),
        timeline: TimelineId(1),
        start: Some(SessionStart {
            lsn: WAL.start(),
            segment: Wal::segment(WAL.start()),
            segment_before: before,
            checkpoint: Some(WAL.start()),
        }),
        databases: Vec::new(),
        tablespaces: Vec::new(),
    }
}

/// A cluster's data directory, as a scan finds it.
pub(crate) struct Stanza {
    pub(crate) entries: Vec<ScannedEntry>,
    per_page: usize,
}

impl Stanza {
    fn draw(rng: &mut Rng) -> Stanza {
        let entry = |path: String, kind| ScannedEntry {
            path: path.parse().expect("a path"),
            kind,
            mode: 0o600,
            user: None,
            group: None,
            modified: 1,
        };
        let relation = FileClass::Relation { fork: Fork::Main, segment: 0 };
        let mut entries =
            vec![entry("base".into(), EntryKind::Directory), entry("base/1".into(), EntryKind::Directory)];
        for number in 0..rng.range(1, 7) {
            let size = match rng.range(0, 4) {
                0 => 0,
                1 => 8192 * rng.range(1, 10),
                2 => UNIT_SIZE / 2,
                _ => UNIT_SIZE * rng.range(1, 6),
            };
            entries
                .push(entry(format!("base/1/{}", 100 + number), EntryKind::File { size, class: relation }));
        }
        entries.push(entry("global".into(), EntryKind::Directory));
        let control = EntryKind::File { size: 8192, class: FileClass::Control };
        entries.push(entry("global/pg_control".into(), control));
        entries.push(entry("pg_xact".into(), EntryKind::Directory));
        let clog = EntryKind::File { size: 8192, class: FileClass::Slru };
        entries.push(entry("pg_xact/0000".into(), clog));
        Stanza { entries, per_page: rng.index(4) + 1 }
    }

    pub(crate) fn pages(&self) -> Vec<Vec<ScannedEntry>> {
        self.entries.chunks(self.per_page).map(<[ScannedEntry]>::to_vec).collect()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.entries.iter().filter_map(|entry| match entry.kind {
            EntryKind::File { size, .. } => Some((entry.path.to_string(), size)),
            _ => None,
        })
    }
}

pub(crate) struct Job {
    pub(crate) stanza: usize,
    pub(crate) submitted: Millis,
}

pub(crate) struct Scenario {
    pub(crate) stanzas: Vec<Stanza>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) repositories: Vec<RepoKey>,
    /// Percent of units that fail by themselves.
    pub(crate) unit_failures: u64,
    /// Segments come late, and the server says that it archives.
    pub(crate) archiver_is_behind: bool,
    /// Percent of calls to the lease store whose answer is lost.
    pub(crate) lost_answers: u64,
    /// From here on nothing goes wrong any more.
    pub(crate) faults_until: Millis,
    /// Of the workers of a stanza only the first one sees the primary.
    pub(crate) with_standbys: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    StartWorker(usize),
    CrashWorker(usize, Millis),
    FreezeWorker(usize, Millis),
    StartCoordinator(usize),
    CrashCoordinator(usize, Millis),
    FreezeCoordinator(usize, Millis),
    ThawWorker(usize),
    ThawCoordinator(usize),
    Cut { worker: usize, coordinator: usize, length: Millis },
    TearConnections,
    StoreDown(Millis),
    CutFromStore(usize, Millis),
    ExpireLeader,
    ExpireWorker(usize),
    BreakRepository(RepoKey, Millis),
    LoseSession(usize),
    PromoteStandby(usize),
    RemakeStandby(usize),
    Submit(usize),
    Cancel(usize),
    Pause(usize, bool),
}

impl Scenario {
    pub(crate) fn stanza_of(&self, job: JobId) -> usize {
        let number = (0..self.jobs.len()).find(|number| job_id(*number) == job);
        self.jobs[number.expect("all jobs are the scenario's")].stanza
    }

    pub(crate) fn draw(rng: &mut Rng) -> Scenario {
        let stanzas: Vec<Stanza> = (0..rng.index(2) + 1).map(|_| Stanza::draw(rng)).collect();
        let jobs = (0..rng.index(3) + 1)
            .map(|_| Job { stanza: rng.index(stanzas.len()), submitted: rng.range(500, 20_000) })
            .collect();
        let repositories =
            (1..=rng.range(1, 3)).map(|key| RepoKey(u16::try_from(key).expect("few"))).collect();
        Scenario {
            stanzas,
            jobs,
            repositories,
            unit_failures: if rng.percent(20) { 4 } else { 0 },
            archiver_is_behind: rng.percent(50),
            lost_answers: if rng.percent(30) { 5 } else { 0 },
            faults_until: FAULTS_BEGIN_MAX + FAULT_LENGTH_MAX,
            with_standbys: false,
        }
    }
}

impl World {
    pub(crate) fn set_up(&mut self) {
        for key in self.scenario.repositories.clone() {
            let archived_from = match self.rng.range(0, 10) {
                0 => Millis::MAX,
                1..3 => self.rng.range(1_000, 60_000),
                _ => 0,
            };
            for stanza in 0..self.scenario.stanzas.len() {
                let repository = Repository { archived_from, ..Repository::default() };
                self.repositories.insert((stanza, key), repository);
            }
        }
        for _ in 0..self.rng.index(3) + 1 {
            self.coordinators.push(Coordinator::default());
        }
        for stanza in 0..self.scenario.stanzas.len() {
            for _ in 0..self.rng.index(3) + 1 {
                let name = format!("w{}", self.workers.len()).parse().expect("a name");
                let slots = u16::try_from(self.rng.index(3) + 1).expect("few");
                self.workers.push(Worker::new(name, stanza, slots));
            }
        }
        self.set_up_standbys();
        for id in 0..self.coordinators.len() {
            self.at(0, Action::Fault(Fault::StartCoordinator(id)));
        }
        for id in 0..self.workers.len() {
            self.at(0, Action::Fault(Fault::StartWorker(id)));
        }
        for number in 0..self.scenario.jobs.len() {
            self.at(self.scenario.jobs[number].submitted, Action::Fault(Fault::Submit(number)));
        }
        let faults = if self.rng.percent(8) { 0 } else { self.rng.range(1, 14) };
        for _ in 0..faults {
            let at = self.rng.range(2_000, FAULTS_BEGIN_MAX);
            let fault = self.draw_fault();
            self.at(at, Action::Fault(fault));
        }
    }

    fn draw_fault(&mut self) -> Fault {
        let worker = self.rng.index(self.workers.len());
        let coordinator = self.rng.index(self.coordinators.len());
        let longest = if self.rng.percent(50) { 8_000 } else { FAULT_LENGTH_MAX };
        let length = self.rng.range(300, longest);
        let repository = self.rng.index(self.scenario.repositories.len());
        let job = self.rng.index(self.scenario.jobs.len());
        if self.scenario.with_standbys && self.rng.percent(40) {
            return match self.rng.percent(50) {
                true => Fault::PromoteStandby(worker),
                false => Fault::RemakeStandby(worker),
            };
        }
        match self.rng.range(0, 26) {
            0..2 => Fault::CrashWorker(worker, length),
            2..5 => Fault::FreezeWorker(worker, length),
            5..8 => Fault::CrashCoordinator(coordinator, length),
            8..12 => Fault::FreezeCoordinator(coordinator, length),
            12..14 => Fault::Cut { worker, coordinator, length },
            14..17 => Fault::TearConnections,
            17 => Fault::StoreDown(length),
            18 => Fault::CutFromStore(coordinator, length),
            19 => Fault::ExpireLeader,
            20 => Fault::ExpireWorker(worker),
            21..23 => {
                let length = if self.rng.percent(10) { Millis::MAX / 2 } else { length };
                Fault::BreakRepository(self.scenario.repositories[repository], length)
            }
            23 => Fault::Cancel(job),
            24 => Fault::Pause(job, true),
            _ => Fault::LoseSession(worker),
        }
    }

    pub(crate) fn strike(&mut self, fault: Fault) {
        self.note(format_args!("{fault:?}"));
        match fault {
            Fault::StartWorker(id) => self.start_worker(id),
            Fault::CrashWorker(id, length) => self.crash_worker(id, length),
            Fault::FreezeWorker(id, length) => {
                self.workers[id].frozen_since.get_or_insert(self.now);
                self.silence(Some(id), None, false);
                self.at(self.now + length, Action::Fault(Fault::ThawWorker(id)));
            }
            Fault::ThawWorker(id) => self.thaw_worker(id),
            Fault::StartCoordinator(id) => self.start_coordinator(id),
            Fault::CrashCoordinator(id, length) => self.crash_coordinator(id, length),
            Fault::FreezeCoordinator(id, length) => {
                self.coordinators[id].frozen_since.get_or_insert(self.now);
                self.silence(None, Some(id), false);
                self.at(self.now + length, Action::Fault(Fault::ThawCoordinator(id)));
            }
            Fault::ThawCoordinator(id) => self.thaw_coordinator(id),
            Fault::Cut { worker, coordinator, length } => {
                self.network.cut.insert((worker, coordinator), self.now + length);
            }
            Fault::TearConnections => {
                let all: Vec<ConnectionId> = self.network.connections.keys().copied().collect();
                for id in all {
                    if self.rng.percent(70) {
                        self.tear(id);
                    }
                }
            }
            Fault::StoreDown(length) => self.store_down_until = self.store_down_until.max(self.now + length),
            Fault::CutFromStore(id, length) => self.coordinators[id].cut_off_until = self.now + length,
            Fault::ExpireLeader => self.expire_key(&crate::lease_store::Key::Leader),
            Fault::ExpireWorker(id) => {
                let name = self.workers[id].name.clone();
                self.expire_key(&crate::lease_store::Key::Worker(name));
            }
            Fault::BreakRepository(key, length) => {
                let until = self.now.saturating_add(length);
                for (_, repository) in self.repositories.iter_mut().filter(|((_, of), _)| *of == key) {
                    repository.broken_until = repository.broken_until.max(until);
                }
            }
            Fault::LoseSession(id) => self.lose_session(id),
            Fault::PromoteStandby(id) => self.promote(id),
            Fault::RemakeStandby(id) => self.remake(id),
            Fault::Submit(number) => self.submit(number),
            Fault::Cancel(number) => self.cancel(number),
            Fault::Pause(number, is_paused) => self.pause(number, is_paused),
        }
    }

    fn expire_key(&mut self, key: &crate::lease_store::Key) {
        if let Some(lease) = self.store.entries.get(key).and_then(|entry| entry.lease) {
            self.store.revoke(lease);
        }
    }

    fn crash_worker(&mut self, id: usize, length: Millis) {
        if !self.workers[id].is_up {
            return;
        }
        let jobs: Vec<JobId> = self.workers[id].keepers.keys().copied().collect();
        for job in jobs {
            self.ledger.source_died(job);
        }
        self.workers[id].is_up = false;
        self.workers[id].keepers.clear();
        self.silence(Some(id), None, true);
        self.at(self.now + length, Action::Fault(Fault::StartWorker(id)));
    }

    fn thaw_worker(&mut self, id: usize) {
        self.workers[id].frozen_since = None;
        for act in std::mem::take(&mut self.workers[id].deferred) {
            self.worker_later(id, 0, act);
        }
    }

    fn crash_coordinator(&mut self, id: usize, length: Millis) {
        if !self.coordinators[id].is_up {
            return;
        }
        self.coordinators[id].is_up = false;
        self.coordinators[id].leading = None;
        self.silence(None, Some(id), true);
        self.at(self.now + length, Action::Fault(Fault::StartCoordinator(id)));
    }

    fn thaw_coordinator(&mut self, id: usize) {
        self.coordinators[id].frozen_since = None;
        for act in std::mem::take(&mut self.coordinators[id].deferred) {
            self.coordinator_later(id, 0, act);
        }
    }
}
