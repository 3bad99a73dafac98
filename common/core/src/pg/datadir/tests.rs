#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;
use proptest::prelude::*;

fn rules(version: PgVersion, online: bool) -> Rules {
    Rules::new(version, version.catalog_version(), online, &[]).unwrap()
}

fn online() -> Rules {
    rules(PgVersion::V17, true)
}

fn excluding(excludes: &[&str]) -> Result<Rules, ExcludeError> {
    let excludes: Vec<String> = excludes.iter().map(|exclude| (*exclude).to_owned()).collect();
    Rules::new(PgVersion::V17, PgVersion::V17.catalog_version(), true, &excludes)
}

#[test]
fn every_file_of_a_running_cluster_has_its_class() {
    let relation = |fork, segment| FileClass::Relation { fork, segment };
    for (path, class) in [
        ("PG_VERSION", FileClass::Version),
        ("postgresql.conf", FileClass::Other),
        ("current_logfiles", FileClass::ServerLog),
        ("global/pg_control", FileClass::Control),
        ("global/pg_filenode.map", FileClass::FilenodeMap),
        ("global/1262", relation(Fork::Main, 0)),
        ("base/5/PG_VERSION", FileClass::DatabaseVersion),
        ("base/5/pg_filenode.map", FileClass::DatabaseFilenodeMap),
        ("base/5/1259_vm", relation(Fork::Vm, 0)),
        ("base/5/16384.12", relation(Fork::Main, 12)),
        ("base/5/16390_init", relation(Fork::Init, 0)),
        ("base/5/notes.txt", FileClass::Other),
        ("base/5/pg_control", FileClass::Other),
        ("pg_tblspc/16384/PG_17_202406281/5/16391_fsm", relation(Fork::Fsm, 0)),
        ("pg_xact/0000", FileClass::Slru),
        ("pg_multixact/members/0000", FileClass::Slru),
        ("pg_commit_ts/0000", FileClass::CommitTimestamps),
        ("pg_twophase/0000000000000311", FileClass::TwoPhase),
        ("pg_stat/pgstat.stat", FileClass::Stats),
        ("pg_logical/snapshots/0-15ABCD0.snap", FileClass::LogicalDecoding),
        ("pg_logical/replorigin_checkpoint", FileClass::Other),
        ("log/postgresql-Mon.log", FileClass::ServerLog),
        ("16384", FileClass::Other),
    ] {
        assert_eq!(online().classify(path), Ok(class), "{path}");
    }
}

#[test]
fn what_a_restored_cluster_makes_anew_is_left_out_with_its_reason() {
    for (path, reason) in [
        ("base/pgsql_tmp/pgsql_tmp77.0", LeftOut::Temporary),
        ("pgsql_tmp", LeftOut::Temporary),
        ("pg_tblspc/16384/PG_17_202406281/pgsql_tmp/x", LeftOut::Temporary),
        ("base/5/t3_16399", LeftOut::Temporary),
        ("base/5/pg_filenode.map.tmp", LeftOut::Temporary),
        ("postgresql.auto.conf.tmp", LeftOut::Temporary),
        ("base/5/pg_internal.init", LeftOut::Rebuilt),
        ("global/pg_internal.init.1234", LeftOut::Rebuilt),
        ("pg_stat_tmp/global.stat", LeftOut::Rebuilt),
        ("pg_subtrans/0000", LeftOut::Rebuilt),
        ("pg_replslot/standby/state", LeftOut::ReplicationSlot),
        ("pg_wal/000000010000000000000002", LeftOut::ArchivedWal),
        ("pg_wal/archive_status/000000010000000000000001.done", LeftOut::ArchivedWal),
        ("pg_wal/lost+found/x", LeftOut::ArchivedWal),
        ("postmaster.pid", LeftOut::ServerState),
        ("backup_label", LeftOut::BackupState),
        ("tablespace_map", LeftOut::BackupState),
        ("backup_manifest", LeftOut::BackupState),
        ("standby.signal", LeftOut::BackupState),
        ("pg_tblspc/16384/PG_16_202307071/5/1", LeftOut::NotInTablespace),
        ("pg_tblspc/16384/README", LeftOut::NotInTablespace),
        ("pg_tblspc/junk/PG_17_202406281/5/1", LeftOut::NotInTablespace),
    ] {
        assert_eq!(online().classify(path), Err(reason), "{path}");
        assert_eq!(online().file(path), None, "{path}");
    }
}

#[test]
fn directories_are_descended_kept_empty_or_skipped() {
    use DirectoryDecision::{Descend, KeepEmpty, Skip};
    for (path, decision) in [
        ("", Descend),
        ("base", Descend),
        ("base/5", Descend),
        ("pg_wal", Descend),
        ("pg_wal/archive_status", KeepEmpty),
        ("pg_wal/summaries", KeepEmpty),
        ("pg_wal/lost+found", Skip),
        ("pg_replslot", KeepEmpty),
        ("pg_notify", KeepEmpty),
        ("base/pgsql_tmp", Skip),
        ("pg_tblspc/16384", Descend),
        ("pg_tblspc/16384/PG_17_202406281", Descend),
        ("pg_tblspc/16384/PG_16_202307071", Skip),
        ("log", Descend),
        ("mine/pg_notify", Descend),
    ] {
        assert_eq!(online().directory(path), decision, "{path}");
    }
}

#[test]
fn an_offline_backup_takes_the_wal_along() {
    let offline = rules(PgVersion::V17, false);
    assert_eq!(offline.file("pg_wal/000000010000000000000002"), Some(FileClass::Wal));
    assert_eq!(offline.directory("pg_wal/archive_status"), DirectoryDecision::Descend);
}

#[test]
fn the_version_decides_names() {
    let old = rules(PgVersion::V9_6, true);
    assert_eq!(old.file("pg_clog/0000"), Some(FileClass::Slru));
    assert_eq!(old.file("pg_xact/0000"), Some(FileClass::Other));
    assert_eq!(old.classify("pg_xlog/000000010000000000000002"), Err(LeftOut::ArchivedWal));
    assert_eq!(old.classify("recovery.conf"), Err(LeftOut::BackupState));
    assert_eq!(old.file("standby.signal"), Some(FileClass::Other));
    assert_eq!(online().file("recovery.conf"), Some(FileClass::Other));
    assert_eq!(old.directory("pg_tblspc/16384/PG_9.6_201608131"), DirectoryDecision::Descend);
}

#[test]
fn an_exclude_names_all_of_a_path_or_only_its_contents() {
    let rules = excluding(&["junk", "log/", "base/16384"]).unwrap();
    assert_eq!(rules.directory("junk"), DirectoryDecision::Skip);
    assert_eq!(rules.classify("junk"), Err(LeftOut::Excluded));
    assert_eq!(rules.classify("junk/deep/file"), Err(LeftOut::Excluded));
    assert_eq!(rules.file("junk2"), Some(FileClass::Other));
    assert_eq!(rules.directory("log"), DirectoryDecision::KeepEmpty);
    assert_eq!(rules.classify("log/x.log"), Err(LeftOut::Excluded));
    assert!(!rules.holds_relations("base/16384") && rules.holds_relations("base/5"));
}

#[test]
fn excludes_that_break_the_cluster_or_leave_it_are_refused() {
    for essential in
        ["PG_VERSION", "global", "global/", "global/pg_control", "base", "base/", "pg_xact", "pg_multixact/"]
    {
        assert!(matches!(excluding(&[essential]), Err(ExcludeError::Essential { .. })), "{essential}");
    }
    for directory in ["pg_wal", "pg_notify", "pg_replslot", "pg_twophase", "pg_tblspc"] {
        assert!(matches!(excluding(&[directory]), Err(ExcludeError::Directory { .. })), "{directory}");
        assert!(excluding(&[&format!("{directory}/")]).is_ok(), "{directory}");
    }
    for bad in ["", "/", "/etc", "../x", "a//b"] {
        assert!(matches!(excluding(&[bad]), Err(ExcludeError::Path { .. })), "{bad:?}");
    }
}

#[test]
fn a_stopped_cluster_keeps_its_wal() {
    let offline = |exclude: &str| Rules::new(PgVersion::V17, 202_406_281, false, &[exclude.to_owned()]);
    for wal in ["pg_wal", "pg_wal/", "pg_wal/000000010000000000000002"] {
        assert!(matches!(offline(wal), Err(ExcludeError::OfflineWal { .. })), "{wal}");
    }
    assert!(offline("log/").is_ok());
}

#[test]
fn excludes_that_take_data_away_are_told() {
    let rules = excluding(&["log/", "base/16384", "pg_tblspc/", "global/1262", "junk", "based"]).unwrap();
    let mut lossy: Vec<&str> = rules.lossy_excludes().collect();
    lossy.sort_unstable();
    assert_eq!(lossy, ["base/16384", "global/1262", "pg_tblspc"]);
}

#[test]
fn unlogged_relations_keep_only_their_init_fork() {
    let names = [
        "16384",
        "16384.1",
        "16384_fsm",
        "16384_vm",
        "16384_init",
        "16385",
        "16385_vm",
        "PG_VERSION",
        "x_init",
    ];
    let left_out: Vec<&str> = unlogged_main_forks(names).into_iter().collect();
    assert_eq!(left_out, ["16384", "16384.1", "16384_fsm", "16384_vm"]);
}

proptest! {
    #[test]
    fn a_file_in_a_directory_that_is_not_descended_is_left_out(
        path in "(pg_tblspc|base|global|pg_wal|pg_notify|log|5|16384|PG_17_202406281|pgsql_tmp|x)(/(5|16384|PG_17_202406281|pgsql_tmp|x|1259|summaries)){0,4}/x",
    ) {
        let rules = excluding(&["base/5/x", "log/"]).unwrap();
        let (directory, _) = path.rsplit_once('/').unwrap();
        let mut blocked = false;
        for (at, _) in path.match_indices('/') {
            blocked |= rules.directory(&path[..at]) != DirectoryDecision::Descend;
        }
        prop_assert!(!blocked || rules.file(&path).is_none(), "{directory}");
    }
}
