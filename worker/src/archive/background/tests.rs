#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::archive::tests::{ANOTHER, Fleet, OURS, SEGMENT_BYTES, identity, manner, segment};
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::decorate::fault::{Effect, KeyPattern, Kind as Fault, Operation, Rule};
use std::path::Path;
use tokio::time::Instant;

fn name(number: u32) -> String {
    format!("0000000100000000{number:08X}")
}

/// A fleet whose directory is a pg_wal in which files wait.
struct Site {
    fleet: Fleet,
    background: BackgroundPush,
}

impl Site {
    /// Repositories, each with whether it is required.
    async fn new(required: &[bool]) -> Site {
        let fleet = Fleet::new(u16::try_from(required.len()).unwrap()).await;
        std::fs::create_dir(fleet.directory.path().join("archive_status")).unwrap();
        let keys = fleet.keys().into_iter().zip(required);
        let repositories = keys.map(|(key, is_required)| PushRepository { key, is_required: *is_required });
        let spool = OutSpool::open(&fleet.directory.path().join("spool"), &fleet.stanza).unwrap();
        let background = BackgroundPush {
            doors: fleet.doors(),
            repositories: repositories.collect(),
            siblings: fleet.keys().into_iter().map(|key| Sibling { key, keeps_all: true }).collect(),
            pg_wal: fleet.directory.path().to_owned(),
            spool: Some(spool),
            is_asked: true,
            cluster: Some(identity(OURS)),
            is_header_checked: true,
            manner: manner(),
            width: 2,
            queue_max: None,
            nudges: fleet.directory.path().join("nudge"),
            linger: Duration::from_secs(3),
        };
        Site { fleet, background }
    }

    fn pg_wal(&self) -> &Path {
        self.fleet.directory.path()
    }

    fn is_ready(&self, name: &str, content: &[u8]) {
        self.fleet.wal_file(name, content);
        std::fs::write(self.pg_wal().join(format!("archive_status/{name}.ready")), "").unwrap();
    }

    fn segments_are_ready(&self, numbers: std::ops::RangeInclusive<u32>) {
        numbers.for_each(|number| self.is_ready(&name(number), &segment(OURS, 0)));
    }

    /// Those of the segments that were told to be archived.
    fn archived(&self, numbers: std::ops::RangeInclusive<u32>) -> Vec<u32> {
        let spool = self.background.spool.as_ref().unwrap();
        numbers.filter(|number| spool.archived(&name(*number).parse().unwrap()).is_some()).collect()
    }

    fn told(&self, name: &str) -> Vec<ErrorCode> {
        let told = self.background.spool.as_ref().unwrap().refused(&name.parse().unwrap());
        told.into_iter().map(|refused| refused.failure.code).collect()
    }

    /// PostgreSQL asks for the status of all, and recycles what is archived.
    fn collect(&self, numbers: std::ops::RangeInclusive<u32>) -> usize {
        let archived = self.archived(numbers);
        for number in &archived {
            std::fs::remove_file(self.pg_wal().join(format!("archive_status/{}.ready", name(*number))))
                .unwrap();
            std::fs::write(self.pg_wal().join(name(*number)), "another life").unwrap();
        }
        archived.len()
    }

    async fn has_all(&self, repository: u16, numbers: std::ops::RangeInclusive<u32>) -> bool {
        for number in numbers {
            if !self.fleet.has(repository, 1, &name(number)).await {
                return false;
            }
        }
        true
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_pushed_and_told_and_then_the_process_ends() {
    let site = Site::new(&[true, true]).await;
    site.segments_are_ready(1..=7);
    site.is_ready("00000001.history", b"");
    let begun = Instant::now();
    site.background.run().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(site.archived(1..=7).len(), 7);
    assert!(site.has_all(1, 1..=7).await && site.has_all(2, 1..=7).await);

    assert_eq!(site.collect(1..=7), 7);
    site.background.run().await.unwrap();
    assert_eq!(site.archived(1..=7), [0u32; 0], "nobody asks for these any more");
}

#[tokio::test(start_paused = true)]
async fn a_status_of_another_file_of_that_name_does_not_hold() {
    let site = Site::new(&[true]).await;
    site.segments_are_ready(1..=1);
    site.background.run().await.unwrap();
    site.is_ready(&name(1), &segment(OURS, 9));
    site.background.run().await.unwrap();
    assert_eq!(site.told(&name(1)), [ErrorCode::ArchiveDuplicate]);
}

#[tokio::test(start_paused = true)]
async fn a_required_repository_that_is_dead_holds_only_the_word_back_and_is_filled_when_it_returns() {
    for effect in [Effect::Fail(Fault::Access), Effect::Stall] {
        let site = Site::new(&[true, true]).await;
        site.segments_are_ready(1..=9);
        let dead = site.fleet.faults(2).add(Rule::always(Operation::Any, effect));
        site.background.run().await.unwrap();
        assert!(site.has_all(1, 1..=9).await, "{effect:?}");
        assert_eq!(site.archived(1..=9), [0u32; 0]);
        assert!(!site.told(&name(1)).is_empty() && !site.told(&name(9)).is_empty());
        site.fleet.faults(2).remove(dead);
        site.background.run().await.unwrap();
        assert_eq!(site.archived(1..=9).len(), 9);
        assert!(site.has_all(2, 1..=9).await);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_nobody_needs_gets_its_backlog_from_its_sibling_when_it_returns() {
    let site = Site::new(&[true, false]).await;
    site.segments_are_ready(1..=40);
    let dead = site.fleet.faults(2).add(Rule::always(Operation::Any, Effect::Fail(Fault::Access)));
    site.background.run().await.unwrap();
    assert_eq!(site.collect(1..=40), 40, "PostgreSQL does not wait for it");
    site.fleet.faults(2).remove(dead);
    site.background.run().await.unwrap();
    assert!(site.has_all(2, 1..=40).await, "pg_wal has none of these any more");
    for number in 1..=40 {
        assert_eq!(site.fleet.content(2, &name(number)).await, segment(OURS, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_repository_falls_behind_alone_and_catches_up() {
    let site = Site::new(&[true, false]).await;
    site.segments_are_ready(1..=30);
    site.fleet.faults(2).add(Rule::always(Operation::Finish, Effect::Delay(Duration::from_secs(1))));
    let begun = Instant::now();
    let all_are_archived = async {
        while site.archived(1..=30).len() < 30 {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        begun.elapsed()
    };
    let (ended, took) = tokio::join!(site.background.run(), all_are_archived);
    ended.unwrap();
    assert!(took < Duration::from_secs(5), "the slow one needs 15 s, and the other one took {took:?}");
    assert!(site.has_all(2, 1..=30).await);
}

#[tokio::test(start_paused = true)]
async fn one_request_in_five_may_fail_and_nothing_is_lost() {
    let site = Site::new(&[true, true]).await;
    site.segments_are_ready(1..=30);
    for call in (0..500).step_by(5) {
        let fails = Rule::once(Operation::Begin, Effect::Fail(Fault::Unavailable));
        site.fleet.faults(2).add(fails.skip(call));
    }
    // Each run ends when it can do nothing more, and PostgreSQL starts another.
    for _ in 0..10 {
        site.background.run().await.unwrap();
    }
    assert_eq!(site.archived(1..=30).len(), 30);
    assert!(site.has_all(1, 1..=30).await && site.has_all(2, 1..=30).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_does_not_stop_the_rest() {
    let site = Site::new(&[true]).await;
    site.is_ready(&name(1), &segment(ANOTHER, 0));
    site.is_ready(&name(2), b"no segment at all");
    site.segments_are_ready(3..=5);
    site.background.run().await.unwrap();
    assert_eq!(site.archived(1..=5), [3, 4, 5]);
    assert_eq!(site.told(&name(1)), [ErrorCode::ArchiveMismatch]);
    assert_eq!(site.told(&name(2)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_is_dropped_with_a_warning_and_the_rest_goes_on() {
    let mut site = Site::new(&[true]).await;
    site.background.queue_max = Some(ByteCount(3 * SEGMENT_BYTES as u64));
    site.fleet.faults(1).add(Rule::always(Operation::Begin, Effect::Fail(Fault::Full)).on(KeyPattern::Any));
    site.segments_are_ready(1..=4);
    site.background.run().await.unwrap();
    let archived = site.background.spool.as_ref().unwrap().archived(&name(4).parse().unwrap()).unwrap();
    assert!(archived.warnings[0].starts_with("dropped WAL file"), "{:?}", archived.warnings);
    assert_eq!(site.collect(1..=4), 4);
    assert!(!site.fleet.has(1, 1, &name(4)).await);

    site.fleet.faults(1).clear();
    site.segments_are_ready(5..=7);
    site.background.run().await.unwrap();
    assert!(site.has_all(1, 5..=7).await);
    let repository = site.fleet.repository(RepoKey(1)).await;
    let archive = repository.clusters(&site.fleet.stanza).await.unwrap()[0].archive_id();
    let dropped = repository.dropped_wal(&site.fleet.stanza, archive).await.unwrap();
    assert_eq!(dropped.len(), 4, "the gap is on record");
    assert_eq!(dropped[0].to_string(), name(1));
}

#[tokio::test(start_paused = true)]
async fn without_statuses_it_runs_ahead_of_commands_that_push_by_themselves() {
    let mut site = Site::new(&[true, true]).await;
    site.background.is_asked = false;
    site.segments_are_ready(1..=5);
    site.fleet.faults(2).add(Rule::always(Operation::Any, Effect::Fail(Fault::Access)));
    site.background.run().await.unwrap();
    assert!(site.has_all(1, 1..=5).await);
    std::fs::remove_dir_all(site.pg_wal().join("archive_status")).unwrap();
    site.background.run().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_pushed_keeps_nobody_from_what_others_have() {
    let site = Site::new(&[true, true]).await;
    site.fleet.give(1, &name(2), &segment(OURS, 0)).await;
    site.segments_are_ready(1..=1);
    std::fs::remove_file(site.pg_wal().join(name(1))).unwrap();
    site.background.run().await.unwrap();
    assert!(site.fleet.has(2, 1, &name(2)).await);
    assert_eq!(site.told(&name(1)), [ErrorCode::FileMissing]);
}
