#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
mod sharing;
mod together;

use super::marker::{MARKER, MARKER_NEW};
use super::*;
use fixture::{
    CHILD, Fixture, LABEL, MODIFIED, Shape, catalogue_entry, control, exists, manifest, pack, settings,
};
use pgconvoy_core::pg::ControlFile;
use pgconvoy_core::plan::recovery::RecoveryTarget;
use pgconvoy_repository::RepositorySet;
use pgconvoy_repository::set::Place;
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, Faults, KeyPattern, Operation, Rule};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// For what must happen; long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn sample() -> (Shape, Fixture) {
    let shape = Shape::sample();
    let fixture = Fixture::new(&shape);
    (shape, fixture)
}

fn assert_whole(fixture: &Fixture, shape: &Shape) {
    for path in ["base/1", "base/2", "base/3"] {
        assert_eq!(fixture.read(path), shape.file(path), "{path}");
    }
    assert!(exists(&fixture.target().join("global/pg_control")));
    assert!(!exists(&fixture.target().join(MARKER)));
}

fn assert_refused(outcome: Result<RestoreReport, Failure>, code: ErrorCode) -> Failure {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.code, code, "{failure}");
    assert!(!failure.hints.is_empty(), "{failure}");
    failure
}

/// What an error in the middle must leave.
fn assert_unfinished(fixture: &Fixture) {
    assert!(exists(&fixture.target().join(MARKER)));
    assert!(!exists(&fixture.target().join("global/pg_control")));
}

#[test]
fn every_file_comes_back_with_its_size_mode_and_time() {
    let (shape, fixture) = sample();
    let order = fixture.order();
    let around = fixture.around();
    let report = restore(&order, &around).unwrap();
    assert_whole(&fixture, &shape);
    assert_eq!((report.label.to_string().as_str(), report.repository), (LABEL, RepoKey(1)));
    assert_eq!((report.bytes, report.files), (1800 + 8192 + 17, 5));
    assert_eq!(around.progress.get(), (report.bytes, report.bytes));
    for path in ["base/1", "base/2", "base/3"] {
        let metadata = fixture.target().join(path).metadata().unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o600, MODIFIED), "{path}");
    }
    assert_eq!(fixture.target().metadata().unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn an_online_backup_gets_its_label_and_a_poisoned_pg_control() {
    let (_, fixture) = sample();
    fixture.restore().unwrap();
    assert_eq!(fixture.read("backup_label"), b"START WAL LOCATION: 0/2000028\n");
    assert!(exists(&fixture.target().join("recovery.signal")));
    assert!(ControlFile::parse(&fixture.read("global/pg_control")).unwrap().is_poisoned());
    let conf = String::from_utf8(fixture.read("postgresql.auto.conf")).unwrap();
    assert!(
        conf.starts_with("work_mem = '1MB'\n") && conf.contains("restore_command = 'get %f'\n"),
        "{conf}"
    );
}

#[test]
fn an_offline_backup_gets_neither_label_nor_poison_nor_recovery() {
    let shape = Shape { online: false, ..Shape::sample() };
    let fixture = Fixture::new(&shape);
    fixture.restore().unwrap();
    assert_eq!(fixture.read("global/pg_control"), control());
    assert!(!exists(&fixture.target().join("backup_label")));
    assert!(!exists(&fixture.target().join("recovery.signal")));
    assert_eq!(fixture.read("postgresql.auto.conf"), shape.file("postgresql.auto.conf"));
}

#[test]
fn type_none_leaves_the_settings_alone_and_keeps_the_label() {
    let (shape, fixture) = sample();
    let mut order = fixture.order();
    order.recovery.target = RecoveryTarget::None;
    restore(&order, &fixture.around()).unwrap();
    assert!(exists(&fixture.target().join("backup_label")));
    assert!(!exists(&fixture.target().join("recovery.signal")));
    assert_eq!(fixture.read("postgresql.auto.conf"), shape.file("postgresql.auto.conf"));
}

#[test]
fn the_stored_tablespace_map_is_not_written_and_the_link_leads_where_the_map_says() {
    let mut shape = Shape::sample();
    let scratch = tempfile::tempdir().unwrap();
    let original = scratch.path().join("original");
    std::fs::create_dir(&original).unwrap();
    std::fs::write(original.join("precious"), "years of work").unwrap();
    shape.tablespace = Some(original.clone());
    let fixture = Fixture::new(&shape);
    let failure = assert_refused(fixture.restore(), ErrorCode::PathNotEmpty);
    assert!(failure.message.contains("tablespace east (16384)"), "{failure}");
    assert!(!exists(&fixture.target()), "nothing is made before the destinations are free");

    let mapped = scratch.path().join("mapped");
    let mut order = fixture.order();
    order.target.tablespace_map.insert("east".into(), mapped.to_str().unwrap().into());
    restore(&order, &fixture.around()).unwrap();
    assert!(!exists(&fixture.target().join("tablespace_map")));
    assert_eq!(fixture.target().join("pg_tblspc/16384").read_link().unwrap(), mapped);
    assert!(mapped.join("PG_15_202209061").is_dir());
    assert_eq!(std::fs::read(original.join("precious")).unwrap(), b"years of work");
}

#[test]
fn a_destination_that_another_path_to_the_target_leads_into_is_refused() {
    let mut shape = Shape::sample();
    let scratch = tempfile::tempdir().unwrap();
    shape.tablespace = Some(scratch.path().join("original"));
    let fixture = Fixture::new(&shape);
    std::fs::create_dir(fixture.target()).unwrap();
    let alias = scratch.path().join("alias");
    symlink(fixture.target(), &alias).unwrap();
    let mut order = fixture.order();
    order.target.tablespace_map_all = Some(alias.to_str().unwrap().into());
    assert_refused(restore(&order, &fixture.around()), ErrorCode::TablespaceMap);
}

#[test]
fn a_target_with_anything_in_it_is_refused_and_keeps_it() {
    let (_, fixture) = sample();
    std::fs::create_dir(fixture.target()).unwrap();
    std::fs::write(fixture.target().join("precious"), "years of work").unwrap();
    assert_refused(fixture.restore(), ErrorCode::PathNotEmpty);
    assert_eq!(fixture.read("precious"), b"years of work");
    assert!(!exists(&fixture.target().join(MARKER)));
}

#[test]
fn a_target_with_a_postmaster_is_refused_even_if_it_bears_our_marker() {
    let (_, fixture) = sample();
    fixture.flip(1, &pack(2), 70);
    fixture.flip(2, &pack(2), 70);
    fixture.restore().unwrap_err();
    std::fs::write(fixture.target().join("postmaster.pid"), "1\n").unwrap();
    let before = everything_in(fixture.target());
    assert!(exists(&fixture.target().join(MARKER)));
    assert_refused(fixture.restore(), ErrorCode::PgRunning);
    assert_eq!(everything_in(fixture.target()), before, "nothing was cleaned");
}

#[test]
fn a_marker_that_was_not_finished_is_no_obstacle() {
    let (shape, fixture) = sample();
    std::fs::create_dir(fixture.target()).unwrap();
    std::fs::write(fixture.target().join(MARKER_NEW), "{").unwrap();
    fixture.restore().unwrap();
    assert_whole(&fixture, &shape);
}

#[test]
fn an_unfinished_restore_is_emptied_and_begun_anew() {
    let mut shape = Shape::sample();
    let scratch = tempfile::tempdir().unwrap();
    let tablespace = scratch.path().join("east");
    shape.tablespace = Some(tablespace.clone());
    let fixture = Fixture::new(&shape);
    for repository in [1, 2] {
        fixture.flip(repository, &pack(2), 70);
    }
    assert_refused(fixture.restore(), ErrorCode::Checksum);
    assert_unfinished(&fixture);
    std::fs::write(fixture.target().join("backup_label"), "stale").unwrap();
    std::fs::write(tablespace.join("PG_15_202209061/half"), "half").unwrap();
    fixture.flip(1, &pack(2), 70);
    fixture.restore().unwrap();
    assert_whole(&fixture, &shape);
    assert!(!exists(&tablespace.join("PG_15_202209061/half")));
    assert_eq!(fixture.read("backup_label"), b"START WAL LOCATION: 0/2000028\n");
}

#[test]
fn a_marked_place_that_the_target_no_longer_links_to_is_not_emptied() {
    let mut shape = Shape::sample();
    let scratch = tempfile::tempdir().unwrap();
    let tablespace = scratch.path().join("east");
    shape.tablespace = Some(tablespace.clone());
    let fixture = Fixture::new(&shape);
    for repository in [1, 2] {
        fixture.flip(repository, &pack(2), 70);
    }
    fixture.restore().unwrap_err();
    std::fs::remove_file(fixture.target().join("pg_tblspc/16384")).unwrap();
    std::fs::write(tablespace.join("precious"), "years of work").unwrap();
    assert_refused(fixture.restore(), ErrorCode::PathNotEmpty);
    assert_eq!(std::fs::read(tablespace.join("precious")).unwrap(), b"years of work");
}

#[test]
fn a_cluster_that_was_used_since_is_not_emptied_whatever_marker_it_bears() {
    let (_, fixture) = sample();
    fixture.hurt(1, &pack(2), |_| None);
    fixture.hurt(2, &pack(2), |_| None);
    assert_refused(fixture.restore(), ErrorCode::FileMissing);
    assert_unfinished(&fixture);
    std::fs::write(fixture.target().join("global/pg_control"), control()).unwrap();
    // How far the first one came before it failed is up to its threads.
    let before = everything_in(fixture.target());
    assert_refused(fixture.restore(), ErrorCode::PathNotEmpty);
    assert_eq!(everything_in(fixture.target()), before);
}

/// Paths of all files and directories.
fn everything_in(directory: impl AsRef<std::path::Path>) -> std::collections::BTreeSet<std::path::PathBuf> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(directory.as_ref()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(everything_in(entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

#[test]
fn two_restores_do_not_share_a_target() {
    let (_, fixture) = sample();
    std::fs::create_dir(fixture.target()).unwrap();
    let held = std::fs::File::open(fixture.target()).unwrap();
    held.try_lock().unwrap();
    assert_refused(fixture.restore(), ErrorCode::LockAcquire);
}

#[test]
fn a_damaged_frame_comes_from_the_other_repository_and_damage_in_both_need_not_meet() {
    let (shape, fixture) = sample();
    // Byte 70 lies in the first frame of the pack, byte 400 in the second.
    fixture.flip(1, &pack(1), 70);
    fixture.flip(2, &pack(1), 400);
    fixture.hurt(1, &pack(2), |_| None);
    fixture.hurt(2, &pack(3), |bytes| Some(bytes[..bytes.len() - 9].to_vec()));
    fixture.restore().unwrap();
    assert_whole(&fixture, &shape);
}

#[test]
fn what_no_repository_has_is_an_error_that_names_the_object() {
    let (_, fixture) = sample();
    fixture.flip(1, &pack(1), 70);
    fixture.flip(2, &pack(1), 70);
    let failure = assert_refused(fixture.restore(), ErrorCode::Checksum);
    assert!(failure.message.contains(&pack(1)), "{failure}");
    assert!(failure.message.contains("repo 1") && failure.message.contains("repo 2"), "{failure}");
    assert_unfinished(&fixture);
}

#[test]
fn a_pack_under_the_name_of_another_is_not_believed() {
    let (_, fixture) = sample();
    for (repository, storage) in [1, 2].into_iter().zip(fixture.storages.clone()) {
        use pgconvoy_storage::Storage;
        let other = fixture.runtime.block_on(storage.get(&pack(2).parse().unwrap(), 1 << 20)).unwrap();
        fixture.hurt(repository, &pack(1), |_| Some(other.to_vec()));
    }
    assert_refused(fixture.restore(), ErrorCode::Checksum);
}

#[test]
fn a_damaged_manifest_or_entry_sends_the_restore_to_the_next_repository() {
    for object in [manifest(), catalogue_entry()] {
        let (shape, fixture) = sample();
        fixture.flip(1, &object, 100);
        assert_eq!(fixture.restore().unwrap().repository, RepoKey(2));
        assert_whole(&fixture, &shape);
    }
    let (_, fixture) = sample();
    fixture.flip(1, &manifest(), 100);
    fixture.flip(2, &catalogue_entry(), 100);
    assert_refused(fixture.restore(), ErrorCode::Checksum);
    assert!(!exists(&fixture.target()));
}

#[test]
fn a_backup_that_is_nowhere_is_no_such_set() {
    let (_, fixture) = sample();
    let mut order = fixture.order();
    order.set = Some("20010101-000000F".parse().unwrap());
    assert_refused(restore(&order, &fixture.around()), ErrorCode::BackupSetInvalid);
    order.set = None;
    order.stanza = "other".parse().unwrap();
    assert_refused(restore(&order, &fixture.around()), ErrorCode::BackupSetInvalid);
}

#[test]
fn blocks_that_lie_in_packs_of_an_earlier_backup_are_fetched_from_there() {
    let (shape, fixture) = sample();
    fixture.add_child(&shape);
    let report = fixture.restore().unwrap();
    assert_eq!(report.label.to_string(), CHILD);
    assert_whole(&fixture, &shape);
}

#[test]
fn a_signal_ends_the_restore_with_its_own_code() {
    let (_, fixture) = sample();
    let around = fixture.around();
    around.stop.cancel();
    assert_refused(restore(&fixture.order(), &around), ErrorCode::Term);
    assert!(!exists(&fixture.target().join("global/pg_control")));
}

/// An order whose repositories fail as the test says.
fn order_with_faults(fixture: &Fixture) -> (RestoreOrder, [Faults; 2]) {
    let faulty = [1, 2].map(|number: u16| {
        let storage = fixture.storages[usize::from(number) - 1].clone();
        let (storage, faults) = FaultStorage::new(Arc::new(storage));
        (Place::at(Arc::new(storage), settings(number)), faults)
    });
    let faults = faulty.each_ref().map(|(_, faults)| faults.clone());
    let repositories = Arc::new(RepositorySet::new(faulty.map(|(place, _)| place)));
    (RestoreOrder { repositories, ..fixture.order() }, faults)
}

#[test]
fn a_signal_ends_the_restore_also_while_another_repository_that_hangs_is_asked_for_help() {
    let (_, fixture) = sample();
    let pack = pack(1);
    fixture.hurt(1, &pack, |_| None);
    let (order, [first, second]) = order_with_faults(&fixture);
    // The pack is missed only when the other repository hangs already.
    let late = Effect::Delay(Duration::from_secs(1));
    first.add(Rule::always(Operation::Stat, late).on(KeyPattern::Exactly(pack.parse().unwrap())));
    let around = fixture.around();
    let stop = around.stop.clone();
    let (end, ended) = mpsc::channel();
    // Nobody listens any more once the test has failed.
    std::thread::spawn(move || drop(end.send(restore(&order, &around))));
    // Within the delay of the first look, which is its timeout.
    std::thread::sleep(Duration::from_millis(500));
    let rule = second.add(Rule::always(Operation::Any, Effect::Stall));
    let begin = Instant::now();
    while second.strikes(rule) == 0 && begin.elapsed() < PATIENCE {
        // The timeout is PATIENCE.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(second.strikes(rule) > 0, "nobody asked it");
    stop.cancel();
    assert_refused(ended.recv_timeout(PATIENCE).unwrap(), ErrorCode::Term);
}

#[test]
fn the_backup_manifest_has_the_crc_of_what_lies_there() {
    let (shape, fixture) = sample();
    let mut order = fixture.order();
    order.backup_manifest = true;
    restore(&order, &fixture.around()).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&fixture.read("backup_manifest")).unwrap();
    let files = manifest["Files"].as_array().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file["Path"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["base/1", "base/2", "base/3", "global/pg_control", "backup_label", "postgresql.auto.conf"]
    );
    for file in files {
        let bytes = fixture.read(file["Path"].as_str().unwrap());
        let crc: String =
            crc32c::crc32c(&bytes).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            (file["Size"].as_u64(), file["Checksum"].as_str()),
            (Some(bytes.len() as u64), Some(crc.as_str())),
            "{file}"
        );
    }
    assert_eq!(shape.file("base/1").len(), 2000, "with a gap of zeros");
}

#[test]
fn an_open_target_is_closed_to_others() {
    let (_, fixture) = sample();
    std::fs::create_dir(fixture.target()).unwrap();
    std::fs::set_permissions(fixture.target(), std::fs::Permissions::from_mode(0o777)).unwrap();
    fixture.restore().unwrap();
    assert_eq!(fixture.target().metadata().unwrap().mode() & 0o7777, 0o700);
}
