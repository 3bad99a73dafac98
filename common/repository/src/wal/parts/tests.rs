#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::open::RepositorySettings;
use crate::wal::push_wal;
use pgconvoy_core::ids::{ClusterNumber, RepoKey};
use pgconvoy_core::pg::{PgVersion, TimelineId};
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::{MemoryStorage, ObjectKey};
use std::io::{Cursor, Read};
use std::sync::Arc;

const ARCHIVE: ArchiveId = ArchiveId { version: PgVersion::V15, number: ClusterNumber(1) };
const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
const START: u64 = 5 << 24;
const LEVEL: Level = Codec::Zst.default_level();

async fn repository() -> Arc<Repository> {
    let settings = RepositorySettings {
        number: RepoKey(1),
        secret: None,
        layout: pgconvoy_core::config::Layout::Packed,
    };
    let created =
        Repository::open_or_create(Arc::new(MemoryStorage::new()), &settings, Timestamp(0)).await.unwrap();
    Arc::new(created.0)
}

fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

fn segment() -> WalSegmentName {
    WalSegmentName::containing(TimelineId(1), Lsn(START), SIZE)
}

fn content(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at / 3 + at / 70_000) % 251).unwrap()).collect()
}

async fn put(repository: &Repository, from: u64, to: u64, content: &[u8]) -> PushResult {
    let part = WalPart::new(TimelineId(1), Lsn(START + from), Lsn(START + to), SIZE).unwrap();
    let packed = PackedPart::pack(part, content, Codec::Zst, LEVEL).unwrap();
    repository.put_wal_part(&stanza(), ARCHIVE, &packed).await
}

async fn read(repository: &Repository, chain: &[WalPart]) -> Result<Vec<u8>, RepositoryError> {
    let mut bytes = Vec::new();
    let sink = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    repository.read_wal_parts(&stanza(), ARCHIVE, chain, sink).await.map(|()| bytes)
}

async fn chain(repository: &Repository) -> Vec<WalPart> {
    repository.wal_parts(&stanza(), ARCHIVE, segment(), SIZE).await.unwrap()
}

#[tokio::test]
async fn parts_that_overlap_come_back_as_one_piece_of_wal() {
    let (repository, all) = (repository().await, content(3 << 20));
    let middle = all.len() / 2;
    for (from, to) in [(0, middle), (middle - 5000, all.len() - 1), (middle, all.len())] {
        assert_eq!(put(&repository, from as u64, to as u64, &all[from..to]).await.unwrap(), Pushed::New);
    }
    let chain = chain(&repository).await;
    assert_eq!(read(&repository, &chain).await.unwrap(), all);
    assert!(repository.wal_files(&stanza(), ARCHIVE).await.unwrap().is_empty(), "a part is no WAL file");
}

#[tokio::test]
async fn the_same_part_again_is_identical_and_another_of_its_name_is_refused() {
    let (repository, all) = (repository().await, content(9000));
    put(&repository, 0, 9000, &all).await.unwrap();
    assert_eq!(put(&repository, 0, 9000, &all).await.unwrap(), Pushed::Identical);
    let other = put(&repository, 0, 9000, &vec![7; 9000]).await;
    assert!(matches!(other, Err(RepositoryError::Duplicate { .. })), "{other:?}");
}

#[tokio::test]
async fn parts_go_when_their_segment_or_a_larger_part_is_there_and_not_before() {
    let (repository, all) = (repository().await, content(9000));
    let tidy = || async {
        let directory = segment().directory();
        repository.remove_superseded_parts(&stanza(), ARCHIVE, &directory).await.unwrap()
    };
    put(&repository, 0, 4000, &all[..4000]).await.unwrap();
    put(&repository, 4000, 9000, &all[4000..]).await.unwrap();
    assert_eq!(tidy().await, 0);
    put(&repository, 0, 9000, &all).await.unwrap();
    assert_eq!(tidy().await, 2);
    assert_eq!(read(&repository, &chain(&repository).await).await.unwrap(), all);
    let file = WalFileName::Segment(segment());
    let source = move || Ok(Box::new(Cursor::new(content(1 << 20))) as Box<dyn Read + Send>);
    let targets = [(repository.clone(), ARCHIVE)];
    push_wal(&targets, &stanza(), &file, Arc::new(source), Codec::Zst, LEVEL).await.unwrap();
    assert_eq!(tidy().await, 1);
    assert!(chain(&repository).await.is_empty());
}

#[tokio::test]
async fn a_part_that_is_gone_or_damaged_is_an_error() {
    let (repository, all) = (repository().await, content(9000));
    put(&repository, 0, 9000, &all).await.unwrap();
    let chain = chain(&repository).await;
    let key: ObjectKey = object_key(&layout::wal_part(&stanza(), ARCHIVE, &chain[0]));
    let mut stored = repository.storage().get(&key, 1 << 20).await.unwrap().to_vec();
    stored[100] ^= 1;
    repository.storage().delete(&key).await.unwrap();
    assert!(matches!(read(&repository, &chain).await, Err(RepositoryError::Missing { .. })));
    repository.storage().put(&key, PutMode::Create, Bytes::from(stored)).await.unwrap();
    assert!(read(&repository, &chain).await.is_err());
}
