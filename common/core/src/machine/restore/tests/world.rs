//! Workers that obey, on paper. The main worker's books are checked as they grow: a share that is done twice is a panic.

use super::*;
use crate::wire::Leading;
use std::collections::VecDeque;

const SLOTS: u16 = 2;
const SHARE_BYTES: u64 = 10;

#[derive(Default)]
struct MainSide {
    run: Identity,
    taken: BTreeSet<ShareId>,
    done: BTreeMap<ShareId, WorkerName>,
    places: BTreeMap<WorkerName, Identity>,
}

#[derive(Default, Clone)]
struct MateSide {
    staging: Identity,
    taken: BTreeSet<ShareId>,
    staged: BTreeSet<ShareId>,
}

pub(super) struct World {
    pub(super) machine: RestoreMachine,
    /// How often the main worker began.
    pub(super) begun: usize,
    spec: RestoreSpec,
    named: Vec<WorkerName>,
    shares: u32,
    here: BTreeSet<WorkerName>,
    main: Option<MainSide>,
    mates: BTreeMap<WorkerName, MateSide>,
    /// Staged files that exist.
    disk: BTreeSet<(Identity, ShareId)>,
    losing: BTreeSet<WorkerName>,
    identities: u8,
    finished: Option<Result<ErrandEnd, Failure>>,
}

impl World {
    pub(super) fn new(named: &[&str], shares: u32) -> World {
        let spec = spec(named);
        World {
            machine: RestoreMachine::start(NOW, spec.clone()),
            begun: 0,
            spec,
            named: named.iter().map(|text| name(text)).collect(),
            shares,
            here: BTreeSet::new(),
            main: None,
            mates: BTreeMap::new(),
            disk: BTreeSet::new(),
            losing: BTreeSet::new(),
            identities: 0,
            finished: None,
        }
    }

    pub(super) fn all_come(&mut self) {
        for worker in self.named.clone() {
            self.comes(worker.as_str());
        }
    }

    /// A new process.
    pub(super) fn comes(&mut self, worker: &str) {
        if self.finished.is_some() {
            return;
        }
        if worker == "a" {
            self.main = None;
        }
        self.mates.remove(&name(worker));
        self.joins(worker, false);
    }

    /// The process that was there before.
    pub(super) fn returns(&mut self, worker: &str) {
        let holds = if worker == "a" { self.main.is_some() } else { self.mates.contains_key(&name(worker)) };
        self.joins(worker, holds);
    }

    fn joins(&mut self, worker: &str, holds: bool) {
        self.here.insert(name(worker));
        self.tell(Event::Joined { worker: name(worker), holds });
    }

    pub(super) fn is_lost(&mut self, worker: &str) {
        self.here.remove(&name(worker));
        self.tell(Event::Lost { worker: name(worker) });
    }

    pub(super) fn another_leads(&mut self) {
        if self.finished.is_some() {
            return;
        }
        self.spec.main = Some(name("a"));
        self.machine = RestoreMachine::start(NOW, self.spec.clone());
        for worker in self.here.clone().into_iter().rev() {
            self.returns(worker.as_str());
        }
    }

    /// What it writes from now on is not seen by the main worker.
    pub(super) fn loses_files(&mut self, mate: &str) {
        self.losing.insert(name(mate));
    }

    pub(super) fn write_one(&mut self) {
        let Some(main) = self.main.as_mut().filter(|_| self.here.contains(&name("a"))) else { return };
        let Some(share) = main.taken.pop_first() else { return };
        let report = ShareReport::Written { run: main.run, share };
        self.enter(share, name("a"));
        self.says("a", report);
        self.end_if_whole();
    }

    pub(super) fn stage_one(&mut self, mate: &str) {
        let worker = name(mate);
        let Some(side) = self.mates.get_mut(&worker) else { return };
        let Some(share) = side.taken.pop_first() else { return };
        let staging = side.staging;
        // Without its directory it cannot write.
        let has_place =
            self.main.as_ref().is_some_and(|main| main.places.values().any(|one| *one == staging));
        if !has_place {
            return;
        }
        side.staged.insert(share);
        if !self.losing.contains(&worker) {
            self.disk.insert((staging, share));
        }
        if self.here.contains(&worker) {
            let staged = StagedShare::new(share, Vec::new());
            self.says(mate, ShareReport::Staged { staging, staged });
        }
        self.end_if_whole();
    }

    pub(super) fn says(&mut self, worker: &str, report: ShareReport) -> Vec<Effect> {
        self.tell(Event::Reported { worker: name(worker), report })
    }

    pub(super) fn run_to_the_end(&mut self) {
        for worker in self.named.clone() {
            if worker == name("a") && !self.here.contains(&worker) {
                self.returns("a");
            }
        }
        for _ in 0..200 {
            self.end_if_whole();
            self.write_one();
            for worker in self.named.clone() {
                self.stage_one(worker.as_str());
            }
            if let Some(end) = &self.finished {
                assert!(end.is_ok(), "{end:?}");
                assert!(self.mates.is_empty(), "somebody was not told that it is over");
                return;
            }
        }
        panic!("it does not come to an end");
    }

    pub(super) fn done_by(&self) -> BTreeMap<WorkerName, usize> {
        let mut by = BTreeMap::new();
        let main = self.main.as_ref().unwrap();
        main.done.values().for_each(|worker| *by.entry(worker.clone()).or_default() += 1);
        by
    }

    pub(super) fn places(&self) -> Vec<Identity> {
        self.main.as_ref().unwrap().places.values().copied().collect()
    }

    pub(super) fn staging(&self, mate: &str) -> Option<Identity> {
        self.mates.get(&name(mate)).map(|mate| mate.staging)
    }

    pub(super) fn taken(&self, mate: &str) -> Vec<ShareId> {
        self.mates[&name(mate)].taken.iter().copied().collect()
    }

    /// An event and all that follows from it; what the machine wanted at first.
    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let first = self.machine.on_event(NOW, event);
        let mut effects: VecDeque<Effect> = first.clone().into();
        while let Some(effect) = effects.pop_front() {
            let events = match effect {
                Effect::RecordMain(_) => vec![Event::MainRecorded],
                Effect::Order { worker, order } if self.here.contains(&worker) => {
                    let reports = self.obey(&worker, order).into_iter();
                    reports.map(|report| Event::Reported { worker: worker.clone(), report }).collect()
                }
                Effect::End(worker) => {
                    self.mates.remove(&worker);
                    Vec::new()
                }
                Effect::Finish(end) => {
                    self.finished = Some(end);
                    Vec::new()
                }
                Effect::Order { .. } | Effect::Warn(_) => Vec::new(),
            };
            for event in events {
                effects.extend(self.machine.on_event(NOW, event));
            }
        }
        first
    }

    fn obey(&mut self, worker: &WorkerName, order: ShareOrder) -> Vec<ShareReport> {
        match order {
            ShareOrder::Lead(_) => vec![self.lead()],
            ShareOrder::Admit { mate } => {
                let staging = self.identity();
                self.main.as_mut().unwrap().places.insert(mate.clone(), staging);
                vec![ShareReport::Admitted { mate, staging }]
            }
            ShareOrder::Dismiss { mate, .. } => {
                let main = self.main.as_mut().unwrap();
                if let Some(staging) = main.places.remove(&mate) {
                    self.disk.retain(|(place, _)| *place != staging);
                }
                Vec::new()
            }
            ShareOrder::Adopt { mate, staging, staged } => vec![self.adopt(mate, staging, staged.share)],
            ShareOrder::Assist(assist) => {
                let side = self.mates.entry(worker.clone()).or_default();
                if side.staging != assist.staging {
                    *side = MateSide { staging: assist.staging, ..MateSide::default() };
                }
                let taken = side.taken.iter().copied().collect();
                vec![ShareReport::Assisting { staging: assist.staging, slots: SLOTS, taken }]
            }
            ShareOrder::Copy(_) => panic!("that is no restore"),
            ShareOrder::Take { within, shares } if *worker == name("a") => self.take(within, &shares),
            ShareOrder::Take { within, shares } => {
                let Some(side) = self.mates.get_mut(worker).filter(|side| side.staging == within) else {
                    return Vec::new();
                };
                let (staged, new): (Vec<ShareId>, Vec<ShareId>) =
                    shares.into_iter().partition(|share| side.staged.contains(share));
                side.taken.extend(new);
                let again = |share| StagedShare::new(share, Vec::new());
                let staged = staged.into_iter().map(again);
                staged.map(|staged| ShareReport::Staged { staging: within, staged }).collect()
            }
        }
    }

    fn lead(&mut self) -> ShareReport {
        if self.main.is_none() {
            self.begun += 1;
            self.disk.clear();
            let run = self.identity();
            self.main = Some(MainSide { run, ..MainSide::default() });
        }
        let main = self.main.as_ref().unwrap();
        let mut done: BTreeMap<WorkerName, Vec<ShareId>> = BTreeMap::new();
        main.done.iter().for_each(|(share, worker)| done.entry(worker.clone()).or_default().push(*share));
        ShareReport::Leading(Box::new(Leading {
            run: main.run,
            label: "20261122-103000F".parse().unwrap(),
            backup: Identity::default(),
            digest: BlockHash([1; 16]),
            share_size: SHARE_BYTES,
            slots: SLOTS,
            shares: vec![SHARE_BYTES; self.shares as usize],
            done: done.into_iter().collect(),
            taken: main.taken.iter().copied().collect(),
            mates: main.places.clone().into_iter().collect(),
        }))
    }

    fn take(&mut self, within: Identity, shares: &[ShareId]) -> Vec<ShareReport> {
        let main = self.main.as_mut().unwrap();
        if main.run != within {
            return Vec::new();
        }
        let (done, new): (Vec<ShareId>, Vec<ShareId>) =
            shares.iter().partition(|share| main.done.contains_key(share));
        main.taken.extend(new);
        done.into_iter().map(|share| ShareReport::Written { run: within, share }).collect()
    }

    fn adopt(&mut self, mate: WorkerName, staging: Identity, share: ShareId) -> ShareReport {
        let main = self.main.as_ref().unwrap();
        let is_done = main.done.contains_key(&share);
        assert!(!main.taken.contains(&share), "the main worker has {share} in hand itself");
        let is_there = self.disk.remove(&(staging, share));
        let result = match is_done || is_there {
            true => Ok(()),
            false => Err(failure()),
        };
        if !is_done && is_there {
            self.enter(share, mate.clone());
        }
        ShareReport::Adopted { mate, staging, share, result }
    }

    fn enter(&mut self, share: ShareId, worker: WorkerName) {
        let before = self.main.as_mut().unwrap().done.insert(share, worker);
        assert_eq!(before, None, "share {share} was done twice");
    }

    fn end_if_whole(&mut self) {
        let is_whole = self.main.as_ref().is_some_and(|main| main.done.len() == self.shares as usize);
        if is_whole && self.here.contains(&name("a")) && self.finished.is_none() {
            self.says("a", ShareReport::Ended(Ok(ErrandEnd { result: None, failure: None })));
        }
    }

    fn identity(&mut self) -> Identity {
        self.identities += 1;
        Identity::from_random_bytes([self.identities; 16])
    }
}
