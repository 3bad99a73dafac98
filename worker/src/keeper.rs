//! Keeps one job's backup session and its knowledge of the data directory, from preflight to stop.
//!
//! Orders come one at a time and each is answered by a report. What need not wait for the order before it runs beside: a
//! watch asks the server now and then whether it is still the same primary (`live`), and WAL is supplied (`supplying`).
//!
//! Code map: `online` and `offline` are the two kinds of session, `scanning`, `preparing`, `closing` and `supplying` each
//! obey one order.
//!
//! Failure story: a keeper that ends takes its session, its watch and its units with it. One that panics is reported as a
//! lost session.

mod closing;
mod live;
mod offline;
mod online;
mod preparing;
mod scanning;
mod supplying;

use crate::job::{JobContext, Source, Tablespaces};
use crate::session::Reporter;
use crate::slots::{self, SlotPool, Task};
use live::Online;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{StanzaName, WorkerName};
use pgconvoy_core::pg::{PageSize, PgVersion};
use pgconvoy_core::wire::{
    OrderBody, PreflightFacts, PreflightOrder, ReportBody, RepositoryFailure, SessionEnd, SessionFacts,
    SupplyOrder, UnitContext, UnitOrder,
};
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_postgres::connect::{Client, ConnectOptions};
use pgconvoy_postgres::roots::Roots;
use pgconvoy_repository::RepositorySet;
use pgconvoy_transport::TransportError;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use supplying::Supply;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Orders waiting for the keeper: it gets its next one only after an answer, units apart.
const ORDERS_IN_FLIGHT: usize = 64;
/// Where a stanza's cluster is on this host, and how to reach its server.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    pub directory: PathBuf,
    pub connect: ConnectOptions,
}

pub struct KeeperHandle {
    orders: mpsc::Sender<OrderBody>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl KeeperHandle {
    pub async fn order(&self, order: OrderBody) {
        // A keeper that ended has reported why.
        let _ = self.orders.send(order).await;
    }

    /// Breaks off whatever it is doing.
    pub async fn end(self) {
        self.ended.cancel();
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
    Connected(Box<Client>),
    Online(Online),
    /// With pg_control as it was at first.
    Offline(Vec<u8>),
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
    /// Segments on their way to repositories.
    supplies: JoinSet<()>,
    ended_with: Option<Result<SessionEnd, Failure>>,
    ended: CancellationToken,
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
        let ended = CancellationToken::new();
        let keeper = Keeper {
            worker,
            sources,
            repositories,
            slots,
            reporter: reporter.clone(),
            runtime: runtime.clone(),
            known: None,
            directory: None,
            context: None,
            supplies: JoinSet::new(),
            ended_with: None,
            ended: ended.clone(),
        };
        let running = runtime.spawn(keeper.run(receiver));
        KeeperHandle { orders, ended, task: runtime.spawn(supervise(running, reporter)) }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<OrderBody>) {
        let ended = self.ended.clone();
        // However this ends, by a panic too: units of a keeper that is gone are nobody's.
        let _units_end_too = ended.clone().drop_guard();
        ended.run_until_cancelled(self.serve(&mut orders)).await;
    }

    async fn serve(&mut self, orders: &mut mpsc::Receiver<OrderBody>) {
        while let Some(order) = orders.recv().await {
            for report in self.obey(order).await {
                match self.reporter.send(report).await {
                    Ok(()) => {}
                    Err(error @ TransportError::TooLarge { .. }) => {
                        // Nothing can be sent if this cannot.
                        let _ = self.reporter.send(ReportBody::SessionLost(error.into())).await;
                        return;
                    }
                    Err(_) => return,
                }
            }
        }
    }

    async fn obey(&mut self, order: OrderBody) -> Vec<ReportBody> {
        let report = match order {
            OrderBody::Preflight(order) => ReportBody::Preflighted(self.preflight(order).await),
            OrderBody::OpenSession { label } => ReportBody::SessionOpened(self.open_session(&label).await),
            OrderBody::Scan => ReportBody::ScanEnded(self.scan().await),
            OrderBody::Prepare(units) => {
                let prepared = self.prepare(*units).await;
                let ready = prepared.is_ok().then(|| ReportBody::Ready { units: self.slots.capacity() });
                return std::iter::once(ReportBody::Prepared(prepared)).chain(ready).collect();
            }
            OrderBody::RunUnit(order) => return self.run_unit(*order).into_iter().collect(),
            OrderBody::CloseSession { repositories } => {
                ReportBody::SessionClosed(self.close_session(&repositories).await)
            }
            OrderBody::SupplyWal(order) => return self.supply_wal(order).into_iter().collect(),
            OrderBody::End => return Vec::new(),
        };
        vec![report]
    }

    /// A report only if it cannot even begin.
    fn run_unit(&self, order: UnitOrder) -> Option<ReportBody> {
        let Some(context) = self.context.clone() else {
            let early = Failure::new(ErrorCode::Assert, "a unit came before the job was prepared");
            return Some(ReportBody::UnitFailed(slots::failed(&order, early)));
        };
        self.slots.submit(Task { context, order: Arc::new(order), reporter: self.reporter.clone() });
        None
    }

    /// In a task of its own, which reports by itself: pushing a segment to a slow store takes minutes.
    fn supply_wal(&mut self, order: SupplyOrder) -> Option<ReportBody> {
        while self.supplies.try_join_next().is_some() {}
        let repository = order.repository;
        let (stanza, wal) = match self.known() {
            Ok(known) => {
                let wal = known.config.directory.join(known.facts.version.wal_directory());
                (known.order.stanza.clone(), wal)
            }
            Err(failure) => {
                return Some(ReportBody::WalSupplied {
                    repository,
                    archiver_works: false,
                    result: Err(failure),
                });
            }
        };
        let supply = Supply { set: self.repositories.clone(), stanza, wal, order };
        let reporter = self.reporter.clone();
        let live = match self.known.as_ref().map(|known| &known.session) {
            Some(Session::Online(online)) => Some(online.live.clone()),
            _ => None,
        };
        let supplying = async move {
            let result = supply.run().await;
            let archiver_works = match live {
                Some(live) => live.archiver_works().await,
                None => false,
            };
            // When the coordinator is gone, the next backup finds the segments there.
            let _ = reporter.send(ReportBody::WalSupplied { repository, archiver_works, result }).await;
        };
        self.supplies.spawn_on(supplying, &self.runtime);
        None
    }

    async fn preflight(&mut self, order: PreflightOrder) -> Result<PreflightFacts, Failure> {
        let config = self.sources.get(&order.stanza).cloned().ok_or_else(|| {
            Failure::new(
                ErrorCode::OptionInvalid,
                format!("worker {} has no data of stanza {}", self.worker, order.stanza),
            )
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
        let (reporter, runtime) = (self.reporter.clone(), self.runtime.clone());
        let known = self.known()?;
        let (facts, directory) = match std::mem::replace(&mut known.session, Session::Over) {
            Session::Connected(client) => {
                let (facts, directory, session) = online::open(known, *client, label).await?;
                known.session = Session::Online(Online::new(session, reporter, &runtime));
                (facts, directory)
            }
            Session::Offline(control) => {
                known.session = Session::Offline(control);
                offline::open(known)?
            }
            Session::Online(_) | Session::Over => {
                return Err(Failure::new(ErrorCode::Assert, "the session was opened twice"));
            }
        };
        self.directory = Some(directory);
        Ok(facts)
    }

    /// Those repositories that it has to do without.
    async fn prepare(&mut self, units: UnitContext) -> Result<Vec<RepositoryFailure>, Failure> {
        let before_session = || Failure::new(ErrorCode::Assert, "units came before a session");
        let known = self.known.as_ref().ok_or_else(before_session)?;
        let directory = self.directory.as_ref().ok_or_else(before_session)?;
        let source = Source {
            roots: directory.roots.clone(),
            version: known.facts.version,
            page_size: PageSize::new(known.facts.page_size)?,
            relation_segment_blocks: known.relation_segment_blocks,
            check_pages: known.facts.checksums && known.order.options.checksum_page.unwrap_or(true),
            tablespaces: Tablespaces::asking(scanning::ask(&known.session, directory, &self.runtime)),
        };
        let opened = preparing::open(&self.repositories, &units).await?;
        self.context = Some(Arc::new(JobContext {
            worker: self.worker.clone(),
            units,
            source,
            secret: opened.secret,
            repositories: opened.repositories,
            runtime: self.runtime.clone(),
            given_up: Default::default(),
            ended: self.ended.clone(),
        }));
        Ok(opened.failed)
    }
}

/// A panic leaves the coordinator without an answer: this one gives it.
async fn supervise(running: JoinHandle<()>, reporter: Reporter) {
    if let Err(error) = running.await {
        tracing::error!("the keeper of a backup session failed: {error}");
        let failure = Failure::new(ErrorCode::Assert, "the keeper of the backup session panicked")
            .hint("this is a defect: the worker's log has the place");
        // When the coordinator is gone too, nobody waits.
        let _ = reporter.send(ReportBody::SessionLost(failure)).await;
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Failure::new(ErrorCode::Assert, "a thread panicked"))?
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

#[cfg(test)]
mod tests;
