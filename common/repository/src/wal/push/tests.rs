#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::open::RepositorySettings;
use pgconvoy_core::ids::{ClusterNumber, RepoKey};
use pgconvoy_core::pg::PgVersion;
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::MemoryStorage;
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, Faults, Kind as Fault, Operation, Rule};
use std::sync::atomic::{AtomicUsize, Ordering};

const ARCHIVE: ArchiveId = ArchiveId { version: PgVersion::V15, number: ClusterNumber(1) };
const SEGMENT: &str = "000000010000000000000001";
const STALL: Duration = Duration::from_millis(200);

async fn target() -> (WalTarget, Faults) {
    target_numbered(1).await
}

async fn target_numbered(number: u16) -> (WalTarget, Faults) {
    let (storage, faults) = FaultStorage::new(Arc::new(MemoryStorage::new()));
    let settings = RepositorySettings {
        number: RepoKey(number),
        secret: None,
        layout: pgconvoy_core::config::Layout::Packed,
    };
    let created = Repository::open_or_create(Arc::new(storage), &settings, Timestamp(0)).await;
    ((Arc::new(created.unwrap().0), ARCHIVE), faults)
}

/// Differs in every frame, so that one in a wrong place is seen; shrinks somewhat.
fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at / 7 * (seed + 1) + at / 100_000) % 251).unwrap()).collect()
}

fn source_of(content: &[u8]) -> WalSource {
    let content = content.to_vec();
    Arc::new(move || Ok(Box::new(io::Cursor::new(content.clone())) as Box<dyn Read + Send>))
}

fn manner(threads: usize) -> PushManner {
    let threads = Threads::new(threads);
    PushManner::alike(Codec::Zst, Codec::Zst.default_level(), threads, STALL)
}

async fn push(targets: &[WalTarget], content: &[u8], threads: usize) -> Vec<PushResult> {
    let manner = manner(threads);
    let (stanza, file) = ("main".parse().unwrap(), SEGMENT.parse().unwrap());
    push_wal_as(targets, &stanza, &file, source_of(content), &manner).await.unwrap()
}

async fn stored(target: &WalTarget) -> Option<Vec<u8>> {
    let (stanza, file) = ("main".parse().unwrap(), SEGMENT.parse().unwrap());
    let reader = target.0.open_wal(&stanza, ARCHIVE, &file).await.unwrap()?;
    let mut bytes = Vec::new();
    let sink = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    reader.read(&target.0, sink).await.unwrap();
    Some(bytes)
}

#[tokio::test]
async fn frames_come_back_in_order_whatever_the_number_of_threads_and_the_length() {
    for threads in [0, 1, 2, 3, 9] {
        for bytes in [0, 41, 1 << 20, (1 << 20) + 1, 13 << 20] {
            let (target, _) = target().await;
            let content = content(bytes, threads);
            assert!(matches!(
                push(std::slice::from_ref(&target), &content, threads).await[..],
                [Ok(Pushed::New)]
            ));
            assert!(stored(&target).await.unwrap() == content, "{bytes} bytes on {threads} threads");
        }
    }
}

#[tokio::test]
async fn repositories_with_codecs_of_their_own_have_the_same_file_and_are_told_as_one_push() {
    let mut targets = Vec::new();
    for number in 1..=3 {
        targets.push(target_numbered(number).await.0);
    }
    let own = BTreeMap::from([
        (RepoKey(1), (Codec::Lz4, Codec::Lz4.default_level())),
        (RepoKey(3), (Codec::None, Codec::None.default_level())),
    ]);
    let manner = PushManner { own, ..manner(2) };
    let content = content(5 << 20, 1);
    let (stanza, file) = ("main".parse().unwrap(), SEGMENT.parse().unwrap());
    let mut told = Vec::new();
    let tell = |news| match news {
        PushNews::SourceRead => told.push("read".to_owned()),
        PushNews::Decided(place, Ok(Pushed::New)) => told.push(format!("{place} has it")),
        PushNews::Decided(place, other) => told.push(format!("{place}: {other:?}")),
    };
    push_wal_telling(&targets, &stanza, &file, source_of(&content), &manner, tell).await.unwrap();
    told.sort_unstable();
    assert_eq!(told, ["0 has it", "1 has it", "2 has it", "read"]);
    let mut codecs = Vec::new();
    for target in &targets {
        assert!(stored(target).await.unwrap() == content);
        let reader = target.0.open_wal(&stanza, ARCHIVE, &file).await.unwrap().unwrap();
        codecs.push(reader.object.frames()[0].codec());
    }
    assert_eq!(codecs, [Codec::Lz4, Codec::Zst, Codec::None].map(Codec::number));
}

#[tokio::test]
async fn the_same_content_is_identical_and_another_is_refused_and_changes_nothing() {
    let ((first, _), (second, _)) = (target().await, target().await);
    let (one, other) = (content(3 << 20, 1), content(3 << 20, 2));
    push(std::slice::from_ref(&first), &one, 2).await;
    let both = [first.clone(), second.clone()];
    assert!(matches!(push(&both, &one, 2).await[..], [Ok(Pushed::Identical), Ok(Pushed::New)]));
    let results = push(&both, &other, 2).await;
    assert!(
        results.iter().all(|result| matches!(result, Err(RepositoryError::Duplicate { .. }))),
        "{results:?}"
    );
    assert!(stored(&first).await.unwrap() == one);
}

#[tokio::test]
async fn a_repository_that_fails_is_left_behind_and_has_nothing() {
    let operations = [Operation::Begin, Operation::Write, Operation::Finish];
    for (operation, skip) in operations.into_iter().flat_map(|operation| [(operation, 0), (operation, 3)]) {
        let ((good, _), (bad, faults)) = (target().await, target().await);
        let content = content(6 << 20, 1);
        let rule = faults.add(Rule::always(operation, Effect::Fail(Fault::Full)).skip(skip));
        let results = push(&[bad.clone(), good.clone()], &content, 2).await;
        assert!(matches!(results[1], Ok(Pushed::New)));
        assert!(stored(&good).await.unwrap() == content);
        faults.clear();
        match faults.strikes(rule) {
            0 => assert!(results[0].is_ok(), "{operation:?} happens once"),
            _ => {
                assert!(matches!(results[0], Err(RepositoryError::Storage(StorageError::Full { .. }))));
                assert!(stored(&bad).await.is_none(), "half of it was published");
            }
        }
    }
}

#[tokio::test]
async fn what_a_failed_upload_stored_is_discarded_before_the_answer() {
    let (target, faults) = target().await;
    faults.add(Rule::always(Operation::Write, Effect::Fail(Fault::Full)).skip(3));
    let discarded = faults.add(Rule::always(Operation::Abort, Effect::Delay(STALL / 4)));
    let results = push(std::slice::from_ref(&target), &content(6 << 20, 1), 2).await;
    assert!(matches!(results[0], Err(RepositoryError::Storage(StorageError::Full { .. }))), "{results:?}");
    assert_eq!(faults.strikes(discarded), 1);
}

#[tokio::test]
async fn a_repository_that_hangs_over_what_it_stored_does_not_keep_the_answer() {
    let (target, faults) = target().await;
    faults.add(Rule::always(Operation::Write, Effect::Fail(Fault::Full)));
    faults.add(Rule::always(Operation::Abort, Effect::Stall));
    let results = push(std::slice::from_ref(&target), &content(6 << 20, 1), 2).await;
    assert!(matches!(results[0], Err(RepositoryError::Storage(StorageError::Full { .. }))), "{results:?}");
}

#[tokio::test]
async fn a_repository_that_hangs_is_left_behind_after_the_stall() {
    for operation in [Operation::Stat, Operation::Begin, Operation::Write, Operation::Finish] {
        let ((good, _), (bad, faults)) = (target().await, target().await);
        faults.add(Rule::always(operation, Effect::Stall));
        let results = push(&[good, bad], &content(6 << 20, 1), 2).await;
        assert!(matches!(results[0], Ok(Pushed::New)), "{operation:?}");
        assert!(
            matches!(results[1], Err(RepositoryError::Storage(StorageError::Timeout { .. }))),
            "{operation:?}"
        );
    }
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_found_identical_by_the_next_push() {
    let (target, faults) = target().await;
    let content = content(2 << 20, 1);
    faults.add(Rule::once(Operation::Finish, Effect::LoseAnswer(Fault::Unavailable)));
    assert!(push(std::slice::from_ref(&target), &content, 1).await[0].is_err());
    assert!(matches!(push(std::slice::from_ref(&target), &content, 1).await[..], [Ok(Pushed::Identical)]));
}

#[tokio::test]
async fn a_file_that_appears_while_it_is_pushed_is_compared() {
    let (target, faults) = target().await;
    let content = content(2 << 20, 1);
    push(std::slice::from_ref(&target), &content, 1).await;
    // The first look does not see it yet.
    faults.add(Rule::once(Operation::Stat, Effect::Fail(Fault::NotFound)));
    assert!(matches!(push(std::slice::from_ref(&target), &content, 1).await[..], [Ok(Pushed::Identical)]));
}

#[tokio::test]
async fn a_source_that_cannot_be_read_to_its_end_publishes_nothing() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
            buffer.fill(7);
            Ok(buffer.len())
        }
    }
    let (target, _) = target().await;
    let opened = Arc::new(AtomicUsize::new(0));
    let counter = opened.clone();
    let source: WalSource = Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Broken(5)) as Box<dyn Read + Send>)
    });
    let (stanza, file) = ("main".parse().unwrap(), SEGMENT.parse().unwrap());
    let level = Codec::Zst.default_level();
    let error = push_wal(std::slice::from_ref(&target), &stanza, &file, source, Codec::Zst, level).await;
    assert!(error.unwrap_err().to_string().contains("the disk is gone"));
    assert!(stored(&target).await.is_none());
    assert_eq!(opened.load(Ordering::Relaxed), 1, "a file that is nowhere yet is read once");
}

#[tokio::test]
async fn others_are_decided_and_the_source_is_left_alone_before_one_that_hangs_is_given_up() {
    for operation in [Operation::Stat, Operation::Begin, Operation::Write, Operation::Finish] {
        let ((good, _), (bad, faults)) = (target().await, target().await);
        faults.add(Rule::always(operation, Effect::Stall));
        let manner = manner(2);
        let (stanza, file) = ("main".parse().unwrap(), SEGMENT.parse().unwrap());
        let mut told = Vec::new();
        let tell = |news| {
            told.push(match news {
                PushNews::SourceRead => "read",
                PushNews::Decided(0, Err(_)) => "the bad one has failed",
                PushNews::Decided(1, Ok(Pushed::New)) => "the good one has it",
                PushNews::Decided(..) => "something else",
            });
        };
        // As many pieces as may wait, and some more than that.
        let source = source_of(&content(16 << 20, 1));
        push_wal_telling(&[bad, good], &stanza, &file, source, &manner, tell).await.unwrap();
        assert_eq!(told[2], "the bad one has failed", "{operation:?}: {told:?}");
        told.sort_unstable();
        assert_eq!(told, ["read", "the bad one has failed", "the good one has it"], "{operation:?}");
    }
}

#[tokio::test]
async fn files_side_by_side_and_one_after_another_share_threads_and_what_these_work_with() {
    let manner = manner(3);
    let (stanza, file) = ("main".parse().unwrap(), SEGMENT.parse().unwrap());
    for round in 0..3 {
        let contents: Vec<Vec<u8>> =
            [16 << 20, 41, (3 << 20) + 7].into_iter().map(|bytes| content(bytes, round)).collect();
        let targets = join_all(contents.iter().map(|_| target())).await;
        let pushing = contents.iter().zip(&targets).map(|(content, (target, _))| {
            push_wal_as(std::slice::from_ref(target), &stanza, &file, source_of(content), &manner)
        });
        for pushed in join_all(pushing).await {
            assert!(matches!(pushed.unwrap()[..], [Ok(Pushed::New)]));
        }
        for (content, (target, _)) in contents.iter().zip(&targets) {
            assert!(stored(target).await.unwrap() == *content, "round {round}, {} bytes", content.len());
        }
    }
}
