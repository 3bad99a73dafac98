use super::*;
use crate::format::BackupKind;
use crate::format::catalogue::{BackupSizes, ManifestReference, PageCounts};
use crate::format::plan::Writer;
use crate::ids::{ClusterNumber, Identity, SystemId};
use crate::plan::recovery::TargetTime;
use crate::units::Timestamp;

/// Of timeline 2, from 0/3000028 to 0/5000100, ended at second 1000.
fn backup() -> BackupRecord {
    BackupRecord {
        label: "20261122-103000F".parse().expect("a label"),
        backup: Identity::from_random_bytes([1; 16]),
        kind: BackupKind::Full,
        prior: None,
        references: Vec::new(),
        cluster: ClusterNumber(1),
        system_id: SystemId(7),
        version: "15".parse().expect("a version"),
        online: true,
        started: Timestamp::from_seconds(900),
        stopped: Timestamp::from_seconds(1000),
        timeline: TimelineId(2),
        lsn_start: Some(Lsn(0x0300_0028)),
        lsn_stop: Some(Lsn(0x0500_0100)),
        wal_start: None,
        wal_stop: None,
        sizes: BackupSizes::default(),
        pages: PageCounts::default(),
        manifest: ManifestReference { size: 0, sha1: [0; 20] },
        annotations: BTreeMap::new(),
        repositories: Vec::new(),
        writer: Writer { host: String::new(), boot: String::new(), process: 0 },
        program: String::new(),
    }
}

fn to(target: RecoveryTarget) -> RecoveryOptions {
    RecoveryOptions::new(target, String::new())
}

fn at(second: i64) -> RecoveryOptions {
    to(RecoveryTarget::Time(TargetTime { moment: Timestamp::from_seconds(second), text: String::new() }))
}

/// Timeline and the text of its history file.
fn timelines(histories: &[(u32, &str)]) -> Timelines {
    let parse = |(number, text): &(u32, &str)| {
        let timeline = TimelineId(*number);
        (timeline, TimelineHistory::parse(timeline, text).expect("a history"))
    };
    Timelines(histories.iter().map(parse).collect())
}

const INTO_2: (u32, &str) = (2, "1\t0/2000000\tx\n");
/// Left timeline 2 after the backup.
const AFTER: (u32, &str) = (3, "1\t0/2000000\tx\n2\t0/6000000\ty\n");
/// Left timeline 2 in mid-backup.
const DURING: (u32, &str) = (3, "1\t0/2000000\tx\n2\t0/4000000\ty\n");
/// Left timeline 1 as timeline 2 did: a switch back.
const BESIDE: (u32, &str) = (3, "1\t0/2000000\tx\n");

#[test]
fn a_backup_that_ended_at_the_target_or_after_it_is_too_late() {
    let none = timelines(&[INTO_2]);
    assert_eq!(misfit(&backup(), &at(1001), &none), None);
    for late in [at(1000), at(999)] {
        assert!(matches!(misfit(&backup(), &late, &none), Some(Misfit::TooLate { .. })));
    }
    let lsn = |lsn| misfit(&backup(), &to(RecoveryTarget::Lsn(Lsn(lsn))), &none);
    assert_eq!(lsn(0x0500_0100), None);
    assert!(matches!(lsn(0x0500_00ff), Some(Misfit::TooLate { .. })));
}

#[test]
fn the_latest_timeline_must_have_left_the_backups_own_after_its_end() {
    let latest = to(RecoveryTarget::Default);
    assert_eq!(needed_timeline(&backup(), &latest), NeededTimeline::AllAfter(TimelineId(2)));
    assert_eq!(misfit(&backup(), &latest, &timelines(&[INTO_2])), None, "its own is the latest");
    assert_eq!(misfit(&backup(), &latest, &timelines(&[INTO_2, AFTER])), None);
    let fork = Some(Lsn(0x0400_0000));
    let expected = Some(Misfit::OtherBranch { target: TimelineId(3), fork });
    assert_eq!(misfit(&backup(), &latest, &timelines(&[INTO_2, DURING])), expected);
    let expected = Some(Misfit::OtherBranch { target: TimelineId(3), fork: None });
    assert_eq!(misfit(&backup(), &latest, &timelines(&[INTO_2, BESIDE])), expected);
}

#[test]
fn a_timeline_behind_a_gap_is_not_found_by_postgresql_either() {
    let far = (4, "1\t0/2000000\tx\n");
    assert_eq!(misfit(&backup(), &to(RecoveryTarget::Default), &timelines(&[INTO_2, far])), None);
}

#[test]
fn a_timeline_that_was_named_must_be_known_and_on_the_way() {
    let named = |number| RecoveryOptions {
        timeline: Some(TargetTimeline::Number(TimelineId(number))),
        ..to(RecoveryTarget::Default)
    };
    assert_eq!(misfit(&backup(), &named(2), &Timelines::default()), None, "its own needs no history");
    assert_eq!(misfit(&backup(), &named(3), &timelines(&[AFTER])), None);
    assert_eq!(
        misfit(&backup(), &named(9), &timelines(&[AFTER])),
        Some(Misfit::UnknownTimeline(TimelineId(9)))
    );
    assert!(matches!(misfit(&backup(), &named(3), &timelines(&[BESIDE])), Some(Misfit::OtherBranch { .. })));
}

#[test]
fn timelines_do_not_matter_where_recovery_ends_with_the_backup_or_stays_on_its_own() {
    let beside = timelines(&[INTO_2, BESIDE]);
    for target in [RecoveryTarget::Immediate, RecoveryTarget::None, RecoveryTarget::Preserve] {
        assert_eq!(misfit(&backup(), &to(target), &beside), None);
    }
    let current = RecoveryOptions { timeline: Some(TargetTimeline::Current), ..to(RecoveryTarget::Default) };
    assert_eq!(misfit(&backup(), &current, &beside), None);
    let old = BackupRecord { version: "11".parse().expect("a version"), ..backup() };
    assert_eq!(misfit(&old, &to(RecoveryTarget::Default), &beside), None, "before 12 that is the default");
    assert!(misfit(&old, &to(RecoveryTarget::Standby), &beside).is_some());
}
