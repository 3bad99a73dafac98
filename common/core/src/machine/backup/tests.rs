//! Whole backups on paper: events by hand, effects looked at.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod away;
mod blaming;
mod distrust;
mod draining;
mod pages;
mod resting;
mod resuming;
mod standbys;
mod stopping;
mod stragglers;
mod takeover;
mod wal_copy;

use super::event::{RepositoryResult, UnitLease};
use super::*;
use crate::failure::ErrorCode;
use crate::format::BackupKind;
use crate::format::catalogue::BackupRecord;
use crate::format::manifest::{RangeRecord, Record};
use crate::format::plan::Writer;
use crate::format::wal::StopBody;
use crate::format::{BlockHash, HashSecret};
use crate::ids::Identity;
use crate::ids::{Attempt, ClusterNumber, Epoch, FencingToken, StanzaName, SystemId, UnitId};
use crate::machine::backup::contest::Begun;
use crate::pg::{FileClass, Fork, Lsn, PgVersion, RelativePath, TimelineId, WalSegmentName, WalSegmentSize};
use crate::plan::inventory::{EntryKind, ScannedEntry};
use crate::units::MIB;
use crate::wire::{
    Compress, ConfirmOrder, Held, HeldUnit, JobId, Order, PartReceipt, Receipt, RepositoryFailure, ScanEnd,
    SessionEnd, SessionStart, SourceOptions, Spent, StoredPack, UnitFailure, UnitOrder,
};

const ONE: RepoKey = RepoKey(1);
const TWO: RepoKey = RepoKey(2);
const NOW: Timestamp = Timestamp(1_763_800_200_000);

fn worker() -> WorkerName {
    "local".parse().unwrap()
}

fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

fn spec() -> BackupSpec {
    let identity = Identity::from_random_bytes([7; 16]);
    BackupSpec {
        job: JobId(identity),
        epoch: Epoch(1),
        backup: identity,
        kind: BackupKind::Full,
        delta: false,
        resume: true,
        stanza: stanza(),
        repositories: vec![ONE, TWO],
        required: vec![ONE, TWO],
        source: SourceOptions {
            online: true,
            force: false,
            start_fast: true,
            archive_check: true,
            archive_mode_check: true,
            checksum_page: None,
            exclude: Vec::new(),
            db_timeout_ms: 1000,
        },
        compress: Compress { codec: 2, level: 3 },
        own_compress: BTreeMap::new(),
        file_sha1: false,
        standby: Default::default(),
        offload: Default::default(),
        page_errors: Default::default(),
        archive_copy: false,
        unit_size: 32 * MIB,
        whole_files: false,
        stall_timeout_ms: 1000,
        source_patience_ms: 0,
        annotations: Default::default(),
        writer: Writer { host: "h".into(), boot: "b".into(), process: 1 },
        program: "0".into(),
    }
}

fn cluster() -> ClusterBody {
    ClusterBody {
        number: ClusterNumber(1),
        system_id: SystemId(42),
        version: PgVersion::V15,
        control_version: 1300,
        catalog_version: 202_209_061,
        page_size: 8192,
        wal_segment_size: WalSegmentSize::DEFAULT,
        hash_secret: HashSecret::from_random_bytes([3; HashSecret::BYTES]),
        created: NOW,
    }
}

fn facts() -> PreflightFacts {
    PreflightFacts {
        system_id: SystemId(42),
        version: PgVersion::V15,
        control_version: 1300,
        catalog_version: 202_209_061,
        page_size: 8192,
        checksums: true,
        wal_segment_size: WalSegmentSize::DEFAULT,
        relation_segment_blocks: 131_072,
        timeline: TimelineId(1),
        warnings: Vec::new(),
    }
}

fn session() -> SessionFacts {
    let start: Lsn = "0/3000028".parse().unwrap();
    let before: Lsn = "0/2000028".parse().unwrap();
    let segment = |lsn| WalSegmentName::containing(TimelineId(1), lsn, WalSegmentSize::DEFAULT);
    SessionFacts {
        offline_control: None,
        started: NOW,
        timeline: TimelineId(1),
        start: Some(SessionStart {
            lsn: start,
            segment: segment(start),
            segment_before: segment(before),
            checkpoint: Some(start),
        }),
        databases: Vec::new(),
        tablespaces: Vec::new(),
    }
}

fn scanned() -> Vec<ScannedEntry> {
    let entry = |path: &str, kind| ScannedEntry {
        path: path.parse().unwrap(),
        kind,
        mode: 0o600,
        user: None,
        group: None,
        modified: 1,
    };
    let relation = FileClass::Relation { fork: Fork::Main, segment: 0 };
    vec![
        entry("base", EntryKind::Directory),
        entry("base/1", EntryKind::Directory),
        entry("base/1/100", EntryKind::File { size: 70 * MIB, class: relation }),
        entry("base/1/101", EntryKind::File { size: 8192, class: relation }),
        entry("base/1/102", EntryKind::File { size: 0, class: relation }),
        entry("global", EntryKind::Directory),
        entry("global/pg_control", EntryKind::File { size: 8192, class: FileClass::Control }),
    ]
}

/// Plays the world around a machine: answers every effect as a healthy one would, unless a test intervenes.
struct World {
    machine: BackupMachine,
    queue: Vec<Effect>,
    token: u64,
    orders: Vec<UnitOrder>,
    outcome: Option<Outcome>,
    published: Vec<(RepoKey, Arc<BackupContents>)>,
    /// Repositories whose packs fail.
    broken: Vec<RepoKey>,
    /// Repositories that get their WAL from the archiver.
    archived: Vec<RepoKey>,
    /// Repositories that take no WAL from the source either.
    refusing: Vec<RepoKey>,
    supplied: Vec<RepoKey>,
    /// Repositories to which the plan was written, in order.
    planned: Vec<RepoKey>,
    /// What came of writing the plan, where it is no success.
    unplanned: BTreeMap<RepoKey, Failure>,
    /// The record of the session's end, as repositories have it.
    recorded: Option<StopBody>,
    /// What the source has kept with it.
    kept: Option<Box<RecalledSession>>,
    /// Packs that can be shown.
    recalled: Vec<event::RecalledPack>,
    /// Looks at standbys that were ordered and not answered.
    confirming: Vec<ConfirmOrder>,
    /// How many sessions were opened.
    sessions: u32,
    /// Repositories in which an earlier leader has published meanwhile.
    published_meanwhile: Vec<RepoKey>,
    /// Repositories in which the label is void.
    void: Vec<RepoKey>,
    /// What repositories have for a new backup to rest on.
    priors: BTreeMap<RepoKey, resting::Made>,
    /// What others have left there that did not end.
    unfinished: BTreeMap<RepoKey, Vec<Begun>>,
    /// Labels in repositories that take no part, and whether all of those answered.
    elsewhere: Vec<BackupLabel>,
    are_others_asked: bool,
    /// What was given up of it.
    given_up: Vec<(RepoKey, BackupLabel)>,
    /// Repositories where that fails.
    unclearable: BTreeMap<RepoKey, Failure>,
    /// Ranges that it has left.
    left: Vec<(RelativePath, RangeRecord)>,
    /// Backups whose manifest cannot be read.
    unreadable: Vec<BackupLabel>,
    /// Catalogue entries that were written.
    records: Vec<(RepoKey, BackupRecord)>,
}

fn all_opened(results: Vec<(RepoKey, Result<RepositoryFacts, Failure>)>) -> Event {
    Event::RepositoriesOpened { results, other_labels: Vec::new(), are_others_asked: true }
}

fn stop() -> StopBody {
    StopBody {
        start_lsn: "0/3000028".parse().unwrap(),
        stop_lsn: "0/5000000".parse().unwrap(),
        timeline: TimelineId(1),
        stopped: NOW,
        backup_label: "START WAL LOCATION".into(),
        tablespace_map: String::new(),
        kept: None,
    }
}

fn segment(lsn: &str) -> WalSegmentName {
    WalSegmentName::containing(TimelineId(1), lsn.parse().unwrap(), WalSegmentSize::DEFAULT)
}

impl World {
    fn new() -> World {
        let (machine, queue) = BackupMachine::start(spec(), worker(), vec![worker()], Recovered::default());
        World {
            machine,
            queue,
            token: 0,
            orders: Vec::new(),
            outcome: None,
            published: Vec::new(),
            broken: Vec::new(),
            archived: vec![ONE, TWO],
            refusing: Vec::new(),
            supplied: Vec::new(),
            planned: Vec::new(),
            unplanned: BTreeMap::new(),
            recorded: None,
            kept: None,
            recalled: Vec::new(),
            confirming: Vec::new(),
            sessions: 0,
            published_meanwhile: Vec::new(),
            void: Vec::new(),
            priors: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            elsewhere: Vec::new(),
            are_others_asked: true,
            given_up: Vec::new(),
            unclearable: BTreeMap::new(),
            left: Vec::new(),
            unreadable: Vec::new(),
            records: Vec::new(),
        }
    }

    fn tell(&mut self, event: Event) {
        let effects = self.machine.on_event(NOW, event);
        self.queue.extend(effects);
    }

    fn report(&mut self, report: ReportBody) {
        self.tell(Event::Reported { worker: worker(), report });
    }

    /// Carries out effects until nothing is left or units wait for a test to do them.
    fn settle(&mut self) {
        while !self.queue.is_empty() {
            for effect in std::mem::take(&mut self.queue) {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::OpenRepositories { repositories, .. } => {
                let facts = |key| RepositoryFacts {
                    has_this: false,
                    identity: Identity::default(),
                    cluster: cluster(),
                    labels: self.labels_in(key),
                    unfinished: self.unfinished.get(&key).cloned().unwrap_or_default(),
                    prior: self.priors.get(&key).map(|made| made.record.clone()),
                };
                let results = repositories.into_iter().map(|key| (key, Ok(facts(key)))).collect();
                let (other_labels, are_others_asked) = (self.elsewhere.clone(), self.are_others_asked);
                self.tell(Event::RepositoriesOpened { results, other_labels, are_others_asked });
            }
            Effect::Send { order, .. } => self.obey(order.body),
            Effect::AwaitWal { repository, .. } => {
                let is_there = self.archived.contains(&repository);
                let result = Ok(if is_there { Vec::new() } else { vec![segment("0/2000028")] });
                self.tell(Event::WalFound { repository, result });
            }
            Effect::WritePlan { repository, .. } => {
                self.planned.push(repository);
                let result = self.unplanned.get(&repository).cloned().map_or(Ok(()), Err);
                self.tell(Event::PlanWritten { repository, result });
            }
            Effect::LeaseUnits { worker, units } => {
                let leases = units
                    .into_iter()
                    .map(|(unit, attempt)| {
                        self.token += 1;
                        UnitLease { unit, attempt, token: FencingToken(self.token) }
                    })
                    .collect();
                self.tell(Event::UnitsLeased { worker, leases });
            }
            Effect::ReadLeftover { round, .. } => self.read_leftover(round),
            Effect::GiveUpUnfinished { repository, unfinished } => self.clear(repository, &unfinished),
            Effect::ReadPrior { round, prior, records } => self.read_prior(round, prior, &records),
            Effect::Publish { repository, contents, record } => {
                self.records.push((repository, *record));
                self.published.push((repository, contents));
                self.tell(Event::Published { repository, result: Ok(()) });
            }
            Effect::FindStop { repositories, .. } => {
                let is_refused = |key: &RepoKey| self.refusing.contains(key) && self.recorded.is_some();
                let refused = repositories.into_iter().filter(is_refused);
                let failed = refused
                    .map(|repository| RepositoryFailure { repository, failure: disk_full() })
                    .collect();
                self.tell(Event::StopFound { stop: self.recorded.clone(), failed });
            }
            Effect::RecallSession { .. } => {
                self.tell(Event::SessionRecalled { session: self.kept.clone() });
            }
            Effect::RecallReceipts { .. } if !self.recalled.is_empty() => {
                self.tell(Event::ReceiptsRecalled { packs: self.recalled.clone() });
            }
            Effect::GiveUpLabel { repositories, .. } => {
                let (published, void): (Vec<_>, Vec<_>) =
                    repositories.into_iter().partition(|key| self.published_meanwhile.contains(key));
                self.void.extend(&void);
                let published = published.into_iter().map(|key| (key, Ok(Fate::Published)));
                let fates = published.chain(void.into_iter().map(|key| (key, Ok(Fate::Void)))).collect();
                self.tell(Event::GivenUp { fates });
            }
            Effect::Finish(outcome) => self.outcome = Some(*outcome),
            _ => {}
        }
    }

    fn clear(&mut self, repository: RepoKey, unfinished: &[Begun]) {
        self.given_up.extend(unfinished.iter().map(|begun| (repository, begun.label)));
        let result = self.unclearable.get(&repository).cloned().map_or(Ok(()), Err);
        self.tell(Event::UnfinishedGivenUp { repository, result });
    }

    fn read_leftover(&mut self, round: u32) {
        self.tell(Event::LeftoverListed { round, ranges: self.left.clone() });
        self.tell(Event::LeftoverRead { round });
    }

    fn read_prior(&mut self, round: u32, prior: u32, records: &[(RepoKey, Box<BackupRecord>)]) {
        let (repository, record) = records.first().unwrap();
        let made = self.priors[repository].clone();
        self.tell(Event::PriorOpened { round, prior, head: made.head });
        self.tell(Event::PriorListed { round, prior, files: made.files });
        let result = if self.unreadable.contains(&record.label) { Err(disk_full()) } else { Ok(()) };
        self.tell(Event::PriorRead { round, prior, result });
    }

    fn labels_in(&self, repository: RepoKey) -> Vec<BackupLabel> {
        let begun = self.unfinished.get(&repository).into_iter().flatten().map(|begun| begun.label);
        let made = self.priors.get(&repository).map(|made| made.record.label);
        begun.chain(made).collect()
    }

    fn obey(&mut self, order: OrderBody) {
        match order {
            OrderBody::Preflight(_) => self.report(ReportBody::Preflighted(Ok(facts()))),
            OrderBody::OpenSession { .. } => {
                self.sessions += 1;
                self.report(ReportBody::SessionOpened(Ok(session())));
            }
            OrderBody::Scan => {
                self.report(ReportBody::Scanned(scanned()));
                let end = ScanEnd { warnings: Vec::new(), copy_start: NOW };
                self.report(ReportBody::ScanEnded(Ok(end)));
            }
            OrderBody::Prepare(_) => self.report(ReportBody::Ready { units: 2 }),
            OrderBody::RunUnit(order) => self.orders.push(*order),
            OrderBody::CloseSession { .. } => {
                let end = SessionEnd { stop: Some(stop()), failed: Vec::new() };
                self.report(ReportBody::SessionClosed(Ok(end)));
            }
            OrderBody::SupplyWal(order) => {
                let refused = self.refusing.contains(&order.repository);
                let result = if refused { Err(disk_full()) } else { Ok(()) };
                self.supplied.push(order.repository);
                self.report(ReportBody::WalSupplied {
                    repository: order.repository,
                    archiver_works: false,
                    result,
                });
            }
            OrderBody::Confirm(order) => self.confirming.push(order),
            OrderBody::GiveBack { .. } | OrderBody::Errand(_) | OrderBody::Restore(_) | OrderBody::End => {}
        }
    }

    fn receipt(&self, order: &UnitOrder) -> Receipt {
        let (broken, fine): (Vec<_>, Vec<_>) =
            order.repositories.iter().partition(|key| self.broken.contains(key));
        Receipt {
            unit: order.unit,
            attempt: order.attempt,
            token: order.token,
            slot: 0,
            parts: order
                .parts
                .iter()
                .enumerate()
                .map(|(place, part)| PartReceipt::Present {
                    place: (part.length > 0).then(|| u32::try_from(place).unwrap()),
                    length: part.length,
                    checksum: BlockHash([1; 16]),
                    pages_checked: part.length / 8192,
                    bad_pages: Vec::new(),
                })
                .collect(),
            read: order.parts.iter().map(|part| part.length).sum(),
            changed: 0,
            skipped: 0,
            wrong_summary: None,
            stored: fine.into_iter().map(|repository| StoredPack { repository, bytes: 10 }).collect(),
            failed: broken
                .into_iter()
                .map(|repository| RepositoryFailure { repository, failure: disk_full() })
                .collect(),
            spent: Default::default(),
            standby: None,
        }
    }

    /// Does all units that are ordered, and those that are ordered because of it.
    fn do_all_units(&mut self) {
        self.settle();
        while let Some(order) = (!self.orders.is_empty()).then(|| self.orders.remove(0)) {
            let receipt = self.receipt(&order);
            self.report(ReportBody::UnitDone(receipt));
            self.report(ReportBody::Ready { units: 1 });
            self.settle();
        }
    }

    fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect("the job is over")
    }
}

fn disk_full() -> Failure {
    Failure::new(ErrorCode::FileWrite, "no space left")
}

fn failure_of(outcome: &Outcome, key: RepoKey) -> Option<&Failure> {
    let of_key = |result: &&RepositoryResult| result.repository == key;
    outcome.repositories.iter().find(of_key).and_then(|result| result.failure.as_ref())
}

#[test]
fn a_healthy_backup_is_published_everywhere_with_every_byte() {
    let mut world = World::new();
    world.do_all_units();
    let outcome = world.outcome();
    assert_eq!(outcome.status, Status::Ok);
    assert_eq!(outcome.verdict(), Ok(()));
    assert_eq!(outcome.bytes_read, 70 * MIB + 2 * 8192);
    assert_eq!(outcome.bytes_database, outcome.bytes_read);
    assert_eq!(world.published.len(), 2);
    let contents = &world.published[0].1;
    let files: Vec<_> = contents
        .records()
        .filter_map(|record| match record {
            Record::File(file) => Some((file.path.to_string(), file.size, file.ranges.len())),
            _ => None,
        })
        .collect();
    assert_eq!(
        files,
        [
            ("base/1/100".to_owned(), 70 * MIB, 3),
            ("base/1/101".to_owned(), 8192, 1),
            ("base/1/102".to_owned(), 0, 0),
            ("global/pg_control".to_owned(), 8192, 1),
        ]
    );
    for record in contents.records() {
        record.validate(&contents.head).unwrap();
    }
    // A stop on a segment boundary needs the segment before it, and all from the start.
    assert_eq!(contents.head.wal_stop.unwrap().to_string(), "000000010000000000000004");
    assert_eq!(contents.wal_segments(WalSegmentSize::DEFAULT).len(), 2);
}

#[test]
fn pg_control_is_read_after_every_other_unit() {
    let mut world = World::new();
    world.settle();
    let mut order_of_paths = Vec::new();
    while let Some(order) = (!world.orders.is_empty()).then(|| world.orders.remove(0)) {
        order_of_paths.push(order.parts[0].path.to_string());
        let receipt = world.receipt(&order);
        world.report(ReportBody::UnitDone(receipt));
        world.report(ReportBody::Ready { units: 1 });
        world.settle();
    }
    assert_eq!(order_of_paths.last().map(String::as_str), Some("global/pg_control"));
    assert_eq!(order_of_paths.len(), 5);
}

#[test]
fn a_repository_that_fails_is_dropped_and_the_other_gets_its_backup() {
    let mut world = World::new();
    world.broken = vec![TWO];
    world.do_all_units();
    let outcome = world.outcome();
    assert_eq!(outcome.status, Status::Partial);
    assert_eq!(failure_of(outcome, ONE), None);
    assert_eq!(failure_of(outcome, TWO), Some(&disk_full()));
    assert_eq!(outcome.verdict().unwrap_err().code, ErrorCode::Command);
    assert_eq!(world.published.len(), 1);
    assert!(world.published[0].1.records().count() > 0);
}

#[test]
fn a_backup_that_no_repository_can_hold_ends_with_the_cause() {
    let mut world = World::new();
    world.broken = vec![ONE, TWO];
    world.do_all_units();
    let outcome = world.outcome();
    assert_eq!(outcome.status, Status::Error);
    assert_eq!(outcome.verdict().unwrap_err().code, ErrorCode::FileWrite);
    assert!(world.published.is_empty());
}

#[test]
fn whoever_reads_is_told_which_repositories_are_meant() {
    let mut world = World::new();
    let mut told = None;
    while !world.queue.is_empty() {
        let effect = world.queue.remove(0);
        if let Effect::Send { order: Order { body: OrderBody::Prepare(context), .. }, .. } = &effect {
            told = Some(context.identities.iter().map(|seen| seen.repository).collect::<Vec<_>>());
        }
        world.carry_out(effect);
    }
    assert_eq!(told, Some(vec![ONE, TWO]));
}

#[test]
fn a_receipt_with_a_stale_token_changes_nothing() {
    let mut world = World::new();
    world.settle();
    let order = world.orders.remove(0);
    let receipt = world.receipt(&order);
    let stale = Receipt { token: FencingToken(999), ..receipt.clone() };
    world.report(ReportBody::UnitDone(stale));
    assert_eq!(world.machine.board().done(), 0);
    world.report(ReportBody::UnitDone(receipt.clone()));
    assert_eq!(world.machine.board().done(), 1);
    world.report(ReportBody::UnitDone(receipt));
    assert_eq!(world.machine.board().done(), 1, "a repeated receipt counts once");
}

#[test]
fn a_unit_that_failed_is_done_again_under_a_new_attempt_and_token() {
    let mut world = World::new();
    world.settle();
    let order = world.orders.remove(0);
    let failure = Failure::new(ErrorCode::FileRead, "input/output error");
    let (unit, attempt, token) = (order.unit, order.attempt, order.token);
    world.report(ReportBody::UnitFailed(UnitFailure {
        unit,
        attempt,
        token,
        failure,
        failed: Vec::new(),
        wrong_summary: None,
    }));
    world.report(ReportBody::Ready { units: 1 });
    world.settle();
    let again = world.orders.iter().find(|again| again.unit == unit).expect("it was ordered again");
    assert_eq!(again.attempt, Attempt(2));
    assert!(again.token > token);
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().units_retried, 1);
}

#[test]
fn a_unit_that_fails_for_ever_ends_the_backup_with_its_error() {
    let mut world = World::new();
    for _ in 0..units::UNIT_ATTEMPTS_MAX {
        world.settle();
        let order =
            world.orders.iter().find(|order| order.unit == UnitId(0)).cloned().expect("it is ordered");
        world.orders.retain(|other| other.unit != UnitId(0));
        let failure = Failure::new(ErrorCode::FileRead, "input/output error");
        let (unit, attempt, token) = (order.unit, order.attempt, order.token);
        world.report(ReportBody::UnitFailed(UnitFailure {
            unit,
            attempt,
            token,
            failure,
            failed: Vec::new(),
            wrong_summary: None,
        }));
        world.report(ReportBody::Ready { units: 1 });
    }
    world.settle();
    assert_eq!(world.outcome().verdict().unwrap_err().code, ErrorCode::FileRead);
    assert!(world.published.is_empty());
}

#[test]
fn a_lost_source_ends_the_backup_and_publishes_nothing() {
    let mut world = World::new();
    world.settle();
    world.tell(Event::WorkerLost { worker: worker() });
    world.settle();
    assert_eq!(world.outcome().status, Status::Error);
    let order = world.orders.remove(0);
    let receipt = world.receipt(&order);
    world.report(ReportBody::UnitDone(receipt));
    assert!(world.queue.is_empty(), "a job that is over wants nothing");
}

#[test]
fn a_cluster_that_is_not_the_stanzas_is_refused_before_anything_is_read() {
    let (mut machine, _) = BackupMachine::start(spec(), worker(), vec![worker()], Recovered::default());
    let facts_of = |cluster| RepositoryFacts {
        has_this: false,
        identity: Identity::default(),
        cluster,
        labels: Vec::new(),
        unfinished: Vec::new(),
        prior: None,
    };
    let other = ClusterBody { system_id: SystemId(1), ..cluster() };
    let opened = vec![(ONE, Ok(facts_of(other.clone()))), (TWO, Ok(facts_of(other)))];
    machine.on_event(NOW, all_opened(opened));
    let report = ReportBody::Preflighted(Ok(facts()));
    let effects = machine.on_event(NOW, Event::Reported { worker: worker(), report });
    let finished = effects.iter().find_map(|effect| match effect {
        Effect::Finish(outcome) => Some(outcome.verdict().unwrap_err().code),
        _ => None,
    });
    assert_eq!(finished, Some(ErrorCode::DbMismatch));
}

#[test]
fn a_new_label_is_later_than_any_in_any_repository() {
    let (mut machine, _) = BackupMachine::start(spec(), worker(), vec![worker()], Recovered::default());
    let future: BackupLabel = "20991231-235959F".parse().unwrap();
    let facts_of = |labels| RepositoryFacts {
        has_this: false,
        identity: Identity::default(),
        cluster: cluster(),
        labels,
        unfinished: Vec::new(),
        prior: None,
    };
    let opened = vec![(ONE, Ok(facts_of(vec![future]))), (TWO, Ok(facts_of(Vec::new())))];
    machine.on_event(NOW, all_opened(opened));
    let mut world = World { machine, queue: Vec::new(), ..World::new() };
    world.report(ReportBody::Preflighted(Ok(facts())));
    world.do_all_units();
    assert_eq!(world.outcome().label.unwrap().to_string(), "21000101-000000F");
}

#[test]
fn a_repository_that_the_archiver_did_not_reach_is_supplied_by_the_source() {
    let mut world = World::new();
    world.archived = vec![ONE];
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.supplied, [TWO, TWO], "before the start, and after the stop");
}

#[test]
fn an_archiver_that_a_refusing_repository_holds_up_does_not_cost_the_other_its_backup() {
    let mut world = World::new();
    world.archived = Vec::new();
    world.refusing = vec![TWO];
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Partial);
    assert_eq!(failure_of(world.outcome(), ONE), None);
}

#[test]
fn an_archiver_that_reaches_nobody_though_nobody_refuses_is_found_before_reading() {
    let mut world = World::new();
    world.archived = Vec::new();
    world.do_all_units();
    assert_eq!(world.outcome().verdict().unwrap_err().code, ErrorCode::ArchiveTimeout);
    assert_eq!(world.machine.board().total(), 0);
}

#[test]
fn a_receipt_that_leaves_out_a_part_is_no_receipt() {
    let mut world = World::new();
    world.settle();
    let order = world.orders.remove(0);
    let mut receipt = world.receipt(&order);
    receipt.parts.pop();
    world.report(ReportBody::UnitDone(receipt));
    assert_eq!(world.machine.board().done(), 0);
    world.report(ReportBody::Ready { units: 1 });
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok, "it was done again");
}

#[test]
fn a_source_that_dies_while_wal_is_supplied_costs_only_what_it_was_to_supply() {
    let mut world = World::new();
    world.settle();
    while world.machine.phase() < Phase::Stopping {
        let order = world.orders.remove(0);
        let receipt = world.receipt(&order);
        world.report(ReportBody::UnitDone(receipt));
        world.report(ReportBody::Ready { units: 1 });
        if world.machine.phase() < Phase::Stopping {
            world.settle();
        }
    }
    // Everything is done by hand from here on.
    world.queue.clear();
    let stop = StopBody {
        start_lsn: "0/3000028".parse().unwrap(),
        stop_lsn: "0/3000130".parse().unwrap(),
        timeline: TimelineId(1),
        stopped: NOW,
        backup_label: String::new(),
        tablespace_map: String::new(),
        kept: None,
    };
    world.report(ReportBody::SessionClosed(Ok(SessionEnd { stop: Some(stop), failed: Vec::new() })));
    world.queue.clear();
    world.tell(Event::WalFound { repository: ONE, result: Ok(Vec::new()) });
    world.tell(Event::WalFound { repository: TWO, result: Ok(vec![segment("0/3000028")]) });
    world.tell(Event::WorkerLost { worker: worker() });
    world.settle();
    assert_eq!(world.outcome().status, Status::Partial);
    assert_eq!(failure_of(world.outcome(), ONE), None);
}

#[test]
fn a_rival_in_the_first_repository_ends_the_job_before_the_others_are_touched() {
    let mut world = World::new();
    world.unplanned.insert(ONE, Failure::new(ErrorCode::LockAcquire, "another host backs up"));
    world.do_all_units();
    assert_eq!(world.planned, [ONE]);
    assert_eq!(world.outcome().verdict().unwrap_err().code, ErrorCode::LockAcquire);
    assert!(world.published.is_empty());
}

#[test]
fn where_the_first_repository_fails_the_next_one_decides() {
    let mut world = World::new();
    world.unplanned.insert(ONE, disk_full());
    world.do_all_units();
    assert_eq!(world.planned, [ONE, TWO]);
    assert_eq!(world.outcome().status, Status::Partial);
    assert_eq!(failure_of(world.outcome(), TWO), None);
}

#[test]
fn the_stage_that_limits_is_told_while_units_are_done_and_not_before_or_after() {
    let mut world = World::new();
    assert_eq!(world.machine.limiting_stage(), None);
    world.settle();
    assert_eq!(world.machine.limiting_stage(), None, "nothing was measured yet");
    let order = world.orders.remove(0);
    let spent = Spent { upload_us: vec![(TWO, 9), (ONE, 3)], read_us: 8, ..Spent::default() };
    let receipt = Receipt { spent, ..world.receipt(&order) };
    world.report(ReportBody::UnitDone(receipt));
    assert_eq!(world.machine.limiting_stage(), Some(stages::Stage::Upload(TWO)));
    world.tell(Event::Paused);
    assert_eq!(world.machine.limiting_stage(), None);
    world.tell(Event::Resumed);
    world.report(ReportBody::Ready { units: 1 });
    world.do_all_units();
    assert_eq!((world.outcome().status, world.machine.limiting_stage()), (Status::Ok, None));
}
