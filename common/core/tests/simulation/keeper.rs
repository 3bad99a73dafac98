//! One job's keeper on a worker, and the slots that do its units: orders one at a time, repeated ones answered from memory.
//!
//! Mirrors `keeper.rs` and its children, `slots.rs` and `unit.rs` of `pgconvoy-worker`.

use crate::scenario::{UNIT_MILLISECONDS_MAX, WAL};
use crate::storage::Pack;
use crate::worker::{Running, Stage, WorkerAct, held};
use crate::world::World;
use crate::{Millis, wall};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::pack::{PackBody, PackRange};
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::format::{BackupLabel, BlockHash};
use pgconvoy_core::ids::{RepoKey, UnitId, WorkerName};
use pgconvoy_core::pg::TimelineId;
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{
    FromStandby, Incarnation, JobId, OrderBody, PartReceipt, Receipt, ReportBody, RepositoryFailure, ScanEnd,
    SessionEnd, SessionFacts, Standing, StoredPack, SupplyOrder, UnitContext, UnitFailure, UnitOrder,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// How long the record of a stop is there before anybody hears of it.
const STOP_UNTOLD_MAX: Millis = 2_000;

#[derive(Debug, Clone)]
pub(crate) enum KeeperAct {
    /// The order in hand is done.
    Done,
    /// The next page of a scan.
    Page(usize),
    Supplied(Box<SupplyOrder>),
}

pub(crate) struct Keeper {
    pub(crate) number: u64,
    orders: VecDeque<OrderBody>,
    current: Option<OrderBody>,
    is_known: bool,
    pub(crate) has_session: bool,
    pub(crate) is_prepared: bool,
    pub(crate) opened_with: Option<SessionFacts>,
    /// The server ended it.
    pub(crate) is_session_dead: bool,
    is_scanned: bool,
    context: Option<UnitContext>,
    /// The standby that it has found fit.
    pub(crate) standby: Option<Incarnation>,
    ended_with: Option<Result<SessionEnd, Failure>>,
}

impl Keeper {
    pub(crate) fn new(number: u64) -> Keeper {
        Keeper {
            number,
            orders: VecDeque::new(),
            current: None,
            is_known: false,
            has_session: false,
            is_prepared: false,
            opened_with: None,
            is_session_dead: false,
            is_scanned: false,
            context: None,
            standby: None,
            ended_with: None,
        }
    }
}

impl Keeper {
    pub(crate) fn standing(&self) -> Standing {
        match self.standby {
            Some(incarnation) => Standing::Standby { incarnation, serves: None },
            None => Standing::Primary { serves: None },
        }
    }
}

impl World {
    fn keeper(&mut self, id: usize, job: JobId) -> &mut Keeper {
        self.workers[id].keepers.get_mut(&job).expect("acts of a keeper that is gone are dropped")
    }

    fn keeper_later(&mut self, id: usize, job: JobId, after: Millis, act: KeeperAct) {
        let keeper = self.keeper(id, job).number;
        self.worker_later(id, after, WorkerAct::Keeper { job, keeper, act });
    }

    pub(crate) fn keeper_order(&mut self, id: usize, job: JobId, order: OrderBody) {
        self.keeper(id, job).orders.push_back(order);
        self.take_next(id, job);
    }

    fn take_next(&mut self, id: usize, job: JobId) {
        let keeper = self.keeper(id, job);
        if keeper.current.is_some() {
            return;
        }
        let Some(order) = keeper.orders.pop_front() else { return };
        let is_new = match &order {
            OrderBody::Preflight(_) => !keeper.is_known,
            OrderBody::OpenSession { .. } => keeper.opened_with.is_none(),
            OrderBody::Prepare(_) => !keeper.is_prepared,
            OrderBody::CloseSession { .. } => keeper.ended_with.is_none(),
            _ => false,
        };
        let takes = match &order {
            OrderBody::Scan => {
                keeper.current = Some(order);
                return self.keeper_later(id, job, 1, KeeperAct::Page(0));
            }
            _ if is_new => self.rng.range(5, 1_500),
            _ => 1,
        };
        self.keeper(id, job).current = Some(order);
        self.keeper_later(id, job, takes, KeeperAct::Done);
    }

    pub(crate) fn keeper_act(&mut self, id: usize, job: JobId, act: KeeperAct) {
        match act {
            KeeperAct::Supplied(order) => return self.supplied(id, job, &order),
            KeeperAct::Page(page) => return self.scan_page(id, job, page),
            KeeperAct::Done => {}
        }
        let keeper = self.keeper(id, job);
        let Some(order) = keeper.current.take() else { return };
        if let OrderBody::CloseSession { repositories } = &order
            && keeper.ended_with.is_none()
        {
            self.end_session(id, job, repositories);
            self.keeper(id, job).current = Some(order);
            // The answer comes some time after the record. No draw: a drawn time would change what came of older seeds.
            let until_told = self.now % STOP_UNTOLD_MAX;
            return self.keeper_later(id, job, until_told, KeeperAct::Done);
        }
        for report in self.carry_out(id, job, order) {
            self.report(id, job, report);
        }
        self.take_next(id, job);
    }

    fn scan_page(&mut self, id: usize, job: JobId, page: usize) {
        let stanza = self.workers[id].stanza;
        let pages = self.scenario.stanzas[stanza].pages();
        let is_known = self.keeper(id, job).is_scanned;
        let Some(entries) = pages.get(page) else {
            let keeper = self.keeper(id, job);
            keeper.is_scanned = true;
            keeper.current = None;
            let end = ScanEnd { warnings: Vec::new(), copy_start: Timestamp(0) };
            self.report(id, job, ReportBody::ScanEnded(Ok(end)));
            return self.take_next(id, job);
        };
        self.report(id, job, ReportBody::Scanned(entries.clone()));
        let takes = if is_known { 1 } else { self.rng.range(1, 900) };
        self.keeper_later(id, job, takes, KeeperAct::Page(page + 1));
    }

    fn carry_out(&mut self, id: usize, job: JobId, order: OrderBody) -> Vec<ReportBody> {
        let report = match order {
            OrderBody::Preflight(_) => {
                self.keeper(id, job).is_known = true;
                ReportBody::Preflighted(Ok(crate::scenario::preflight_facts()))
            }
            OrderBody::OpenSession { .. } => ReportBody::SessionOpened(self.open_session(id, job)),
            OrderBody::Prepare(context) => return self.prepare(id, job, *context),
            OrderBody::RunUnit(order) => return self.run_unit(id, job, *order).into_iter().collect(),
            OrderBody::GiveBack { units } => return self.give_back(id, job, &units),
            OrderBody::CloseSession { .. } => {
                let answer = self.keeper(id, job).ended_with.clone();
                ReportBody::SessionClosed(answer.expect("it was ended before it is told"))
            }
            OrderBody::SupplyWal(order) => {
                let takes = self.rng.range(100, 6_000);
                self.keeper_later(id, job, takes, KeeperAct::Supplied(Box::new(order)));
                return Vec::new();
            }
            OrderBody::Confirm(order) => self.confirm(id, &order),
            OrderBody::Scan | OrderBody::Errand(_) | OrderBody::Restore(_) | OrderBody::End => {
                return Vec::new();
            }
        };
        vec![report]
    }

    fn open_session(&mut self, id: usize, job: JobId) -> Result<SessionFacts, Failure> {
        let now = self.now;
        let keeper = self.keeper(id, job);
        if !keeper.is_known {
            return Err(Failure::new(ErrorCode::Assert, "a session before a preflight"));
        }
        if let Some(facts) = &keeper.opened_with {
            return Ok(facts.clone());
        }
        let facts = crate::scenario::session_facts(now);
        (keeper.opened_with, keeper.has_session) = (Some(facts.clone()), true);
        self.ledger.session_opened(job, now);
        Ok(facts)
    }

    /// What the server returns goes to the repositories, and is told later.
    fn end_session(&mut self, id: usize, job: JobId, repositories: &[RepoKey]) {
        let now = self.now;
        let keeper = self.keeper(id, job);
        let answer = match (&keeper.context, keeper.opened_with.clone()) {
            (Some(context), Some(session)) if !keeper.is_session_dead && keeper.has_session => {
                Ok((context.label, session))
            }
            _ => Err(Failure::new(ErrorCode::Assert, "there is no session to close")),
        };
        let opened = keeper.opened_with.as_ref().map(|facts| facts.started);
        if let Some(opened) = opened {
            self.ledger.session_closed(job, opened, now);
        }
        let answer = answer.map(|(label, session)| self.record_stop(job, label, session, repositories));
        let keeper = self.keeper(id, job);
        (keeper.has_session, keeper.ended_with) = (false, Some(answer));
    }

    fn record_stop(
        &mut self,
        job: JobId,
        label: BackupLabel,
        session: SessionFacts,
        repositories: &[RepoKey],
    ) -> SessionEnd {
        let now = self.now;
        let stop = StopBody {
            start_lsn: WAL.start(),
            stop_lsn: WAL.stop(),
            timeline: TimelineId(1),
            stopped: wall(now),
            backup_label: String::new(),
            tablespace_map: String::new(),
            kept: None,
        };
        let mut failed = Vec::new();
        for key in repositories {
            match self.repository(job, *key).ask(now) {
                Ok(repository) => drop(repository.stops.insert(label, (stop.clone(), session.clone()))),
                Err(failure) => failed.push(RepositoryFailure { repository: *key, failure }),
            }
        }
        if failed.len() < repositories.len() {
            self.ledger.stopped(job);
        }
        SessionEnd { stop: Some(stop), failed }
    }

    fn prepare(&mut self, id: usize, job: JobId, context: UnitContext) -> Vec<ReportBody> {
        let taken = self.workers[id].held_count(job);
        let units = self.workers[id].capacity().saturating_sub(taken);
        let standby = match self.incarnation(id) {
            Ok(standby) => standby,
            Err(failure) if !self.keeper(id, job).is_prepared => {
                return vec![ReportBody::Prepared(Err(failure))];
            }
            // It does not look again.
            Err(_) => None,
        };
        let keeper = self.keeper(id, job);
        if !std::mem::replace(&mut keeper.is_prepared, true) {
            keeper.standby = standby;
        }
        keeper.context.get_or_insert(context);
        let standing = ReportBody::Standing(keeper.standing());
        let mut reports = vec![ReportBody::Prepared(Ok(Vec::new())), ReportBody::Ready { units }];
        // Elsewhere nobody asks for it, and one message more would change what came of older seeds.
        if self.scenario.with_standbys {
            reports.insert(1, standing);
        }
        reports
    }

    fn run_unit(&mut self, id: usize, job: JobId, order: UnitOrder) -> Option<ReportBody> {
        let holder = (job, order.unit, order.attempt);
        let worker = &mut self.workers[id];
        if worker.holdings.contains_key(&holder) {
            return None;
        }
        worker.holdings.insert(holder, (order.token, Stage::Waiting));
        let keeper = self.keeper(id, job);
        if keeper.context.is_none() {
            let early = Failure::new(ErrorCode::Assert, "a unit came before the job was prepared");
            return Some(ReportBody::UnitFailed(failed(&order, early)));
        }
        let number = keeper.number;
        self.workers[id].waiting.push_back((job, number, Arc::new(order)));
        self.fill_slots(id);
        None
    }

    fn give_back(&mut self, id: usize, job: JobId, units: &[UnitId]) -> Vec<ReportBody> {
        let mut returned = Vec::new();
        self.workers[id].holdings.retain(|(of, unit, attempt), (token, stage)| {
            let goes = *of == job && units.contains(unit) && matches!(stage, Stage::Waiting);
            if goes {
                returned.push(ReportBody::UnitReturned(held(*unit, *attempt, *token)));
            }
            !goes
        });
        let free = u16::try_from(returned.len()).unwrap_or(u16::MAX);
        if free > 0 {
            returned.push(ReportBody::Ready { units: free });
        }
        returned
    }

    pub(crate) fn fill_slots(&mut self, id: usize) {
        let now = self.now;
        while self.workers[id].busy_slots < self.workers[id].slots {
            let worker = &mut self.workers[id];
            let Some((job, keeper, order)) = worker.waiting.pop_front() else { return };
            let is_current = worker.keepers.get(&job).is_some_and(|known| known.number == keeper);
            if !is_current || !worker.has_right(now) {
                continue;
            }
            match worker.holdings.get_mut(&(job, order.unit, order.attempt)) {
                Some((_, stage @ Stage::Waiting)) => *stage = Stage::Running,
                _ => continue,
            }
            worker.busy_slots += 1;
            self.begin_unit(id, job, keeper, order);
        }
    }

    fn begin_unit(&mut self, id: usize, job: JobId, keeper: u64, order: Arc<UnitOrder>) {
        let is_slow = self.rng.percent(6);
        let takes = self.rng.range(100, UNIT_MILLISECONDS_MAX) * if is_slow { 12 } else { 1 };
        let context = self.keeper(id, job).context.clone().expect("it was looked at with the order");
        let secret = crate::scenario::secret();
        let version = self.rng.next();
        let (mut ranges, mut vanished) = (Vec::new(), Vec::new());
        for part in &order.parts {
            let path = part.path.to_string();
            if part.class.may_vanish()
                && part.offset == 0
                && order.parts.len() > 1
                && version.is_multiple_of(11)
            {
                vanished.push(path);
            } else if part.length > 0 {
                let checksum = secret.hash(format!("{path} {} {version}", part.offset).as_bytes());
                ranges.push(range_of(path, part.offset, part.length, part.block_size, checksum));
            }
        }
        let body = PackBody {
            backup: context.backup,
            label: context.label,
            plan: context.plan,
            unit: order.unit,
            attempt: order.attempt,
            worker: self.workers[id].name.clone(),
            slot: 0,
            ranges,
            foreign: Vec::new(),
            vanished,
            skipped: 0,
            plain: false,
        };
        self.note(format_args!("worker {id} reads unit {} attempt {}", order.unit, order.attempt));
        let pack = Pack { body, read_from: self.now, read_to: self.now + takes, is_astray: false };
        let left = order.repositories.clone();
        let standby = self.keeper(id, job).standby;
        let (stored, failed) = (Vec::new(), Vec::new());
        let running = Running { job, keeper, order, pack, left, stored, failed, standby };
        self.worker_later(id, takes, WorkerAct::UnitRead(Box::new(running)));
    }

    /// All bytes are on their way: the slot is free for the next unit.
    pub(crate) fn unit_read(&mut self, id: usize, mut running: Box<Running>) {
        self.workers[id].busy_slots -= 1;
        running.pack.read_to = self.now;
        running.pack.is_astray =
            running.standby.is_some() && self.incarnation(id).ok() != Some(running.standby);
        if self.rng.percent(self.scenario.unit_failures) {
            let failure = Failure::new(ErrorCode::FileRead, "input/output error");
            let report = ReportBody::UnitFailed(failed(&running.order, failure));
            self.unit_ends(id, &running, report);
        } else {
            let after = self.rng.range(1, 300);
            self.worker_later(id, after, WorkerAct::UnitStored(running));
        }
        self.fill_slots(id);
    }

    /// One repository after the other, create-only; then the receipt.
    pub(crate) fn unit_stored(&mut self, id: usize, mut running: Running) {
        let now = self.now;
        let Some(key) = running.left.pop() else {
            let report = receipt(&running, &self.workers[id].name);
            return self.unit_ends(id, &running, report);
        };
        let body = &running.pack.body;
        let name = (body.label, body.unit, body.attempt);
        let repository = self.repository(running.job, key);
        let put = repository.ask(now).and_then(|repository| {
            if repository.packs.contains_key(&name) {
                return Err(Failure::new(ErrorCode::FileWrite, "such a pack is there already"));
            }
            repository.packs.insert(name, running.pack.clone());
            Ok(())
        });
        match put {
            Ok(()) => running.stored.push(StoredPack { repository: key, bytes: 1 }),
            Err(failure) => running.failed.push(RepositoryFailure { repository: key, failure }),
        }
        let after = self.rng.range(1, 200);
        self.worker_later(id, after, WorkerAct::UnitStored(Box::new(running)));
    }

    fn unit_ends(&mut self, id: usize, running: &Running, report: ReportBody) {
        let job = running.job;
        if self.workers[id].keepers.get(&job).is_none_or(|keeper| keeper.number != running.keeper) {
            return;
        }
        self.report(id, job, report);
        self.report(id, job, ReportBody::Ready { units: 1 });
    }

    fn supplied(&mut self, id: usize, job: JobId, order: &SupplyOrder) {
        let now = self.now;
        let is_dead = self.keeper(id, job).opened_with.is_none();
        let repository = self.repository(job, order.repository);
        let result = repository.ask(now).map(|repository| {
            repository.supplied.extend(order.segments.iter().copied());
        });
        let report = ReportBody::WalSupplied {
            repository: order.repository,
            archiver_works: !is_dead && self.scenario.archiver_is_behind,
            result,
        };
        self.report(id, job, report);
    }
}

fn failed(order: &UnitOrder, failure: Failure) -> UnitFailure {
    UnitFailure {
        unit: order.unit,
        attempt: order.attempt,
        token: order.token,
        failure,
        failed: Vec::new(),
        wrong_summary: None,
    }
}

fn range_of(path: String, offset: u64, length: u64, block_size: u32, checksum: BlockHash) -> PackRange {
    PackRange {
        path,
        offset,
        length,
        block_size,
        hashes: Vec::new(),
        runs: Vec::new(),
        checksum,
        bad_pages: Vec::new(),
        sha1: None,
    }
}

fn receipt(running: &Running, worker: &WorkerName) -> ReportBody {
    let (order, body) = (&running.order, &running.pack.body);
    if running.stored.is_empty() {
        let failure = running.failed.first().map_or_else(
            || Failure::new(ErrorCode::Assert, "a unit was ordered for no repository"),
            |first| first.failure.clone(),
        );
        return ReportBody::UnitFailed(UnitFailure {
            failed: running.failed.clone(),
            ..failed(order, failure)
        });
    }
    let part = |part: &pgconvoy_core::wire::UnitPart| {
        let path = part.path.to_string();
        if body.vanished.contains(&path) {
            return PartReceipt::Vanished;
        }
        let place = body.ranges.iter().position(|range| range.path == path && range.offset == part.offset);
        PartReceipt::Present {
            place: place.map(|place| u32::try_from(place).expect("a few parts")),
            length: part.length,
            checksum: place
                .map_or_else(|| crate::scenario::secret().hash(&[]), |at| body.ranges[at].checksum),
            pages_checked: 0,
            bad_pages: Vec::new(),
        }
    };
    ReportBody::UnitDone(Receipt {
        unit: order.unit,
        attempt: order.attempt,
        token: order.token,
        slot: 0,
        parts: order.parts.iter().map(part).collect(),
        read: order.parts.iter().map(|part| part.length).sum(),
        changed: 0,
        skipped: 0,
        wrong_summary: None,
        stored: running.stored.clone(),
        failed: running.failed.clone(),
        spent: Default::default(),
        standby: running.standby.map(|incarnation| FromStandby { worker: worker.clone(), incarnation }),
    })
}
