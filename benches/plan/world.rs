//! Everything around the machine: answers each effect at once, as healthy repositories and a quick worker would.
//!
//! Only the machine's own time is counted.

use crate::earlier::Earlier;
use anyhow::Result;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupKind;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::manifest::Record;
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::format::{BlockHash, HashSecret};
use pgconvoy_core::ids::{
    ClusterNumber, Epoch, FencingToken, Identity, RepoKey, StanzaName, SystemId, UnitId, WorkerName,
};
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::machine::backup::event::UnitLease;
use pgconvoy_core::machine::backup::{BackupMachine, BackupSpec, Effect, Event, Recovered, RepositoryFacts};
use pgconvoy_core::pg::{PgVersion, TimelineId, WalSegmentSize};
use pgconvoy_core::plan::inventory::ScannedEntry;
use pgconvoy_core::units::{MIB, Timestamp};
use pgconvoy_core::wire::{
    Compress, JobId, OrderBody, PartReceipt, PreflightFacts, Receipt, ReportBody, ScanEnd, SessionEnd,
    SessionFacts, SourceOptions, StoredPack, UnitOrder,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NOW: Timestamp = Timestamp(1_763_800_200_000);
const REPOSITORIES: [RepoKey; 2] = [RepoKey(1), RepoKey(2)];
/// Slots of the worker, each with one unit computed and one on its way.
const UNITS_IN_FLIGHT: u16 = 16;
const PAGE_BYTES: u64 = 8192;

pub(crate) struct World<'a> {
    /// What repositories have for the backup to rest on.
    earlier: Option<&'a Earlier>,
    machine: BackupMachine,
    effects: Vec<Effect>,
    busy: Duration,
    tokens: u64,
    orders: Vec<UnitOrder>,
    contents: Option<Arc<BackupContents>>,
    finished: bool,
    summary: String,
}

impl<'a> World<'a> {
    /// Everything is read again, or only what is not as it was before.
    pub(crate) fn new(earlier: Option<&'a Earlier>, reads_all: bool) -> World<'a> {
        let kind = if earlier.is_some() { BackupKind::Incr } else { BackupKind::Full };
        let spec = BackupSpec { kind, delta: reads_all, ..spec() };
        let (machine, effects) = BackupMachine::start(spec, worker(), vec![worker()], Recovered::default());
        let mut world = World {
            earlier,
            machine,
            effects,
            busy: Duration::ZERO,
            tokens: 0,
            orders: Vec::new(),
            contents: None,
            finished: false,
            summary: String::new(),
        };
        world.settle();
        world
    }

    pub(crate) fn scanned(&mut self, page: Vec<ScannedEntry>) {
        self.report(ReportBody::Scanned(page));
    }

    pub(crate) fn scan_ended(&mut self) {
        self.report(ReportBody::ScanEnded(Ok(ScanEnd { warnings: Vec::new(), copy_start: NOW })));
        // What it rests on is read before it is planned.
        self.settle();
        let board = self.machine.board();
        let (bytes, _) = board.bytes();
        self.summary =
            format!("{} GiB in {} units of {} MiB", bytes >> 30, board.total(), board.unit_size() / MIB);
    }

    /// How large the backup is, once it is planned.
    pub(crate) fn summary(&self) -> &str {
        &self.summary
    }

    /// Does every unit.
    pub(crate) fn copy(&mut self) {
        self.settle();
        self.report(ReportBody::Ready { units: UNITS_IN_FLIGHT });
        self.settle();
        while let Some(order) = self.orders.pop() {
            let receipt = receipt(&order);
            drop(order);
            self.report(ReportBody::UnitDone(receipt));
            self.report(ReportBody::Ready { units: 1 });
            self.settle();
        }
    }

    /// For a later backup to rest on.
    pub(crate) fn keep(&self) -> Result<Earlier> {
        Earlier::keep(self.contents.as_deref().expect("a backup whose units are all done is published"))
    }

    /// Writes a manifest for each repository to nowhere; the number of its records.
    pub(crate) fn publish(&mut self) -> u64 {
        let contents = self.contents.take().expect("a backup whose units are all done is published");
        let mut frame = Vec::new();
        let mut records = 0;
        let begin = Instant::now();
        for _ in REPOSITORIES {
            records = 0;
            for record in contents.records() {
                frame.clear();
                Record::encode(&record, &mut frame);
                records += 1;
            }
        }
        self.busy += begin.elapsed();
        for repository in REPOSITORIES {
            self.tell(Event::Published { repository, result: Ok(()) });
        }
        self.settle();
        assert!(self.finished, "a backup that every repository has is over");
        records
    }

    /// The machine's own time so far.
    pub(crate) fn seconds(&self) -> f64 {
        self.busy.as_secs_f64()
    }

    fn report(&mut self, report: ReportBody) {
        self.tell(Event::Reported { worker: worker(), report });
    }

    fn tell(&mut self, event: Event) {
        let begin = Instant::now();
        let effects = self.machine.on_event(NOW, event);
        self.busy += begin.elapsed();
        self.effects.extend(effects);
    }

    fn settle(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::OpenRepositories { repositories, .. } => {
                let facts = || RepositoryFacts {
                    has_this: false,
                    identity: Identity::default(),
                    cluster: cluster(),
                    labels: Vec::new(),
                    unfinished: Vec::new(),
                    prior: self.earlier.map(|earlier| earlier.record.clone()),
                };
                let results = repositories.into_iter().map(|key| (key, Ok(facts()))).collect();
                let other_labels = Vec::new();
                self.tell(Event::RepositoriesOpened { results, other_labels, are_others_asked: true });
            }
            Effect::Send { order, .. } => self.obey(order.body),
            Effect::AwaitWal { repository, .. } => {
                self.tell(Event::WalFound { repository, result: Ok(Vec::new()) });
            }
            Effect::WritePlan { repository, .. } => {
                self.tell(Event::PlanWritten { repository, result: Ok(()) });
            }
            Effect::LeaseUnits { worker, units } => {
                let mut token = || {
                    self.tokens += 1;
                    FencingToken(self.tokens)
                };
                let leases = units
                    .into_iter()
                    .map(|(unit, attempt)| UnitLease { unit, attempt, token: token() })
                    .collect();
                self.tell(Event::UnitsLeased { worker, leases });
            }
            Effect::ReadPrior { round, prior, .. } => self.list_prior(round, prior),
            Effect::Publish { contents, .. } => self.contents = Some(contents),
            Effect::Finish(outcome) => {
                outcome.verdict().expect("nothing fails in this world");
                self.finished = true;
            }
            _ => {}
        }
    }

    fn list_prior(&mut self, round: u32, prior: u32) {
        let earlier = self.earlier.expect("nobody else knows of a prior");
        self.tell(Event::PriorOpened { round, prior, head: earlier.head.clone() });
        let listed = earlier.list(|files| self.tell(Event::PriorListed { round, prior, files }));
        let result = listed.map_err(|error| Failure::new(ErrorCode::FileRead, error.to_string()));
        self.tell(Event::PriorRead { round, prior, result });
    }

    fn obey(&mut self, order: OrderBody) {
        match order {
            OrderBody::Preflight(_) => self.report(ReportBody::Preflighted(Ok(facts()))),
            OrderBody::OpenSession { .. } => self.report(ReportBody::SessionOpened(Ok(session()))),
            OrderBody::RunUnit(order) => self.orders.push(*order),
            OrderBody::CloseSession { .. } => {
                let end = SessionEnd { stop: None, failed: Vec::new() };
                self.report(ReportBody::SessionClosed(Ok(end)));
            }
            _ => {}
        }
    }
}

/// Everything was there and sound.
fn receipt(order: &UnitOrder) -> Receipt {
    let parts: Vec<PartReceipt> = (0..)
        .zip(&order.parts)
        .map(|(place, part)| PartReceipt::Present {
            place: (part.length > 0).then_some(place),
            length: part.length,
            checksum: BlockHash([7; 16]),
            pages_checked: part.length / PAGE_BYTES,
            bad_pages: Vec::new(),
        })
        .collect();
    let stored = order.repositories.iter().map(|key| StoredPack { repository: *key, bytes: 1 }).collect();
    Receipt {
        unit: UnitId(order.unit.0),
        attempt: order.attempt,
        token: order.token,
        slot: 0,
        parts,
        read: order.parts.iter().map(|part| part.length).sum(),
        changed: 0,
        skipped: 0,
        wrong_summary: None,
        stored,
        failed: Vec::new(),
        spent: Default::default(),
        standby: None,
    }
}

fn worker() -> WorkerName {
    "local".parse().expect("a valid name")
}

fn stanza() -> StanzaName {
    "main".parse().expect("a valid name")
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
        repositories: REPOSITORIES.to_vec(),
        required: REPOSITORIES.to_vec(),
        source: SourceOptions {
            online: false,
            force: false,
            start_fast: true,
            archive_check: false,
            archive_mode_check: false,
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
        writer: Writer { host: "host".to_owned(), boot: "boot".to_owned(), process: 1 },
        program: "benchmark".to_owned(),
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
    SessionFacts {
        offline_control: None,
        started: NOW,
        timeline: TimelineId(1),
        start: None,
        databases: Vec::new(),
        tablespaces: Vec::new(),
    }
}
