#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{ONE, PATIENCE, STALL, Site, archive, compress, stanza};
use pgconvoy_storage::decorate::fault::{Effect, Operation, Rule};

const SEGMENT: &str = "000000010000000000000002";

async fn supply(site: &Site) -> Result<(), Failure> {
    let order = SupplyOrder {
        repository: ONE,
        archive: archive(),
        segments: vec![SEGMENT.parse().unwrap()],
        compress: compress(),
        stall_timeout_ms: u64::try_from(STALL.as_millis()).unwrap(),
    };
    let supply = Supply { set: site.set.clone(), stanza: stanza(), wal: site.pg().join("pg_wal"), order };
    timeout(PATIENCE, supply.run()).await.expect("supplying hangs")
}

#[tokio::test]
async fn a_segment_goes_from_pg_wal_to_the_repository_and_is_not_needed_there_any_more() {
    let site = Site::new().await;
    site.write(&format!("pg_wal/{SEGMENT}"), &[9; 1 << 20]);
    supply(&site).await.unwrap();
    let name = WalFileName::Segment(SEGMENT.parse().unwrap());
    let stored = site.repository(ONE).await.open_wal(&stanza(), archive(), &name).await.unwrap();
    assert_eq!(stored.unwrap().body.size, 1 << 20);

    std::fs::remove_file(site.pg().join("pg_wal").join(SEGMENT)).unwrap();
    supply(&site).await.unwrap();
}

#[tokio::test]
async fn a_segment_that_pg_wal_does_not_have_is_an_archive_timeout() {
    let site = Site::new().await;
    let failure = supply(&site).await.unwrap_err();
    assert_eq!(failure.code.number(), 82, "{failure}");
    assert!(failure.message.contains(SEGMENT), "{failure}");
    assert!(failure.hints[0].contains("archive_command"));
}

#[tokio::test]
async fn a_store_that_stalls_does_not_hold_the_supply_up() {
    for operation in [Operation::Stat, Operation::Begin, Operation::Write, Operation::Finish] {
        let site = Site::new().await;
        site.write(&format!("pg_wal/{SEGMENT}"), &[9; 1 << 20]);
        site.repository(ONE).await;
        site.faults(ONE).add(Rule::always(operation, Effect::Stall));
        let failure = supply(&site).await.unwrap_err();
        assert!(failure.message.starts_with("repo 1: "), "{failure}");
    }
}
