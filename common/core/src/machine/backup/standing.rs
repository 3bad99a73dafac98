//! What each worker is to the job, what it may therefore be given, and from whom those get their bytes that see no data.
//!
//! Invariants
//! 1. What only the primary has is read on the primary's host, or served from there.
//! 2. With `offload = always` no source computes; with `backup-standby = y` no primary is read for what standbys have.
//! 3. A source that cannot be reached costs no unit one of its attempts: that is nobody's fault who could be blamed for data.

use super::joining::Reader;
use super::units::{Fare, Servers};
use super::{BackupMachine, Effect, Phase};
use crate::config::{BackupStandby, Offload};
use crate::failure::{ErrorCode, Failure};
use crate::ids::WorkerName;
use crate::ticket::Admits;
use crate::units::Timestamp;
use crate::wire::{
    ClusterTerms, OrderBody, Reading, RemoteSource, StandbyTerms, Standing, UnitFailure, UnitOrder,
};
use std::collections::BTreeMap;

/// How long a source is left alone by a worker that could not reach it.
const REST_MS: i64 = 3_000;
/// A worker that failed so often in a row to reach a source will not reach it. Longer than it takes to find out that the
/// source's worker is lost.
const STRIKES_MAX: u32 = 8;
/// How long the job goes on without anybody who may do what is left to do.
const HANDS_PATIENCE_MS: i64 = 60_000;

/// Who reaches whom, and since when nobody may do what is left.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Attempts in a row that failed because a source could not be reached, by the worker that tried.
    strikes: BTreeMap<WorkerName, u32>,
    /// Workers, and the sources that they leave alone until then.
    resting: BTreeMap<(WorkerName, WorkerName), Timestamp>,
    short_of_hands_since: Option<Timestamp>,
}

impl BackupMachine {
    /// What workers are told of who else may take part.
    pub(super) fn reading(&self) -> Reading {
        let (Some(facts), Some(session)) = (&self.facts, &self.session) else { return Reading::default() };
        let standbys = session.start.filter(|_| self.spec.standby != BackupStandby::No).and_then(|start| {
            Some(StandbyTerms {
                system_id: facts.system_id,
                timeline: session.timeline,
                checkpoint: start.checkpoint?,
                start: start.lsn,
            })
        });
        let offload = (self.spec.offload != Offload::Never).then_some(ClusterTerms {
            version: facts.version,
            page_size: facts.page_size,
            relation_segment_blocks: facts.relation_segment_blocks,
            check_pages: facts.checksums && self.spec.source.checksum_page != Some(false),
        });
        Reading { standbys, offline_control: session.offline_control, offload }
    }

    pub(super) fn on_standing(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        standing: Standing,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(reader) = self.readers.get_mut(worker)
            && *reader != Reader::Useless
        {
            *reader = Reader::Fit(standing);
            self.set_fares(now);
            self.lease_units(now, effects);
        }
    }

    fn fit(&self) -> impl Iterator<Item = (&WorkerName, &Standing)> {
        self.readers.iter().filter_map(|(worker, reader)| match reader {
            Reader::Fit(standing) => Some((worker, standing)),
            Reader::Here | Reader::Useless => None,
        })
    }

    fn computes(&self, worker: &WorkerName, standing: &Standing) -> bool {
        *standing == Standing::Compute && !self.board.is_draining(worker)
    }

    /// After every change in who is here and what they are.
    pub(super) fn set_fares(&mut self, now: Timestamp) {
        self.set_usual_fares(now);
        self.review_suspects();
    }

    fn set_usual_fares(&mut self, now: Timestamp) {
        let is_plain = self.spec.offload == Offload::Never && self.spec.standby == BackupStandby::No;
        if is_plain || self.phase == Phase::CopyingWal {
            return self.open_to_all();
        }
        self.reach.resting.retain(|_, until| *until > now);
        let has_standby = self.fit().any(|(_, standing)| matches!(standing, Standing::Standby { .. }));
        let has = |standing: &Standing| match (standing, self.spec.standby) {
            (Standing::Compute, _) => Fare::Nothing,
            (Standing::Standby { .. }, _) => Fare::Any,
            (Standing::Primary { .. }, BackupStandby::Yes) => Fare::Primary,
            (Standing::Primary { .. }, _) if has_standby => Fare::PrimaryFirst,
            (Standing::Primary { .. }, _) => Fare::All,
        };
        let serving = self.fit().filter(|(_, standing)| standing.serves().is_some());
        let servers: Servers = serving.map(|(worker, standing)| (worker.clone(), has(standing))).collect();
        let served = self.served_by(&servers);
        let is_helped = !servers.is_empty() && served.keys().any(|worker| !self.board.is_draining(worker));
        let computes_itself = |standing: &Standing| match self.spec.offload {
            Offload::Never => true,
            // What it does not serve, nobody else can do.
            Offload::Prefer => !is_helped || standing.serves().is_none(),
            Offload::Always => false,
        };
        let fare = |(worker, reader): (&WorkerName, &Reader)| match reader {
            Reader::Fit(Standing::Compute) => served.get(worker).map_or(Fare::Nothing, sum),
            Reader::Fit(standing) if computes_itself(standing) => has(standing),
            _ => Fare::Nothing,
        };
        let fares: Vec<_> = self.readers.iter().map(|one| (one.0.clone(), fare(one))).collect();
        self.board.set_fares(fares);
        self.board.set_served(served);
    }

    /// For each worker that sees no data, the sources that it may ask now.
    fn served_by(&self, servers: &Servers) -> BTreeMap<WorkerName, Servers> {
        let computing = self.fit().filter(|(_, standing)| **standing == Standing::Compute);
        let reached = |worker: &WorkerName| {
            let rests =
                |server: &WorkerName| self.reach.resting.contains_key(&(worker.clone(), server.clone()));
            let reached = servers.iter().filter(|(server, _)| !rests(server));
            reached.map(|(server, fare)| (server.clone(), *fare)).collect()
        };
        computing.map(|(worker, _)| (worker.clone(), reached(worker))).collect()
    }

    /// WAL comes from repositories, which everybody sees.
    pub(super) fn open_to_all(&mut self) {
        self.board.set_fares([]);
        self.board.set_served(BTreeMap::new());
    }

    /// The order as its worker needs it: with the way to its bytes, if it sees none. `None`: who was to serve it is gone.
    pub(super) fn with_source(&self, worker: &WorkerName, order: UnitOrder) -> Option<UnitOrder> {
        let hold = self.board.holds(order.unit).iter().find(|hold| hold.attempt == order.attempt)?;
        let Some(source) = &hold.source else { return Some(order) };
        let Some(Reader::Fit(standing)) = self.readers.get(source) else { return None };
        let serving = standing.serves()?;
        let admits = Admits {
            job: self.spec.job,
            unit: order.unit,
            attempt: order.attempt,
            worker,
            parts: &order.parts,
        };
        let standby = match standing {
            Standing::Standby { incarnation, .. } => Some(*incarnation),
            Standing::Primary { .. } | Standing::Compute => None,
        };
        let ticket = serving.secret.sign(&admits);
        let remote =
            RemoteSource { worker: source.clone(), address: serving.address.clone(), ticket, standby };
        Some(UnitOrder { source: Some(remote), ..order })
    }

    /// Whether the attempt failed for want of the source that was to serve it.
    pub(super) fn is_of_a_server(&self, report: &UnitFailure) -> bool {
        let mut holds = self.board.holds(report.unit).iter();
        let is_served = holds.any(|hold| hold.attempt == report.attempt && hold.source.is_some());
        is_served && report.failure.code == ErrorCode::HostConnect
    }

    /// To be called before the attempt is given back.
    pub(super) fn unreached(
        &mut self,
        now: Timestamp,
        worker: &WorkerName,
        report: &UnitFailure,
        effects: &mut Vec<Effect>,
    ) {
        let hold = self.board.holds(report.unit).iter().find(|hold| hold.attempt == report.attempt);
        if let Some(source) = hold.and_then(|hold| hold.source.clone()) {
            self.reach.resting.insert((worker.clone(), source), Timestamp(now.0 + REST_MS));
        }
        let strikes = self.reach.strikes.entry(worker.clone()).or_default();
        *strikes += 1;
        if *strikes >= STRIKES_MAX {
            self.warn([format!("worker {worker} takes no further part: {}", report.failure)], effects);
            self.readers.insert(worker.clone(), Reader::Useless);
        }
        self.set_fares(now);
    }

    pub(super) fn reached(&mut self, worker: &WorkerName) {
        self.reach.strikes.remove(worker);
    }

    /// What a source serves that is gone goes elsewhere.
    pub(super) fn move_what_it_serves(&mut self, source: &WorkerName, effects: &mut Vec<Effect>) {
        for (unit, hold) in self.board.served_by(source) {
            if hold.token.is_some() {
                effects.push(Effect::ReleaseLease { unit, attempt: hold.attempt });
                effects.push(self.order_to(&hold.worker, OrderBody::GiveBack { units: vec![unit] }));
            }
            self.board.give_back(unit, hold.attempt);
        }
    }

    /// A job that asked for standbys or compute workers waits for them, but not for ever.
    pub(super) fn expect_hands(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        let Some(missing) = self.missing_hands() else {
            self.reach.short_of_hands_since = None;
            return Ok(());
        };
        match self.reach.short_of_hands_since {
            None => {
                self.reach.short_of_hands_since = Some(now);
                self.warn([format!("{missing}: waiting")], effects);
                Ok(())
            }
            Some(since) if now.0 - since.0 < HANDS_PATIENCE_MS => Ok(()),
            Some(_) => {
                let seconds = HANDS_PATIENCE_MS / 1000;
                let failure =
                    Failure::new(ErrorCode::HostConnect, format!("{missing}, and {seconds} s later neither"));
                Err(self.hint_at_hands(failure))
            }
        }
    }

    /// Whoever is still preparing may be what is missing.
    fn missing_hands(&self) -> Option<&'static str> {
        let is_undecided =
            |(worker, reader): (&WorkerName, &Reader)| *reader == Reader::Here && *worker != self.source;
        if self.phase != Phase::Copying || self.is_paused || self.readers.iter().any(is_undecided) {
            return None;
        }
        let is_standby = |standing: &Standing| matches!(standing, Standing::Standby { .. });
        if self.spec.standby == BackupStandby::Yes && !self.fit().any(|(_, standing)| is_standby(standing)) {
            return Some("no standby takes part, as backup-standby = y demands");
        }
        if self.spec.offload != Offload::Always {
            return None;
        }
        if !self.fit().any(|(worker, standing)| self.computes(worker, standing)) {
            return Some("no worker computes for others, as offload = always demands");
        }
        let serves = |standing: &Standing| matches!(standing, Standing::Primary { serves: Some(_) });
        if !self.fit().any(|(_, standing)| serves(standing)) {
            return Some("the primary's worker serves nobody, as offload = always demands");
        }
        None
    }

    fn hint_at_hands(&self, failure: Failure) -> Failure {
        let failure = match self.spec.offload {
            Offload::Always => failure
                .hint("compute workers have [worker] compute = [STANZA] in their configuration, sources listen = ADDRESS"),
            _ => failure.hint("a worker on each standby's host takes part, if its PostgreSQL can be reached"),
        };
        failure.hint(
            "the job's warnings say why a worker takes no part; pgconvoy workers list shows who is here",
        )
    }
}

fn sum(servers: &Servers) -> Fare {
    servers.values().fold(Fare::Nothing, |sum, fare| match (sum, *fare) {
        (Fare::Nothing, other) | (other, Fare::Nothing) => other,
        (one, other) if one == other => one,
        _ => Fare::All,
    })
}
