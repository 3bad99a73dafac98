#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::archive::tests::{ANOTHER, Fleet, OURS, identity, segment};

fn name(number: u32) -> WalSegmentName {
    format!("0000000100000000{number:08X}").parse().unwrap()
}

fn names(numbers: std::ops::RangeInclusive<u32>) -> Vec<WalSegmentName> {
    numbers.map(name).collect()
}

async fn fleet(segments: std::ops::RangeInclusive<u32>) -> (Fleet, InSpool) {
    let fleet = Fleet::new(1).await;
    for number in segments {
        fleet.give(1, &name(number).to_string(), &segment(OURS, u8::try_from(number).unwrap())).await;
    }
    let spool = spool(&fleet, OURS);
    (fleet, spool)
}

fn spool(fleet: &Fleet, system_id: pgconvoy_core::ids::SystemId) -> InSpool {
    let place = fleet.directory.path().join("spool");
    InSpool::open(&place, &fleet.stanza, identity(system_id), &fleet.keys()).unwrap()
}

async fn fetch(fleet: &Fleet, spool: &InSpool, segments: &[WalSegmentName]) -> Result<usize, Failure> {
    let ahead = FetchAhead {
        connect: &fleet.connect(),
        repositories: &fleet.keys(),
        stanza: &fleet.stanza,
        cluster: identity(OURS),
        spool,
        segments,
        width: 2,
    };
    ahead.run().await
}

#[test]
fn the_queue_has_room_for_two_at_least() {
    let ahead = |queue_max| segments_ahead(name(0xFE), WalSegmentSize::DEFAULT, ByteCount(queue_max));
    assert_eq!(ahead(0).len(), 2);
    assert_eq!(ahead(128 << 20).len(), 8);
    assert_eq!(ahead(0)[1], name(0xFF));
    assert_eq!(ahead(64 << 20)[2].to_string(), "000000010000000100000000");
}

#[tokio::test]
async fn segments_come_up_to_the_first_that_is_missing_and_are_handed_out_once() {
    let (fleet, spool) = fleet(1..=3).await;
    let wanted = names(1..=5);
    assert_eq!(fetch(&fleet, &spool, &wanted).await, Ok(3));
    assert_eq!(spool.count(&wanted), 3);
    let destination = fleet.directory.path().join("RECOVERYXLOG");
    let file = WalFileName::Segment(name(2));
    assert_eq!(spool.take(&file, &destination), Ok(true));
    assert!(std::fs::read(&destination).unwrap() == segment(OURS, 2));
    assert_eq!(spool.take(&file, &destination), Ok(false));
    assert_eq!(spool.count(&wanted), 1);
}

#[tokio::test]
async fn what_is_out_of_plan_goes_and_so_does_what_a_dead_process_had_begun() {
    let (fleet, spool) = fleet(1..=4).await;
    fetch(&fleet, &spool, &names(1..=2)).await.unwrap();
    let begun = spool.directory.join(format!("{}{TEMPORARY}1.tmp", name(3)));
    std::fs::write(&begun, "half of it").unwrap();
    assert!(spool.is_coming(&WalFileName::Segment(name(3))));
    assert_eq!(fetch(&fleet, &spool, &names(2..=3)).await, Ok(1));
    assert!(!begun.exists() && !spool.has(&name(1)) && spool.count(&names(2..=3)) == 2);
}

#[tokio::test]
async fn damage_never_gets_a_name_in_the_spool() {
    let (fleet, spool) = fleet(1..=2).await;
    fleet.damage(1, &name(1).to_string()).await;
    assert!(fetch(&fleet, &spool, &names(1..=2)).await.is_err());
    assert!(!spool.has(&name(1)));
}

#[tokio::test]
async fn a_history_is_kept_for_good_and_another_cluster_does_not_see_it() {
    let (fleet, spool) = fleet(1..=1).await;
    let history: WalFileName = "00000002.history".parse().unwrap();
    let fetched = fleet.wal_file("fetched", b"1\t0/3000000\tno recovery target specified\n");
    spool.keep_history(&history, &fetched).unwrap();
    fetch(&fleet, &spool, &names(1..=1)).await.unwrap();
    let destination = fleet.directory.path().join("RECOVERYHISTORY");
    for _ in 0..2 {
        assert_eq!(spool.take(&history, &destination), Ok(true));
        assert!(std::fs::read(&destination).unwrap() == std::fs::read(&fetched).unwrap());
    }
    assert_eq!(self::spool(&fleet, ANOTHER).take(&history, &destination), Ok(false));
}
