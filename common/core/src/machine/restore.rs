//! One job that workers share, a restore or a `repo-sync`: events in, effects out.
//!
//! The *main* worker does the restore: it chooses the backup, takes the target, and alone gives files their final names. The
//! others are its *mates*: each writes its shares into a staging place that the main worker made for it, and the main worker
//! adopts them. So nobody but the main worker can ever write to a file of the cluster, however late it wakes.
//!
//! A `repo-sync` is shared in the same way, part by part: its main worker alone publishes; a mate's *staging place* is but a name for
//! what it does, as what it copies lies in the target at once, under names that nothing refers to; and the main worker
//! *adopts* that by comparing it with the source.
//!
//! Invariants
//! 1. A share is in one state: free, held by one worker, staged by one mate, done. Only the main worker's word makes it done, and
//!    its word outranks what is thought here.
//! 2. What a mate says counts only with the name of the staging place that it has now: an earlier incarnation has another one.
//! 3. The main worker is recorded before it begins, and nobody takes a restore's place: a frozen one could wake beside the next.
//!    Two that copy the same do each other no harm, so whoever is here follows one of a `repo-sync` that is lost.
//! 4. A `repo-sync` that is cancelled ends when its main worker has stopped or is lost: what the job locks must not be free before.
//!
//! Failure story: a mate that is lost or fails costs its shares, which go to others. A main worker that is lost is waited for; if
//! its process is another, everything begins anew there. A new leader starts the machine anew and asks the main worker how
//! far it is.

mod board;
mod ending;
mod following;
mod told;

use crate::failure::Failure;
use crate::ids::{Identity, ShareId, WorkerName};
use crate::units::Timestamp;
use crate::wire::{ErrandEnd, ErrandOrder, ShareOrder, ShareReport, StagedShare};
pub use board::Board;
use ending::{absent, nobody};
use std::collections::{BTreeMap, BTreeSet};
pub use told::Told;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSpec {
    pub errand: ErrandOrder,
    /// Who may take part.
    pub crew: Crew,
    /// Under an earlier leader, or before the main worker was lost.
    pub main: Option<WorkerName>,
    /// How long it is waited for a main worker.
    pub patience_ms: u64,
    /// How long a cancelled job waits for its main worker to stop; 0: not at all.
    pub stop_patience_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crew {
    /// These, in the order in which they were named. Nobody follows the main worker.
    Named(Vec<WorkerName>),
    /// Whoever comes, and anyone of them follows a main worker that is lost.
    Anyone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `holds`: it has something of this job.
    Joined {
        worker: WorkerName,
        holds: bool,
    },
    Lost {
        worker: WorkerName,
    },
    /// Whoever leads next knows whose restore it is.
    MainRecorded,
    Reported {
        worker: WorkerName,
        report: ShareReport,
    },
    Ticked,
    Cancelled(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    RecordMain(WorkerName),
    Order {
        worker: WorkerName,
        order: ShareOrder,
    },
    /// Nothing more of this job is wanted from it.
    End(WorkerName),
    Warn(String),
    Finish(Result<ErrandEnd, Failure>),
}

#[derive(Debug)]
enum Main {
    Unknown,
    Recording(WorkerName),
    Known(WorkerName),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mate {
    /// The main worker was asked for a staging place.
    Asked,
    Admitted(Identity),
    Assisting(Identity, u16),
}

impl Mate {
    fn staging(self) -> Option<Identity> {
        match self {
            Mate::Asked => None,
            Mate::Admitted(staging) | Mate::Assisting(staging, _) => Some(staging),
        }
    }
}

/// From one beginning of the main worker to its end.
#[derive(Debug)]
struct Run {
    told: Told,
    board: Board,
    mates: BTreeMap<WorkerName, Mate>,
    /// Staging places that the main worker has, as far as is known.
    places: BTreeMap<WorkerName, Identity>,
}

pub struct RestoreMachine {
    spec: RestoreSpec,
    main: Main,
    /// With whether it held something of the job when it came.
    here: BTreeMap<WorkerName, bool>,
    /// Everybody who was ever told something.
    met: BTreeSet<WorkerName>,
    left_out: BTreeSet<WorkerName>,
    run: Option<Run>,
    waiting_since: Option<Timestamp>,
    /// Why it was cancelled, and when.
    cancelled: Option<(Failure, Timestamp)>,
    is_over: bool,
}

impl RestoreMachine {
    pub fn start(now: Timestamp, spec: RestoreSpec) -> RestoreMachine {
        let main = spec.main.clone().map_or(Main::Unknown, Main::Known);
        RestoreMachine {
            spec,
            main,
            here: BTreeMap::new(),
            met: BTreeSet::new(),
            left_out: BTreeSet::new(),
            run: None,
            waiting_since: Some(now),
            cancelled: None,
            is_over: false,
        }
    }

    pub fn has_main(&self) -> bool {
        !matches!(self.main, Main::Unknown)
    }

    /// Of the run under way: what is done, and where its shares stand.
    pub fn run(&self) -> Option<(&Told, &Board)> {
        self.run.as_ref().map(|run| (&run.told, &run.board))
    }

    pub fn on_event(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        if self.is_over {
            return Vec::new();
        }
        if let Some((reason, since)) = self.cancelled.clone() {
            return self.while_stopping(now, event, reason, since);
        }
        let mut effects = match event {
            Event::Joined { worker, holds } => self.joined(worker, holds),
            Event::Lost { worker } => self.lost(now, &worker),
            Event::MainRecorded => self.main_recorded(),
            Event::Reported { worker, report } => self.reported(&worker, report),
            Event::Ticked => self.ticked(now),
            Event::Cancelled(reason) => self.cancel(now, reason),
        };
        if !self.is_over && self.cancelled.is_none() {
            self.hand_out(&mut effects);
        }
        effects
    }

    fn joined(&mut self, worker: WorkerName, holds: bool) -> Vec<Effect> {
        if matches!(&self.spec.crew, Crew::Named(named) if !named.contains(&worker)) {
            return Vec::new();
        }
        self.met.insert(worker.clone());
        self.here.insert(worker.clone(), holds);
        match &self.main {
            Main::Unknown => {
                self.main = Main::Recording(worker.clone());
                vec![Effect::RecordMain(worker)]
            }
            Main::Known(main) if *main == worker => self.lead(worker),
            Main::Recording(_) | Main::Known(_) => self.greet(&worker),
        }
    }

    fn main_recorded(&mut self) -> Vec<Effect> {
        let Main::Recording(worker) = &self.main else { return Vec::new() };
        let worker = worker.clone();
        self.main = Main::Known(worker.clone());
        if self.here.contains_key(&worker) { self.lead(worker) } else { Vec::new() }
    }

    fn lead(&mut self, worker: WorkerName) -> Vec<Effect> {
        self.waiting_since = None;
        vec![Effect::Order { worker, order: ShareOrder::Lead(Box::new(self.spec.errand.clone())) }]
    }

    fn lost(&mut self, now: Timestamp, worker: &WorkerName) -> Vec<Effect> {
        if self.here.remove(worker).is_none() {
            return Vec::new();
        }
        let kind = self.spec.errand.kind;
        if self.is_main(worker) {
            self.waiting_since = Some(now);
            if self.spec.crew == Crew::Anyone {
                return self.followed(worker);
            }
            let message = format!("worker {worker}, whose {kind} it is, is lost: it is waited for");
            return vec![Effect::Warn(message)];
        }
        let message = format!("worker {worker} is lost: others do its part of the {kind}");
        let mut effects = Vec::new();
        if self.part_with(worker, None, &mut effects) {
            effects.push(Effect::Warn(message));
        }
        effects
    }

    fn ticked(&mut self, now: Timestamp) -> Vec<Effect> {
        let Some(since) = self.waiting_since else { return Vec::new() };
        let waited_ms = u64::try_from(now.0.saturating_sub(since.0)).unwrap_or(0);
        if let Some(main) = self.absent_for(waited_ms) {
            return self.followed(&main);
        }
        if waited_ms < self.spec.patience_ms {
            return Vec::new();
        }
        let failure = match &self.main {
            Main::Known(main) => absent(main, &self.spec),
            Main::Unknown | Main::Recording(_) => nobody(&self.spec),
        };
        self.finish(Err(failure))
    }

    fn reported(&mut self, worker: &WorkerName, report: ShareReport) -> Vec<Effect> {
        if self.is_main(worker) {
            return match report {
                ShareReport::Leading(told) => self.leading(worker, Told::Restore(*told)),
                ShareReport::Copying(told) => self.leading(worker, Told::Copy(*told)),
                ShareReport::Admitted { mate, staging } => self.admitted(&mate, staging),
                ShareReport::Adopted { mate, staging, share, result } => {
                    self.adopted(&mate, staging, share, result)
                }
                ShareReport::Written { run, share } => {
                    if let Some(run) = self.run.as_mut().filter(|known| known.told.run() == run) {
                        run.board.finish(share);
                    }
                    Vec::new()
                }
                ShareReport::Ended(end) => self.finish(end),
                _ => Vec::new(),
            };
        }
        match report {
            ShareReport::Assisting { staging, slots, taken } => {
                self.assisting(worker, staging, slots, &taken)
            }
            ShareReport::Staged { staging, staged } => self.staged(worker, staging, staged),
            ShareReport::AssistFailed { staging, failure } if self.staging_of(worker) == Some(staging) => {
                self.leave_out(worker, failure)
            }
            _ => Vec::new(),
        }
    }

    fn leading(&mut self, main: &WorkerName, told: Told) -> Vec<Effect> {
        let places: BTreeMap<WorkerName, Identity> = told.mates().iter().cloned().collect();
        if self.run.as_ref().is_none_or(|run| run.told.run() != told.run()) {
            self.left_out = told.left_out().iter().cloned().collect();
            let board = Board::new(told.first(), told.shares());
            // Whom the main worker has admitted already goes on with the next part.
            let mates = self.run.take().map(|run| run.mates).unwrap_or_default().into_iter();
            let known = mates.filter_map(|(mate, state)| {
                let staging = state.staging().filter(|staging| places.get(&mate) == Some(staging))?;
                Some((mate, Mate::Admitted(staging)))
            });
            let mates = known.collect();
            self.run = Some(Run { told: told.clone(), board, mates, places: BTreeMap::new() });
        }
        let mut effects = Vec::new();
        if let Some(run) = &mut self.run {
            run.places = places;
            run.board.believe(main, &told);
            // Orders may have been lost with a connection.
            let shares = run.board.held_by(main);
            if !shares.is_empty() {
                effects.push(order(main, ShareOrder::Take { within: told.run(), shares }));
            }
            effects.extend(run.board.staged().map(|(mate, staging, staged)| {
                order(main, ShareOrder::Adopt { mate: mate.clone(), staging, staged: staged.clone() })
            }));
        }
        for mate in self.mates_here() {
            effects.extend(self.greet(&mate));
        }
        effects
    }

    /// Whatever a mate that is here lacks in order to help.
    fn greet(&mut self, mate: &WorkerName) -> Vec<Effect> {
        let (Some(main), Some(holds)) = (self.main_here(), self.here.get(mate).copied()) else {
            return Vec::new();
        };
        let is_left_out = self.left_out.contains(mate);
        let errand = self.spec.errand.clone();
        let Some(run) = &mut self.run else { return Vec::new() };
        let place = run.places.get(mate).copied();
        let staging = run.mates.get(mate).and_then(|mate| mate.staging());
        let is_of_an_earlier_leader = holds && !run.mates.contains_key(mate);
        match place {
            Some(place) if !is_left_out && (staging == Some(place) || is_of_an_earlier_leader) => {
                run.mates.entry(mate.clone()).or_insert(Mate::Admitted(place));
                vec![order(mate, run.told.order_for_mate(errand, place))]
            }
            place => {
                let mut effects = Vec::new();
                if place.is_some() {
                    run.places.remove(mate);
                    effects.push(order(&main, ShareOrder::Dismiss { mate: mate.clone(), because: None }));
                }
                if !is_left_out {
                    run.board.free_those_of(mate);
                    run.mates.insert(mate.clone(), Mate::Asked);
                    effects.push(order(&main, ShareOrder::Admit { mate: mate.clone() }));
                }
                effects
            }
        }
    }

    fn admitted(&mut self, mate: &WorkerName, staging: Identity) -> Vec<Effect> {
        let errand = self.spec.errand.clone();
        let Some(run) = &mut self.run else { return Vec::new() };
        run.places.insert(mate.clone(), staging);
        match run.mates.get_mut(mate) {
            Some(state @ Mate::Asked) => {
                *state = Mate::Admitted(staging);
                vec![order(mate, run.told.order_for_mate(errand, staging))]
            }
            _ => Vec::new(),
        }
    }

    fn assisting(
        &mut self,
        mate: &WorkerName,
        staging: Identity,
        slots: u16,
        taken: &[ShareId],
    ) -> Vec<Effect> {
        if self.staging_of(mate) != Some(staging) {
            return Vec::new();
        }
        let Some(run) = &mut self.run else { return Vec::new() };
        run.mates.insert(mate.clone(), Mate::Assisting(staging, slots));
        run.board.take_for(mate, taken);
        let shares = run.board.held_by(mate);
        if shares.is_empty() {
            return Vec::new();
        }
        vec![order(mate, ShareOrder::Take { within: staging, shares })]
    }

    fn staged(&mut self, mate: &WorkerName, staging: Identity, staged: StagedShare) -> Vec<Effect> {
        if self.staging_of(mate) != Some(staging) {
            return Vec::new();
        }
        let main = self.main_here();
        let Some(run) = &mut self.run else { return Vec::new() };
        if !run.board.stage(mate, staging, staged.clone()) {
            return Vec::new();
        }
        let adopt = ShareOrder::Adopt { mate: mate.clone(), staging, staged };
        main.map(|main| order(&main, adopt)).into_iter().collect()
    }

    fn adopted(
        &mut self,
        mate: &WorkerName,
        staging: Identity,
        share: ShareId,
        result: Result<(), Failure>,
    ) -> Vec<Effect> {
        let Some(run) = &mut self.run else { return Vec::new() };
        match result {
            Ok(()) => run.board.finish(share),
            Err(failure) => {
                if run.board.take_back(share, mate, staging) && self.staging_of(mate) == Some(staging) {
                    return self.leave_out(mate, failure);
                }
            }
        }
        Vec::new()
    }

    /// It takes no part in this run any more.
    fn leave_out(&mut self, mate: &WorkerName, because: Failure) -> Vec<Effect> {
        let message = format!("worker {mate} is left out of the {}: {because}", self.spec.errand.kind);
        self.left_out.insert(mate.clone());
        let mut effects = vec![Effect::Warn(message)];
        self.part_with(mate, Some(because), &mut effects);
        effects.push(Effect::End(mate.clone()));
        effects
    }

    /// Whether it had a part.
    fn part_with(&mut self, mate: &WorkerName, because: Option<Failure>, effects: &mut Vec<Effect>) -> bool {
        let main = self.main_here();
        let Some(run) = &mut self.run else { return false };
        run.board.free_those_of(mate);
        if let Some(main) = main {
            // Without it, the place goes when the main worker comes back, or at the end.
            run.places.remove(mate);
            effects.push(order(&main, ShareOrder::Dismiss { mate: mate.clone(), because }));
        }
        run.mates.remove(mate).is_some()
    }

    /// Everybody who can work has one share more than slots. A worker that is alone gets all: it has nobody to leave them to.
    fn hand_out(&mut self, effects: &mut Vec<Effect>) {
        let is_alone = matches!(&self.spec.crew, Crew::Named(named) if named.len() == 1);
        let main = self.main_here();
        let Some(run) = &mut self.run else { return };
        let limit = |slots: u16| if is_alone { usize::MAX } else { usize::from(slots) + 1 };
        let main = main.map(|main| (main, run.told.run(), limit(run.told.slots())));
        let mates = run.mates.iter().filter_map(|(name, mate)| match mate {
            Mate::Assisting(staging, slots) => Some((name.clone(), *staging, limit(*slots))),
            Mate::Asked | Mate::Admitted(_) => None,
        });
        for (worker, within, limit) in main.into_iter().chain(mates.collect::<Vec<_>>()) {
            let shares = run.board.give(&worker, limit);
            if !shares.is_empty() {
                effects.push(order(&worker, ShareOrder::Take { within, shares }));
            }
        }
    }

    fn finish(&mut self, end: Result<ErrandEnd, Failure>) -> Vec<Effect> {
        self.is_over = true;
        self.ends().chain([Effect::Finish(end)]).collect()
    }

    fn ends(&self) -> impl Iterator<Item = Effect> {
        let all = match &self.spec.crew {
            Crew::Named(named) => named.clone(),
            Crew::Anyone => self.met.iter().cloned().collect(),
        };
        all.into_iter().map(Effect::End)
    }

    fn is_main(&self, worker: &WorkerName) -> bool {
        matches!(&self.main, Main::Known(main) | Main::Recording(main) if main == worker)
    }

    fn main_here(&self) -> Option<WorkerName> {
        match &self.main {
            Main::Known(main) if self.here.contains_key(main) => Some(main.clone()),
            _ => None,
        }
    }

    fn mates_here(&self) -> Vec<WorkerName> {
        self.here.keys().filter(|worker| !self.is_main(worker)).cloned().collect()
    }

    fn staging_of(&self, mate: &WorkerName) -> Option<Identity> {
        self.run.as_ref()?.mates.get(mate)?.staging()
    }
}

fn order(worker: &WorkerName, order: ShareOrder) -> Effect {
    Effect::Order { worker: worker.clone(), order }
}

#[cfg(test)]
mod tests;
