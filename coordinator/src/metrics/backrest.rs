//! `pgbackrest_*`: names, labels and values of pgbackrest_exporter. Pure: `info` in, families out.
//!
//! Not told: what needs each backup's manifest (databases), and sizes of block maps, which our backups have inside their packs.

use super::own::{number, seconds};
use super::text::Page;
use crate::jobs::JobView;
use pgconvoy_core::format::BackupKind;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::job::JobKind;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::info::{InfoReport, RepositoryInfo, StanzaInfo};

/// Of maps of blocks in the exporter's sense, see above.
const BLOCK_INCR: (&str, &str) = ("block_incr", "n");
/// What the exporter says of an unknown cipher or version.
const UNKNOWN: &str = "unknown";

pub(super) fn of_info(page: &mut Page, info: &InfoReport, jobs: &[JobView], now: Timestamp) {
    // A stanza that nobody has looked for yet has no status.
    let stanzas: Vec<&StanzaInfo> =
        info.stanzas.iter().filter(|stanza| !stanza.repositories.is_empty()).collect();
    page.gauge("pgbackrest_exporter_info", "Information about pgBackRest exporter.")
        .sample([("version", concat!("pgconvoy ", env!("CARGO_PKG_VERSION")))], 1.0);
    page.gauge("pgbackrest_exporter_status", "pgBackRest exporter get data status.")
        .sample([("stanza", "all-stanzas")], 1.0);
    of_stanzas(page, &stanzas, jobs);
    of_backups(page, &stanzas);
    of_last_backups(page, &stanzas, now);
    of_archives(page, &stanzas);
}

fn of_stanzas(page: &mut Page, stanzas: &[&StanzaInfo], jobs: &[JobView]) {
    let status = page.gauge("pgbackrest_stanza_status", "Current stanza status.");
    for stanza in stanzas {
        status.sample([("stanza", &stanza.name)], f64::from(stanza.status().code.number()));
    }
    let locked = page.gauge("pgbackrest_stanza_lock_status", "Current stanza lock status.");
    for stanza in stanzas {
        locked.sample([("stanza", &stanza.name)], f64::from(u8::from(stanza.is_backup_running)));
    }
    // The first name is spelt as the exporter spells it.
    for (name, help, value) in [
        (
            "pgbackrest_stanza_backup_compete_bytes",
            "Completed size for backup in progress.",
            (|bytes| bytes.0) as fn((u64, u64)) -> u64,
        ),
        ("pgbackrest_stanza_backup_total_bytes", "Total size for backup in progress.", |bytes| bytes.1),
    ] {
        let family = page.gauge(name, help);
        for stanza in stanzas {
            family.sample([("stanza", &stanza.name)], number(value(in_progress(&stanza.name, jobs))));
        }
    }
    let status = page.gauge("pgbackrest_repo_status", "Current repository status.");
    for (stanza, repository) in each_repository(stanzas) {
        let cipher = repository.cipher.map_or(UNKNOWN, |cipher| cipher.name());
        let key = repository.key.to_string();
        status.sample(
            [("cipher", cipher), ("repo_key", &key), ("stanza", stanza)],
            f64::from(repository.status.code.number()),
        );
    }
}

/// Bytes that are done, and all.
fn in_progress(stanza: &str, jobs: &[JobView]) -> (u64, u64) {
    let running = jobs.iter().find(|view| {
        let job = &view.record;
        job.kind == JobKind::Backup && job.stanza.as_str() == stanza && job.state.is_under_way()
    });
    let progress = running.and_then(|view| view.progress.as_ref());
    progress.map_or((0, 0), |progress| (progress.bytes_done, progress.bytes_total))
}

fn each_repository<'a>(stanzas: &'a [&'a StanzaInfo]) -> impl Iterator<Item = (&'a str, &'a RepositoryInfo)> {
    stanzas.iter().flat_map(|stanza| stanza.repositories.iter().map(|info| (stanza.name.as_str(), info)))
}

fn each_backup<'a>(
    stanzas: &'a [&'a StanzaInfo],
) -> impl Iterator<Item = (&'a str, String, &'a BackupRecord)> {
    each_repository(stanzas).flat_map(|(stanza, repository)| {
        let key = repository.key.to_string();
        repository.backups.iter().map(move |backup| (stanza, key.clone(), &backup.record))
    })
}

fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

type Value = fn(&BackupRecord) -> f64;

/// Of each backup.
const OF_BACKUPS: [(&str, &str, Value); 6] = [
    ("pgbackrest_backup_annotations", "Number of annotations in backup.", annotations),
    ("pgbackrest_backup_delta_bytes", "Amount of data in the database to actually backup.", changed),
    ("pgbackrest_backup_error_status", "Backup error status.", page_errors),
    ("pgbackrest_backup_repo_delta_bytes", "Compressed files size in backup.", stored),
    (
        "pgbackrest_backup_repo_size_bytes",
        "Full compressed files size to restore the database from backup.",
        stored_set,
    ),
    ("pgbackrest_backup_size_bytes", "Full uncompressed size of the database.", database),
];

/// Of the last backup of each kind.
const OF_LAST_BACKUPS: [(&str, &str, Value); 7] = [
    ("pgbackrest_backup_last_annotations", "Number of annotations in the last backup.", annotations),
    ("pgbackrest_backup_last_delta_bytes", "Amount of data to backup in the last backup.", changed),
    ("pgbackrest_backup_last_duration_seconds", "Duration of the last backup.", duration),
    ("pgbackrest_backup_last_error_status", "Error status in the last backup.", page_errors),
    ("pgbackrest_backup_last_repo_delta_bytes", "Compressed files size in the last backup.", stored),
    (
        "pgbackrest_backup_last_repo_size_bytes",
        "Full compressed files size to restore the database from the last backup.",
        stored_set,
    ),
    (
        "pgbackrest_backup_last_size_bytes",
        "Full uncompressed size of the database in the last backup.",
        database,
    ),
];

fn annotations(record: &BackupRecord) -> f64 {
    number(record.annotations.len() as u64)
}

fn changed(record: &BackupRecord) -> f64 {
    number(record.sizes.changed)
}

fn database(record: &BackupRecord) -> f64 {
    number(record.sizes.database)
}

fn stored(record: &BackupRecord) -> f64 {
    number(record.sizes.stored)
}

fn stored_set(record: &BackupRecord) -> f64 {
    number(record.sizes.stored_set)
}

fn page_errors(record: &BackupRecord) -> f64 {
    f64::from(u8::from(record.pages.errors > 0))
}

/// The exporter has whole seconds.
fn duration(record: &BackupRecord) -> f64 {
    let seconds = record.stopped.seconds() - record.started.seconds();
    number(u64::try_from(seconds).unwrap_or(0))
}

fn of_backups(page: &mut Page, stanzas: &[&StanzaInfo]) {
    let info = page.gauge("pgbackrest_backup_info", "Backup info.");
    for (stanza, key, record) in each_backup(stanzas) {
        info.sample(
            [
                ("backrest_ver", &record.program),
                ("backup_name", &record.label.to_string()),
                ("backup_type", record.kind.name()),
                BLOCK_INCR,
                ("database_id", &record.cluster.to_string()),
                ("lsn_start", &text(record.lsn_start)),
                ("lsn_stop", &text(record.lsn_stop)),
                ("pg_version", record.version.name()),
                ("prior", &text(record.prior)),
                ("repo_key", &key),
                ("stanza", stanza),
                ("wal_start", &text(record.wal_start)),
                ("wal_stop", &text(record.wal_stop)),
            ],
            1.0,
        );
    }
    let took = page.gauge("pgbackrest_backup_duration_seconds", "Backup duration.");
    for (stanza, key, record) in each_backup(stanzas) {
        took.sample(
            [
                ("backup_name", &record.label.to_string()),
                ("backup_type", record.kind.name()),
                BLOCK_INCR,
                ("database_id", &record.cluster.to_string()),
                ("repo_key", &key),
                ("stanza", stanza),
                ("start_time", &clock(record.started)),
                ("stop_time", &clock(record.stopped)),
            ],
            duration(record),
        );
    }
    for (name, help, value) in OF_BACKUPS {
        let family = page.gauge(name, help);
        for (stanza, key, record) in each_backup(stanzas) {
            family.sample(
                [
                    ("backup_name", &record.label.to_string()),
                    ("backup_type", record.kind.name()),
                    BLOCK_INCR,
                    ("database_id", &record.cluster.to_string()),
                    ("repo_key", &key),
                    ("stanza", stanza),
                ],
                value(record),
            );
        }
    }
}

/// As the exporter writes times, in UTC.
fn clock(time: Timestamp) -> String {
    time.to_utc().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The newest of a kind, or of one that does more: an incremental backup is due after none of them.
fn last_of(stanza: &StanzaInfo, kind: BackupKind) -> Option<&BackupRecord> {
    let backups = stanza.backups().into_iter().map(|(_, backup)| &backup.record);
    // Where there is no full backup the exporter tells nothing.
    if !stanza.backups().iter().any(|(_, backup)| backup.record.kind == BackupKind::Full) {
        return None;
    }
    let counts = |record: &&BackupRecord| match kind {
        BackupKind::Full => record.kind == BackupKind::Full,
        BackupKind::Diff => record.kind != BackupKind::Incr,
        BackupKind::Incr => true,
    };
    backups.filter(counts).max_by_key(|record| record.stopped)
}

fn each_last<'a>(
    stanzas: &'a [&'a StanzaInfo],
) -> impl Iterator<Item = (&'a str, &'static str, &'a BackupRecord)> {
    stanzas.iter().flat_map(|stanza| {
        let of_kind = |kind: BackupKind| Some((stanza.name.as_str(), kind.name(), last_of(stanza, kind)?));
        [BackupKind::Full, BackupKind::Diff, BackupKind::Incr].into_iter().filter_map(of_kind)
    })
}

fn of_last_backups(page: &mut Page, stanzas: &[&StanzaInfo], now: Timestamp) {
    let since = page.gauge(
        "pgbackrest_backup_since_last_completion_seconds",
        "Seconds since the last completed full, differential or incremental backup.",
    );
    for (stanza, kind, record) in each_last(stanzas) {
        let age = (seconds(now) - seconds(record.stopped)).max(0.0).floor();
        since.sample([("backup_type", kind), BLOCK_INCR, ("stanza", stanza)], age);
    }
    for (name, help, value) in OF_LAST_BACKUPS {
        let family = page.gauge(name, help);
        for (stanza, kind, record) in each_last(stanzas) {
            family.sample([("backup_type", kind), BLOCK_INCR, ("stanza", stanza)], value(record));
        }
    }
}

fn of_archives(page: &mut Page, stanzas: &[&StanzaInfo]) {
    let status = page.gauge("pgbackrest_wal_archive_status", "Current WAL archive status.");
    for (stanza, repository) in each_repository(stanzas) {
        for archive in &repository.archives {
            let cluster = repository.clusters.iter().find(|cluster| cluster.number == archive.cluster);
            status.sample(
                [
                    ("database_id", &archive.cluster.to_string()),
                    ("pg_version", cluster.map_or(UNKNOWN, |cluster| cluster.version.name())),
                    ("repo_key", &repository.key.to_string()),
                    ("stanza", stanza),
                    // As the exporter does unless it is told to be verbose: each segment would be a new series.
                    ("wal_max", ""),
                    ("wal_min", ""),
                ],
                f64::from(u8::from(archive.ends.is_some())),
            );
        }
    }
}

#[cfg(test)]
mod tests;
