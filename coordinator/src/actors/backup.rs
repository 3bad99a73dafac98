//! One backup: events in, effects out. What it decides is [`BackupMachine`]'s business.

use super::worker_link::FromWorker;
use crate::progress::{Progress, Unwritten};
use crate::unit_map::{LookAtUnits, UnitMap};
use crate::units::{self, ListUnits, UnitView};
use actix::{Actor, AsyncContext, Context, Handler, Message};
use pgconvoy_core::ids::WorkerName;
use pgconvoy_core::machine::backup::{BackupMachine, BackupSpec, Effect, Event, Recovered};
use pgconvoy_core::units::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// How often the machine is told that time has passed: idle workers wait no longer than this for work of others.
const TICK: Duration = Duration::from_millis(200);

/// Something happened that the machine should know of.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Happened(pub Event);

pub struct BackupActor {
    machine: BackupMachine,
    effects: mpsc::UnboundedSender<Vec<Effect>>,
    progress: watch::Sender<Progress>,
    unwritten: Unwritten,
}

impl BackupActor {
    pub(crate) fn new(
        spec: BackupSpec,
        source: WorkerName,
        readers: Vec<WorkerName>,
        recovered: Recovered,
        effects: mpsc::UnboundedSender<Vec<Effect>>,
        unwritten: Unwritten,
    ) -> (Self, watch::Receiver<Progress>) {
        let (machine, first) = BackupMachine::start(spec, source, readers, recovered);
        let (progress, watcher) = watch::channel(Progress::of(&machine, &unwritten));
        let actor = BackupActor { machine, effects, progress, unwritten };
        actor.want(first);
        (actor, watcher)
    }

    fn want(&self, effects: Vec<Effect>) {
        for effect in &effects {
            if let Effect::PersistAccepted { accepted, .. } = effect {
                self.unwritten.add(accepted.unit, self.machine.board().bytes_of(accepted.unit));
            }
        }
        if !effects.is_empty() {
            // The other end lives until it has carried out `Finish`.
            let _ = self.effects.send(effects);
        }
    }

    fn tell(&mut self, event: Event) {
        let effects = self.machine.on_event(now(), event);
        self.want(effects);
        self.progress.send_if_modified(|known| {
            let before = std::mem::replace(known, Progress::of(&self.machine, &self.unwritten));
            before != *known
        });
    }
}

impl Actor for BackupActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(TICK, |actor, _| actor.tell(Event::Ticked));
    }
}

impl Handler<Happened> for BackupActor {
    type Result = ();

    fn handle(&mut self, Happened(event): Happened, _: &mut Self::Context) {
        self.tell(event);
    }
}

impl Handler<ListUnits> for BackupActor {
    type Result = Vec<UnitView>;

    fn handle(&mut self, ListUnits { from, count }: ListUnits, _: &mut Self::Context) -> Self::Result {
        units::list(self.machine.board(), from, count)
    }
}

impl Handler<LookAtUnits> for BackupActor {
    type Result = Option<UnitMap>;

    fn handle(&mut self, _: LookAtUnits, _: &mut Self::Context) -> Self::Result {
        Some(UnitMap::of(&self.machine))
    }
}

impl Handler<FromWorker> for BackupActor {
    type Result = ();

    fn handle(&mut self, message: FromWorker, _: &mut Self::Context) {
        self.tell(match message {
            FromWorker::Report(worker, report) => Event::Reported { worker, report },
            FromWorker::Joined(worker, held) => Event::WorkerJoined { worker, held },
            FromWorker::Lost(worker) => Event::WorkerLost { worker },
            FromWorker::Drained(worker, is_draining) => Event::WorkerDrained { worker, is_draining },
        });
    }
}

/// The host's clock. Used for labels and records only; nothing is judged late by it.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
