#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::archive::tests::{ANOTHER, Fleet, OURS, SEGMENT, identity, segment};
use pgconvoy_storage::decorate::fault::{Effect, KeyPattern, Kind as Fault, Operation, Rule};
use pgconvoy_storage::list_all;
use std::path::PathBuf;

const PATIENCE: Duration = Duration::from_secs(60);
const HISTORY: &str = "00000002.history";

fn destination(fleet: &Fleet) -> PathBuf {
    fleet.directory.path().join("RECOVERYXLOG")
}

async fn get_from(fleet: &Fleet, keys: &[RepoKey], name: &str) -> Result<Fetched, Failure> {
    let get = Get {
        connect: &fleet.connect(),
        repositories: keys,
        stanza: &fleet.stanza,
        file: name.parse().unwrap(),
        destination: &destination(fleet),
        cluster: Some(identity(OURS)),
        patience: PATIENCE,
        is_kept: false,
    };
    get.run().await
}

async fn get(fleet: &Fleet, name: &str) -> Result<Fetched, Failure> {
    get_from(fleet, &fleet.keys(), name).await
}

/// Nothing under the destination's name, and nothing beside it.
fn nothing_is_left(fleet: &Fleet) -> bool {
    let names = std::fs::read_dir(fleet.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    names.into_iter().all(|name| !name.to_string_lossy().starts_with("RECOVERYXLOG"))
}

#[tokio::test(start_paused = true)]
async fn a_file_comes_from_whichever_repository_has_it_and_replaces_what_was_there() {
    let fleet = Fleet::new(2).await;
    let content = segment(OURS, 0);
    fleet.give(2, SEGMENT, &content).await;
    std::fs::write(destination(&fleet), "older").unwrap();
    assert_eq!(get(&fleet, SEGMENT).await, Ok(Fetched::From(RepoKey(2))));
    assert!(std::fs::read(destination(&fleet)).unwrap() == content);
}

#[tokio::test(start_paused = true)]
async fn absence_is_known_when_every_repository_was_asked_and_at_once() {
    let fleet = Fleet::new(2).await;
    let begun = Instant::now();
    for name in [SEGMENT, HISTORY] {
        assert_eq!(get(&fleet, name).await, Ok(Fetched::Absent));
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(nothing_is_left(&fleet));
}

#[tokio::test(start_paused = true)]
async fn one_repository_that_cannot_be_asked_is_enough_to_not_know_of_absence() {
    for operation in [Operation::Get, Operation::List, Operation::Stat] {
        for name in [SEGMENT, HISTORY] {
            let fleet = Fleet::new(2).await;
            fleet.faults(2).add(Rule::always(operation, Effect::Fail(Fault::Access)));
            let begun = Instant::now();
            let failure = get(&fleet, name).await.unwrap_err();
            assert_eq!(failure.code, ErrorCode::Access, "{failure}");
            assert!(failure.message.contains("repo 2: ") && !failure.hints.is_empty(), "{failure}");
            assert_eq!(begun.elapsed(), PATIENCE, "it is asked again until the patience ends");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lost_everything_or_never_knew_the_cluster_tells_nothing() {
    let fleet = Fleet::new(1).await;
    let storage = fleet.storage(1);
    let another = Get {
        connect: &fleet.connect(),
        repositories: &fleet.keys(),
        stanza: &fleet.stanza,
        file: SEGMENT.parse().unwrap(),
        destination: &destination(&fleet),
        cluster: Some(identity(ANOTHER)),
        patience: PATIENCE,
        is_kept: false,
    };
    assert_eq!(another.run().await.unwrap_err().code, ErrorCode::ArchiveMismatch);
    let unknown = "other".parse().unwrap();
    let elsewhere = Get { stanza: &unknown, ..another };
    assert_eq!(elsewhere.run().await.unwrap_err().code, ErrorCode::FileMissing);
    for object in list_all(storage, None).await.unwrap() {
        storage.delete(&object.key).await.unwrap();
    }
    assert_eq!(get(&fleet, SEGMENT).await.unwrap_err().code, ErrorCode::RepoInvalid);
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_comes_back_within_the_patience_is_believed() {
    let fleet = Fleet::new(1).await;
    fleet.faults(1).add(Rule::always(Operation::Get, Effect::Fail(Fault::Unavailable)).times(5));
    let begun = Instant::now();
    assert_eq!(get(&fleet, SEGMENT).await, Ok(Fetched::Absent));
    assert!(begun.elapsed() > Duration::ZERO && begun.elapsed() < PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn presence_is_known_from_one_repository_also_when_another_fails_or_hangs() {
    for effect in [Effect::Fail(Fault::Unavailable), Effect::Stall] {
        let fleet = Fleet::new(2).await;
        fleet.give(2, SEGMENT, &segment(OURS, 0)).await;
        fleet.faults(1).add(Rule::always(Operation::Any, effect));
        let begun = Instant::now();
        assert_eq!(get(&fleet, SEGMENT).await, Ok(Fetched::From(RepoKey(2))));
        assert!(begun.elapsed() <= STRAGGLER_GRACE_MIN);
    }
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_hangs_ends_with_the_patience_not_later() {
    let fleet = Fleet::new(1).await;
    fleet.faults(1).add(Rule::always(Operation::Any, Effect::Stall));
    let begun = Instant::now();
    assert_eq!(get(&fleet, SEGMENT).await.unwrap_err().code, ErrorCode::HostConnect);
    assert_eq!(begun.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn repositories_that_disagree_are_refused_at_once_and_one_alone_is_believed() {
    let fleet = Fleet::new(2).await;
    fleet.give(1, SEGMENT, &segment(OURS, 1)).await;
    fleet.give(2, SEGMENT, &segment(OURS, 2)).await;
    let begun = Instant::now();
    assert_eq!(get(&fleet, SEGMENT).await.unwrap_err().code, ErrorCode::ArchiveDuplicate);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(nothing_is_left(&fleet));
    assert_eq!(get_from(&fleet, &[RepoKey(2)], SEGMENT).await, Ok(Fetched::From(RepoKey(2))));
    assert!(std::fs::read(destination(&fleet)).unwrap() == segment(OURS, 2));
}

#[tokio::test(start_paused = true)]
async fn after_damage_in_one_repository_the_other_delivers() {
    let fleet = Fleet::new(2).await;
    for number in [1, 2] {
        fleet.give(number, SEGMENT, &segment(OURS, 0)).await;
    }
    fleet.damage(1, SEGMENT).await;
    assert_eq!(get(&fleet, SEGMENT).await, Ok(Fetched::From(RepoKey(2))));
    assert!(std::fs::read(destination(&fleet)).unwrap() == segment(OURS, 0));
}

#[tokio::test(start_paused = true)]
async fn damage_everywhere_is_no_absence_and_leaves_no_file() {
    let fleet = Fleet::new(2).await;
    fleet.give(1, SEGMENT, &segment(OURS, 0)).await;
    fleet.damage(1, SEGMENT).await;
    let failure = get(&fleet, SEGMENT).await.unwrap_err();
    assert!(failure.message.contains("cannot be read: repo 1: "), "{failure}");
    assert!(nothing_is_left(&fleet));
}

#[tokio::test(start_paused = true)]
async fn a_footer_that_cannot_be_read_is_no_absence_either() {
    let fleet = Fleet::new(1).await;
    fleet.give(1, SEGMENT, &segment(OURS, 0)).await;
    let key = KeyPattern::Contains(SEGMENT.to_owned());
    fleet.faults(1).add(Rule::always(Operation::Any, Effect::TruncateRead(200)).on(key));
    assert_eq!(get(&fleet, SEGMENT).await.unwrap_err().code, ErrorCode::Checksum);
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_cannot_be_written_is_an_error_at_once() {
    let fleet = Fleet::new(1).await;
    fleet.give(1, SEGMENT, &segment(OURS, 0)).await;
    std::fs::create_dir(destination(&fleet)).unwrap();
    let begun = Instant::now();
    assert_eq!(get(&fleet, SEGMENT).await.unwrap_err().code, ErrorCode::FileMove);
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(
        std::fs::read_dir(fleet.directory.path()).unwrap().count(),
        2,
        "the segment and the directory"
    );
}

#[tokio::test(start_paused = true)]
async fn every_archive_of_the_cluster_is_searched() {
    let fleet = Fleet::new(1).await;
    fleet.give(1, SEGMENT, &segment(OURS, 0)).await;
    fleet.add_cluster(RepoKey(1), 2, OURS).await;
    fleet.add_cluster(RepoKey(1), 3, ANOTHER).await;
    assert_eq!(get(&fleet, SEGMENT).await, Ok(Fetched::From(RepoKey(1))));
}

#[tokio::test(start_paused = true)]
async fn the_fastest_delivers_and_gives_way_when_it_becomes_slow() {
    let fleet = Fleet::new(2).await;
    for number in [1, 2] {
        fleet.give(number, SEGMENT, &segment(OURS, 0)).await;
    }
    let slow = Effect::Delay(Duration::from_millis(50));
    let delay = fleet.faults(1).add(Rule::always(Operation::Stat, slow));
    assert_eq!(get(&fleet, SEGMENT).await, Ok(Fetched::From(RepoKey(2))));
    fleet.faults(1).remove(delay);

    // At each of its calls in turn.
    let key = KeyPattern::Contains(SEGMENT.to_owned());
    let mut stalled = 0;
    for skip in 0..6 {
        fleet.faults(1).clear();
        fleet.faults(2).clear();
        fleet.faults(2).add(Rule::always(Operation::Stat, slow));
        fleet.faults(1).add(Rule::always(Operation::Any, Effect::Stall).on(key.clone()).skip(skip));
        let begun = Instant::now();
        let from = get(&fleet, SEGMENT).await.unwrap();
        assert!(begun.elapsed() <= DELIVERY_MAX + STRAGGLER_GRACE_MAX);
        stalled += u32::from(from == Fetched::From(RepoKey(2)));
    }
    assert!((1..6).contains(&stalled), "{stalled} of six");
}
