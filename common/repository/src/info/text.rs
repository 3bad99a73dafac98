//! pgBackRest's layout for people. Not stable; scripts read the JSON.

use super::{BackupInfo, InfoReport, RepositoryInfo, StanzaInfo, StatusCode};
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::bad_pages::told_pages;
use pgconvoy_core::units::Timestamp;
use std::fmt::Write;

pub fn to_text(report: &InfoReport) -> String {
    if report.stanzas.is_empty() {
        return "No stanzas exist in the repository.\n".to_owned();
    }
    let stanzas: Vec<String> = report.stanzas.iter().map(stanza).collect();
    stanzas.join("\n")
}

/// Writing into a string cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {
        writeln!($out, $($arg)*).expect("a string takes every line")
    };
}

fn stanza(stanza: &StanzaInfo) -> String {
    let mut out = String::new();
    let status = stanza.status();
    let running = if stanza.is_backup_running { " (backup/expire running)" } else { "" };
    line!(out, "stanza: {}", stanza.name);
    line!(out, "    status: {}{running}", status.text());
    let tells_each = status.code == StatusCode::Mixed;
    for repository in &stanza.repositories {
        if tells_each {
            line!(out, "        repo{}: {}", repository.key, repository.status.text());
        }
        if repository.status.code == StatusCode::Other {
            line!(out, "            repo{}: {}", repository.key, repository.status.message);
        }
    }
    ciphers(&mut out, stanza);
    for (place, cluster) in clusters(stanza) {
        database(&mut out, stanza, place, cluster);
    }
    out
}

fn ciphers(out: &mut String, stanza: &StanzaInfo) {
    let known =
        stanza.repositories.iter().filter_map(|repository| Some((repository.key, repository.cipher?)));
    if stanza.repositories.iter().all(|repository| repository.cipher.is_none()) {
        return;
    }
    line!(out, "    cipher: {}", stanza.cipher());
    if stanza.cipher() == "mixed" {
        known.for_each(|(key, cipher)| line!(out, "        repo{key}: {}", cipher.name()));
    }
}

/// Clusters that any repository knows, older ones first, and whether each is the current one.
fn clusters(stanza: &StanzaInfo) -> Vec<(&'static str, &ClusterBody)> {
    let mut known: Vec<(&'static str, &ClusterBody)> = Vec::new();
    let is_current = |cluster: &ClusterBody| {
        let mut current = stanza.repositories.iter().filter_map(RepositoryInfo::current);
        current.any(|current| current.is_same_cluster(cluster))
    };
    for cluster in stanza.repositories.iter().flat_map(|repository| &repository.clusters) {
        if !known.iter().any(|(_, other)| other.is_same_cluster(cluster)) {
            known.push((if is_current(cluster) { "current" } else { "prior" }, cluster));
        }
    }
    known.sort_by_key(|(place, cluster)| (*place == "current", cluster.number));
    known
}

fn database(out: &mut String, stanza: &StanzaInfo, place: &str, cluster: &ClusterBody) {
    let number_in = |repository: &RepositoryInfo| {
        repository.clusters.iter().find(|other| other.is_same_cluster(cluster)).map(|other| other.number)
    };
    let ends = stanza.repositories.iter().filter_map(|repository| {
        let number = number_in(repository)?;
        repository.archives.iter().find(|archive| archive.cluster == number)?.ends
    });
    let ends = ends.reduce(|(min, max), (other_min, other_max)| (min.min(other_min), max.max(other_max)));
    let mut backups: Vec<(RepoKey, &BackupInfo)> = stanza.backups();
    backups.retain(|(key, backup)| {
        let repository = stanza.repositories.iter().find(|repository| repository.key == *key);
        repository.and_then(number_in) == Some(backup.record.cluster)
    });
    if place == "prior" && ends.is_none() && backups.is_empty() {
        return;
    }
    line!(out, "\n    db ({place})");
    let ends = ends.map_or_else(|| "none present".to_owned(), |(min, max)| format!("{min}/{max}"));
    line!(out, "        wal archive min/max ({}): {ends}", cluster.version);
    let mut rest = backups.as_slice();
    while let Some((_, first)) = rest.first() {
        let same = |(_, other): &(RepoKey, &BackupInfo)| other.record.label == first.record.label;
        let (copies, others) = rest.split_at(rest.iter().position(|one| !same(one)).unwrap_or(rest.len()));
        backup(out, copies);
        rest = others;
    }
}

/// One backup; `copies` are its entries in several repositories.
fn backup(out: &mut String, copies: &[(RepoKey, &BackupInfo)]) {
    let Some((_, info)) = copies.first() else { return };
    let record = &info.record;
    line!(out, "\n        {} backup: {}", record.kind, record.label);
    line!(out, "            timestamp start/stop: {} / {}", moment(record.started), moment(record.stopped));
    match (record.wal_start, record.wal_stop) {
        (Some(start), Some(stop)) => line!(out, "            wal start/stop: {start} / {stop}"),
        _ => line!(out, "            wal start/stop: n/a"),
    }
    if info.details.is_some()
        && let (Some(start), Some(stop)) = (record.lsn_start, record.lsn_stop)
    {
        line!(out, "            lsn start/stop: {start} / {stop}");
    }
    let (database, changed) = (size(record.sizes.database), size(record.sizes.changed));
    line!(out, "            database size: {database}, database backup size: {changed}");
    for (key, copy) in copies {
        let (set, own) = (size(copy.record.sizes.stored_set), size(copy.record.sizes.stored));
        line!(out, "            repo{key}: backup set size: {set}, backup size: {own}");
    }
    if !record.references.is_empty() {
        let references: Vec<String> = record.references.iter().map(ToString::to_string).collect();
        line!(out, "            backup reference list: {}", references.join(", "));
    }
    if let Some(details) = &info.details {
        detail(out, details);
    }
    if record.pages.errors > 0 && info.details.is_none() {
        line!(out, "            error(s) detected during backup");
    }
    if !record.annotations.is_empty() && info.details.is_some() {
        line!(out, "            annotation(s)");
        record.annotations.iter().for_each(|(key, value)| line!(out, "                {key}: {value}"));
    }
}

fn detail(out: &mut String, details: &super::BackupDetails) {
    let databases: Vec<String> =
        details.databases.iter().map(|database| format!("{} ({})", database.name, database.oid)).collect();
    let databases = if databases.is_empty() { "none".to_owned() } else { databases.join(", ") };
    line!(out, "            database list: {databases}");
    if !details.links.is_empty() {
        line!(out, "            symlinks:");
        details.links.iter().for_each(|(name, to)| line!(out, "                {name} => {to}"));
    }
    if !details.tablespaces.is_empty() {
        line!(out, "            tablespaces:");
        for tablespace in &details.tablespaces {
            let (name, oid, to) = (&tablespace.name, tablespace.oid, &tablespace.destination);
            line!(out, "                {name} ({oid}) => {to}");
        }
    }
    if !details.files_with_errors.is_empty() {
        let told = |(file, pages): &(String, Vec<u32>)| format!("{file} ({})", told_pages(pages));
        let files: Vec<String> = details.files_with_errors.iter().map(told).collect();
        line!(out, "            page checksum error: {}", files.join(", "));
    }
}

/// In UTC.
fn moment(time: Timestamp) -> String {
    format!("{}+00", time.to_utc().strftime("%Y-%m-%d %H:%M:%S"))
}

/// pgBackRest's: powers of 1024, rounded to one decimal, which is left out where it would be nought.
fn size(bytes: u64) -> String {
    let units = ["KB", "MB", "GB", "TB", "PB"];
    let Some((name, unit)) = units
        .iter()
        .zip(1..)
        .map(|(name, power)| (name, 1024u64.pow(power)))
        .take_while(|(_, unit)| bytes >= *unit)
        .last()
    else {
        return format!("{bytes}B");
    };
    let (bytes, unit) = (u128::from(bytes), u128::from(unit));
    if bytes * 10 / unit % 10 == 0 {
        return format!("{}{name}", bytes / unit);
    }
    let tenths = (bytes * 10 + unit / 2) / unit;
    format!("{}.{}{name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_pgbackrest_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KB"),
            (1030, "1KB"),
            (1536, "1.5KB"),
            (24_641_536, "23.5MB"),
            (24_600_000, "23.5MB"),
            (2 << 40, "2TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
