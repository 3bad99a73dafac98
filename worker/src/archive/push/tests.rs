#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::archive::tests::{ANOTHER, Fleet, OURS, SEGMENT, SEGMENT_BYTES, identity, segment};
use pgconvoy_storage::decorate::fault::{Effect, KeyPattern, Kind as Fault, Operation, Rule};

fn all(fleet: &Fleet) -> Vec<PushRepository> {
    fleet.keys().into_iter().map(|key| PushRepository { key, is_required: true }).collect()
}

async fn push(fleet: &Fleet, name: &str, content: &[u8]) -> Result<PushReport, Failure> {
    let path = fleet.wal_file(name, content);
    fleet.push(&fleet.doors(), &all(fleet), &path).run().await
}

fn full() -> Rule {
    Rule::always(Operation::Write, Effect::Fail(Fault::Full))
}

#[tokio::test]
async fn a_segment_reaches_every_repository_and_again_is_success() {
    let fleet = Fleet::new(2).await;
    let content = segment(OURS, 0);
    let report = push(&fleet, SEGMENT, &content).await.unwrap();
    assert_eq!(report.stored, [(RepoKey(1), Pushed::New), (RepoKey(2), Pushed::New)]);
    let report = push(&fleet, SEGMENT, &content).await.unwrap();
    assert_eq!(report.stored, [(RepoKey(1), Pushed::Identical), (RepoKey(2), Pushed::Identical)]);
    assert_eq!(report.missed, []);
}

#[tokio::test]
async fn different_content_of_the_same_name_is_error_45() {
    let fleet = Fleet::new(2).await;
    push(&fleet, SEGMENT, &segment(OURS, 0)).await.unwrap();
    let failure = push(&fleet, SEGMENT, &segment(OURS, 1)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::ArchiveDuplicate);
}

#[tokio::test]
async fn a_required_repository_that_fails_is_error_104_while_the_others_get_the_file() {
    let fleet = Fleet::new(3).await;
    fleet.faults(2).add(full());
    let failure = push(&fleet, SEGMENT, &segment(OURS, 0)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Command);
    assert!(
        failure.message.contains("repo 2: ") && failure.message.ends_with("it is in repo 1, repo 3"),
        "{failure}"
    );
    assert!(!failure.hints.is_empty());
    assert!(
        fleet.has(1, 1, SEGMENT).await && !fleet.has(2, 1, SEGMENT).await && fleet.has(3, 1, SEGMENT).await
    );

    fleet.faults(2).clear();
    let report = push(&fleet, SEGMENT, &segment(OURS, 0)).await.unwrap();
    assert_eq!(report.stored[1], (RepoKey(2), Pushed::New));
}

#[tokio::test]
async fn a_repository_that_is_not_required_is_reported_and_no_error() {
    let fleet = Fleet::new(2).await;
    fleet.faults(2).add(full());
    let mut repositories = all(&fleet);
    repositories[1].is_required = false;
    let path = fleet.wal_file(SEGMENT, &segment(OURS, 0));
    let report = fleet.push(&fleet.doors(), &repositories, &path).run().await.unwrap();
    assert_eq!(report.stored, [(RepoKey(1), Pushed::New)]);
    assert_eq!(report.missed[0].0, RepoKey(2));

    // But a file that is nowhere is no success, whoever was required.
    fleet.faults(1).add(full());
    let path = fleet.wal_file("000000010000000000000002", &segment(OURS, 0));
    repositories[0].is_required = false;
    assert!(fleet.push(&fleet.doors(), &repositories, &path).run().await.is_err());
}

#[tokio::test]
async fn when_all_fail_the_cause_gives_the_code_and_all_are_named() {
    let fleet = Fleet::new(2).await;
    fleet.faults(1).add(full());
    fleet.faults(2).add(Rule::always(Operation::Get, Effect::Fail(Fault::Access)));
    let failure = push(&fleet, SEGMENT, &segment(OURS, 0)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::FileWrite);
    assert!(failure.message.contains("repo 1: ") && failure.message.contains("; repo 2: "), "{failure}");
    assert!(failure.code.number() < 126);
}

#[tokio::test]
async fn a_segment_of_another_cluster_is_refused_with_44_unless_headers_are_not_checked() {
    let fleet = Fleet::new(1).await;
    let path = fleet.wal_file(SEGMENT, &segment(ANOTHER, 0));
    let (doors, repositories) = (fleet.doors(), all(&fleet));
    let mut push = fleet.push(&doors, &repositories, &path);
    assert_eq!(push.run().await.unwrap_err().code, ErrorCode::ArchiveMismatch);
    push.is_header_checked = false;
    assert_eq!(push.run().await.unwrap().stored, [(RepoKey(1), Pushed::New)]);
}

#[tokio::test]
async fn what_is_no_whole_segment_is_refused() {
    let fleet = Fleet::new(1).await;
    let whole = segment(OURS, 0);
    for content in [&whole[..SEGMENT_BYTES - 1], &whole[..20], &vec![0; SEGMENT_BYTES]] {
        let failure = push(&fleet, SEGMENT, content).await.unwrap_err();
        assert!(matches!(
            failure.code,
            ErrorCode::FileInvalid | ErrorCode::Format | ErrorCode::VersionNotSupported
        ));
        assert!(failure.message.contains(SEGMENT), "{failure}");
    }
    assert!(!fleet.has(1, 1, SEGMENT).await);
}

#[tokio::test]
async fn wal_goes_to_the_newest_archive_of_its_own_cluster() {
    let fleet = Fleet::new(1).await;
    fleet.add_cluster(RepoKey(1), 2, OURS).await;
    fleet.add_cluster(RepoKey(1), 3, ANOTHER).await;
    push(&fleet, SEGMENT, &segment(OURS, 0)).await.unwrap();
    assert!(
        fleet.has(1, 2, SEGMENT).await && !fleet.has(1, 1, SEGMENT).await && !fleet.has(1, 3, SEGMENT).await
    );

    // A history file has no header: the data directory tells, or it is the newest cluster's.
    let path = fleet.wal_file("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
    let (doors, repositories) = (fleet.doors(), all(&fleet));
    let mut history = fleet.push(&doors, &repositories, &path);
    history.run().await.unwrap();
    assert!(fleet.has(1, 3, "00000002.history").await);
    history.cluster = Some(identity(OURS));
    history.run().await.unwrap();
    assert!(fleet.has(1, 2, "00000002.history").await);
}

#[tokio::test]
async fn the_history_of_a_timeline_is_stored_before_its_first_segment() {
    const FIRST: &str = "000000020000000000000001";
    let fleet = Fleet::new(2).await;
    fleet.wal_file("00000002.history", b"1\t0/3000000\tno recovery target specified\n");
    fleet.faults(2).add(full());
    let failure = push(&fleet, FIRST, &segment(OURS, 0)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Command);
    assert!(fleet.has(1, 1, "00000002.history").await && fleet.has(1, 1, FIRST).await);
    assert!(!fleet.has(2, 1, FIRST).await, "a segment without the way to it");

    // A server that does not have the history archives all the same.
    let report = push(&fleet, "000000030000000000000001", &segment(OURS, 0)).await.unwrap_err();
    assert!(report.message.contains("it is in repo 1"), "{report}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let fleet = Fleet::new(1).await;
    let path = fleet.directory.path().join(SEGMENT);
    let failure = fleet.push(&fleet.doors(), &all(&fleet), &path).run().await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::FileMissing);
    assert!(failure.message.contains(SEGMENT) && !failure.hints.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_repository_that_nobody_needs_costs_a_moment_when_it_hangs() {
    for operation in [Operation::Get, Operation::Write, Operation::Finish] {
        let fleet = Fleet::new(2).await;
        fleet.faults(2).add(Rule::always(operation, Effect::Stall));
        let mut repositories = all(&fleet);
        repositories[1].is_required = false;
        let path = fleet.wal_file(SEGMENT, &segment(OURS, 0));
        let begun = Instant::now();
        let report = fleet.push(&fleet.doors(), &repositories, &path).run().await.unwrap();
        assert!(begun.elapsed() <= 2 * PATIENCE_MIN, "{operation:?} took {:?}", begun.elapsed());
        assert_eq!((report.stored.len(), report.missed[0].0), (1, RepoKey(2)));
        assert!(report.is_catch_up_due);
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_holds_nobody_back_even_if_it_is_required() {
    let fleet = Fleet::new(2).await;
    fleet.faults(1).add(Rule::always(Operation::Get, Effect::Stall));
    let path = fleet.wal_file(SEGMENT, &segment(OURS, 0));
    let (doors, repositories) = (fleet.doors(), all(&fleet));
    let push = fleet.push(&doors, &repositories, &path);
    let (sender, mut news) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let telling = push.tell(|news| sender.send(news).unwrap());
    tokio::select! {
        ended = telling => panic!("it waits for repo 1: {ended:?}"),
        told = news.recv() => assert!(matches!(told, Some(PushNews::Decided(RepoKey(2), Ok(Pushed::New))))),
    }
    assert!(begun.elapsed() <= PATIENCE_MIN);
}

#[tokio::test]
async fn a_segment_whose_predecessor_only_some_have_asks_for_a_look() {
    const FIRST: &str = "000000010000000000000001";
    const SECOND: &str = "000000010000000000000002";
    const THIRD: &str = "000000010000000000000003";
    let fleet = Fleet::new(2).await;
    let report = push(&fleet, FIRST, &segment(OURS, 0)).await.unwrap();
    assert!(!report.is_catch_up_due, "nobody has what was before the first");
    let missed = KeyPattern::Contains(SECOND.to_owned());
    fleet.faults(2).add(Rule::always(Operation::Begin, Effect::Fail(Fault::Full)).on(missed));
    push(&fleet, SECOND, &segment(OURS, 0)).await.unwrap_err();
    assert!(push(&fleet, THIRD, &segment(OURS, 0)).await.unwrap().is_catch_up_due);
}
