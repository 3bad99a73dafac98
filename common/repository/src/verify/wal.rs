//! WAL files, the runs that the good ones make, and what each backup needs of them.

use super::{ArchiveVerification, Finding, Job, RepoVerification};
use crate::coverage::{PitrRange, WalCoverage, tell_until};
use crate::error::RepositoryError;
use crate::object::object_key;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout;
use pgconvoy_core::ids::ClusterNumber;
use pgconvoy_core::pg::{WalFileName, WalPart, WalSegmentName, WalSegmentSize};
use pgconvoy_core::plan::restorable::{Seen, Segment, WalHeld};
use pgconvoy_core::units::ByteCount;
use pgconvoy_storage::list_children;
use std::collections::BTreeMap;

/// Missing segments that are named for one backup: a lost archive must not flood the report.
const MISSING_NAMED_MAX: usize = 10;

/// WAL of one cluster.
struct Archive {
    cluster: ClusterBody,
    /// Of what is good.
    coverage: WalCoverage,
    /// Those that some backup needs, as far as their footers could be read.
    needed: BTreeMap<WalSegmentName, Segment>,
    /// Some files did not come.
    is_unread: bool,
}

type Archives = BTreeMap<ClusterNumber, Archive>;

pub(super) fn check(
    job: &Job,
    clusters: &[ClusterBody],
    records: &[&BackupRecord],
    report: &mut RepoVerification,
) -> Result<(), Failure> {
    let mut archives = Archives::new();
    for cluster in clusters {
        let of_cluster = records.iter().filter(|record| record.cluster == cluster.number).copied();
        let (verification, archive) = archive(job, cluster, of_cluster)?;
        let is_empty = verification.files == 0 && verification.errors.is_empty();
        if job.set.is_none() || !is_empty {
            report.archives.push(verification);
        }
        archives.insert(cluster.number, archive);
    }
    if job.set.is_none() {
        report.errors.extend(strangers(job, clusters)?);
    }
    let mut pitr: BTreeMap<ClusterNumber, Vec<PitrRange>> = BTreeMap::new();
    for record in records {
        let missing = missing(job, &archives, record);
        let Some(backup) = report.backups.iter_mut().find(|backup| backup.label == record.label) else {
            continue;
        };
        backup.recoverable &= missing.is_empty();
        if let Some(archive) = archives.get(&record.cluster) {
            if backup.recoverable {
                pitr.entry(record.cluster).or_default().extend(archive.coverage.reach_of(record));
            }
            if let Seen::Published(holding) = &mut backup.seen {
                holding.wal = archive.held_for(record);
            }
        }
        backup.errors.extend(missing);
    }
    for (number, ranges) in pitr {
        let mut ranges = PitrRange::merge(ranges);
        if let Some(archive) = archives.get(&number) {
            job.wait(tell_until(&job.repository, &job.stanza, &archive.cluster, &mut ranges));
        }
        report.pitr.extend(ranges);
    }
    Ok(())
}

/// Reads every file of one archive, or those that one backup needs.
fn archive<'a>(
    job: &Job,
    cluster: &ClusterBody,
    records: impl Iterator<Item = &'a BackupRecord>,
) -> Result<(ArchiveVerification, Archive), Failure> {
    let id = cluster.archive_id();
    let (mut files, parts) = job.wait(job.repository.wal_files_and_parts(&job.stanza, id))?;
    let ends: Vec<_> = records.filter_map(|record| Some((record.wal_start?, record.wal_stop?))).collect();
    let is_needed = |file: &WalFileName| match file {
        WalFileName::Segment(segment) => ends.iter().any(|(first, last)| first <= segment && segment <= last),
        _ => false,
    };
    if job.set.is_some() {
        files.retain(is_needed);
    }
    files.sort_unstable();
    let what = format!("archive {id}");
    let told = job.each(&what, &files, |file| {
        let told = self::file(job, cluster, file);
        Ok(Some(told).filter(|told| !told.is_good || is_needed(file)))
    })?;
    let mut coverage = WalCoverage::new(cluster.wal_segment_size);
    let mut not_good = told.iter().filter(|(_, told)| !told.is_good).map(|(number, _)| *number).peekable();
    for (number, file) in files.iter().enumerate() {
        if not_good.next_if_eq(&number).is_some() {
            continue;
        }
        match file {
            WalFileName::Segment(segment) => coverage.push(*segment),
            WalFileName::History(timeline) => {
                let history = job.wait(job.repository.timeline_history(&job.stanza, id, *timeline));
                history.ok().flatten().into_iter().for_each(|history| coverage.add_history(history));
            }
            _ => {}
        }
    }
    let is_unread = told.iter().any(|(_, told)| told.is_unread);
    let mut needed = BTreeMap::new();
    let mut errors = Vec::new();
    for (number, told) in told {
        if let (WalFileName::Segment(name), Some((size, sha1))) = (files[number], told.content) {
            needed.insert(name, Segment { size, sha1, is_good: told.is_good });
        }
        errors.extend(told.finding);
    }
    if job.set.is_none() {
        errors.extend(damaged_parts(job, cluster, &parts)?);
        errors.extend(dropped(job, cluster, &files)?);
    }
    let ranges = coverage.ranges().to_vec();
    let verification = ArchiveVerification { id: id.to_string(), files: files.len(), ranges, errors };
    Ok((verification, Archive { cluster: cluster.clone(), coverage, needed, is_unread }))
}

impl Archive {
    /// From the backup's start to its stop.
    fn held_for(&self, record: &BackupRecord) -> WalHeld {
        let (Some(first), Some(last)) = (record.wal_start, record.wal_stop) else {
            return WalHeld::default();
        };
        let segments = self.needed.iter().filter(|(name, _)| first <= **name && **name <= last);
        WalHeld {
            needed: count(first, last, self.cluster.wal_segment_size),
            segments: segments.map(|(name, segment)| (*name, *segment)).collect(),
            is_unread: self.is_unread,
        }
    }
}

/// A listed file. One that is neither good nor has a flaw is gone, as expire takes them away.
#[derive(Default)]
struct FileCheck {
    is_good: bool,
    /// Size and SHA-1, as its footer says.
    content: Option<(u64, [u8; 20])>,
    finding: Option<Finding>,
    /// It may be good.
    is_unread: bool,
}

fn file(job: &Job, cluster: &ClusterBody, file: &WalFileName) -> FileCheck {
    let name = layout::wal_file(&job.stanza, cluster.archive_id(), file);
    let mut check = FileCheck::default();
    match job.wait(read_file(job, cluster, file, &name, &mut check.content)) {
        Ok(is_there) => check.is_good = is_there,
        Err(error) => {
            check.is_unread = !error.is_loss();
            check.finding = Some(job.finding(&name, &error));
        }
    }
    check
}

/// Reads it to its end; false if it is not there any more.
async fn read_file(
    job: &Job,
    cluster: &ClusterBody,
    file: &WalFileName,
    name: &str,
    content: &mut Option<(u64, [u8; 20])>,
) -> Result<bool, RepositoryError> {
    let id = cluster.archive_id();
    let Some(reader) = job.repository.open_wal(&job.stanza, id, file).await? else { return Ok(false) };
    *content = Some((reader.body.size, reader.body.sha1));
    reader.check(&job.repository).await?;
    job.count(reader.stored_bytes());
    match file {
        WalFileName::Segment(segment) => {
            let size = cluster.wal_segment_size;
            if reader.body.size != size.bytes() || !segment.fits(size) {
                return Err(RepositoryError::Contradiction {
                    place: job.repository.describe(),
                    object: name.to_owned(),
                    reason: format!("its {} bytes are no segment of this cluster", reader.body.size),
                });
            }
        }
        WalFileName::History(timeline) => {
            job.repository.timeline_history(&job.stanza, id, *timeline).await?;
        }
        _ => {}
    }
    Ok(true)
}

/// What was streamed of segments and cannot be read: the end of a recovery would lack it.
fn damaged_parts(job: &Job, cluster: &ClusterBody, parts: &[WalPart]) -> Result<Vec<Finding>, Failure> {
    let id = cluster.archive_id();
    let what = format!("parts of segments in archive {id}");
    let told = job.each(&what, parts, |part| {
        let check =
            || job.wait(job.repository.check_wal_part(&job.stanza, id, part, cluster.wal_segment_size));
        // One that is removed while it is read, because its segment has come, is not there when it is looked at again.
        Ok(match check().or_else(|_| check()) {
            Ok(stored) => {
                job.count(stored.unwrap_or_default());
                None
            }
            Err(error) => Some(job.finding(&layout::wal_part(&job.stanza, id, part), &error)),
        })
    })?;
    Ok(told.into_iter().map(|(_, finding)| finding).collect())
}

/// WAL that was given up, is not there, and is not older than all that is: retention leaves such records behind.
fn dropped(job: &Job, cluster: &ClusterBody, files: &[WalFileName]) -> Result<Vec<Finding>, Failure> {
    let id = cluster.archive_id();
    let size = cluster.wal_segment_size;
    let number = |file: &WalFileName| match file {
        WalFileName::Segment(segment) => Some(segment.segment_number(size)),
        _ => None,
    };
    let oldest = files.iter().filter_map(number).min();
    let mut records = job.wait(job.repository.dropped_wal(&job.stanza, id))?;
    records.retain(|file| number(file) >= oldest && files.binary_search(file).is_err());
    let tell = |file: WalFileName| {
        let name = layout::wal_file(&job.stanza, id, &file);
        match job.wait(job.repository.dropped_record(&job.stanza, id, &file)) {
            Ok(record) => {
                let max =
                    record.map(|record| ByteCount(record.queue_bytes_max).to_string()).unwrap_or_default();
                job.finding(
                    &name,
                    &format!("it was dropped, because more WAL than {max} waited to be archived"),
                )
            }
            Err(error) => job.finding(&name, &error),
        }
    };
    Ok(records.into_iter().map(tell).collect())
}

/// Archives that belong to no cluster that can be read.
fn strangers(job: &Job, clusters: &[ClusterBody]) -> Result<Vec<Finding>, Failure> {
    let prefix = object_key(&layout::wal(&job.stanza));
    let found = job.wait(list_children(job.repository.storage(), Some(&prefix)))?.prefixes;
    let is_known = |name: &str| clusters.iter().any(|cluster| cluster.archive_id().to_string() == name);
    let strange = found.iter().filter(|archive| !is_known(archive.name()));
    Ok(strange
        .map(|archive| job.finding(archive.as_str(), &"it belongs to no cluster of the stanza"))
        .collect())
}

/// Segments from the first to the last.
fn count(first: WalSegmentName, last: WalSegmentName, size: WalSegmentSize) -> u64 {
    last.segment_number(size).saturating_sub(first.segment_number(size)) + 1
}

/// What a backup lacks of the WAL from its start to its stop.
fn missing(job: &Job, archives: &Archives, record: &BackupRecord) -> Vec<Finding> {
    let (Some(first), Some(last)) = (record.wal_start, record.wal_stop) else { return Vec::new() };
    let Some(Archive { cluster, coverage, .. }) = archives.get(&record.cluster) else {
        let place = layout::cluster(&job.stanza, record.cluster);
        return vec![
            job.finding(&place, &format!("backup {} is of this cluster, which cannot be read", record.label)),
        ];
    };
    let size = cluster.wal_segment_size;
    let all = std::iter::successors(Some(first), |segment| Some(segment.next(size)));
    let missing = |segment: &WalSegmentName| coverage.first_missing(*segment, *segment).is_some();
    let tell = |segment: WalSegmentName| {
        let name = layout::wal_file(&job.stanza, cluster.archive_id(), &WalFileName::Segment(segment));
        job.finding(&name, &format!("it is missing or damaged, and backup {} needs it", record.label))
    };
    let count = usize::try_from(count(first, last, size)).unwrap_or(usize::MAX);
    all.take(count).filter(missing).take(MISSING_NAMED_MAX).map(tell).collect()
}
