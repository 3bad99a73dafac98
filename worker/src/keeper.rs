//! Keeps one job's backup session and its knowledge of the data directory, from preflight to stop.
//!
//! Orders come one at a time and each is answered by a report. Between orders the keeper asks the server now and then
//! whether it is still the same primary.

mod offline;
mod online;

use crate::job::{JobContext, Source};
use crate::session::Reporter;
use crate::slots::{SlotPool, Task};
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::ids::{RepoKey, StanzaName, WorkerName};
use pgconvoy_core::pg::{PageSize, PgVersion, Rules, WalFileName, WalSegmentName};
use pgconvoy_core::plan::inventory::ScannedEntry;
use pgconvoy_core::wire::{OrderBody, PreflightFacts, PreflightOrder, ReportBody, ScanEnd, SessionFacts, UnitContext};
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_postgres::connect::ConnectOptions;
use pgconvoy_postgres::roots::Roots;
use pgconvoy_postgres::scan::{ScanReport, ScanRequest, scan};
use pgconvoy_repository::RepositorySet;
use pgconvoy_repository::codec::{Codec, Level};
use pgconvoy_repository::wal::push_wal;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How often the server is asked whether it is still the same primary.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Orders waiting for the keeper: it gets its next one only after an answer, units apart.
const ORDERS_IN_FLIGHT: usize = 64;
/// Entries of a scan in one report: keeps it far below a frame's limit, whatever the length of the paths.
const ENTRIES_PER_REPORT: usize = 200;

/// Where a stanza's cluster is on this host, and how to reach its server.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    pub directory: PathBuf,
    pub connect: ConnectOptions,
}

pub struct KeeperHandle {
    orders: mpsc::Sender<OrderBody>,
    task: JoinHandle<()>,
}

impl KeeperHandle {
    pub async fn order(&self, order: OrderBody) {
        // A keeper that ended has reported why.
        let _ = self.orders.send(order).await;
    }

    pub async fn end(self) {
        drop(self.orders);
        if let Err(error) = self.task.await {
            tracing::error!("a keeper's task failed: {error}");
        }
    }
}

/// What preflight learned.
struct Known {
    order: PreflightOrder,
    config: SourceConfig,
    facts: PreflightFacts,
    relation_segment_blocks: u32,
    session: Session,
}

/// The backup session, in the forms it takes.
enum Session {
    Connected(pgconvoy_postgres::connect::Client),
    Online(pgconvoy_postgres::backup::BackupSession),
    Offline,
    Over,
}

/// What an open session adds.
struct Directory {
    roots: Roots,
    tablespaces: Vec<Tablespace>,
}

pub struct Keeper {
    worker: WorkerName,
    sources: BTreeMap<StanzaName, SourceConfig>,
    repositories: Arc<RepositorySet>,
    slots: Arc<SlotPool>,
    reporter: Reporter,
    runtime: Handle,
    known: Option<Known>,
    directory: Option<Directory>,
    context: Option<Arc<JobContext>>,
    /// A repeated order to stop gets the same answer.
    stopped: Option<Option<StopBody>>,
}

impl Keeper {
    pub fn start(
        worker: WorkerName,
        sources: BTreeMap<StanzaName, SourceConfig>,
        repositories: Arc<RepositorySet>,
        slots: Arc<SlotPool>,
        reporter: Reporter,
        runtime: Handle,
    ) -> KeeperHandle {
        let (orders, receiver) = mpsc::channel(ORDERS_IN_FLIGHT);
        let keeper = Keeper {
            worker,
            sources,
            repositories,
            slots,
            reporter,
            runtime: runtime.clone(),
            known: None,
            directory: None,
            context: None,
            stopped: None,
        };
        KeeperHandle { orders, task: runtime.spawn(keeper.run(receiver)) }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<OrderBody>) {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        loop {
            let report = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                _ = ping.tick() => self.ping().await.err().map(ReportBody::SessionLost),
            };
            if let Some(report) = report
                && self.reporter.send(report).await.is_err()
            {
                return;
            }
        }
    }

    async fn ping(&self) -> Result<(), Failure> {
        match self.known.as_ref().map(|known| &known.session) {
            Some(Session::Online(session)) => Ok(session.ping().await?),
            _ => Ok(()),
        }
    }

    async fn obey(&mut self, order: OrderBody) -> Option<ReportBody> {
        Some(match order {
            OrderBody::Preflight(order) => ReportBody::Preflighted(self.preflight(order).await),
            OrderBody::OpenSession { label } => ReportBody::SessionOpened(self.open_session(&label).await),
            OrderBody::Scan => ReportBody::ScanEnded(self.scan().await),
            OrderBody::Prepare(context) => match self.prepare(*context).await {
                Ok(()) => ReportBody::Ready { units: self.slots.capacity() },
                Err(failure) => ReportBody::SessionLost(failure),
            },
            OrderBody::RunUnit(order) => {
                let context = self.context.clone()?;
                self.slots.submit(Task { context, order: Arc::new(*order), reporter: self.reporter.clone() });
                return None;
            }
            OrderBody::CloseSession => ReportBody::SessionClosed(self.close_session().await),
            OrderBody::SupplyWal { repository, segments } => {
                let result = self.supply_wal(repository, &segments).await;
                ReportBody::WalSupplied { repository, result }
            }
            OrderBody::End => return None,
        })
    }

    async fn preflight(&mut self, order: PreflightOrder) -> Result<PreflightFacts, Failure> {
        let config = self.sources.get(&order.stanza).cloned().ok_or_else(|| {
            Failure::new(ErrorCode::OptionInvalid, format!("worker {} has no data of stanza {}", self.worker, order.stanza))
        })?;
        let known = if order.options.online {
            online::preflight(order, config).await?
        } else {
            blocking(move || offline::preflight(order, config)).await?
        };
        Ok(self.known.insert(known).facts.clone())
    }

    fn known(&mut self) -> Result<&mut Known, Failure> {
        self.known.as_mut().ok_or_else(|| Failure::new(ErrorCode::Assert, "an order came before preflight"))
    }

    async fn open_session(&mut self, label: &str) -> Result<SessionFacts, Failure> {
        let known = self.known()?;
        let (facts, directory) = match std::mem::replace(&mut known.session, Session::Over) {
            Session::Connected(client) => online::open(known, client, label).await?,
            Session::Offline => {
                known.session = Session::Offline;
                offline::open(known)?
            }
            _ => return Err(Failure::new(ErrorCode::Assert, "the session was opened twice")),
        };
        self.directory = Some(directory);
        Ok(facts)
    }

    /// Sends what it finds page by page, and ends at a full second of the database's clock that is later than anything it saw:
    /// a file that changes after that has another time than the one in the manifest.
    async fn scan(&mut self) -> Result<ScanEnd, Failure> {
        let report = self.walk().await?;
        if let Some(directory) = &mut self.directory {
            directory.roots = report.roots;
        }
        let warnings = report.warnings.iter().map(ToString::to_string).collect();
        let copy_start = match &self.known()?.session {
            Session::Online(session) => online::next_second(session).await?,
            _ => offline::next_second().await,
        };
        Ok(ScanEnd { warnings, copy_start })
    }

    async fn walk(&mut self) -> Result<ScanReport, Failure> {
        let directory = self.directory.as_ref().ok_or_else(|| Failure::new(ErrorCode::Assert, "scan before session"))?;
        let (roots, tablespaces) = (directory.roots.clone(), directory.tablespaces.clone());
        let known = self.known()?;
        let options = &known.order.options;
        let rules = Rules::new(known.facts.version, known.facts.catalog_version, options.online, &options.exclude)?;
        let (path, version) = (known.config.directory.clone(), known.facts.version);
        let (pages, mut received) = mpsc::channel::<Vec<ScannedEntry>>(4);
        let walking = tokio::task::spawn_blocking(move || {
            let request = ScanRequest { directory: &path, version, rules: &rules, tablespaces: &tablespaces, roots };
            scan(request, |page| match pages.blocking_send(page) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        while let Some(mut page) = received.recv().await {
            while !page.is_empty() {
                let rest = page.split_off(page.len().min(ENTRIES_PER_REPORT));
                self.reporter.send(ReportBody::Scanned(page)).await?;
                page = rest;
            }
        }
        let scanned = walking.await.map_err(|_| Failure::new(ErrorCode::Assert, "the scan's thread panicked"))?;
        scanned?.ok_or_else(|| Failure::new(ErrorCode::Term, "the scan was broken off"))
    }

    async fn prepare(&mut self, units: UnitContext) -> Result<(), Failure> {
        let mut repositories = BTreeMap::new();
        let mut secret = None;
        for key in &units.repositories {
            let repository = self.repositories.open(*key).await?;
            if secret.is_none() {
                let cluster = repository.cluster(&units.stanza).await?;
                secret = Some(cluster.hash_secret).filter(|_| cluster.number == units.cluster);
            }
            repositories.insert(*key, repository);
        }
        let secret = secret.ok_or_else(|| Failure::new(ErrorCode::Assert, "no repository told the stanza's secret"))?;
        let roots = self.directory.as_ref().map(|directory| directory.roots.clone());
        let known = self.known()?;
        let source = Source {
            roots: roots.ok_or_else(|| Failure::new(ErrorCode::Assert, "units before session"))?,
            version: known.facts.version,
            page_size: PageSize::new(known.facts.page_size)?,
            relation_segment_blocks: known.relation_segment_blocks,
            check_pages: known.facts.checksums && known.order.options.checksum_page.unwrap_or(true),
        };
        let (worker, runtime) = (self.worker.clone(), self.runtime.clone());
        self.context = Some(Arc::new(JobContext { worker, units, source, secret, repositories, runtime }));
        Ok(())
    }

    /// What the server returned is in every repository before anybody hears of it.
    async fn close_session(&mut self) -> Result<Option<StopBody>, Failure> {
        if let Some(stopped) = &self.stopped {
            return Ok(stopped.clone());
        }
        let known = self.known()?;
        let stop = match std::mem::replace(&mut known.session, Session::Over) {
            Session::Online(session) => Some(online::close(session).await?),
            Session::Offline => None,
            _ => return Err(Failure::new(ErrorCode::Assert, "there is no session to close")),
        };
        if let (Some(stop), Some(context)) = (&stop, &self.context) {
            for repository in context.repositories.values() {
                let (units, key) = (&context.units, repository.number());
                if let Err(error) = repository.write_stop(&units.stanza, units.label, units.plan, stop).await {
                    tracing::warn!("repo {key}: the stop record could not be written: {error}");
                }
            }
        }
        self.stopped = Some(stop.clone());
        Ok(stop)
    }

    /// Takes segments that a repository lacks from pg_wal, where PostgreSQL keeps them until they are archived everywhere.
    async fn supply_wal(&mut self, key: RepoKey, segments: &[WalSegmentName]) -> Result<(), Failure> {
        let repository = self.repositories.open(key).await?;
        let context = self.context.clone().ok_or_else(|| Failure::new(ErrorCode::Assert, "WAL before units"))?;
        let known = self.known()?;
        let directory = known.config.directory.join(known.facts.version.wal_directory());
        let codec = Codec::from_number(context.units.compress.codec)?;
        let level = Level::new(codec, context.units.compress.level)?;
        let archive: ArchiveId = context.units.archive;
        for segment in segments {
            let path = directory.join(segment.to_string());
            let source: pgconvoy_repository::wal::WalSource =
                Arc::new(move || Ok(Box::new(std::fs::File::open(&path)?) as Box<dyn std::io::Read + Send>));
            let name = WalFileName::Segment(*segment);
            let targets = [(repository.clone(), archive)];
            let results = push_wal(&targets, &context.units.stanza, &name, source, codec, level).await.map_err(|error| {
                Failure::new(
                    ErrorCode::ArchiveTimeout,
                    format!("WAL segment {segment} did not reach repo {key}, and pg_wal does not have it: {error}"),
                )
                .hint("is archive_command failing? See the server's log")
            })?;
            for result in results {
                result.context(format!("repo {key}"))?;
            }
        }
        Ok(())
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::new(ErrorCode::Assert, "a thread panicked"))?
}

fn known_version_facts(
    control: &pgconvoy_core::pg::ControlFile,
    version: PgVersion,
    warnings: Vec<String>,
) -> PreflightFacts {
    PreflightFacts {
        system_id: control.system_id,
        version,
        control_version: control.control_version,
        catalog_version: control.catalog_version,
        page_size: control.page_size.bytes(),
        checksums: control.has_page_checksums(),
        wal_segment_size: control.wal_segment_size,
        timeline: control.timeline,
        warnings,
    }
}
