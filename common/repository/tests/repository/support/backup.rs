//! A full backup by core's machine, with everything around it played by the test.

use super::{PackFile, Site, VERSION, segment, write_pack};
use pgconvoy_core::format::BackupKind;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::manifest::{Database, Tablespace};
use pgconvoy_core::format::plan::{PlanBody, Writer};
use pgconvoy_core::format::wal::{KeptSession, StopBody};
use pgconvoy_core::ids::{Epoch, FencingToken, Oid, PlanNumber, RepoKey, WorkerName};
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::machine::backup::event::UnitLease;
use pgconvoy_core::machine::backup::{
    BackupMachine, BackupSpec, Effect, Event, Outcome, Recovered, RepositoryFacts,
};
use pgconvoy_core::pg::{FileClass, Fork, Lsn, TimelineId, WalSegmentName};
use pgconvoy_core::plan::inventory::{EntryKind, ScannedEntry};
use pgconvoy_core::units::{KIB, MIB, Timestamp};
use pgconvoy_core::wire::{
    Compress, JobId, Order, OrderBody, PartReceipt, PreflightFacts, Receipt, ReportBody, ScanEnd, SessionEnd,
    SessionFacts, SessionStart, SourceOptions, StoredPack, UnitOrder,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What the data directory holds, by the parts of its paths; one without content is a directory.
#[derive(Debug, Clone)]
pub(crate) struct Files(BTreeMap<Vec<String>, (FileClass, Option<Vec<u8>>)>);

impl Files {
    /// A relation that is split, a small one, configuration, and pg_control.
    pub(crate) fn sample() -> Files {
        let mut files = Files(BTreeMap::new());
        files.directory("base").directory("base/5").directory("global");
        files.file("base/5/1259", FileClass::Relation { fork: Fork::Main, segment: 0 }, 200 * 1024);
        files.file("base/5/2619", FileClass::Relation { fork: Fork::Main, segment: 0 }, 16 * 1024);
        files.file("postgresql.conf", FileClass::Other, 1000);
        files.file("global/pg_control", FileClass::Control, 8192);
        files
    }

    fn directory(&mut self, path: &str) -> &mut Self {
        self.0.insert(parts(path), (FileClass::Other, None));
        self
    }

    fn file(&mut self, path: &str, class: FileClass, size: usize) {
        let content =
            (0..size).map(|at| u8::try_from((at / 64 + at % 7 + path.len()) % 251).unwrap()).collect();
        self.0.insert(parts(path), (class, Some(content)));
    }

    /// A relation that does not compress.
    pub(crate) fn noise(&mut self, path: &str, size: usize) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        };
        let content = (0..size).map(|_| next()).collect();
        self.0.insert(parts(path), (FileClass::Relation { fork: Fork::Main, segment: 0 }, Some(content)));
    }

    pub(crate) fn change(&mut self, path: &str, at: usize) {
        self.0.get_mut(&parts(path)).unwrap().1.as_mut().unwrap()[at] ^= 0xFF;
    }

    pub(crate) fn content(&self, path: &str) -> &[u8] {
        self.0[&parts(path)].1.as_deref().unwrap()
    }

    fn scan(&self) -> Vec<ScannedEntry> {
        let entry = |(path, (class, content)): (&Vec<String>, &(FileClass, Option<Vec<u8>>))| ScannedEntry {
            path: path.join("/").parse().unwrap(),
            kind: match content {
                Some(content) => EntryKind::File { size: content.len() as u64, class: *class },
                None => EntryKind::Directory,
            },
            mode: if content.is_some() { 0o600 } else { 0o700 },
            user: Some("postgres".into()),
            group: Some("postgres".into()),
            modified: 1_794_999_000,
        };
        self.0.iter().map(entry).collect()
    }
}

fn parts(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}

#[derive(Debug, Clone)]
pub(crate) struct BackupRequest {
    pub(crate) now: i64,
    /// Numbers of the segments that it starts and stops in.
    pub(crate) wal: (u64, u64),
    pub(crate) files: Files,
    pub(crate) identity: u8,
    pub(crate) unit_size: u64,
}

impl BackupRequest {
    pub(crate) fn new(now: i64, first: u64, last: u64) -> Self {
        BackupRequest { now, wal: (first, last), files: Files::sample(), identity: 1, unit_size: 64 * KIB }
    }
}

fn worker() -> WorkerName {
    "db1".parse().unwrap()
}

pub(crate) fn writer() -> Writer {
    Writer { host: "host1".into(), boot: "boot1".into(), process: 4711 }
}

fn spec(site: &Site, request: &BackupRequest) -> BackupSpec {
    BackupSpec {
        job: JobId(Site::identity(99)),
        epoch: Epoch(1),
        backup: Site::identity(request.identity),
        kind: BackupKind::Full,
        delta: false,
        resume: true,
        stanza: site.stanza.clone(),
        repositories: vec![site.repository.number()],
        required: vec![site.repository.number()],
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
        unit_size: request.unit_size,
        whole_files: false,
        stall_timeout_ms: 1000,
        source_patience_ms: 0,
        annotations: BTreeMap::from([("reason".to_owned(), "test".to_owned())]),
        writer: writer(),
        program: "0.1.0".into(),
    }
}

/// Plays everybody else until the machine is done.
pub(crate) async fn backup(site: &Site, request: &BackupRequest) -> BackupLabel {
    match drive(site, request, |effect| matches!(effect, Effect::Finish(_))).await {
        Effect::Finish(outcome) => label_of(&outcome),
        other => panic!("{other:?}"),
    }
}

/// The same up to what would be published next.
pub(crate) async fn contents(site: &Site, request: &BackupRequest) -> (Arc<BackupContents>, BackupRecord) {
    match drive(site, request, |effect| matches!(effect, Effect::Publish { .. })).await {
        Effect::Publish { contents, record, .. } => (contents, *record),
        other => panic!("{other:?}"),
    }
}

/// Carries out what the machine wants, up to the first effect that is the end.
async fn drive(site: &Site, request: &BackupRequest, is_end: impl Fn(&Effect) -> bool) -> Effect {
    let now = Timestamp::from_seconds(request.now);
    let (mut machine, effects) =
        BackupMachine::start(spec(site, request), worker(), vec![worker()], Recovered::default());
    let mut waiting: VecDeque<Effect> = effects.into();
    while let Some(effect) = waiting.pop_front() {
        if is_end(&effect) {
            return effect;
        }
        for event in play(site, request, effect).await {
            waiting.extend(machine.on_event(now, event));
        }
    }
    panic!("the machine waits in phase {:?}", machine.phase());
}

fn label_of(outcome: &Outcome) -> BackupLabel {
    assert_eq!(outcome.failure, None);
    assert!(outcome.verdict().is_ok(), "{:?}", outcome.verdict());
    outcome.label.unwrap()
}

async fn play(site: &Site, request: &BackupRequest, effect: Effect) -> Vec<Event> {
    let repository = site.repository.number();
    match effect {
        Effect::OpenRepositories { .. } => {
            let facts = RepositoryFacts {
                has_this: false,
                identity: site.repository.identity(),
                cluster: site.cluster.clone(),
                labels: site.labels().await,
                unfinished: Vec::new(),
                prior: None,
            };
            vec![Event::RepositoriesOpened {
                results: vec![(repository, Ok(facts))],
                other_labels: Vec::new(),
                are_others_asked: true,
            }]
        }
        Effect::AwaitWal { archive, segments, .. } => {
            let missing = site.repository.missing_wal(&site.stanza, archive, &segments).await;
            vec![Event::WalFound { repository, result: Ok(missing.unwrap()) }]
        }
        Effect::WritePlan { label, unit_size, units, files, bytes, .. } => {
            let plan = PlanBody {
                label,
                backup: Site::identity(request.identity),
                kind: label.kind(),
                number: PlanNumber(1),
                writer: writer(),
                written: Timestamp::from_seconds(request.now),
                references: Vec::new(),
                unit_size,
                units,
                files,
                bytes,
            };
            site.repository.write_plan(&site.stanza, &plan).await.unwrap();
            vec![Event::PlanWritten { repository, result: Ok(()) }, reported(ReportBody::Ready { units: 1 })]
        }
        Effect::LeaseUnits { worker, units } => {
            let lease = |(unit, attempt): (_, _)| UnitLease { unit, attempt, token: FencingToken(1) };
            vec![Event::UnitsLeased { worker, leases: units.into_iter().map(lease).collect() }]
        }
        Effect::Send { order: Order { body, .. }, .. } => obey(site, request, body).await,
        Effect::Publish { contents, record, .. } => {
            site.repository.publish(&site.stanza, contents, *record).await.unwrap();
            vec![Event::Published { repository, result: Ok(()) }]
        }
        _ => Vec::new(),
    }
}

fn reported(report: ReportBody) -> Event {
    Event::Reported { worker: worker(), report }
}

async fn obey(site: &Site, request: &BackupRequest, order: OrderBody) -> Vec<Event> {
    match order {
        OrderBody::Preflight(_) => vec![reported(ReportBody::Preflighted(Ok(preflight())))],
        OrderBody::OpenSession { .. } => vec![reported(ReportBody::SessionOpened(Ok(session(request))))],
        OrderBody::Scan => {
            let end = ScanEnd { warnings: Vec::new(), copy_start: Timestamp::from_seconds(request.now + 1) };
            vec![
                reported(ReportBody::Scanned(request.files.scan())),
                reported(ReportBody::ScanEnded(Ok(end))),
            ]
        }
        OrderBody::RunUnit(order) => {
            let receipt = run_unit(site, request, &order).await;
            vec![reported(ReportBody::UnitDone(receipt)), reported(ReportBody::Ready { units: 1 })]
        }
        OrderBody::CloseSession { .. } => {
            let stop = stop(request);
            let label = *site.repository.started_labels(&site.stanza).await.unwrap().last().unwrap();
            site.repository.write_stop(&site.stanza, label, PlanNumber(1), &stop, None).await.unwrap();
            vec![reported(ReportBody::SessionClosed(Ok(SessionEnd { stop: Some(stop), failed: Vec::new() })))]
        }
        _ => Vec::new(),
    }
}

fn preflight() -> PreflightFacts {
    let cluster = Site::cluster_body();
    PreflightFacts {
        system_id: cluster.system_id,
        version: VERSION,
        control_version: cluster.control_version,
        catalog_version: cluster.catalog_version,
        page_size: cluster.page_size,
        checksums: true,
        wal_segment_size: cluster.wal_segment_size,
        relation_segment_blocks: 131_072,
        timeline: TimelineId(1),
        warnings: Vec::new(),
    }
}

fn session(request: &BackupRequest) -> SessionFacts {
    let (first, _) = request.wal;
    SessionFacts {
        offline_control: None,
        started: Timestamp::from_seconds(request.now),
        timeline: TimelineId(1),
        start: Some(SessionStart {
            lsn: Lsn(first * MIB + 0x28),
            segment: segment(first),
            segment_before: segment(first - 1),
            checkpoint: None,
        }),
        databases: vec![Database { oid: Oid(5), name: "postgres".into() }],
        tablespaces: vec![Tablespace { oid: Oid(16_400), name: "ts1".into(), destination: "/ts/1".into() }],
    }
}

fn stop(request: &BackupRequest) -> StopBody {
    let (first, last) = request.wal;
    let start: WalSegmentName = segment(first);
    StopBody {
        start_lsn: Lsn(first * MIB + 0x28),
        stop_lsn: Lsn(last * MIB + 0x100),
        timeline: TimelineId(1),
        stopped: Timestamp::from_seconds(request.now + 60),
        backup_label: format!("START WAL LOCATION: {start}\n"),
        tablespace_map: String::new(),
        kept: None,
    }
}

/// The stop record becomes what a fleet's source leaves: with session and scan.
pub(crate) async fn keep_session(site: &Site, label: BackupLabel, request: &BackupRequest) {
    let kept = KeptSession { preflight: preflight(), session: session(request) };
    let stop = StopBody { kept: Some(Box::new(kept)), ..stop(request) };
    site.delete(&layout::stop(&site.stanza, label, PlanNumber(1))).await;
    let pages = Box::new(std::iter::once(Ok(request.files.scan())));
    site.repository.write_stop(&site.stanza, label, PlanNumber(1), &stop, Some(pages)).await.unwrap();
}

async fn run_unit(site: &Site, request: &BackupRequest, order: &UnitOrder) -> Receipt {
    let label = *site.repository.started_labels(&site.stanza).await.unwrap().last().unwrap();
    let name = PackName { label, plan: PlanNumber(1), unit: order.unit, attempt: order.attempt };
    let file = |part: &pgconvoy_core::wire::UnitPart| {
        let begin = usize::try_from(part.offset).unwrap();
        let content = request.files.content(part.path.as_str());
        let bytes = content[begin..begin + usize::try_from(part.length).unwrap()].to_vec();
        PackFile::new(part.path.as_str(), part.offset, bytes, part.block_size)
    };
    let files: Vec<PackFile> = order.parts.iter().map(file).collect();
    let (ranges, stored) = write_pack(site, Site::identity(request.identity), name, &files, Vec::new()).await;
    let part = |(range, place): (&pgconvoy_core::format::pack::PackRange, u32)| PartReceipt::Present {
        place: Some(place),
        length: range.length,
        checksum: range.checksum,
        pages_checked: range.length / 8192,
        bad_pages: Vec::new(),
    };
    Receipt {
        unit: order.unit,
        attempt: order.attempt,
        token: order.token,
        slot: 1,
        parts: ranges.iter().zip(0..).map(part).collect(),
        read: ranges.iter().map(|range| range.length).sum(),
        changed: ranges.iter().map(|range| range.length).sum(),
        skipped: 0,
        wrong_summary: None,
        stored: vec![StoredPack { repository: RepoKey(site.repository.number().0), bytes: stored }],
        failed: Vec::new(),
        spent: Default::default(),
        standby: None,
    }
}
