#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::archive::tests::{Fleet, OURS, SEGMENT, identity, manner, segment};
use pgconvoy_core::ids::ClusterNumber;
use pgconvoy_core::pg::PgVersion;
use pgconvoy_repository::wal::PackedPart;
use pgconvoy_storage::decorate::fault::{Effect, Kind as Fault, Operation, Rule};
use pgconvoy_storage::{PutMode, list_all};
use std::path::PathBuf;

const ARCHIVE: ArchiveId = ArchiveId { version: PgVersion::V15, number: ClusterNumber(1) };
const NEXT: &str = "000000010000000000000002";

fn size() -> WalSegmentSize {
    WalSegmentSize::new(1 << 20).unwrap()
}

fn start() -> u64 {
    SEGMENT.parse::<WalSegmentName>().unwrap().start_lsn(size()).0
}

fn destination(fleet: &Fleet) -> PathBuf {
    fleet.directory.path().join("RECOVERYXLOG")
}

async fn end_in(fleet: &Fleet, keys: &[RepoKey]) -> Result<Option<HandedOut>, Failure> {
    let end = EndOfArchive {
        connect: &fleet.connect(),
        repositories: keys,
        stanza: &fleet.stanza,
        segment: SEGMENT.parse().unwrap(),
        size: size(),
        destination: &destination(fleet),
        cluster: identity(OURS),
    };
    end.run().await
}

async fn end(fleet: &Fleet) -> Result<Option<HandedOut>, Failure> {
    end_in(fleet, &fleet.keys()).await
}

async fn give_part(fleet: &Fleet, number: u16, from: usize, to: usize) {
    let at = |offset: usize| Lsn(start() + offset as u64);
    let segment_name: WalSegmentName = SEGMENT.parse().unwrap();
    let part = WalPart::new(segment_name.timeline(), at(from), at(to), size()).unwrap();
    let manner = manner();
    let packed = PackedPart::pack(part, &segment(OURS, 0)[from..to], manner.codec, manner.level).unwrap();
    let repository = fleet.repository(RepoKey(number)).await;
    repository.put_wal_part(&fleet.stanza, ARCHIVE, &packed).await.unwrap();
}

fn handed_out(number: u16, end: usize) -> Result<Option<HandedOut>, Failure> {
    Ok(Some(HandedOut { from: RepoKey(number), end: Lsn(start() + end as u64) }))
}

#[tokio::test]
async fn what_leads_furthest_is_handed_out_with_zeros_behind_it() {
    let fleet = Fleet::new(2).await;
    give_part(&fleet, 1, 0, 1000).await;
    for (from, to) in [(0, 700), (600, 5000), (5001, 9000)] {
        give_part(&fleet, 2, from, to).await;
    }
    assert_eq!(end(&fleet).await, handed_out(2, 5000));
    let content = std::fs::read(destination(&fleet)).unwrap();
    assert_eq!(content.len() as u64, size().bytes());
    assert!(content[..5000] == segment(OURS, 0)[..5000] && content[5000..].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn nothing_is_handed_out_where_nothing_leads_on_from_the_beginning() {
    let fleet = Fleet::new(2).await;
    assert_eq!(end(&fleet).await, Ok(None));
    give_part(&fleet, 1, 100, 1000).await;
    assert_eq!(end(&fleet).await, Ok(None));
    assert!(!destination(&fleet).exists());
}

#[tokio::test]
async fn later_wal_in_any_repository_that_is_asked_forbids_it() {
    for later in [NEXT, "00000002.history"] {
        let fleet = Fleet::new(2).await;
        give_part(&fleet, 1, 0, 1000).await;
        let content = if later == NEXT { segment(OURS, 1) } else { b"1\t0/200000\tpromoted\n".to_vec() };
        fleet.give(2, later, &content).await;
        assert_eq!(end(&fleet).await, Ok(None), "{later}");
        assert_eq!(end_in(&fleet, &[RepoKey(1)]).await, handed_out(1, 1000));
    }
}

#[tokio::test]
async fn a_repository_that_cannot_be_looked_at_may_have_later_wal() {
    let fleet = Fleet::new(2).await;
    give_part(&fleet, 1, 0, 1000).await;
    fleet.faults(2).add(Rule::always(Operation::List, Effect::Fail(Fault::Access)));
    let failure = end(&fleet).await.unwrap_err();
    assert!(failure.message.contains("repo 2"), "{failure}");
    assert!(!destination(&fleet).exists());
}

#[tokio::test]
async fn where_the_furthest_is_damaged_nothing_shorter_takes_its_place() {
    let fleet = Fleet::new(2).await;
    give_part(&fleet, 1, 0, 1000).await;
    give_part(&fleet, 2, 0, 5000).await;
    let storage = fleet.storage(2);
    let objects = list_all(storage, None).await.unwrap();
    let object = objects.iter().find(|object| object.key.as_str().contains(".partial-")).unwrap();
    let mut body = storage.get(&object.key, u64::MAX).await.unwrap().to_vec();
    body[100] ^= 1;
    storage.put(&object.key, PutMode::Overwrite, body.into()).await.unwrap();
    assert!(end(&fleet).await.is_err());
    assert!(!destination(&fleet).exists());
    give_part(&fleet, 1, 1000, 5000).await;
    assert_eq!(end(&fleet).await, handed_out(1, 5000));
}
