//! A manifest: the head (in the footer) and the records (in the frames), `FORMAT.md` section 5.
//!
//! Records are read and written one at a time: a cluster of a million files needs no million records in memory.

use super::{BackupKind, BackupLabel, BlockHash, FormatError, HashSecret, decode_next, layout::PackName};
use crate::ids::{Attempt, Identity, Oid, PlanNumber, UnitId, WorkerName};
use crate::pg::{Lsn, PgVersion, RelativePath, TimelineId, WalSegmentName};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// What a manifest says once. Lists that records index into come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ManifestHead {
    pub label: BackupLabel,
    pub backup: Identity,
    pub kind: BackupKind,
    pub prior: Option<BackupLabel>,
    pub references: Vec<BackupLabel>,
    pub workers: Vec<WorkerName>,
    pub users: Vec<String>,
    pub groups: Vec<String>,
    pub version: PgVersion,
    pub catalog_version: u32,
    pub page_size: u32,
    pub online: bool,
    pub checksums: bool,
    pub started: Timestamp,
    pub stopped: Timestamp,
    pub timeline: TimelineId,
    pub lsn_start: Option<Lsn>,
    pub lsn_stop: Option<Lsn>,
    pub wal_start: Option<WalSegmentName>,
    pub wal_stop: Option<WalSegmentName>,
    pub tablespaces: Vec<Tablespace>,
    pub databases: Vec<Database>,
    pub records: u64,
    pub files: u64,
    pub bytes: u64,
    /// As PostgreSQL returned it; absent in an offline backup.
    pub backup_label: Option<String>,
    /// As PostgreSQL returned it. Kept for the record, never written by a restore.
    pub tablespace_map: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tablespace {
    pub oid: Oid,
    pub name: String,
    /// Where its link pointed to when the backup was made.
    pub destination: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Database {
    pub oid: Oid,
    pub name: String,
}

/// Who may do what with a file; indices into the head's lists (`NO_OWNER`: the name was not known).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    pub mode: u16,
    pub user: u16,
    pub group: u16,
}

pub const NO_OWNER: u16 = u16::MAX;

/// Where a part of a file lies. Stored as an array; see `FORMAT.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRecord {
    pub offset: u64,
    pub length: u64,
    /// 0 is this backup, k is `references[k - 1]`.
    pub label: u32,
    pub plan: PlanNumber,
    pub unit: UnitId,
    pub attempt: Attempt,
    /// Index of the range in its pack's footer.
    pub place: u32,
    pub worker: u16,
    pub slot: u16,
}

impl RangeRecord {
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub path: RelativePath,
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    pub ownership: Ownership,
    pub checksum: BlockHash,
    pub ranges: Vec<RangeRecord>,
    pub bad_pages: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryRecord {
    pub path: RelativePath,
    pub ownership: Ownership,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    pub path: RelativePath,
    pub destination: String,
    pub ownership: Ownership,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Directory(DirectoryRecord),
    Link(LinkRecord),
    File(FileRecord),
}

const DIRECTORY: u8 = 0;
const LINK: u8 = 1;
const FILE: u8 = 2;

impl Record {
    pub fn path(&self) -> &RelativePath {
        match self {
            Record::Directory(directory) => &directory.path,
            Record::Link(link) => &link.path,
            Record::File(file) => &file.path,
        }
    }

    /// Appends the record to a frame's raw content.
    pub fn encode(&self, out: &mut Vec<u8>) {
        fn write<T: Serialize>(out: &mut Vec<u8>, value: &T) {
            value
                .serialize(&mut rmp_serde::Serializer::new(out))
                .expect("the types of this module always serialise into memory");
        }
        match self {
            Record::Directory(directory) => write(out, &(DIRECTORY, directory)),
            Record::Link(link) => write(out, &(LINK, link)),
            Record::File(file) => write(out, &(FILE, file)),
        }
    }

    /// Takes the next record off a frame's raw content.
    pub fn decode_next(bytes: &mut &[u8]) -> Result<Record, FormatError> {
        const WHAT: &str = "manifest record";
        // The array's head (one byte) and the type (one byte) tell which shape follows.
        let kind = *bytes.get(1).ok_or(FormatError::Short { what: WHAT, found: bytes.len() })?;
        Ok(match kind {
            DIRECTORY => Record::Directory(decode_next::<(u8, DirectoryRecord)>(WHAT, bytes)?.1),
            LINK => Record::Link(decode_next::<(u8, LinkRecord)>(WHAT, bytes)?.1),
            FILE => Record::File(decode_next::<(u8, FileRecord)>(WHAT, bytes)?.1),
            other => {
                return Err(FormatError::Inconsistent {
                    what: WHAT,
                    reason: format!("unknown record type {other}"),
                });
            }
        })
    }

    /// Checks a record against the head that came with it: a reader may then index without fear.
    pub fn validate(&self, head: &ManifestHead) -> Result<(), FormatError> {
        let Record::File(file) = self else { return Ok(()) };
        let inconsistent = |reason: &str| FormatError::Inconsistent {
            what: "manifest record",
            reason: format!("{}: {reason}", file.path),
        };
        let mut end = 0;
        for range in &file.ranges {
            if range.label as usize > head.references.len() {
                return Err(inconsistent("a range refers to a label that is not listed"));
            }
            if range.offset < end || range.end() > file.size {
                return Err(inconsistent("its ranges overlap or reach beyond its size"));
            }
            end = range.end();
        }
        if end != file.size {
            return Err(inconsistent("its size is not the end of its last range"));
        }
        Ok(())
    }
}

impl ManifestHead {
    /// The pack that holds a range; `None` if its label is not listed (see [`Record::validate`]).
    pub fn pack_of(&self, range: &RangeRecord) -> Option<PackName> {
        let label = match range.label {
            0 => self.label,
            k => *self.references.get(k as usize - 1)?,
        };
        Some(PackName { label, plan: range.plan, unit: range.unit, attempt: range.attempt })
    }
}

/// The checksum of a file from those of its ranges in order of offset.
pub fn file_checksum(secret: &HashSecret, ranges: &[BlockHash]) -> BlockHash {
    match ranges {
        [only] => *only,
        many => {
            let joined: Vec<u8> = many.iter().flat_map(|hash| hash.0).collect();
            secret.hash(&joined)
        }
    }
}
