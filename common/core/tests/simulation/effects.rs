//! Carries out a machine's effects: in order where something rests on the order, beside where it only takes time.
//!
//! Mirrors `effects.rs` of `pgconvoy-coordinator`.

use crate::beside::{Clearing, Publishing, ReadingPrior, WalWait};
use crate::coordinator::{CoordinatorAct, TICK};
use crate::leading::{ASK_AGAIN, Run, short};
use crate::lease_store::{Acquire, Key, Refused, Value};
use crate::scenario::ARCHIVE_TIMEOUT;
use crate::wall;
use crate::world::World;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Attempt, FencingToken, RepoKey, UnitId, WorkerName};
use pgconvoy_core::job::JobState;
use pgconvoy_core::machine::backup::batching::{Acceptance, Waiting, take_accepted};
use pgconvoy_core::machine::backup::event::{AcceptedUnit, UnitLease};
use pgconvoy_core::machine::backup::{BackupSpec, Effect, Event};
use pgconvoy_core::wire::{Instruction, JobId};
use std::collections::BTreeSet;

/// Few, so that there is not always room.
const ACCEPTED_AT_ONCE: i32 = 3;

pub(crate) struct Executor {
    pub(crate) spec: BackupSpec,
    batches: Waiting,
    /// The rest of the batch may rest on what could not be done.
    has_failed: bool,
    /// What the lease store is asked, or was asked without an answer.
    asking: Option<Asking>,
    accepted: Vec<AcceptedUnit>,
    pub(crate) beating: BTreeSet<RepoKey>,
    pub(crate) dropped: BTreeSet<RepoKey>,
    /// Accepted units whose packs could not be shown.
    pub(crate) lost: BTreeSet<UnitId>,
}

#[derive(Debug, Clone)]
enum Asking {
    Accepted(Vec<Acceptance>),
    Other(Effect),
}

impl Executor {
    /// That acceptance, and those that wait behind it.
    fn accepted(&mut self, first: Effect) -> Vec<Acceptance> {
        self.batches.front_mut().expect("it was taken from there").push_front(first);
        let mut left = ACCEPTED_AT_ONCE;
        take_accepted(&mut self.batches, |_| {
            left -= 1;
            left >= 0
        })
    }

    pub(crate) fn new(spec: BackupSpec, accepted: Vec<AcceptedUnit>) -> Executor {
        Executor {
            spec,
            batches: Waiting::new(),
            has_failed: false,
            asking: None,
            accepted,
            beating: BTreeSet::new(),
            dropped: BTreeSet::new(),
            lost: BTreeSet::new(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Leased {
        worker: WorkerName,
        leases: Vec<UnitLease>,
    },
    WorkerOver(WorkerName),
    Written,
    /// Another one leads.
    Fenced,
    Contradiction,
    Conclude {
        state: JobState,
        failure: Option<Failure>,
    },
}

impl World {
    pub(crate) fn run_of(&mut self, id: usize, epoch: FencingToken, job: JobId) -> Option<&mut Run> {
        self.leading(id, epoch)?.jobs.get_mut(&job)?.run.as_mut()
    }

    pub(crate) fn want(&mut self, id: usize, epoch: FencingToken, job: JobId, effects: Vec<Effect>) {
        let Some(run) = self.run_of(id, epoch, job).filter(|_| !effects.is_empty()) else { return };
        run.executor.batches.push_back(effects.into());
        self.pump(id, epoch, job);
    }

    pub(crate) fn job_act(&mut self, id: usize, act: CoordinatorAct) {
        match act {
            CoordinatorAct::Tick { epoch, job } => self.tick(id, epoch, job),
            CoordinatorAct::Happened { epoch, job, event } => self.happened(id, epoch, job, *event),
            CoordinatorAct::Apply { epoch, job } => self.apply(id, epoch, job),
            CoordinatorAct::Answered { epoch, job, answer } => self.answered(id, epoch, job, *answer),
            CoordinatorAct::Prepare { epoch, job, seen } => self.prepare_repositories(id, epoch, job, seen),
            CoordinatorAct::Clear(clearing) => self.clear(id, *clearing),
            CoordinatorAct::ReadPrior(reading) => self.read_prior(id, *reading),
            CoordinatorAct::AwaitWal(wait) => self.await_wal(id, *wait),
            CoordinatorAct::WritePlan { epoch, job, repository, label } => {
                self.write_plan(id, epoch, job, repository, label);
            }
            CoordinatorAct::Beat { epoch, job, repository, label } => {
                self.beat(id, epoch, job, repository, label)
            }
            CoordinatorAct::Recall { epoch, job, label, units } => {
                let packs = self.recall(id, epoch, job, label, units);
                self.tell_job(id, epoch, job, Event::ReceiptsRecalled { packs });
            }
            CoordinatorAct::RecallSession { epoch, job, label } => self.recall_session(id, epoch, job, label),
            CoordinatorAct::FindStop { epoch, job, label } => self.find_stop(id, epoch, job, label),
            CoordinatorAct::GiveUp { epoch, job, label, left, fates } => {
                self.give_up(id, epoch, job, label, left, fates);
            }
            CoordinatorAct::Publish(publishing) => self.publish(id, *publishing),
            _ => {}
        }
    }

    fn tick(&mut self, id: usize, epoch: FencingToken, job: JobId) {
        if self.run_of(id, epoch, job).is_some() {
            self.happened(id, epoch, job, Event::Ticked);
            self.coordinator_later(id, TICK, CoordinatorAct::Tick { epoch, job });
        }
    }

    fn happened(&mut self, id: usize, epoch: FencingToken, job: JobId, event: Event) {
        let skew = self.now;
        let is_tick = event == Event::Ticked;
        let Some(run) = self.run_of(id, epoch, job) else { return };
        let before = run.machine.phase();
        let effects = run.machine.on_event(wall(skew), event);
        let after = run.machine.phase();
        if !is_tick && before != after {
            self.note(format_args!("job {} is {after:?} under coordinator {id}", short(job)));
        }
        self.want(id, epoch, job, effects);
    }

    fn pump(&mut self, id: usize, epoch: FencingToken, job: JobId) {
        loop {
            let Some(run) = self.run_of(id, epoch, job) else { return };
            let executor = &mut run.executor;
            if executor.asking.is_some() {
                return;
            }
            let Some(batch) = executor.batches.front_mut() else { return };
            let Some(effect) = batch.pop_front() else {
                executor.batches.pop_front();
                executor.has_failed = false;
                continue;
            };
            match effect {
                Effect::Finish(outcome) => {
                    executor.beating.clear();
                    self.finished(id, epoch, job, &outcome);
                }
                effect if executor.has_failed && !effect.is_of_the_end() => {}
                effect => self.begin(id, epoch, job, effect),
            }
        }
    }

    fn begin(&mut self, id: usize, epoch: FencingToken, job: JobId, effect: Effect) {
        match effect {
            Effect::Send { worker, order } => self.instruct(id, epoch, &worker, Instruction::Order(order)),
            Effect::Settle { worker, unit, attempt } => self.settle(id, epoch, job, &worker, unit, attempt),
            Effect::LeaseUnits { .. }
            | Effect::ReleaseLease { .. }
            | Effect::PersistAccepted { .. }
            | Effect::PersistAnnounced(_)
            | Effect::PersistStopOrder => {
                let after = self.rng.range(1, 40);
                let executor = &mut self.run_of(id, epoch, job).expect("it has effects").executor;
                let asking = match effect {
                    Effect::PersistAccepted { .. } => Asking::Accepted(executor.accepted(effect)),
                    other => Asking::Other(other),
                };
                executor.asking = Some(asking);
                self.coordinator_later(id, after, CoordinatorAct::Apply { epoch, job });
            }
            other => self.begin_beside(id, epoch, job, other),
        }
    }

    fn begin_beside(&mut self, id: usize, epoch: FencingToken, job: JobId, effect: Effect) {
        let after = self.rng.range(1, 400);
        let executor = &mut self.run_of(id, epoch, job).expect("it has effects").executor;
        let act = match effect {
            Effect::OpenRepositories { .. } => CoordinatorAct::Prepare { epoch, job, seen: None },
            Effect::AwaitWal { repository, segments, .. } => {
                let until = self.now + ARCHIVE_TIMEOUT;
                let wait = WalWait { epoch, job, repository, missing: segments, until };
                CoordinatorAct::AwaitWal(Box::new(wait))
            }
            Effect::GiveUpUnfinished { repository, unfinished } => {
                CoordinatorAct::Clear(Box::new(Clearing { epoch, job, repository, unfinished }))
            }
            Effect::ReadPrior { round, prior, records } => {
                let reading = ReadingPrior { epoch, job, round, prior, records };
                CoordinatorAct::ReadPrior(Box::new(reading))
            }
            Effect::WritePlan { repository, label, .. } => {
                executor.beating.insert(repository);
                CoordinatorAct::WritePlan { epoch, job, repository, label }
            }
            Effect::RecallReceipts { label, units, .. } => {
                CoordinatorAct::Recall { epoch, job, label, units }
            }
            Effect::RecallSession { label, .. } => CoordinatorAct::RecallSession { epoch, job, label },
            Effect::FindStop { label, .. } => CoordinatorAct::FindStop { epoch, job, label },
            Effect::GiveUpLabel { repositories, label, .. } => {
                CoordinatorAct::GiveUp { epoch, job, label, left: repositories, fates: Vec::new() }
            }
            Effect::WaitForSource { absence, patience_ms } => {
                let event = Box::new(Event::SourceOverdue { absence });
                return self.coordinator_later(
                    id,
                    patience_ms,
                    CoordinatorAct::Happened { epoch, job, event },
                );
            }
            Effect::Publish { repository, contents, record } => {
                let (label, backup) = (record.label, record.backup);
                let publishing = Publishing {
                    epoch,
                    job,
                    repository,
                    label,
                    backup,
                    contents,
                    record,
                    has_manifest: false,
                };
                CoordinatorAct::Publish(Box::new(publishing))
            }
            Effect::Dropped { repository, .. } => {
                executor.beating.remove(&repository);
                executor.dropped.insert(repository);
                return self.note(format_args!("job {} goes on without repo {repository}", short(job)));
            }
            Effect::Warn(warning) => return self.note(format_args!("warning: {warning}")),
            _ => return,
        };
        self.coordinator_later(id, after, act);
    }

    fn settle(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        worker: &WorkerName,
        unit: UnitId,
        attempt: Attempt,
    ) {
        let settled = Instruction::Settled { job, units: vec![(unit, attempt)] };
        self.instruct(id, epoch, worker, settled);
    }

    /// The call arrives at the lease store, which may be out of reach; its answer may be lost.
    fn apply(&mut self, id: usize, epoch: FencingToken, job: JobId) {
        let answers = self.store_answers(id);
        let Some(asking) = self.run_of(id, epoch, job).and_then(|run| run.executor.asking.clone()) else {
            return;
        };
        if !answers {
            return self.coordinator_later(id, ASK_AGAIN, CoordinatorAct::Apply { epoch, job });
        }
        let answer = self.commit(id, epoch, job, asking);
        if self.rng.percent(self.scenario.lost_answers) && !matches!(answer, Answer::Fenced) {
            return self.coordinator_later(id, ASK_AGAIN, CoordinatorAct::Apply { epoch, job });
        }
        let after = self.rng.range(1, 40);
        self.coordinator_later(id, after, CoordinatorAct::Answered { epoch, job, answer: Box::new(answer) });
    }

    fn commit(&mut self, id: usize, epoch: FencingToken, job: JobId, asking: Asking) -> Answer {
        if self.store.check(Some(epoch)).is_err() {
            return Answer::Fenced;
        }
        self.commit_check(epoch);
        let effect = match asking {
            Asking::Accepted(some) => return self.accept(id, epoch, job, some),
            Asking::Other(effect) => effect,
        };
        match effect {
            Effect::LeaseUnits { worker, units } => self.lease(id, epoch, job, worker, &units),
            Effect::ReleaseLease { unit, attempt } => {
                self.store.delete(&Key::Unit(job, unit, attempt));
                Answer::Written
            }
            Effect::PersistAnnounced(announced) => {
                self.change_record(id, epoch, job, |record| {
                    if let Some(begun) = &mut record.begun {
                        begun.announced = Some(announced);
                    }
                });
                Answer::Written
            }
            Effect::PersistStopOrder => {
                self.check_stop(id, epoch, job);
                self.store.put(Key::StopOrder(job), Value::Nothing);
                Answer::Written
            }
            _ => Answer::Written,
        }
    }

    fn accept(&mut self, id: usize, epoch: FencingToken, job: JobId, some: Vec<Acceptance>) -> Answer {
        for Acceptance { accepted: one, .. } in some {
            let (unit, attempt) = (one.unit, one.attempt);
            let executor = &mut self.run_of(id, epoch, job).expect("it asked").executor;
            if !executor.accepted.contains(&one) {
                executor.accepted.push(one);
            }
            self.ledger.accepted(job, unit, attempt);
            self.store.delete(&Key::Unit(job, unit, attempt));
            self.note(format_args!("unit {unit} attempt {attempt} is accepted"));
        }
        let accepted = self.run_of(id, epoch, job).expect("it asked").executor.accepted.clone();
        self.store.put(Key::Done(job), Value::Accepted(accepted));
        Answer::Written
    }

    fn lease(
        &mut self,
        id: usize,
        epoch: FencingToken,
        job: JobId,
        worker: WorkerName,
        units: &[(UnitId, Attempt)],
    ) -> Answer {
        self.check_not_read_again(id, epoch, job, units);
        let known = self.leading(id, epoch).and_then(|leading| leading.workers.get(&worker));
        let Some(lease) = known.filter(|entry| !entry.is_lost()).map(|entry| entry.lease) else {
            return Answer::WorkerOver(worker);
        };
        let mut leases = Vec::new();
        for (unit, attempt) in units {
            let (unit, attempt) = (*unit, *attempt);
            let key = Key::Unit(job, unit, attempt);
            let granted = self.store.entries.contains_key(&key);
            let token = match self.store.acquire(key, Value::Holder(worker.clone()), lease, Some(epoch)) {
                Ok(Acquire::Granted(token)) => token,
                Ok(Acquire::Held(entry)) if entry.lease == Some(lease) => entry.token,
                Ok(Acquire::Held(_)) => return Answer::Contradiction,
                Err(Refused::LeaseOver) => return Answer::WorkerOver(worker),
                Err(Refused::Fenced) => return Answer::Fenced,
            };
            if !granted {
                self.ledger.granted(job, unit, attempt);
            }
            leases.push(UnitLease { unit, attempt, token });
        }
        Answer::Leased { worker, leases }
    }

    fn answered(&mut self, id: usize, epoch: FencingToken, job: JobId, answer: Answer) {
        if let Answer::Conclude { state, failure } = answer {
            return self.write_end(id, epoch, job, state, failure);
        }
        let Some(run) = self.run_of(id, epoch, job) else { return };
        let asked = run.executor.asking.take();
        match answer {
            Answer::Fenced => return self.step_down(id),
            Answer::Leased { worker, leases } => {
                self.tell_job(id, epoch, job, Event::UnitsLeased { worker, leases });
            }
            Answer::WorkerOver(worker) => {
                self.lose(id, epoch, &worker);
                self.tell_job(id, epoch, job, Event::WorkerLost { worker });
            }
            Answer::Contradiction => {
                run.executor.has_failed = true;
                let failure = Failure::new(ErrorCode::LockAcquire, "a unit is leased to somebody else");
                self.tell_job(id, epoch, job, Event::Cancelled(failure));
            }
            Answer::Written | Answer::Conclude { .. } => {}
        }
        if let Some(Asking::Accepted(some)) = asked {
            for Acceptance { worker, accepted } in some {
                self.settle(id, epoch, job, &worker, accepted.unit, accepted.attempt);
            }
        }
        self.pump(id, epoch, job);
    }
}
