//! The scan of a cluster that never was: many databases of many relations, most small, a few large.
//!
//! Made a page at a time, in the order of a real scan, so that the inventory itself is never in memory twice.

use pgconvoy_core::pg::{FileClass, RelationFileName, RelativePath};
use pgconvoy_core::plan::inventory::{EntryKind, ScannedEntry};
use std::collections::VecDeque;

/// As many as a worker sends at once.
pub(crate) const PAGE_ENTRIES: usize = pgconvoy_postgres::scan::PAGE_ENTRIES_MAX;
const FILES_PER_DATABASE: u32 = 20_000;
const FIRST_DATABASE: u32 = 16_384;
const PAGE: u64 = 8192;
const SEGMENT: u64 = 1 << 30;

pub(crate) struct Files {
    /// Databases in the order of their names' bytes, which is the scan's.
    databases: VecDeque<(u32, u32)>,
    waiting: VecDeque<ScannedEntry>,
    random: u64,
    ended: bool,
}

impl Files {
    pub(crate) fn new(files: u32) -> Files {
        let count = files.div_ceil(FILES_PER_DATABASE);
        let size = |number: u32| FILES_PER_DATABASE.min(files - number * FILES_PER_DATABASE);
        let mut databases: Vec<(u32, u32)> =
            (0..count).map(|number| (FIRST_DATABASE + 1000 * number, size(number))).collect();
        databases.sort_by_key(|(oid, _)| oid.to_string());
        let waiting = VecDeque::from([entry("PG_VERSION", file(3, FileClass::Version)), directory("base")]);
        Files { databases: databases.into(), waiting, random: 1, ended: false }
    }

    pub(crate) fn next_page(&mut self, entries: usize) -> Option<Vec<ScannedEntry>> {
        while self.waiting.len() < entries && !self.ended {
            match self.databases.pop_front() {
                Some((oid, files)) => self.database(oid, files),
                None => {
                    self.waiting.push_back(directory("global"));
                    self.waiting.push_back(entry("global/pg_control", file(PAGE, FileClass::Control)));
                    self.ended = true;
                }
            }
        }
        let page: Vec<_> = self.waiting.drain(..entries.min(self.waiting.len())).collect();
        (!page.is_empty()).then_some(page)
    }

    /// Main forks with their maps, large ones in segments, named as PostgreSQL names them.
    fn database(&mut self, oid: u32, files: u32) {
        let wanted = usize::try_from(files).expect("a count of files fits memory");
        let mut names: Vec<(String, u64)> = Vec::with_capacity(wanted);
        let mut relation = FIRST_DATABASE;
        while names.len() < wanted {
            relation += 1 + u32::try_from(self.next() % 7).expect("it is below 7");
            let size = self.size();
            let segments = u32::try_from(size / SEGMENT).expect("a few");
            names.push((relation.to_string(), size.min(SEGMENT)));
            for segment in 1..=segments {
                let rest = size - u64::from(segment) * SEGMENT;
                names.push((format!("{relation}.{segment}"), rest.min(SEGMENT)));
            }
            if size > 4 * PAGE {
                names.push((format!("{relation}_fsm"), 3 * PAGE));
                names.push((format!("{relation}_vm"), PAGE));
            }
        }
        names.truncate(wanted);
        names.sort();
        self.waiting.push_back(directory(&format!("base/{oid}")));
        for (name, size) in names {
            let parsed = RelationFileName::parse(&name).expect("the name was made as PostgreSQL's");
            let class = FileClass::Relation { fork: parsed.fork, segment: parsed.segment };
            self.waiting.push_back(entry(&format!("base/{oid}/{name}"), file(size, class)));
        }
    }

    /// Half are empty or of a few pages, one in a hundred is large: 20 TB in all.
    fn size(&mut self) -> u64 {
        let pages = match self.next() % 100 {
            0..=24 => 0,
            25..=54 => 1 + self.next() % 2,
            55..=84 => 2 + self.next() % 8,
            85..=94 => 16 + self.next() % 256,
            95..=98 => 1024 + self.next() % 8192,
            _ => 16_384 + self.next() % 780_000,
        };
        pages * PAGE
    }

    /// splitmix64: the same files in every run.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn file(size: u64, class: FileClass) -> EntryKind {
    EntryKind::File { size, class }
}

fn directory(path: &str) -> ScannedEntry {
    entry(path, EntryKind::Directory)
}

fn entry(path: &str, kind: EntryKind) -> ScannedEntry {
    ScannedEntry {
        path: RelativePath::new(path).expect("the path was made inside"),
        kind,
        mode: 0o600,
        user: Some("postgres".to_owned()),
        group: Some("postgres".to_owned()),
        modified: 1_763_800_000,
    }
}
