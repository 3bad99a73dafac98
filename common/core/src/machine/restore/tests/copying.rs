//! Whole `repo-sync`s on paper: workers of which any may lead, parts one after the other, and what may happen to them.

use super::*;
use crate::pg::WalFileName;
use crate::wire::{CopyObjects, CopyOrder, CopyPart, Copying};
use std::collections::VecDeque;

const SLOTS: u16 = 2;
const STOP_PATIENCE_MS: u64 = 180_000;
/// Objects in each; the large ones are more than two workers may hold.
const PARTS: [u32; 3] = [9, 1, 8];

/// What one process does. It does not know that it was lost.
enum Role {
    Leads(Leader),
    Helps { staging: Identity, first: u32, taken: BTreeSet<ShareId> },
}

#[derive(Default)]
struct Leader {
    part: usize,
    run: Identity,
    taken: BTreeSet<ShareId>,
    done: BTreeMap<ShareId, WorkerName>,
    mates: BTreeMap<WorkerName, Identity>,
    left_out: Vec<WorkerName>,
    has_published: bool,
}

struct Fleet {
    machine: RestoreMachine,
    spec: RestoreSpec,
    here: BTreeSet<WorkerName>,
    roles: BTreeMap<WorkerName, Role>,
    /// Objects that lie in the target, by part and place in it.
    target: BTreeSet<u32>,
    /// By whoever copied it.
    copied: Vec<(WorkerName, u32)>,
    identities: u8,
    finished: Option<Result<ErrandEnd, Failure>>,
}

fn sync_spec() -> RestoreSpec {
    let errand = ErrandOrder { kind: JobKind::RepoSync, ..spec(&[]).errand };
    RestoreSpec { errand, crew: Crew::Anyone, stop_patience_ms: STOP_PATIENCE_MS, ..spec(&[]) }
}

fn total() -> u32 {
    PARTS.iter().sum()
}

fn first_of(part: usize) -> u32 {
    PARTS[..part].iter().sum()
}

fn part(number: usize) -> CopyPart {
    let file: WalFileName = "000000010000000000000001".parse().unwrap();
    let archive = "15"
        .parse()
        .map(|version| crate::format::layout::ArchiveId { version, number: crate::ids::ClusterNumber(1) });
    let objects = CopyObjects::Wal { archive: archive.unwrap(), files: vec![file; PARTS[number] as usize] };
    CopyPart { source: Identity::default(), target: Identity::from_random_bytes([9; 16]), objects }
}

impl Leader {
    fn told(&self) -> ShareReport {
        let mut done: BTreeMap<WorkerName, Vec<ShareId>> = BTreeMap::new();
        self.done.iter().for_each(|(share, by)| done.entry(by.clone()).or_default().push(*share));
        ShareReport::Copying(Box::new(Copying {
            run: self.run,
            slots: SLOTS,
            first: ShareId(first_of(self.part)),
            part: part(self.part),
            done: done.into_iter().collect(),
            taken: self.taken.iter().copied().collect(),
            mates: self.mates.clone().into_iter().collect(),
            left_out: self.left_out.clone(),
        }))
    }

    fn has(&self, share: ShareId) -> bool {
        share.0.checked_sub(first_of(self.part)).is_some_and(|at| at < PARTS[self.part])
    }
}

impl Fleet {
    fn start(workers: &[&str]) -> Fleet {
        let mut fleet = Fleet {
            machine: RestoreMachine::start(NOW, sync_spec()),
            spec: sync_spec(),
            here: BTreeSet::new(),
            roles: BTreeMap::new(),
            target: BTreeSet::new(),
            copied: Vec::new(),
            identities: 0,
            finished: None,
        };
        workers.iter().for_each(|worker| fleet.comes(worker));
        fleet
    }

    /// A new process.
    fn comes(&mut self, worker: &str) {
        self.roles.remove(&name(worker));
        self.joins(worker);
    }

    /// With what its process has.
    fn joins(&mut self, worker: &str) {
        self.here.insert(name(worker));
        let holds = self.roles.contains_key(&name(worker));
        self.tell(Event::Joined { worker: name(worker), holds });
    }

    fn is_lost(&mut self, worker: &str) {
        self.here.remove(&name(worker));
        self.tell(Event::Lost { worker: name(worker) });
    }

    fn another_leads(&mut self) {
        if self.finished.is_some() {
            return;
        }
        self.machine = RestoreMachine::start(NOW, self.spec.clone());
        for worker in self.here.clone().into_iter().rev() {
            self.joins(worker.as_str());
        }
    }

    /// It copies one of its objects, wherever the coordinator believes it to be.
    fn copies_one(&mut self, worker: &str) {
        let who = name(worker);
        let report = match self.roles.get_mut(&who) {
            Some(Role::Leads(leader)) => {
                let Some(share) = leader.taken.pop_first() else { return };
                leader.done.insert(share, who.clone());
                self.target.insert(share.0);
                self.copied.push((who.clone(), share.0));
                ShareReport::Written { run: leader.run, share }
            }
            Some(Role::Helps { staging, taken, .. }) => {
                let Some(share) = taken.pop_first() else { return };
                self.target.insert(share.0);
                self.copied.push((who.clone(), share.0));
                ShareReport::Staged { staging: *staging, staged: StagedShare::new(share, Vec::new()) }
            }
            None => return,
        };
        self.says(&who, report);
        self.goes_on(&who);
    }

    /// It says that it has copied what it has not.
    fn lies(&mut self, worker: &str) {
        let Some(Role::Helps { staging, taken, .. }) = self.roles.get_mut(&name(worker)) else { return };
        let Some(share) = taken.pop_first() else { return };
        let report = ShareReport::Staged { staging: *staging, staged: StagedShare::new(share, Vec::new()) };
        self.says(&name(worker), report);
    }

    /// The next part, or the end, once a leader has settled all of this one.
    fn goes_on(&mut self, who: &WorkerName) {
        let run = self.identity();
        let Some(Role::Leads(leader)) = self.roles.get_mut(who) else { return };
        if leader.has_published || leader.done.len() < PARTS[leader.part] as usize {
            return;
        }
        let next = leader.part + 1;
        let report = if next < PARTS.len() {
            (leader.part, leader.run) = (next, run);
            leader.done.clear();
            leader.told()
        } else {
            leader.has_published = true;
            assert_eq!(self.target.len(), total() as usize, "something is missing in what {who} publishes");
            ShareReport::Ended(Ok(ErrandEnd { result: None, failure: None }))
        };
        self.says(who, report);
    }

    fn says(&mut self, who: &WorkerName, report: ShareReport) {
        if self.here.contains(who) {
            self.tell(Event::Reported { worker: who.clone(), report });
        }
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.tell_at(NOW, event)
    }

    fn tell_at(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        let first = self.machine.on_event(now, event);
        let mut effects: VecDeque<Effect> = first.clone().into();
        while let Some(effect) = effects.pop_front() {
            let events = match effect {
                Effect::RecordMain(worker) => {
                    self.spec.main = Some(worker);
                    vec![Event::MainRecorded]
                }
                Effect::Order { worker, order } if self.here.contains(&worker) => {
                    let reports = self.obey(&worker, order).into_iter();
                    reports.map(|report| Event::Reported { worker: worker.clone(), report }).collect()
                }
                Effect::End(worker) => {
                    self.roles.remove(&worker);
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
        let fresh = self.identity();
        match (order, self.roles.get_mut(worker)) {
            (ShareOrder::Lead(_), Some(Role::Leads(leader))) => vec![leader.told()],
            (ShareOrder::Lead(_), _) => {
                let leader = Leader { run: fresh, ..Leader::default() };
                let told = leader.told();
                self.roles.insert(worker.clone(), Role::Leads(leader));
                vec![told]
            }
            (ShareOrder::Copy(order), _) => vec![self.help(worker, &order)],
            (ShareOrder::Admit { mate }, Some(Role::Leads(leader))) => {
                let staging = *leader.mates.entry(mate.clone()).or_insert(fresh);
                vec![ShareReport::Admitted { mate, staging }]
            }
            (ShareOrder::Dismiss { mate, because }, Some(Role::Leads(leader))) => {
                leader.mates.remove(&mate);
                leader.left_out.extend(because.map(|_| mate));
                Vec::new()
            }
            (ShareOrder::Take { within, shares }, Some(Role::Leads(leader))) if leader.run == within => {
                let (done, new): (Vec<ShareId>, Vec<ShareId>) =
                    shares.into_iter().partition(|share| leader.done.contains_key(share));
                assert!(new.iter().all(|share| leader.has(*share)), "{worker} is given what no part has");
                leader.taken.extend(new);
                done.into_iter().map(|share| ShareReport::Written { run: within, share }).collect()
            }
            (ShareOrder::Take { within, shares }, Some(Role::Helps { staging, first, taken })) => {
                assert!(shares.iter().all(|share| share.0 >= *first), "{worker} is given a share of no part");
                if *staging == within {
                    taken.extend(shares);
                }
                Vec::new()
            }
            (ShareOrder::Adopt { mate, staging, staged }, Some(Role::Leads(_))) => {
                self.adopt(worker.clone(), mate, staging, staged.share)
            }
            _ => Vec::new(),
        }
    }

    fn help(&mut self, worker: &WorkerName, order: &CopyOrder) -> ShareReport {
        let known = match self.roles.remove(worker) {
            Some(Role::Helps { staging, first, taken })
                if (staging, first) == (order.staging, order.first.0) =>
            {
                taken
            }
            _ => BTreeSet::new(),
        };
        let report = ShareReport::Assisting {
            staging: order.staging,
            slots: SLOTS,
            taken: known.iter().copied().collect(),
        };
        let role = Role::Helps { staging: order.staging, first: order.first.0, taken: known };
        self.roles.insert(worker.clone(), role);
        report
    }

    /// What is not there the leader copies itself.
    fn adopt(
        &mut self,
        main: WorkerName,
        mate: WorkerName,
        staging: Identity,
        share: ShareId,
    ) -> Vec<ShareReport> {
        let Some(Role::Leads(leader)) = self.roles.get_mut(&main) else { return Vec::new() };
        if !leader.has(share) || leader.taken.contains(&share) {
            return Vec::new();
        }
        let by = if self.target.insert(share.0) { main.clone() } else { mate.clone() };
        leader.done.entry(share).or_insert(by);
        vec![ShareReport::Adopted { mate, staging, share, result: Ok(()) }]
    }

    fn run_to_the_end(&mut self) {
        if self.here.is_empty() {
            self.comes("a");
        }
        // A main worker that a new leader knows and that is not here is not waited for longer.
        self.tell_at(Timestamp(NOW.0 + 30_000), Event::Ticked);
        for _ in 0..200 {
            self.everyone_copies_one();
            if let Some(end) = &self.finished {
                assert!(end.is_ok(), "{end:?}");
                assert_eq!(self.target.len(), total() as usize);
                return;
            }
        }
        panic!("it does not come to an end");
    }

    /// Who leads looks for itself whether all of its part is there: the last object may be a mate's.
    fn everyone_copies_one(&mut self) {
        for worker in ["a", "b", "c"].map(name) {
            if self.here.contains(&worker) {
                self.copies_one(worker.as_str());
                self.goes_on(&worker);
            }
        }
    }

    fn comes_to_the_second_part(&mut self) {
        for _ in 0..200 {
            if self.target.len() > PARTS[0] as usize {
                return;
            }
            self.everyone_copies_one();
        }
        panic!("it stays in the first part");
    }

    fn identity(&mut self) -> Identity {
        self.identities = self.identities.wrapping_add(1);
        Identity::from_random_bytes([self.identities; 16])
    }

    fn leader(&self) -> Option<&WorkerName> {
        self.roles.iter().find_map(|(worker, role)| matches!(role, Role::Leads(_)).then_some(worker))
    }

    fn staging(&self, worker: &str) -> Option<Identity> {
        match self.roles.get(&name(worker)) {
            Some(Role::Helps { staging, .. }) => Some(*staging),
            _ => None,
        }
    }
}

#[test]
fn all_workers_copy_and_a_mate_keeps_its_admission_from_part_to_part() {
    let mut fleet = Fleet::start(&["a", "b", "c"]);
    let staging = fleet.staging("b").unwrap();
    fleet.comes_to_the_second_part();
    assert_eq!(fleet.staging("b"), Some(staging));
    fleet.run_to_the_end();
    let who: BTreeSet<&WorkerName> = fleet.copied.iter().map(|(worker, _)| worker).collect();
    assert_eq!(who.len(), 3, "{:?}", fleet.copied);
    assert_eq!(fleet.copied.len(), total() as usize, "something was copied twice: {:?}", fleet.copied);
}

#[test]
fn progress_counts_the_parts_before() {
    let mut fleet = Fleet::start(&["a"]);
    (0..PARTS[0]).for_each(|_| fleet.copies_one("a"));
    let board = fleet.machine.run().unwrap().1;
    assert_eq!((board.before(), board.total(), board.done()), (PARTS[0], PARTS[1], 0));
}

#[test]
fn a_main_worker_that_is_lost_is_followed_by_one_that_is_here_and_then_by_whoever_comes() {
    let mut fleet = Fleet::start(&["a", "b"]);
    fleet.copies_one("a");
    fleet.is_lost("a");
    fleet.roles.remove(&name("a"));
    assert_eq!(fleet.leader(), Some(&name("b")));
    assert_eq!(fleet.spec.main, Some(name("b")), "it is not recorded");
    fleet.is_lost("b");
    assert!(!fleet.machine.has_main());
    fleet.comes("c");
    assert_eq!(fleet.spec.main, Some(name("c")));
    fleet.run_to_the_end();
}

#[test]
fn a_main_worker_that_wakes_beside_its_follower_helps_that_one() {
    let mut fleet = Fleet::start(&["a", "b"]);
    fleet.is_lost("a");
    fleet.copies_one("a");
    fleet.joins("a");
    assert!(fleet.staging("a").is_some(), "it leads still");
    assert_eq!(fleet.leader(), Some(&name("b")));
    fleet.run_to_the_end();
}

#[test]
fn a_new_leader_takes_another_main_worker_for_one_that_does_not_come_back() {
    let mut machine = RestoreMachine::start(NOW, RestoreSpec { main: Some(name("a")), ..sync_spec() });
    assert_eq!(machine.on_event(NOW, Event::Joined { worker: name("b"), holds: true }), []);
    let soon = Timestamp(NOW.0 + 29_999);
    assert_eq!(machine.on_event(soon, Event::Ticked), []);
    let effects = machine.on_event(Timestamp(soon.0 + 1), Event::Ticked);
    assert!(effects.contains(&Effect::RecordMain(name("b"))), "{effects:?}");
}

#[test]
fn what_is_said_of_an_earlier_part_means_nothing() {
    let mut fleet = Fleet::start(&["a", "b"]);
    let staging = fleet.staging("b").unwrap();
    fleet.comes_to_the_second_part();
    let staged = StagedShare::new(ShareId(0), Vec::new());
    let late = Event::Reported { worker: name("b"), report: ShareReport::Staged { staging, staged } };
    assert_eq!(fleet.tell(late), []);
}

#[test]
fn a_mate_that_fails_is_not_asked_again_in_later_parts() {
    let mut fleet = Fleet::start(&["a", "b"]);
    let staging = fleet.staging("b").unwrap();
    fleet.says(&name("b"), ShareReport::AssistFailed { staging, failure: failure() });
    fleet.run_to_the_end();
    assert!(fleet.copied.iter().all(|(worker, _)| *worker == name("a")), "{:?}", fleet.copied);
}

#[test]
fn a_cancelled_one_ends_when_its_main_worker_has_stopped_or_is_lost_or_says_nothing_for_long() {
    let cancel = || Event::Cancelled(failure());
    let finish = || Some(Effect::Finish(Err(failure())));
    let mut fleet = Fleet::start(&["a", "b"]);
    let ends = ["a", "b"].map(|worker| Effect::End(name(worker)));
    assert_eq!(fleet.machine.on_event(NOW, cancel()), ends);
    let ended = Event::Reported { worker: name("b"), report: ShareReport::Ended(Err(failure())) };
    assert_eq!(fleet.machine.on_event(NOW, ended), [], "it does not lead");
    let ended = Event::Reported { worker: name("a"), report: ShareReport::Ended(Err(failure())) };
    assert_eq!(fleet.machine.on_event(NOW, ended).last().cloned(), finish());

    let mut fleet = Fleet::start(&["a", "b"]);
    fleet.machine.on_event(NOW, cancel());
    assert_eq!(fleet.machine.on_event(NOW, Event::Lost { worker: name("b") }), []);
    assert_eq!(fleet.machine.on_event(NOW, Event::Lost { worker: name("a") }).last().cloned(), finish());

    let mut fleet = Fleet::start(&["a"]);
    fleet.machine.on_event(NOW, cancel());
    let late = Timestamp(NOW.0 + i64::try_from(STOP_PATIENCE_MS).unwrap());
    assert_eq!(fleet.machine.on_event(Timestamp(late.0 - 1), Event::Ticked), []);
    assert_eq!(fleet.machine.on_event(late, Event::Ticked).last().cloned(), finish());
}

proptest! {
    #[test]
    fn whatever_happens_it_ends_with_everything_in_the_target(
        happenings in prop::collection::vec((0u8..8, 0usize..3), 0..60)
    ) {
        let mut fleet = Fleet::start(&["a", "b", "c"]);
        for (happening, worker) in happenings {
            let worker = ["a", "b", "c"][worker];
            match happening {
                0..=2 => fleet.copies_one(worker),
                3 => fleet.is_lost(worker),
                4 => fleet.comes(worker),
                5 => fleet.joins(worker),
                6 => fleet.lies(worker),
                _ => fleet.another_leads(),
            }
            if fleet.finished.is_some() {
                break;
            }
        }
        fleet.run_to_the_end();
    }
}
