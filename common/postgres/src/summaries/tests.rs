#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use pgconvoy_core::pg::{Lsn, PageSize};
use pgconvoy_core::plan::summaries::{Geometry, ToRead};
use std::cell::Cell;
use std::fs;

/// Of a real server; see its README for what it tells.
const SUMMARY: &[u8] = include_bytes!("../../../core/testdata/pg/wal_summary_17");
const PATIENCE: Duration = Duration::from_secs(20);

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        let directory = Directory(tempfile::tempdir().unwrap());
        fs::create_dir_all(directory.0.path().join(SUMMARY_DIRECTORY)).unwrap();
        directory
    }

    fn put(&self, timeline: u32, start: u64, end: u64, bytes: &[u8]) -> WalSummaryName {
        let name = WalSummaryName::new(TimelineId(timeline), Lsn(start), Lsn(end)).unwrap();
        fs::write(self.path_of(name), bytes).unwrap();
        name
    }

    fn path_of(&self, name: WalSummaryName) -> std::path::PathBuf {
        self.0.path().join(SUMMARY_DIRECTORY).join(name.to_string())
    }

    fn load(&self, window: Window) -> Result<Summarized, NoSummaries> {
        self.load_within(window, Duration::ZERO, &|| false)
    }

    fn load_within(
        &self,
        window: Window,
        wait_at_most: Duration,
        given_up: &dyn Fn() -> bool,
    ) -> Result<Summarized, NoSummaries> {
        load_summaries(&SummaryRequest { directory: self.0.path(), window, wait_at_most, given_up })
    }
}

fn window(timeline: u32) -> Window {
    Window {
        prior_timeline: TimelineId(1),
        prior_start: Lsn(0x100),
        prior_stop: Lsn(0x200),
        timeline: TimelineId(timeline),
        start: Lsn(0x1000),
    }
}

#[test]
fn all_summaries_of_the_window_are_read_and_strangers_are_passed_over() {
    let directory = Directory::new();
    directory.put(1, 0x10, 0x100, b"not needed, not read");
    let first = directory.put(1, 0x100, 0x800, SUMMARY);
    let second = directory.put(1, 0x800, 0x1000, SUMMARY);
    fs::write(directory.0.path().join(SUMMARY_DIRECTORY).join("temp.summary"), "half").unwrap();
    let loaded = directory.load(window(1)).unwrap();
    assert_eq!(loaded.summaries, [first, second]);
    assert_eq!(loaded.bytes, 2 * SUMMARY.len() as u64);
    let geometry = Geometry { page_size: PageSize::DEFAULT, segment_pages: 131_072 };
    let ToRead::Pages(pages) = loaded.changed.to_read(geometry, "base/5/16384", Some(400 * 8192), 0..400)
    else {
        panic!("the relation is told of");
    };
    assert_eq!(pages.iter().flatten().collect::<Vec<u32>>(), [0, 86, 327, 344]);
}

#[test]
fn a_summary_that_is_gone_cut_or_changed_is_a_gap() {
    let directory = Directory::new();
    directory.put(1, 0x100, 0x800, SUMMARY);
    let last = directory.put(1, 0x800, 0x1000, &SUMMARY[..SUMMARY.len() - 1]);
    assert!(matches!(directory.load(window(1)), Err(NoSummaries::Invalid { name, .. }) if name == last));
    let mut changed = SUMMARY.to_vec();
    changed[100] ^= 1;
    directory.put(1, 0x800, 0x1000, &changed);
    let reason = directory.load(window(1)).unwrap_err();
    assert!(matches!(reason, NoSummaries::Invalid { name, .. } if name == last));
    // Listed, and gone before it is opened.
    fs::remove_file(directory.path_of(last)).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path_of(last)).unwrap();
    assert_eq!(directory.load(window(1)).unwrap_err(), NoSummaries::Vanished(last));
    fs::remove_file(directory.path_of(last)).unwrap();
    assert!(matches!(directory.load(window(1)), Err(NoSummaries::Behind { reached: Lsn(0x800), .. })));
}

#[test]
fn a_server_that_is_behind_is_waited_for_until_it_comes_or_time_is_up() {
    let directory = Directory::new();
    directory.put(1, 0x100, 0x800, SUMMARY);
    let began = Instant::now();
    let reason = directory.load_within(window(1), Duration::from_millis(300), &|| false).unwrap_err();
    assert!(matches!(reason, NoSummaries::Behind { .. }) && began.elapsed() >= Duration::from_millis(300));

    let asked = Cell::new(0);
    let given_up = || asked.replace(asked.get() + 1) == 2;
    let reason = directory.load_within(window(1), PATIENCE, &given_up).unwrap_err();
    assert_eq!(reason, NoSummaries::GivenUp);

    let asked = Cell::new(0);
    let writes = || {
        if asked.replace(asked.get() + 1) == 2 {
            directory.put(1, 0x800, 0x1000, SUMMARY);
        }
        false
    };
    let loaded = directory.load_within(window(1), PATIENCE, &writes).unwrap();
    assert!(loaded.waited >= POLL * 2 && loaded.summaries.len() == 2);
}

#[test]
fn a_gap_that_nobody_fills_is_not_waited_for() {
    let directory = Directory::new();
    directory.put(1, 0x100, 0x700, SUMMARY);
    directory.put(1, 0x800, 0x1000, SUMMARY);
    let asked = || panic!("it waits");
    let reason = directory.load_within(window(1), PATIENCE, &asked).unwrap_err();
    assert!(matches!(reason, NoSummaries::Gap { from: Lsn(0x700), to: Lsn(0x800), .. }));
}

#[test]
fn the_way_over_a_promotion_is_in_the_history_file() {
    let directory = Directory::new();
    directory.put(1, 0x100, 0x400, SUMMARY);
    directory.put(2, 0x400, 0x1000, SUMMARY);
    assert!(matches!(directory.load(window(2)), Err(NoSummaries::OtherBranch { .. })));
    let history = directory.0.path().join("pg_wal/00000002.history");
    fs::write(&history, "1\t0/400\tno recovery target specified\n").unwrap();
    assert_eq!(directory.load(window(2)).unwrap().summaries.len(), 2);
    fs::write(&history, "1\t0/1FF\tbefore the prior's end\n").unwrap();
    assert!(matches!(directory.load(window(2)), Err(NoSummaries::OtherBranch { .. })));
    fs::write(&history, "no history").unwrap();
    assert!(matches!(directory.load(window(2)), Err(NoSummaries::Unreadable { .. })));
}

#[test]
fn a_directory_that_is_not_there_is_a_reason_too() {
    let directory = Directory::new();
    fs::remove_dir(directory.0.path().join(SUMMARY_DIRECTORY)).unwrap();
    assert!(matches!(directory.load(window(1)), Err(NoSummaries::Unreadable { .. })));
}
