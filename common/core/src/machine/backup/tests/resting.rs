//! Backups that rest on an earlier one: what is read, what is taken over, and whose history counts.

use super::*;
use crate::format::BackupKind;
use crate::format::catalogue::BackupRecord;
use crate::format::manifest::{FileRecord, ManifestHead};
use crate::ids::PlanNumber;

/// A backup that was made before, as a repository has it.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub record: Box<BackupRecord>,
    pub head: Box<ManifestHead>,
    pub files: Vec<FileRecord>,
}

fn made_by(world: &World) -> Made {
    let contents = &world.published[0].1;
    let files = contents.records().filter_map(|record| match record {
        Record::File(file) => Some(file),
        _ => None,
    });
    Made {
        record: Box::new(contents.record(&[], 10, None)),
        head: Box::new(contents.head.clone()),
        files: files.collect(),
    }
}

fn full() -> Made {
    let mut world = World::new();
    world.do_all_units();
    made_by(&world)
}

/// The same backup under another label, as if it had been made then.
fn renamed(made: &Made, label: &str) -> Made {
    let label = label.parse().unwrap();
    let mut other = made.clone();
    (other.record.label, other.head.label) = (label, label);
    other
}

impl World {
    /// Repositories have these backups as priors.
    fn resting_on(spec: BackupSpec, priors: &[(RepoKey, &Made)], recovered: Recovered) -> World {
        let (machine, queue) = BackupMachine::start(spec, worker(), vec![worker()], recovered);
        let priors = priors.iter().map(|(key, made)| (*key, (*made).clone())).collect();
        World { machine, queue, priors, ..World::new() }
    }

    fn incremental(priors: &[(RepoKey, &Made)]) -> World {
        World::resting_on(BackupSpec { kind: BackupKind::Incr, ..spec() }, priors, Recovered::default())
    }

    fn records_in(&self, repository: RepoKey) -> &BackupRecord {
        &self.records.iter().find(|(key, _)| *key == repository).unwrap().1
    }

    fn was_warned_of(&self, what: &str) -> bool {
        self.outcome().warnings.iter().any(|warning| warning.contains(what))
    }
}

#[test]
fn what_has_the_same_size_and_time_is_taken_over_unread() {
    let full = full();
    let mut world = World::incremental(&[(ONE, &full), (TWO, &full)]);
    world.do_all_units();
    let outcome = world.outcome();
    assert_eq!((outcome.status, outcome.bytes_read), (Status::Ok, 8192), "pg_control only");
    assert_eq!(outcome.bytes_database, 70 * MIB + 2 * 8192);
    let made = made_by(&world);
    assert_eq!((made.head.label.kind(), made.head.label.full()), (BackupKind::Incr, full.head.label));
    assert_eq!((made.head.prior, &made.head.references), (Some(full.head.label), &vec![full.head.label]));
    for (file, before) in made.files.iter().zip(&full.files).filter(|(file, _)| file.path.as_str() < "global")
    {
        assert_eq!((file.checksum, file.ranges.len()), (before.checksum, before.ranges.len()));
        assert!(file.ranges.iter().all(|range| range.label == 1), "{file:?}");
    }
    let record = world.records_in(TWO);
    assert_eq!((record.prior, &record.references), (Some(full.head.label), &vec![full.head.label]));
    assert_eq!(record.sizes.stored_set, record.sizes.stored + 10);
    assert!(outcome.warnings.is_empty(), "{:?}", outcome.warnings);
}

#[test]
fn by_content_everything_is_read_and_each_part_knows_where_the_prior_has_it() {
    let full = full();
    let delta = BackupSpec { kind: BackupKind::Diff, delta: true, ..spec() };
    let mut world = World::resting_on(delta, &[(ONE, &full), (TWO, &full)], Recovered::default());
    world.settle();
    let known = |part: &crate::wire::UnitPart| part.prior.iter().map(|range| range.length).sum::<u64>();
    for order in &world.orders {
        assert!(order.parts.iter().all(|part| known(part) >= part.length), "{order:?}");
    }
    world.do_all_units();
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192);
    assert!(made_by(&world).files.iter().flat_map(|file| &file.ranges).all(|range| range.label == 0));
}

#[test]
fn a_repository_that_missed_a_backup_rests_on_its_own_one() {
    let full = full();
    let label = format!("{}_20251122-093000I", full.head.label);
    let incr = renamed(&full, &label);
    let mut world = World::incremental(&[(ONE, &incr), (TWO, &full)]);
    world.do_all_units();
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192, "nothing is passed over");
    assert!(world.was_warned_of("repo 2 lacks"));
    let prior_in = |key| world.records_in(key).prior.unwrap().to_string();
    assert_eq!((prior_in(ONE), prior_in(TWO)), (label, full.head.label.to_string()));
}

#[test]
fn a_repository_without_any_prior_rests_on_nothing() {
    let full = full();
    let mut world = World::incremental(&[(ONE, &full)]);
    world.do_all_units();
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192);
    let record = world.records_in(TWO);
    assert_eq!((record.kind, record.prior, record.references.len()), (BackupKind::Incr, None, 0));
}

#[test]
fn a_prior_that_cannot_be_read_is_no_prior() {
    let full = full();
    let mut world = World::incremental(&[(ONE, &full), (TWO, &full)]);
    world.unreadable = vec![full.head.label];
    world.do_all_units();
    assert_eq!(world.outcome().label.unwrap().kind(), BackupKind::Full);
    assert!(
        world.was_warned_of("is not taken as a prior") && world.was_warned_of("has been changed to full")
    );
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192);
}

#[test]
fn on_another_timeline_times_of_files_are_not_believed() {
    let mut full = full();
    full.record.timeline = TimelineId(7);
    let mut world = World::incremental(&[(ONE, &full), (TWO, &full)]);
    world.do_all_units();
    assert!(world.was_warned_of("timeline has changed"));
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192);
}

/// What the first leader bound an incremental backup to.
fn announced(full: &Made, priors: &[RepoKey], reads_all: bool) -> Announced {
    let label: BackupLabel = format!("{}_20251122-083500I", full.head.label).parse().unwrap();
    Announced {
        label,
        session: NOW,
        term: 0,
        priors: priors.iter().map(|key| (*key, full.head.label)).collect(),
        reads_all,
        plan: PlanNumber(1),
        leftover_in: Vec::new(),
        distrusts_summaries: false,
    }
}

fn taken_over(announced: Announced, priors: &[(RepoKey, &Made)]) -> World {
    let recovered = Recovered { announced: Some(announced), ..Recovered::default() };
    World::resting_on(BackupSpec { kind: BackupKind::Incr, ..spec() }, priors, recovered)
}

#[test]
fn a_new_leader_is_bound_to_what_the_first_one_announced() {
    let full = full();
    for reads_all in [false, true] {
        let announced = announced(&full, &[ONE, TWO], reads_all);
        let label = announced.label;
        let mut world = taken_over(announced, &[(ONE, &full), (TWO, &full)]);
        world.do_all_units();
        let read = if reads_all { 70 * MIB + 2 * 8192 } else { 8192 };
        assert_eq!((world.outcome().bytes_read, world.outcome().label), (read, Some(label)));
    }
}

#[test]
fn one_label_may_be_two_backups() {
    let full = full();
    let mut other = full.clone();
    let identity = Identity::from_random_bytes([9; 16]);
    (other.record.backup, other.head.backup) = (identity, identity);
    let mut world = World::incremental(&[(ONE, &full), (TWO, &other)]);
    world.settle();
    for part in world.orders.iter().flat_map(|order| &order.parts) {
        let priors: Vec<_> = part.prior.iter().map(|range| range.prior).collect();
        assert!(
            priors.contains(&0) && priors.contains(&1),
            "each repository is looked up in its own: {part:?}"
        );
    }
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok);
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192, "nothing is passed over");
    assert!(world.was_warned_of("is not the same in all repositories"));
}

#[test]
fn one_backup_that_rests_on_different_ones_is_read_wholly_and_refers_to_what_each_has() {
    let full = full();
    let label = format!("{}_20251122-083100I", full.head.label);
    let (mut incr, older) = (renamed(&full, &label), format!("{}_20251122-083050I", full.head.label));
    incr.record.references = vec![full.head.label];
    let mut twin = incr.clone();
    twin.record.references.push(older.parse().unwrap());
    let mut world = World::incremental(&[(ONE, &incr), (TWO, &twin)]);
    world.do_all_units();
    assert_eq!(world.outcome().bytes_read, 70 * MIB + 2 * 8192);
    let references = |key| world.records_in(key).references.len();
    assert_eq!((references(ONE), references(TWO)), (2, 3));
    assert!(world.was_warned_of("is not the same in all repositories"));
}

#[test]
fn a_prior_that_a_new_leader_cannot_read_takes_its_repositories_out_of_the_job() {
    let full = full();
    let label = format!("{}_20251122-083100I", full.head.label);
    let incr = renamed(&full, &label);
    let mut bound = announced(&full, &[TWO], true);
    bound.priors.push((ONE, incr.head.label));
    let mut world = taken_over(bound.clone(), &[(ONE, &incr), (TWO, &full)]);
    world.unreadable = vec![incr.head.label];
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Partial);
    assert!(failure_of(world.outcome(), ONE).is_some());
    let mut world = taken_over(announced(&full, &[ONE, TWO], false), &[(ONE, &full), (TWO, &full)]);
    world.unreadable = vec![full.head.label];
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Error, "what was accepted passes files over");
}

#[test]
fn a_repository_that_the_first_leader_did_not_see_gets_no_backup_with_holes() {
    let full = full();
    let mut world = taken_over(announced(&full, &[ONE], false), &[(ONE, &full)]);
    world.do_all_units();
    assert_eq!(world.outcome().bytes_read, 8192);
    assert_eq!(world.outcome().status, Status::Partial);
    let failure = failure_of(world.outcome(), TWO).unwrap();
    assert_eq!(failure.code, ErrorCode::BackupMismatch);
    let mut world = taken_over(announced(&full, &[ONE], true), &[(ONE, &full)]);
    world.do_all_units();
    assert_eq!(world.outcome().status, Status::Ok, "where everything is read it gets everything");
}

#[test]
fn a_file_that_grew_tells_how_large_its_blocks_are_in_units_that_the_prior_has_nothing_of() {
    let mut small = full();
    for file in small.files.iter_mut().filter(|file| file.path.as_str() == "base/1/100") {
        file.ranges.truncate(1);
        file.size = file.ranges[0].length;
    }
    let mut world = World::incremental(&[(ONE, &small), (TWO, &small)]);
    world.settle();
    let parts = world.orders.iter().flat_map(|order| &order.parts);
    let beyond = parts.filter(|part| part.offset >= small.files[0].size).collect::<Vec<_>>();
    for part in &beyond {
        assert_eq!(part.prior.len(), 1, "{part:?}");
        assert!(part.prior[0].offset + part.prior[0].length <= part.offset);
    }
    assert!(!beyond.is_empty());
}

/// As if two workers had read its ranges by turns.
fn read_by_two(made: &Made, other: &WorkerName) -> Made {
    let mut made = made.clone();
    made.head.workers = vec![worker(), other.clone()];
    for (number, range) in (0..).zip(made.files.iter_mut().flat_map(|file| &mut file.ranges)) {
        range.worker = number % 2;
    }
    made
}

/// Who has read most of it before.
fn reader_before(made: &Made, order: &UnitOrder) -> u16 {
    let mut bytes = [0, 0];
    for part in &order.parts {
        let file = made.files.iter().find(|file| file.path == part.path).unwrap();
        for range in &file.ranges {
            let end = range.end().min(part.offset + part.length);
            bytes[usize::from(range.worker)] += end.saturating_sub(range.offset.max(part.offset));
        }
    }
    u16::from(bytes[1] > bytes[0])
}

#[test]
fn who_read_a_part_before_reads_it_again_and_nobody_is_idle_for_that() {
    let other: WorkerName = "other".parse().unwrap();
    let small = BackupSpec { unit_size: 8 * MIB, ..spec() };
    let (machine, queue) =
        BackupMachine::start(small.clone(), worker(), vec![worker()], Recovered::default());
    let mut world = World { machine, queue, ..World::new() };
    world.do_all_units();
    let full = read_by_two(&made_by(&world), &other);

    let delta = BackupSpec { kind: BackupKind::Diff, delta: true, ..small };
    let readers = vec![worker(), other.clone()];
    let (machine, queue) = BackupMachine::start(delta, worker(), readers, Recovered::default());
    let priors = [(ONE, full.clone()), (TWO, full.clone())].into_iter().collect();
    let mut world = World { machine, queue, priors, ..World::new() };
    world.settle();
    let own: Vec<u16> = world.orders.iter().map(|order| reader_before(&full, order)).collect();
    assert!(!own.is_empty() && own.iter().all(|reader| *reader == 0), "{own:?}");

    let mut of_other = Vec::new();
    loop {
        let known = world.orders.len();
        world.tell(Event::Reported { worker: other.clone(), report: ReportBody::Ready { units: 1 } });
        world.settle();
        let Some(order) = world.orders.get(known) else { break };
        of_other.push(reader_before(&full, order));
    }
    let first_of_others = of_other.iter().position(|reader| *reader == 0);
    let own = of_other.iter().filter(|reader| **reader == 1).count();
    assert!(own > 1 && first_of_others == Some(own), "its own come first, then what is left: {of_other:?}");
}
