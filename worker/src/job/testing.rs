//! A job of a test's own: a stopped cluster in a directory, repositories in memory that fail on order, and the far end of a
//! connection that hears what is reported.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::{JobContext, Shape, Source, Tablespaces};
use crate::errand::Errands;
use crate::keeper::{Ground, Keeper, KeeperHandle, SourceConfig};
use crate::lease::{Right, boot_time};
use crate::outbox::{Outbox, Reporter};
use crate::slots::SlotPool;
use crate::sources::Sources;
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::{
    Attempt, ClusterNumber, FencingToken, Identity, PlanNumber, RepoKey, StanzaName, SystemId, UnitId,
    WorkerName,
};
use pgconvoy_core::pg::{FileClass, Fork, PageSize, PgVersion, WalSegmentSize};
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{
    Compress, Instruction, JobId, PreflightOrder, Report, ReportBody, SourceOptions, UnitContext, UnitOrder,
    UnitPart,
};
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_postgres::connect::{ConnectOptions, Place as ServerPlace};
use pgconvoy_postgres::roots::Roots;
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::set::Place;
use pgconvoy_repository::{Repository, RepositorySet, RepositorySettings};
use pgconvoy_storage::decorate::fault::{FaultStorage, Faults};
use pgconvoy_storage::{MemoryStorage, Storage};
use pgconvoy_transport::memory::{self, Faults as Network};
use pgconvoy_transport::{Channel, PeerIdentity, Role, TypedReceiver};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Of a worker whose lease no test sees the end of.
const LEASE: Duration = Duration::from_secs(3600);
/// What tests that stall wait for.
pub(crate) const STALL: Duration = Duration::from_millis(200);
pub(crate) const VERSION: PgVersion = PgVersion::V17;
pub(crate) const CLUSTER: ClusterNumber = ClusterNumber(1);
pub(crate) const ONE: RepoKey = RepoKey(1);
pub(crate) const TWO: RepoKey = RepoKey(2);
const CONTROL: &[u8] = include_bytes!("../../../common/core/testdata/pg/pg_control_17_shut_down");
const CONTROL_RUNNING: &[u8] = include_bytes!("../../../common/core/testdata/pg/pg_control_17");
const PAGE: usize = 8192;

pub(crate) struct Site {
    pub(crate) home: tempfile::TempDir,
    pub(crate) set: Arc<RepositorySet>,
    faults: BTreeMap<RepoKey, Faults>,
    stores: BTreeMap<RepoKey, Arc<dyn Storage>>,
}

impl Site {
    /// Repositories 1 and 2, both with the stanza.
    pub(crate) async fn new() -> Site {
        let home = tempfile::tempdir().unwrap();
        for directory in ["base/5", "global", "pg_wal", "pg_tblspc"] {
            std::fs::create_dir_all(home.path().join("pg").join(directory)).unwrap();
        }
        let (mut faults, mut stores, mut places) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for number in [ONE, TWO] {
            let (storage, its_faults) = FaultStorage::new(Arc::new(MemoryStorage::new()));
            let (storage, settings): (Arc<dyn Storage>, _) = (
                Arc::new(storage),
                RepositorySettings { number, secret: None, layout: pgconvoy_core::config::Layout::Packed },
            );
            let created = Repository::open_or_create(storage.clone(), &settings, Timestamp(0)).await;
            created.unwrap().0.create_cluster(&stanza(), &cluster(CLUSTER, 3)).await.unwrap();
            faults.insert(number, its_faults);
            stores.insert(number, storage.clone());
            places.push(Place::at(storage, settings));
        }
        let site = Site { home, set: Arc::new(RepositorySet::new(places)), faults, stores };
        site.write("PG_VERSION", b"17\n");
        site.write("global/pg_control", CONTROL);
        site
    }

    pub(crate) fn pg(&self) -> PathBuf {
        self.home.path().join("pg")
    }

    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        std::fs::write(self.pg().join(path), content).unwrap();
    }

    /// As a server that was started and killed leaves it.
    pub(crate) fn write_other_control(&self) {
        self.write("global/pg_control", CONTROL_RUNNING);
    }

    /// A relation of pages that do not compress, and the part of a unit that is all of it.
    pub(crate) fn relation(&self, name: &str, pages: usize) -> UnitPart {
        let mut state = 88_172_645_463_325_252_u64;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(pages * PAGE / 8)
        .flatten()
        .collect();
        self.write(&format!("base/5/{name}"), &content);
        part(&format!("base/5/{name}"), content.len())
    }

    pub(crate) fn faults(&self, repository: RepoKey) -> &Faults {
        &self.faults[&repository]
    }

    pub(crate) fn storage(&self, repository: RepoKey) -> Arc<dyn Storage> {
        self.stores[&repository].clone()
    }

    pub(crate) async fn repository(&self, repository: RepoKey) -> Arc<Repository> {
        self.set.open(repository).await.unwrap()
    }

    pub(crate) async fn context(&self, stall: Duration) -> Arc<JobContext> {
        self.context_with(stall, &[], Tablespaces::default()).await
    }

    pub(crate) async fn context_with(
        &self,
        stall: Duration,
        listed: &[Tablespace],
        tablespaces: Tablespaces,
    ) -> Arc<JobContext> {
        let units = units(stall);
        let mut repositories = BTreeMap::new();
        for key in &units.repositories {
            repositories.insert(*key, self.repository(*key).await);
        }
        Arc::new(JobContext {
            worker: worker(),
            shape: Shape {
                version: VERSION,
                page_size: PageSize::new(8192).unwrap(),
                relation_segment_blocks: 131_072,
                check_pages: false,
            },
            source: Some(Source {
                roots: Roots::record(&self.pg(), VERSION, listed).unwrap(),
                tablespaces,
                standby: None,
            }),
            remote: Default::default(),
            secret: secret(3),
            units,
            repositories,
            bandwidth: None,
            runtime: Handle::current(),
            given_up: Default::default(),
            packs: Default::default(),
            summaries: None,
            ended: Default::default(),
        })
    }

    pub(crate) fn keeper(&self) -> (KeeperHandle, FarEnd) {
        self.keeper_with(None)
    }

    pub(crate) fn keeper_with(&self, errands: Option<Arc<dyn Errands>>) -> (KeeperHandle, FarEnd) {
        let (reporter, far) = reporter();
        let config = SourceConfig {
            directory: self.pg(),
            connect: ConnectOptions {
                place: ServerPlace::Socket(self.home.path().to_owned()),
                port: 5432,
                user: "postgres".into(),
                database: "postgres".into(),
                password: None,
                application_name: "pgconvoy [test]".into(),
                statement_timeout: PATIENCE,
            },
        };
        let ground = Ground {
            worker: worker(),
            sources: Arc::new(Sources::new(BTreeMap::from([(stanza(), config)]))),
            repositories: self.set.clone(),
            slots: Arc::new(SlotPool::start(1, &Handle::current())),
            bandwidth: None,
            computes: Default::default(),
            serving: None,
            reach: None,
            errands,
            spool: Some(self.home.path().join("spool")),
            runtime: Handle::current(),
        };
        (Keeper::start(Arc::new(ground), reporter), far)
    }
}

/// The coordinator's end of a worker's connection.
pub(crate) struct FarEnd {
    reports: TypedReceiver<Report>,
    _open: (pgconvoy_transport::TypedSender<Instruction>, TypedReceiver<Instruction>),
}

impl FarEnd {
    pub(crate) async fn next(&mut self) -> ReportBody {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        report.expect("nothing was reported").unwrap().expect("the worker is there").body
    }
}

pub(crate) fn reporter() -> (Reporter, FarEnd) {
    let peer = |name: &str, role| PeerIdentity { name: name.parse().unwrap(), role };
    let (near, far) = (peer("local", Role::Worker), peer("coordinator", Role::Coordinator));
    let (near, far) = memory::pair(near, far, &Network::default());
    let near = Channel::<Report, Instruction>::new(near);
    let far = Channel::<Instruction, Report>::new(far);
    let open = (far.sender, near.receiver);
    let right = Arc::new(Right::default());
    right.grant(boot_time(), LEASE);
    let outbox = Outbox::new(right);
    outbox.connect(near.sender, &[], 0);
    (Reporter::new(outbox, JobId(Identity::default())), FarEnd { reports: far.receiver, _open: open })
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

pub(crate) fn worker() -> WorkerName {
    "local".parse().unwrap()
}

pub(crate) fn archive() -> ArchiveId {
    ArchiveId { version: VERSION, number: CLUSTER }
}

fn secret(seed: u8) -> HashSecret {
    HashSecret::from_random_bytes([seed; HashSecret::BYTES])
}

pub(crate) fn cluster(number: ClusterNumber, secret_seed: u8) -> ClusterBody {
    ClusterBody {
        number,
        system_id: SystemId(7),
        version: VERSION,
        control_version: 1700,
        catalog_version: 202_406_281,
        page_size: 8192,
        wal_segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        hash_secret: secret(secret_seed),
        created: Timestamp(0),
    }
}

pub(crate) fn compress() -> Compress {
    Compress { codec: Codec::Lz4.number(), level: Codec::Lz4.default_level().get() }
}

pub(crate) fn units(stall: Duration) -> UnitContext {
    UnitContext {
        stanza: stanza(),
        options: preflight(false).options,
        start: None,
        cluster: CLUSTER,
        archive: archive(),
        label: "20261122-103000F".parse().unwrap(),
        backup: Identity::from_random_bytes([7; 16]),
        plan: PlanNumber(1),
        repositories: vec![ONE, TWO],
        identities: Vec::new(),
        compress: compress(),
        own_compress: BTreeMap::new(),
        file_sha1: false,
        stall_timeout_ms: u64::try_from(stall.as_millis()).unwrap(),
        priors: Vec::new(),
        summaries: None,
        reading: Default::default(),
    }
}

pub(crate) fn part(path: &str, bytes: usize) -> UnitPart {
    UnitPart {
        path: path.parse().unwrap(),
        class: FileClass::Relation { fork: Fork::Main, segment: 0 },
        offset: 0,
        length: u64::try_from(bytes).unwrap(),
        block_size: 8192,
        prior_size: None,
        prior: Vec::new(),
    }
}

pub(crate) fn order(unit: u32, repositories: &[RepoKey], parts: &[UnitPart]) -> UnitOrder {
    UnitOrder {
        unit: UnitId(unit),
        attempt: Attempt(1),
        token: FencingToken(1),
        repositories: repositories.to_vec(),
        parts: parts.to_vec(),
        reads_all: false,
        source: None,
    }
}

pub(crate) fn preflight(force: bool) -> PreflightOrder {
    let options = SourceOptions {
        online: false,
        force,
        start_fast: true,
        archive_check: false,
        archive_mode_check: false,
        checksum_page: None,
        exclude: Vec::new(),
        db_timeout_ms: 1_000,
    };
    PreflightOrder { stanza: stanza(), options }
}
