//! Keeps one job's backup session and its knowledge of the data directory, from preflight to stop.
//!
//! Orders come one at a time and each is answered by a report. What need not wait for the order before it runs beside: a
//! watch asks the server now and then whether it is still the same primary (`live`), and WAL is supplied (`supplying`).
//!
//! A keeper without a session serves a job whose session another worker holds: it is told to prepare, proves its directory
//! by itself and does units.
//!
//! Code map: `online` and `offline` are the two kinds of session, `joining` and `standby` are for who holds none, `scanning` (with `spool`), `preparing`, `closing`,
//! `supplying`, `errand` and `sharing` each obey one order.
//!
//! Invariant: an order that comes again is answered as before, without being carried out again. A coordinator that took over
//! asks for everything once more.
//!
//! Failure story: a keeper that ends takes its session, its watch and its units with it. One that panics is reported as a
//! lost session.

mod closing;
mod errand;
mod joining;
mod live;
mod offline;
mod online;
mod preparing;
mod scanning;
mod sharing;
mod spool;
mod standby;
mod summaries;
mod supplying;

use crate::errand::Errands;
use crate::fetching::RemoteSources;
use crate::job::JobContext;
use crate::outbox::Reporter;
use crate::serving::{Door, Hub};
use crate::slots::{self, SlotPool, Task};
use crate::sources::Sources;
use live::Online;
use pgconvoy_core::config::Compute;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{StanzaName, UnitId, WorkerName};
use pgconvoy_core::pg::PgVersion;
use pgconvoy_core::wire::{
    ErrandEnd, Incarnation, OrderBody, PreflightFacts, PreflightOrder, ReportBody, RepositoryFailure,
    SessionEnd, SessionFacts, SourceOptions, Standing, SupplyOrder, UnitContext, UnitOrder,
};
use pgconvoy_postgres::catalog::Tablespace;
use pgconvoy_postgres::connect::{Client, ConnectOptions};
use pgconvoy_postgres::roots::Roots;
use pgconvoy_repository::RepositorySet;
use pgconvoy_storage::bandwidth::Bandwidth;
use pgconvoy_transport::Dial;
use sharing::Sharing;
use spool::Scan;
use standby::Standby;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use supplying::Supply;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Orders waiting for the keeper: it gets its next one only after an answer, units apart, of which a worker asks for no more.
const ORDERS_IN_FLIGHT: usize = 1024;

/// Where a stanza's cluster is on this host, and how to reach its server.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    pub directory: PathBuf,
    pub connect: ConnectOptions,
}

/// What all keepers of a worker stand on.
pub struct Ground {
    pub worker: WorkerName,
    pub sources: Arc<Sources>,
    pub repositories: Arc<RepositorySet>,
    pub slots: Arc<SlotPool>,
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// Whose units it computes without seeing their data.
    pub computes: Compute,
    /// Where it serves those who do; `None`: it serves nobody.
    pub serving: Option<Arc<Hub>>,
    /// How it reaches sources; `None`: it does not.
    pub reach: Option<Arc<dyn Dial>>,
    /// `None`: it does none.
    pub errands: Option<Arc<dyn Errands>>,
    /// Where scans are kept; `None`: nobody will ask twice.
    pub spool: Option<PathBuf>,
    pub runtime: Handle,
}

/// How far a keeper has come, for the worker's hello.
#[derive(Default)]
struct Reached {
    session: AtomicBool,
    prepared: AtomicBool,
    standing: Mutex<Option<Standing>>,
    /// A whole job, or a restore that is this worker's, is under way.
    errand: AtomicBool,
}

impl Reached {
    fn stands(&self, standing: &Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing.clone());
    }
}

pub struct KeeperHandle {
    orders: mpsc::Sender<OrderBody>,
    reached: Arc<Reached>,
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl KeeperHandle {
    /// Whether it opened the job's session, and has not lost it.
    pub fn has_session(&self) -> bool {
        self.reached.session.load(Ordering::Acquire)
    }

    /// Whether units can come.
    pub fn is_prepared(&self) -> bool {
        self.reached.prepared.load(Ordering::Acquire)
    }

    /// What it is to the job, once it is prepared.
    pub fn standing(&self) -> Option<Standing> {
        self.reached.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it does something that nobody else could go on with.
    pub fn has_errand(&self) -> bool {
        self.reached.errand.load(Ordering::Acquire)
    }

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

type ErrandResult = Result<ErrandEnd, Failure>;

/// What preflight learned.
struct Known {
    stanza: StanzaName,
    options: SourceOptions,
    config: SourceConfig,
    facts: PreflightFacts,
    summarizes_wal: bool,
    session: Session,
}

/// The backup session, in the forms it takes.
enum Session {
    Connected(Box<Client>),
    Online(Online),
    /// Another worker holds it; this is for questions.
    Elsewhere(Arc<Client>),
    /// Another worker holds it, with this standby's primary.
    Standby(Standby),
    /// With pg_control as it was at first.
    Offline(Vec<u8>),
    Over,
}

impl Session {
    /// Which start of a standby is read, if it is one.
    fn standby(&self) -> Option<Incarnation> {
        match self {
            Session::Standby(standby) => Some(standby.incarnation),
            _ => None,
        }
    }
}

/// What an open session adds.
struct Directory {
    roots: Roots,
    tablespaces: Vec<Tablespace>,
}

pub struct Keeper {
    ground: Arc<Ground>,
    reporter: Reporter,
    reached: Arc<Reached>,
    known: Option<Known>,
    directory: Option<Directory>,
    opened_with: Option<SessionFacts>,
    scanned: Option<Scan>,
    context: Option<Arc<JobContext>>,
    /// Its files are served as long as this is here.
    door: Option<Door>,
    prepared_with: Option<Vec<RepositoryFailure>>,
    /// Segments on their way to repositories.
    supplies: JoinSet<()>,
    errand: Option<watch::Receiver<Option<ErrandResult>>>,
    /// Its part in a restore.
    sharing: Option<Sharing>,
    ended_with: Option<Result<SessionEnd, Failure>>,
    ended: CancellationToken,
}

impl Keeper {
    pub fn start(ground: Arc<Ground>, reporter: Reporter) -> KeeperHandle {
        let (orders, receiver) = mpsc::channel(ORDERS_IN_FLIGHT);
        let (ended, reached, runtime) =
            (CancellationToken::new(), Arc::new(Reached::default()), ground.runtime.clone());
        let keeper = Keeper {
            ground,
            reporter: reporter.clone(),
            reached: reached.clone(),
            known: None,
            directory: None,
            opened_with: None,
            scanned: None,
            context: None,
            door: None,
            prepared_with: None,
            supplies: JoinSet::new(),
            errand: None,
            sharing: None,
            ended_with: None,
            ended: ended.clone(),
        };
        let running = runtime.spawn(keeper.run(receiver));
        let task = runtime.spawn(supervise(running, reporter, reached.clone()));
        KeeperHandle { orders, reached, ended, task }
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
                if let Err(error) = self.reporter.send(report).await {
                    // Nothing can be sent if this cannot.
                    let _ = self.reporter.send(ReportBody::SessionLost(error.into())).await;
                    return;
                }
            }
        }
    }

    async fn obey(&mut self, order: OrderBody) -> Vec<ReportBody> {
        let report = match order {
            OrderBody::Preflight(order) => ReportBody::Preflighted(self.preflight(order).await),
            OrderBody::OpenSession { label } => ReportBody::SessionOpened(self.open_session(&label).await),
            OrderBody::Scan => ReportBody::ScanEnded(self.scan().await),
            OrderBody::Prepare(units) => return self.prepare(*units).await,
            OrderBody::RunUnit(order) => return self.run_unit(*order).into_iter().collect(),
            OrderBody::GiveBack { units } => return self.give_back(&units),
            OrderBody::Confirm(order) => self.confirm(order).await,
            OrderBody::CloseSession { repositories } => {
                ReportBody::SessionClosed(self.close_session(&repositories).await)
            }
            OrderBody::SupplyWal(order) => return self.supply_wal(order).into_iter().collect(),
            OrderBody::Errand(order) => return self.errand(*order).into_iter().collect(),
            OrderBody::Restore(order) => return self.share(order).into_iter().collect(),
            OrderBody::End => return Vec::new(),
        };
        vec![report]
    }

    /// A report only if it cannot even begin.
    fn run_unit(&self, order: UnitOrder) -> Option<ReportBody> {
        if !self.reporter.outbox().hold(self.reporter.job(), &order) {
            return None;
        }
        let Some(context) = self.context.clone() else {
            let early = Failure::new(ErrorCode::Assert, "a unit came before the job was prepared");
            return Some(ReportBody::UnitFailed(slots::failed(&order, early)));
        };
        self.ground.slots.submit(Task { context, order: Arc::new(order), reporter: self.reporter.clone() });
        None
    }

    /// As many can come again as were given back.
    fn give_back(&self, units: &[UnitId]) -> Vec<ReportBody> {
        let returned = self.reporter.outbox().give_back(self.reporter.job(), units);
        let free = u16::try_from(returned.len()).unwrap_or(u16::MAX);
        let mut reports: Vec<ReportBody> = returned.into_iter().map(ReportBody::UnitReturned).collect();
        if free > 0 {
            reports.push(ReportBody::Ready { units: free });
        }
        reports
    }

    /// In a task of its own, which reports by itself: pushing a segment to a slow store takes minutes.
    fn supply_wal(&mut self, order: SupplyOrder) -> Option<ReportBody> {
        while self.supplies.try_join_next().is_some() {}
        let repository = order.repository;
        let (stanza, wal) = match self.known() {
            Ok(known) => {
                let wal = known.config.directory.join(known.facts.version.wal_directory());
                (known.stanza.clone(), wal)
            }
            Err(failure) => {
                return Some(ReportBody::WalSupplied {
                    repository,
                    archiver_works: false,
                    result: Err(failure),
                });
            }
        };
        let supply = Supply { set: self.ground.repositories.clone(), stanza, wal, order };
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
        self.supplies.spawn_on(supplying, &self.ground.runtime);
        None
    }

    async fn preflight(&mut self, order: PreflightOrder) -> Result<PreflightFacts, Failure> {
        if let Some(known) = self.known.as_ref().filter(|known| known.is_for(&order)) {
            return Ok(known.facts.clone());
        }
        let config = self.source(&order.stanza)?;
        let known = if order.options.online {
            online::preflight(order, config).await?
        } else {
            blocking(move || offline::preflight(order, config)).await?
        };
        Ok(self.known.insert(known).facts.clone())
    }

    fn source(&self, stanza: &StanzaName) -> Result<SourceConfig, Failure> {
        self.ground.sources.of(stanza).ok_or_else(|| {
            let message = format!("worker {} has no data of stanza {stanza}", self.ground.worker);
            Failure::new(ErrorCode::OptionInvalid, message)
        })
    }

    fn known(&mut self) -> Result<&mut Known, Failure> {
        self.known.as_mut().ok_or_else(|| Failure::new(ErrorCode::Assert, "an order came before preflight"))
    }

    async fn open_session(&mut self, label: &str) -> Result<SessionFacts, Failure> {
        if let Some(facts) = &self.opened_with {
            return Ok(facts.clone());
        }
        let (watcher, runtime) = (self.watcher(), self.ground.runtime.clone());
        let known = self.known()?;
        let (facts, directory) = match std::mem::replace(&mut known.session, Session::Over) {
            Session::Connected(client) => {
                let (facts, directory, session) = online::open(known, *client, label).await?;
                known.session = Session::Online(Online::new(session, watcher, &runtime));
                (facts, directory)
            }
            Session::Offline(control) => {
                known.session = Session::Offline(control);
                offline::open(known)?
            }
            Session::Online(_) | Session::Elsewhere(_) | Session::Standby(_) | Session::Over => {
                return Err(Failure::new(ErrorCode::Assert, "there is no server to open a session with"));
            }
        };
        (self.directory, self.opened_with) = (Some(directory), Some(facts.clone()));
        self.reached.session.store(true, Ordering::Release);
        Ok(facts)
    }

    fn watcher(&self) -> live::Watcher {
        live::Watcher { reporter: self.reporter.clone(), reached: self.reached.clone() }
    }

    async fn prepare(&mut self, units: UnitContext) -> Vec<ReportBody> {
        if let Some(failed) = &self.prepared_with {
            return self.ready(failed.clone());
        }
        match self.prepare_first(units).await {
            Ok(failed) => {
                self.prepared_with = Some(failed.clone());
                self.reached.prepared.store(true, Ordering::Release);
                self.ready(failed)
            }
            Err(failure) => vec![ReportBody::Prepared(Err(failure))],
        }
    }

    /// What it has to do without, and how many units it can take.
    fn ready(&self, failed: Vec<RepositoryFailure>) -> Vec<ReportBody> {
        let taken = self.reporter.outbox().held(self.reporter.job()).len();
        let units = self.ground.slots.capacity().saturating_sub(u16::try_from(taken).unwrap_or(u16::MAX));
        let standing = self.standing();
        self.reached.stands(&standing);
        vec![ReportBody::Prepared(Ok(failed)), ReportBody::Standing(standing), ReportBody::Ready { units }]
    }

    /// Those repositories that it has to do without.
    async fn prepare_first(&mut self, units: UnitContext) -> Result<Vec<RepositoryFailure>, Failure> {
        let (shape, source) = Box::pin(self.join(&units)).await?;
        let opened = preparing::open(&self.ground.repositories, &units).await?;
        let summaries = match (&self.known, &self.directory) {
            (Some(known), Some(directory)) => {
                summaries::load(known, directory, &units, self.ended.clone()).await
            }
            _ => None,
        };
        let context = Arc::new(JobContext {
            worker: self.ground.worker.clone(),
            units,
            shape,
            source,
            remote: RemoteSources::new(self.ground.reach.clone(), self.reporter.job(), self.ended.clone()),
            secret: opened.secret,
            repositories: opened.repositories,
            bandwidth: self.ground.bandwidth.clone(),
            runtime: self.ground.runtime.clone(),
            given_up: Default::default(),
            packs: Default::default(),
            summaries,
            ended: self.ended.clone(),
        });
        self.door = self.serve_others(&context)?;
        self.context = Some(context);
        Ok(opened.failed)
    }
}

impl Known {
    fn is_for(&self, order: &PreflightOrder) -> bool {
        self.stanza == order.stanza && self.options == order.options
    }
}

/// A panic leaves the coordinator without an answer: this one gives it.
async fn supervise(running: JoinHandle<()>, reporter: Reporter, reached: Arc<Reached>) {
    let result = running.await;
    reached.session.store(false, Ordering::Release);
    reached.prepared.store(false, Ordering::Release);
    if let Err(error) = result {
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
        relation_segment_blocks: control.relation_segment_blocks,
        timeline: control.timeline,
        warnings,
    }
}

#[cfg(test)]
mod tests;
