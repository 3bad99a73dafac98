#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use crate::format::manifest::{Database, DirectoryRecord, LinkRecord, RangeRecord, Tablespace};
use crate::format::{BackupKind, BlockHash};
use crate::ids::{Attempt, Identity, PlanNumber, UnitId};
use crate::pg::{PgVersion, TimelineId};
use crate::units::Timestamp;

const OWNERSHIP: Ownership = Ownership { mode: 0o600, user: 0, group: 0 };

pub(in crate::plan) fn head() -> ManifestHead {
    ManifestHead {
        label: "20261122-103000F".parse().unwrap(),
        backup: Identity::default(),
        kind: BackupKind::Full,
        prior: None,
        references: Vec::new(),
        workers: Vec::new(),
        users: vec!["postgres".into()],
        groups: vec!["postgres".into()],
        version: PgVersion::V15,
        catalog_version: PgVersion::V15.catalog_version(),
        page_size: 8192,
        online: true,
        checksums: true,
        started: Timestamp(0),
        stopped: Timestamp(1),
        timeline: TimelineId(1),
        lsn_start: None,
        lsn_stop: None,
        wal_start: None,
        wal_stop: None,
        tablespaces: vec![Tablespace {
            oid: Oid(16384),
            name: "east".into(),
            destination: "/ts/east".into(),
        }],
        databases: Vec::new(),
        records: 0,
        files: 0,
        bytes: 0,
        backup_label: None,
        tablespace_map: None,
    }
}

fn path(text: &str) -> RelativePath {
    text.parse().unwrap()
}

fn directory(text: &str) -> Record {
    Record::Directory(DirectoryRecord { path: path(text), ownership: OWNERSHIP })
}

fn link(text: &str, destination: &str) -> Record {
    Record::Link(LinkRecord { path: path(text), destination: destination.into(), ownership: OWNERSHIP })
}

fn range(unit: u32, place: u32, offset: u64, length: u64) -> RangeRecord {
    let (plan, attempt) = (PlanNumber(1), Attempt(1));
    RangeRecord { offset, length, label: 0, plan, unit: UnitId(unit), attempt, place, worker: 0, slot: 0 }
}

fn file(text: &str, ranges: Vec<RangeRecord>) -> Record {
    Record::File(FileRecord {
        path: path(text),
        size: ranges.last().map_or(0, RangeRecord::end),
        modified: 7,
        ownership: OWNERSHIP,
        checksum: BlockHash([0; 16]),
        ranges,
        bad_pages: Vec::new(),
    })
}

fn control() -> Record {
    file(CONTROL_PATH, vec![range(9, 0, 0, 8192)])
}

fn target() -> RestoreTarget {
    RestoreTarget { directory: "/data".into(), ..RestoreTarget::default() }
}

fn plan(target: &RestoreTarget, records: Vec<Record>) -> Result<RestorePlan, RestorePlanError> {
    let head = head();
    let mut planner = RestorePlanner::new(&head, target)?;
    for record in records {
        planner.push(record)?;
    }
    planner.finish()
}

fn with_tablespace() -> Vec<Record> {
    vec![directory("global"), control(), directory("pg_tblspc"), link("pg_tblspc/16384", "/ts/east")]
}

#[test]
fn every_range_is_found_in_its_pack_and_the_largest_pack_comes_first() {
    let records = vec![
        directory("base"),
        file("base/1", vec![range(1, 0, 0, 100), range(2, 0, 100, 300)]),
        file("base/2", vec![range(1, 1, 0, 50)]),
        file("base/3", Vec::new()),
        directory("global"),
        control(),
    ];
    let plan = plan(&target(), records).unwrap();
    let units: Vec<(u32, u64)> = plan.packs.iter().map(|work| (work.pack.unit.0, work.bytes)).collect();
    assert_eq!(units, [(9, 8192), (2, 300), (1, 150)]);
    let parts = &plan.packs[2].parts;
    assert_eq!(parts[0], PackPart { place: 0, file: 0, offset: 0, length: 100 });
    assert_eq!(parts[1], PackPart { place: 1, file: 1, offset: 0, length: 50 });
    assert_eq!(plan.bytes, 8192 + 450);
    assert_eq!(
        plan.files.iter().map(|file| (file.size, file.parts)).collect::<Vec<_>>(),
        [(400, 2), (50, 1), (0, 0), (8192, 1)]
    );
    assert_eq!(plan.files[plan.control].path.as_str(), CONTROL_PATH);
}

#[test]
fn a_tablespace_goes_where_the_nearest_map_says() {
    let destination =
        |target: &RestoreTarget| plan(target, with_tablespace()).unwrap().links[0].destination.clone();
    let all = RestoreTarget { tablespace_map_all: Some("/all/".into()), ..target() };
    let mut by_name = all.clone();
    by_name.tablespace_map.insert("east".into(), "/named".into());
    let mut by_number = all.clone();
    by_number.tablespace_map.insert("16384".into(), "/numbered".into());
    assert_eq!(destination(&target()), "/ts/east");
    assert_eq!(destination(&all), "/all/east");
    assert_eq!(destination(&by_name), "/named");
    assert_eq!(destination(&by_number), "/numbered");
}

#[test]
fn a_map_for_what_the_backup_does_not_have_is_refused() {
    let mut tablespace = target();
    tablespace.tablespace_map.insert("west".into(), "/x".into());
    assert_eq!(plan(&tablespace, with_tablespace()), Err(RestorePlanError::UnknownTablespace("west".into())));
    let mut linked = target();
    linked.link_map.insert("pg_wal".into(), "/x".into());
    assert_eq!(plan(&linked, with_tablespace()), Err(RestorePlanError::UnknownLink("pg_wal".into())));
}

#[test]
fn a_destination_in_or_around_the_data_directory_or_another_destination_is_refused() {
    for bad in ["/data", "/data/ts", "/", "relative", "/ts/../etc", "/ts//east"] {
        let mut mapped = target();
        mapped.tablespace_map.insert("east".into(), bad.into());
        let error = plan(&mapped, with_tablespace()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TablespaceMap, "{bad}: {error}");
    }
    let mut linked = target();
    linked.link_map.insert("pg_wal".into(), "/ts/east/wal".into());
    let mut records = with_tablespace();
    records.push(directory("pg_wal"));
    assert_eq!(plan(&linked, records).unwrap_err().code(), ErrorCode::LinkMap);
    // A neighbour whose name begins alike is no nesting.
    let mut beside = target();
    beside.tablespace_map.insert("east".into(), "/data2".into());
    assert!(plan(&beside, with_tablespace()).is_ok());
}

#[test]
fn a_link_becomes_what_it_pointed_to_unless_links_are_asked_for() {
    let records = || {
        vec![
            link("conf", "/etc/conf"),
            file("conf", vec![range(1, 0, 0, 10)]),
            directory("global"),
            control(),
            link("pg_wal", "/wal"),
            directory("pg_wal/archive_status"),
        ]
    };
    let flat = plan(&target(), records()).unwrap();
    assert!(flat.links.is_empty());
    let names: Vec<&str> = flat.directories.iter().map(|directory| directory.path.as_str()).collect();
    assert_eq!(names, ["global", "pg_wal", "pg_wal/archive_status"]);
    let all = plan(&RestoreTarget { link_all: true, ..target() }, records()).unwrap();
    let links: Vec<(&str, &str)> =
        all.links.iter().map(|link| (link.path.as_str(), link.destination.as_str())).collect();
    assert_eq!(links, [("conf", "/etc/conf"), ("pg_wal", "/wal")]);
    let mut mapped = target();
    mapped.link_map.insert("conf".into(), "/other/conf".into());
    let mapped = plan(&mapped, records()).unwrap();
    assert_eq!(mapped.links.len(), 1);
    assert_eq!(mapped.links[0].destination, "/other/conf");
    assert_eq!(mapped.files[0].path.as_str(), "conf");
}

#[test]
fn a_directory_or_a_file_can_be_moved_behind_a_link() {
    let mut mapped = target();
    mapped.link_map.insert("pg_wal".into(), "/wal".into());
    mapped.link_map.insert("postgresql.conf".into(), "/etc/pg.conf".into());
    let records = vec![
        directory("global"),
        control(),
        directory("pg_wal"),
        directory("pg_wal/archive_status"),
        file("postgresql.conf", vec![range(1, 0, 0, 10)]),
    ];
    let plan = plan(&mapped, records).unwrap();
    assert_eq!(
        plan.links.iter().map(|link| link.path.as_str()).collect::<Vec<_>>(),
        ["pg_wal", "postgresql.conf"]
    );
    assert!(plan.directories.iter().all(|directory| directory.path.as_str() != "pg_wal"));
}

#[test]
fn a_link_at_the_very_end_is_not_forgotten() {
    let plan = plan(&target(), vec![directory("global"), control(), link("pg_wal", "/wal")]).unwrap();
    assert_eq!(plan.directories.last().unwrap().path.as_str(), "pg_wal");
}

#[test]
fn a_manifest_that_repeats_itself_or_lost_its_order_is_damaged() {
    let twice = plan(&target(), vec![directory("global"), control(), control()]).unwrap_err();
    assert_eq!(twice, RestorePlanError::Repeated(path(CONTROL_PATH)));
    let unordered = plan(&target(), vec![directory("pg_wal"), directory("global"), control()]).unwrap_err();
    assert_eq!(unordered.code(), ErrorCode::Checksum, "{unordered}");
}

#[test]
fn a_manifest_without_pg_control_is_no_cluster() {
    assert_eq!(plan(&target(), vec![directory("base")]), Err(RestorePlanError::NoControl));
}

#[test]
fn a_range_of_a_label_that_is_not_listed_is_refused() {
    let mut foreign = range(1, 0, 0, 10);
    foreign.label = 1;
    let error = plan(&target(), vec![file("a", vec![foreign])]).unwrap_err();
    assert!(matches!(error, RestorePlanError::Format(_)), "{error}");
}

#[test]
fn a_database_that_is_left_out_comes_back_as_holes() {
    let databases =
        [(16390, "shop"), (16400, "logs")].map(|(oid, name)| Database { oid: Oid(oid), name: name.into() });
    let head = ManifestHead { databases: databases.to_vec(), ..head() };
    let selection = DatabaseSelection { include: vec!["shop".into()], exclude: Vec::new() };
    let target = RestoreTarget { databases: selection, ..target() };
    let mut planner = RestorePlanner::new(&head, &target).unwrap();
    let records = [
        directory("base"),
        directory("base/16390"),
        file("base/16390/1259", vec![range(1, 0, 0, 8192)]),
        directory("base/16400"),
        file("base/16400/1259", vec![range(1, 1, 0, 16384)]),
        file("base/16400/PG_VERSION", vec![range(1, 2, 0, 3)]),
        directory("global"),
        control(),
    ];
    records.into_iter().try_for_each(|record| planner.push(record)).unwrap();
    let plan = planner.finish().unwrap();
    let files: Vec<(&str, u64, u32)> =
        plan.files.iter().map(|file| (file.path.as_str(), file.size, file.parts)).collect();
    assert_eq!(
        files,
        [
            ("base/16390/1259", 8192, 1),
            ("base/16400/1259", 16384, 0),
            ("base/16400/PG_VERSION", 3, 1),
            (CONTROL_PATH, 8192, 1)
        ]
    );
    assert_eq!(plan.bytes, 8192 + 3 + 8192);
}
