//! The only place where object names are spelled (`FORMAT.md` section 1).
//!
//! Numbers are zero-padded, so that a listing by name is a listing in order.

use super::BackupLabel;
use super::plain::TABLESPACE_LINKS;
use crate::ids::{Attempt, ClusterNumber, KeyGeneration, PlanNumber, StanzaName, UnitId};
use crate::pg::{PgVersion, WalFileName, WalPart};
use serde::{Deserialize, Serialize};
use std::fmt;

pub const REPOSITORY: &str = "pgconvoy.repo";
pub const KEYS: &str = "keys";
/// What names begin with by which a store is tried before there is a repository in it; a creation that died may leave one.
pub const PROBE: &str = "create-only-probe-";

/// Under which a store is tried by `check`.
pub fn trial(stanza: &StanzaName) -> String {
    format!("{stanza}/{TRIAL}")
}

const TRIAL: &str = "check";

pub fn key_generation(generation: KeyGeneration) -> String {
    format!("{KEYS}/{:04}", generation.0)
}

pub fn key_slot(generation: KeyGeneration, slot: &str) -> String {
    format!("{}/{slot}", key_generation(generation))
}

pub fn clusters(stanza: &StanzaName) -> String {
    format!("{stanza}/cluster")
}

pub fn cluster(stanza: &StanzaName, number: ClusterNumber) -> String {
    format!("{stanza}/cluster/{:04}", number.0)
}

pub fn backups(stanza: &StanzaName) -> String {
    format!("{stanza}/backup")
}

pub fn backup(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{stanza}/backup/{label}")
}

/// What a plain repository keeps of a backup until it is published: the files of each attempt, and the directory that is
/// made of them. A name that no label has, so that no listing takes it for a backup.
pub fn partial(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{}{PARTIAL}", backup(stanza, label))
}

/// The label, from the last part of such a name.
pub fn partial_label(name: &str) -> Option<BackupLabel> {
    name.strip_suffix(PARTIAL)?.parse().ok()
}

const PARTIAL: &str = ".partial";

/// The data directory of a backup in a plain repository.
pub fn data(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{}/{DATA}", backup(stanza, label))
}

/// That directory while it is made.
pub fn partial_data(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{}/{DATA}", partial(stanza, label))
}

const DATA: &str = "data";

/// Whether this is where a plain backup has its links to tablespaces: names that lead somewhere, and are no objects.
pub fn holds_links(name: &str) -> bool {
    let mut parts = name.rsplit('/');
    let is_backup = |name: &str| name.parse::<BackupLabel>().is_ok() || partial_label(name).is_some();
    parts.next() == Some(TABLESPACE_LINKS)
        && parts.next() == Some(DATA)
        && parts.next().is_some_and(is_backup)
        && parts.next() == Some("backup")
}

pub fn plan(stanza: &StanzaName, label: BackupLabel, plan: PlanNumber) -> String {
    format!("{}/plan-{:04}", backup(stanza, label), plan.0)
}

/// The number of a plan, from the last part of its name.
pub fn plan_number(name: &str) -> Option<PlanNumber> {
    name.strip_prefix("plan-")?.parse().ok().map(PlanNumber)
}

/// The last part of a manifest's name.
pub const MANIFEST: &str = "manifest";

pub fn packs(stanza: &StanzaName, label: BackupLabel, plan: PlanNumber) -> String {
    format!("{}/pack/{:04}", backup(stanza, label), plan.0)
}

const HEARTBEAT: &str = "heartbeat";

pub fn heartbeats(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{}/{HEARTBEAT}", backup(stanza, label))
}

pub fn heartbeat(stanza: &StanzaName, label: BackupLabel, plan: PlanNumber, sequence: u64) -> String {
    format!("{}/{:04}-{sequence:08}", heartbeats(stanza, label), plan.0)
}

/// The last part of the name of what says that a backup is being copied here.
pub const COPY: &str = "copy";

pub fn copy(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{}/{COPY}", backup(stanza, label))
}

pub fn stop(stanza: &StanzaName, label: BackupLabel, plan: PlanNumber) -> String {
    format!("{}/stop-{:04}", backup(stanza, label), plan.0)
}

pub fn manifest(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{}/{MANIFEST}", backup(stanza, label))
}

pub fn catalogue(stanza: &StanzaName) -> String {
    format!("{stanza}/catalogue")
}

pub fn catalogue_entry(stanza: &StanzaName, label: BackupLabel) -> String {
    format!("{stanza}/catalogue/{label}")
}

pub fn wal(stanza: &StanzaName) -> String {
    format!("{stanza}/wal")
}

/// `15-1`: the archive of one cluster of a stanza, pgBackRest's archive id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArchiveId {
    pub version: PgVersion,
    pub number: ClusterNumber,
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.version, self.number)
    }
}

pub fn archive(stanza: &StanzaName, archive: ArchiveId) -> String {
    format!("{}/{archive}", wal(stanza))
}

/// Segments, their partial forms and backup history files lie under timeline and log number; a history file under its
/// timeline alone, whose directory sorts before every segment's of that timeline.
pub fn wal_file(stanza: &StanzaName, archive_id: ArchiveId, file: &WalFileName) -> String {
    let name = file.to_string();
    let directory = if name.len() >= 16 { &name[..16] } else { &name };
    let directory = directory.split('.').next().unwrap_or(directory);
    format!("{}/{directory}/{name}", archive(stanza, archive_id))
}

/// Beside its segment, under a name that is no WAL file's.
pub fn wal_part(stanza: &StanzaName, archive_id: ArchiveId, part: &WalPart) -> String {
    format!("{}/{}/{part}", archive(stanza, archive_id), part.segment().directory())
}

/// Records of WAL that was dropped, by archive. Beside the archive, so that what lies there is WAL and nothing else.
pub fn dropped(stanza: &StanzaName, archive: ArchiveId) -> String {
    format!("{stanza}/dropped/{archive}")
}

pub fn dropped_file(stanza: &StanzaName, archive_id: ArchiveId, file: &WalFileName) -> String {
    format!("{}/{file}", dropped(stanza, archive_id))
}

/// Whether an object stays as long as what it belongs to is wanted: then a store may be told to let nobody remove it earlier.
/// Others are removed in ordinary running: what tries a store, signs of life, marks of copies, streamed parts of WAL segments.
///
/// Key slots last. Whoever could remove them would need nothing else to make all backups unreadable.
pub fn is_lasting(name: &str) -> bool {
    match name.split('/').collect::<Vec<_>>()[..] {
        [probe, ..] if probe.starts_with(PROBE) => false,
        [_, TRIAL, ..] | [_, "backup", _, HEARTBEAT, ..] | [_, "backup", _, COPY] => false,
        [_, "wal", _, _, file] => file.parse::<WalPart>().is_err(),
        _ => true,
    }
}

/// Which pack of which backup: what a manifest refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackName {
    pub label: BackupLabel,
    pub plan: PlanNumber,
    pub unit: UnitId,
    pub attempt: Attempt,
}

impl PackName {
    pub fn key(&self, stanza: &StanzaName) -> String {
        let packs = packs(stanza, self.label, self.plan);
        format!("{packs}/{:06}-{:03}", self.unit.0, self.attempt.0)
    }

    /// Where the files of such an attempt lie in a plain repository until the backup is published.
    pub fn files(&self, stanza: &StanzaName) -> String {
        let partial = partial(stanza, self.label);
        format!("{partial}/{:04}/{:06}-{:03}", self.plan.0, self.unit.0, self.attempt.0)
    }

    /// From the last part of its name.
    pub fn parse(label: BackupLabel, plan: PlanNumber, name: &str) -> Option<PackName> {
        let (unit, attempt) = name.split_once('-')?;
        let (unit, attempt) = (UnitId(unit.parse().ok()?), Attempt(attempt.parse().ok()?));
        Some(PackName { label, plan, unit, attempt })
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}/{:06}-{:03}", self.plan.0, self.unit.0, self.attempt.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
    use super::*;

    #[test]
    fn only_what_ordinary_running_removes_does_not_last() {
        let stanza: StanzaName = "main".parse().unwrap();
        let label: BackupLabel = "20261126-120000F".parse().unwrap();
        let archive_id = ArchiveId { version: PgVersion::V15, number: ClusterNumber(1) };
        let part: WalPart =
            "000000010000000000000001.partial-0000000001000000-0000000001000100".parse().unwrap();
        let wal = |name: &str| wal_file(&stanza, archive_id, &name.parse().unwrap());
        let pack = PackName { label, plan: PlanNumber(1), unit: UnitId(1), attempt: Attempt(1) }.key(&stanza);
        for lasting in [
            REPOSITORY.to_owned(),
            key_slot(KeyGeneration(1), "main"),
            cluster(&stanza, ClusterNumber(1)),
            plan(&stanza, label, PlanNumber(1)),
            pack,
            stop(&stanza, label, PlanNumber(1)),
            manifest(&stanza, label),
            catalogue_entry(&stanza, label),
            wal("000000010000000000000001"),
            wal("000000010000000000000001.partial"),
            wal("00000002.history"),
            dropped_file(&stanza, archive_id, &"000000010000000000000001".parse().unwrap()),
        ] {
            assert!(is_lasting(&lasting), "{lasting}");
        }
        for brief in [
            format!("{PROBE}0123/4567"),
            format!("{}/4567", trial(&stanza)),
            heartbeat(&stanza, label, PlanNumber(1), 7),
            copy(&stanza, label),
            wal_part(&stanza, archive_id, &part),
        ] {
            assert!(!is_lasting(&brief), "{brief}");
        }
    }
}
