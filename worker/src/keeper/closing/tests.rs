#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{ONE, PATIENCE, STALL, Site, TWO, units};
use pgconvoy_core::pg::{Lsn, TimelineId};
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::decorate::fault::{Effect, Kind as Fault, Operation, Rule};

fn stop() -> StopBody {
    StopBody {
        start_lsn: Lsn(0x0200_0028),
        stop_lsn: Lsn(0x0200_0138),
        timeline: TimelineId(1),
        stopped: Timestamp(1),
        backup_label: "START WAL LOCATION: 0/2000028".into(),
        tablespace_map: String::new(),
        kept: None,
    }
}

async fn record_in_both(site: &Site) -> Vec<RepositoryFailure> {
    let context = site.context(STALL).await;
    let record = Record { context: &context, stop: stop(), scan: None };
    let recording = record.write_to(&site.set, &[ONE, TWO]);
    tokio::time::timeout(PATIENCE, recording).await.expect("a repository holds the others up")
}

async fn is_recorded(site: &Site, key: RepoKey) -> bool {
    site.faults(key).clear();
    let units = units(STALL);
    let found = site.repository(key).await.stop_record(&units.stanza, units.label, units.plan).await;
    found.unwrap() == Some(stop())
}

#[tokio::test]
async fn the_record_is_in_every_repository_that_is_not_named() {
    for effect in [Effect::Fail(Fault::Full), Effect::Stall] {
        let site = Site::new().await;
        site.faults(ONE).add(Rule::always(Operation::Put, effect));
        let failed = record_in_both(&site).await;
        assert_eq!(failed.iter().map(|one| one.repository).collect::<Vec<_>>(), [ONE], "{effect:?}");
        assert!(!is_recorded(&site, ONE).await);
        assert!(is_recorded(&site, TWO).await);
    }
}

#[tokio::test]
async fn a_record_that_is_there_already_is_as_good_and_another_one_is_not() {
    let site = Site::new().await;
    assert_eq!(record_in_both(&site).await, []);
    assert_eq!(record_in_both(&site).await, []);

    let context = site.context(STALL).await;
    let other = StopBody { stop_lsn: Lsn(0x0300_0000), ..stop() };
    let other = Record { context: &context, stop: other, scan: None };
    let failed = other.write_to(&site.set, &[TWO]).await;
    assert_eq!(failed.len(), 1);
    assert!(is_recorded(&site, TWO).await);
}
