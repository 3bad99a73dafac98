#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::archive::tests::{Fleet, OURS, identity, manner, segment};
use pgconvoy_storage::decorate::fault::{Effect, Kind as Fault, Operation, Rule};
use pgconvoy_storage::list_all;

async fn catch_up(fleet: &Fleet) -> CaughtUp {
    catch_up_by(fleet, 2).await
}

/// So many files at once.
async fn catch_up_by(fleet: &Fleet, width: usize) -> CaughtUp {
    let siblings: Vec<Sibling> =
        fleet.keys().into_iter().map(|key| Sibling { key, keeps_all: true }).collect();
    let doors = fleet.doors();
    let cluster = Some(identity(OURS));
    CatchUp { doors: &doors, siblings: &siblings, cluster, manner: manner(), width }.run().await
}

fn name(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

/// Everything that a repository holds of WAL, by name.
async fn names(fleet: &Fleet, number: u16) -> Vec<String> {
    let objects = list_all(fleet.storage(number), None).await.unwrap();
    let wal = objects.iter().filter(|object| object.key.as_str().contains("/wal/"));
    wal.map(|object| object.key.name().to_owned()).collect()
}

#[tokio::test]
async fn each_gets_what_any_other_has_and_again_nothing() {
    let fleet = Fleet::new(3).await;
    for number in 1..=6 {
        fleet.give(u16::try_from(number % 3).unwrap() + 1, &name(number), &segment(OURS, 0)).await;
    }
    fleet.give(2, "00000002.history", b"1\t0/3000000\tno recovery target specified\n").await;
    let told = catch_up(&fleet).await;
    assert_eq!((told.failures, told.left, told.brought.len()), (Vec::new(), 0, 14));
    let expected = names(&fleet, 1).await;
    assert_eq!(expected.len(), 7);
    assert_eq!((names(&fleet, 2).await, names(&fleet, 3).await), (expected.clone(), expected));
    assert!(catch_up(&fleet).await.brought.is_empty());
}

#[tokio::test]
async fn the_search_goes_back_to_where_all_agree() {
    let fleet = Fleet::new(2).await;
    // One segment in each directory: the search ends after two that both have.
    let names = ["000000010000000000000001", "000000010000000100000001", "000000010000000200000001"];
    let more = ["000000010000000300000001", "000000010000000400000001"];
    for name in names.iter().chain(&more) {
        fleet.give(1, name, &segment(OURS, 0)).await;
    }
    fleet.give(2, names[1], &segment(OURS, 0)).await;
    // One at a time, so that what is brought first is told first.
    let told = catch_up_by(&fleet, 1).await;
    assert_eq!(told.brought.len(), 4, "one directory that agrees does not end the search");
    let brought: Vec<String> = told.brought.iter().map(|(_, file)| file.to_string()).collect();
    assert_eq!(brought.first().unwrap(), names[0], "the oldest first");
}

#[tokio::test]
async fn one_call_brings_so_many_and_the_next_goes_on() {
    let fleet = Fleet::new(2).await;
    let all = u32::try_from(BATCH_MAX).unwrap() + 3;
    for number in 1..=all {
        let backup = format!("{}.{number:08X}.backup", name(number % 100 + 1));
        fleet.give(1, &backup, b"START WAL LOCATION").await;
    }
    let told = catch_up(&fleet).await;
    assert_eq!((told.brought.len(), told.left), (BATCH_MAX, 3));
    assert_eq!(catch_up(&fleet).await.brought.len(), 3);
}

#[tokio::test]
async fn whoever_cannot_be_listed_gets_nothing_and_gives_nothing() {
    let fleet = Fleet::new(2).await;
    fleet.give(1, &name(1), &segment(OURS, 0)).await;
    fleet.faults(2).add(Rule::always(Operation::List, Effect::Fail(Fault::Access)));
    let told = catch_up(&fleet).await;
    assert!(told.brought.is_empty() && told.failures[0].0 == RepoKey(2));
    fleet.faults(2).clear();
    assert_eq!(catch_up(&fleet).await.brought.len(), 1);
}

#[tokio::test]
async fn what_is_damaged_in_one_comes_from_another_and_never_as_it_is() {
    let fleet = Fleet::new(3).await;
    for number in [1, 2] {
        fleet.give(number, &name(1), &segment(OURS, 0)).await;
    }
    fleet.damage(1, &name(1)).await;
    assert_eq!(catch_up(&fleet).await.brought, [(RepoKey(3), name(1).parse().unwrap())]);
    let storage = fleet.storage(3);
    for object in list_all(storage, None).await.unwrap() {
        if object.key.as_str().contains("/wal/") {
            storage.delete(&object.key).await.unwrap();
        }
    }
    fleet.damage(2, &name(1)).await;
    assert!(catch_up(&fleet).await.brought.is_empty());
    assert!(names(&fleet, 3).await.is_empty());
}

#[tokio::test]
async fn a_repository_that_takes_nothing_ends_the_call_and_is_named() {
    let fleet = Fleet::new(2).await;
    for number in 1..=20 {
        fleet.give(1, &name(number), &segment(OURS, 0)).await;
    }
    fleet.faults(2).add(Rule::always(Operation::Begin, Effect::Fail(Fault::Full)));
    let told = catch_up(&fleet).await;
    assert_eq!(told.failures[0].1.code, ErrorCode::FileWrite);
    assert!(told.failures.len() <= 3, "every file was tried: {}", told.failures.len());
}
