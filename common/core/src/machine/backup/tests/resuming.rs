//! What becomes of backups that were left unfinished.

use super::*;
use crate::format::plan::PlanBody;
use crate::ids::PlanNumber;

const LEFT: &str = "20251122-082500F";
const OLDER: &str = "20251122-081500F";

fn label(text: &str) -> BackupLabel {
    text.parse().unwrap()
}

fn begun(text: &str, number: u32) -> Begun {
    let label = label(text);
    let plan = PlanBody {
        label,
        backup: Identity::from_random_bytes([4; 16]),
        kind: label.kind(),
        number: PlanNumber(number),
        writer: Writer { host: "h".into(), boot: "b".into(), process: 2 },
        written: NOW,
        references: Vec::new(),
        unit_size: 0,
        units: 0,
        files: 0,
        bytes: 0,
    };
    Begun { label, is_void: false, plan: Some(plan), beating: None, has_manifest: false }
}

impl World {
    fn beside(unfinished: &[(RepoKey, Begun)]) -> World {
        World::after(unfinished, Recovered::default())
    }

    fn after(unfinished: &[(RepoKey, Begun)], recovered: Recovered) -> World {
        let (machine, queue) = BackupMachine::start(spec(), worker(), vec![worker()], recovered);
        let mut world = World { machine, queue, ..World::new() };
        for (key, begun) in unfinished {
            world.unfinished.entry(*key).or_default().push(begun.clone());
        }
        world
    }

    /// Until it is about to write its first plan: what it wants then.
    fn until_the_plan(&mut self) -> Vec<Effect> {
        let mut seen = Vec::new();
        while !self.queue.is_empty() {
            let effect = self.queue.remove(0);
            seen.push(effect.clone());
            if matches!(effect, Effect::WritePlan { .. }) {
                self.queue.insert(0, effect);
                break;
            }
            self.carry_out(effect);
        }
        seen
    }
}

fn announced_in(effects: &[Effect]) -> Announced {
    let announced = |effect: &Effect| match effect {
        Effect::PersistAnnounced(announced) => Some(announced.clone()),
        _ => None,
    };
    effects.iter().find_map(announced).expect("it was announced")
}

#[test]
fn the_newest_unfinished_backup_is_gone_on_with_and_all_others_are_given_up_before_any_plan() {
    let mut world = World::beside(&[
        (ONE, begun(OLDER, 1)),
        (ONE, begun(LEFT, 2)),
        (TWO, begun(LEFT, 3)),
        (TWO, Begun { is_void: true, ..begun("20251122-080000F", 1) }),
    ]);
    let wanted = world.until_the_plan();
    let announced = announced_in(&wanted);
    assert_eq!((announced.label, announced.plan), (label(LEFT), PlanNumber(4)));
    assert_eq!(announced.leftover_in, [ONE, TWO]);
    assert_eq!(world.given_up, [(ONE, label(OLDER)), (TWO, label("20251122-080000F"))]);
    let is_announced = |effect: &Effect| matches!(effect, Effect::PersistAnnounced(_));
    let is_given_up = |effect: &Effect| matches!(effect, Effect::GiveUpUnfinished { .. });
    let at = |what: &dyn Fn(&Effect) -> bool| wanted.iter().position(what).unwrap();
    assert!(at(&is_announced) < at(&is_given_up), "a new leader keeps what this one keeps");
    world.do_all_units();
    assert_eq!((world.outcome().status, world.outcome().label), (Status::Ok, Some(label(LEFT))));
    assert!(world.outcome().warnings.iter().any(|warning| warning.contains("is resumed")));
}

#[test]
fn nothing_is_gone_on_with_unless_every_repository_was_asked() {
    let unasked: [fn(&mut World); 3] = [
        |world| world.are_others_asked = false,
        |world| world.elsewhere = vec![label(LEFT)],
        |world| world.elsewhere = vec![label("20251122-082900F")],
    ];
    for unasked in unasked {
        let mut world = World::beside(&[(ONE, begun(LEFT, 1)), (TWO, begun(LEFT, 1))]);
        unasked(&mut world);
        world.do_all_units();
        let outcome = world.outcome();
        assert_eq!(outcome.status, Status::Ok);
        assert!(outcome.label.unwrap().made() > label(LEFT).made());
        assert_eq!(world.given_up, [(ONE, label(LEFT)), (TWO, label(LEFT))]);
    }
}

#[test]
fn nothing_is_gone_on_with_while_a_repository_of_the_job_does_not_answer() {
    let (mut machine, _) = BackupMachine::start(spec(), worker(), vec![worker()], Recovered::default());
    let facts = RepositoryFacts {
        has_this: false,
        identity: Identity::default(),
        cluster: cluster(),
        labels: vec![label(LEFT)],
        unfinished: vec![begun(LEFT, 1)],
        prior: None,
    };
    machine.on_event(NOW, all_opened(vec![(ONE, Ok(facts)), (TWO, Err(disk_full()))]));
    let mut world = World { machine, queue: Vec::new(), ..World::new() };
    world.report(ReportBody::Preflighted(Ok(super::facts())));
    world.do_all_units();
    assert_eq!(world.given_up, [(ONE, label(LEFT))]);
    assert_ne!(world.outcome().label, Some(label(LEFT)));
}

#[test]
fn a_repository_that_cannot_be_cleared_is_left_out_and_a_rival_ends_the_job() {
    let mut world = World::beside(&[(ONE, begun(OLDER, 1)), (TWO, begun(LEFT, 1))]);
    world.unclearable.insert(ONE, disk_full());
    world.do_all_units();
    assert_eq!((world.outcome().status, &world.planned), (Status::Partial, &vec![TWO]));
    let mut world = World::beside(&[(ONE, begun(OLDER, 1)), (TWO, begun(LEFT, 1))]);
    world.unclearable.insert(ONE, Failure::new(ErrorCode::LockAcquire, "somebody goes on with it"));
    world.do_all_units();
    assert_eq!((world.outcome().status, world.planned.len()), (Status::Error, 0));
}

#[test]
fn a_new_leader_of_a_resumed_backup_looks_for_what_was_left_and_keeps_its_label() {
    let mut first = World::beside(&[(ONE, begun(LEFT, 2)), (ONE, begun(OLDER, 1))]);
    let announced = announced_in(&first.until_the_plan());
    let recovered = Recovered { announced: Some(announced), ..Recovered::default() };
    let mut next = World::after(&[(ONE, begun(OLDER, 1))], recovered);
    let wanted = next.until_the_plan();
    let looked_for = wanted.iter().find_map(|effect| match effect {
        Effect::ReadLeftover { label, plans, repositories, .. } => {
            Some((*label, *plans, repositories.clone()))
        }
        _ => None,
    });
    assert_eq!(looked_for, Some((label(LEFT), PlanNumber(2), vec![ONE])));
    next.do_all_units();
    assert_eq!((next.outcome().status, next.outcome().label), (Status::Ok, Some(label(LEFT))));
    assert_eq!(next.given_up, [(ONE, label(OLDER))]);
}

#[test]
fn units_wait_until_what_was_left_is_known_and_then_say_where_it_lies() {
    let mut world = World::beside(&[(ONE, begun(LEFT, 1)), (TWO, begun(LEFT, 1))]);
    let range = RangeRecord {
        offset: 0,
        length: 8192,
        label: 1,
        plan: PlanNumber(1),
        unit: UnitId(5),
        attempt: Attempt(1),
        place: 0,
        worker: 0,
        slot: 0,
    };
    world.left = vec![("base/1/100".parse().unwrap(), range), ("base/1/gone".parse().unwrap(), range)];
    let mut reading = None;
    while !world.queue.is_empty() {
        match world.queue.remove(0) {
            Effect::ReadLeftover { round, .. } => reading = Some(round),
            other => world.carry_out(other),
        }
    }
    assert_eq!((world.planned.len(), world.orders.len()), (2, 0));
    world.read_leftover(reading.unwrap());
    world.settle();
    let parts = world.orders.iter().flat_map(|order| &order.parts);
    let left: Vec<_> = parts.filter(|part| !part.prior.is_empty()).collect();
    assert_eq!((left.len(), left[0].path.as_str(), left[0].prior[0].unit), (1, "base/1/100", UnitId(5)));
}
