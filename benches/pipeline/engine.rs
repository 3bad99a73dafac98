//! The real thing: slots of a worker doing units of 32 MiB for encrypted repositories that keep nothing.

use crate::bare::ZST_LEVEL;
use crate::null_store::NullStore;
use crate::pages::{Pages, RelationFile};
use crate::support::{Result, Scratch, anyhow, config, ensure};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::{Attempt, ClusterNumber, FencingToken, Identity, PlanNumber, RepoKey, UnitId};
use pgconvoy_core::pg::{FileClass, PageSize, PgVersion};
use pgconvoy_core::plan::blocks::block_size;
use pgconvoy_core::units::{MIB, Timestamp};
use pgconvoy_core::wire::{Compress, SourceOptions, UnitContext, UnitOrder, UnitPart};
use pgconvoy_postgres::roots::Roots;
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::keys::KeySource;
use pgconvoy_repository::{Repository, RepositorySettings};
use pgconvoy_worker::job::{JobContext, Shape, Source};
use pgconvoy_worker::unit::Slot;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Runtime;

const UNIT_SIZE: u64 = 32 * MIB;
const PAGE_SIZE: u32 = 8192;
/// RELSEG_SIZE of every ordinary build.
const SEGMENT_BLOCKS: u32 = 131_072;
const STALL_TIMEOUT_MS: u64 = 60_000;

pub(crate) struct Engine {
    runtime: Runtime,
    context: Arc<JobContext>,
    orders: Vec<Arc<UnitOrder>>,
    planned: u64,
}

impl Engine {
    pub(crate) fn new(pages: &Pages, repositories: u16) -> Result<Engine> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let keys: Vec<RepoKey> = (1..=repositories).map(RepoKey).collect();
        let scratch = Scratch::new()?;
        let mut open = BTreeMap::new();
        for key in &keys {
            let key_file = scratch.join(&format!("{key}.key"));
            config::write_key(&key_file, u64::from(key.0))?;
            let secret = Some(KeySource::KeyFile(key_file.display().to_string()));
            let settings =
                RepositorySettings { number: *key, secret, layout: pgconvoy_core::config::Layout::Packed };
            let creating =
                Repository::open_or_create(Arc::new(NullStore::default()), &settings, Timestamp(0));
            let (repository, _) = runtime.block_on(creating).map_err(|error| failed(error.into()))?;
            open.insert(*key, Arc::new(repository));
        }
        let roots =
            Roots::record(pages.directory(), PgVersion::V15, &[]).map_err(|error| failed(error.into()))?;
        let shape = Shape {
            version: PgVersion::V15,
            page_size: PageSize::new(PAGE_SIZE)?,
            relation_segment_blocks: SEGMENT_BLOCKS,
            check_pages: true,
        };
        let source = Some(Source { roots, tablespaces: Default::default(), standby: None });
        let context = Arc::new(JobContext {
            worker: "local".parse()?,
            units: unit_context(&keys)?,
            shape,
            source,
            remote: Default::default(),
            secret: HashSecret::from_random_bytes([3; HashSecret::BYTES]),
            repositories: open,
            bandwidth: None,
            runtime: runtime.handle().clone(),
            given_up: Default::default(),
            packs: Default::default(),
            summaries: None,
            ended: Default::default(),
        });
        let orders = orders(pages, &keys)?;
        Ok(Engine { runtime, context, orders, planned: pages.bytes() })
    }

    /// Every unit once, one after another, as one slot does them.
    pub(crate) fn run(&self) -> Result<()> {
        let mut slot = Slot::new(0, &self.context).map_err(failed)?;
        let mut read = 0;
        for order in &self.orders {
            let sent = slot.run(&self.context, order.clone()).map_err(|unit| failed(unit.failure))?;
            let receipt = self.runtime.block_on(sent.settle()).map_err(|unit| failed(unit.failure))?;
            ensure!(receipt.failed.is_empty(), "a store that keeps nothing refused something");
            read += receipt.read;
        }
        ensure!(read == self.planned, "{read} bytes were read of {}", self.planned);
        Ok(())
    }
}

fn failed(failure: Failure) -> anyhow::Error {
    anyhow!("[{}] {failure}", failure.code)
}

fn unit_context(repositories: &[RepoKey]) -> Result<UnitContext> {
    let cluster = ClusterNumber(1);
    Ok(UnitContext {
        stanza: config::STANZA.parse()?,
        options: SourceOptions::default(),
        start: None,
        cluster,
        archive: ArchiveId { version: PgVersion::V15, number: cluster },
        label: "20261122-103000F".parse()?,
        backup: Identity::from_random_bytes([7; 16]),
        plan: PlanNumber(1),
        repositories: repositories.to_vec(),
        identities: Vec::new(),
        compress: Compress { codec: Codec::Zst.number(), level: ZST_LEVEL },
        own_compress: BTreeMap::new(),
        file_sha1: false,
        stall_timeout_ms: STALL_TIMEOUT_MS,
        priors: Vec::new(),
        summaries: None,
        reading: Default::default(),
    })
}

/// As the planner splits relation files of this size.
fn orders(pages: &Pages, repositories: &[RepoKey]) -> Result<Vec<Arc<UnitOrder>>> {
    let mut orders = Vec::new();
    for file in pages.files() {
        let mut offset = 0;
        while offset < file.size {
            let length = UNIT_SIZE.min(file.size - offset);
            let order = UnitOrder {
                unit: UnitId(u32::try_from(orders.len())?),
                attempt: Attempt(1),
                token: FencingToken(1),
                repositories: repositories.to_vec(),
                parts: vec![part(file, offset, length)?],
                reads_all: false,
                source: None,
            };
            orders.push(Arc::new(order));
            offset += length;
        }
    }
    Ok(orders)
}

fn part(file: &RelationFile, offset: u64, length: u64) -> Result<UnitPart> {
    Ok(UnitPart {
        path: file.path.parse()?,
        class: FileClass::Relation { fork: file.name.fork, segment: file.name.segment },
        offset,
        length,
        block_size: block_size(file.size, PAGE_SIZE),
        prior_size: None,
        prior: Vec::new(),
    })
}
