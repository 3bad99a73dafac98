//! PostgreSQL's own `backup_manifest`, for a restored directory that `pg_verifybackup` and `pg_combinebackup` can read.
//!
//! Not here: pgconvoy's manifest, which knows more and lies in the repository.
//!
//! Invariants
//! 1. The text is what the server's own `BASE_BACKUP` would have written for these files, byte for byte.
//! 2. Files pass through one at a time; memory does not grow with their number.
//!
//! Source: `backup/backup_manifest.c`. A path that is no UTF-8 would be an `Encoded-Path`; pgconvoy's paths always are.

use crate::failure::{Classify, ErrorCode};
use crate::ids::SystemId;
use crate::pg::{Lsn, PgVersion, TimelineId};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};

/// One file of the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestFile<'a> {
    /// Relative to the data directory; tablespaces as `pg_tblspc/<oid>/...`.
    pub path: &'a str,
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub modified: i64,
    /// CRC-32C of the contents; without one `pg_verifybackup` compares sizes only.
    pub crc32c: Option<u32>,
}

/// WAL that a restored server must replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    pub timeline: TimelineId,
    pub start: Lsn,
    pub end: Lsn,
}

/// Why no manifest came out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupManifestError {
    #[error("PostgreSQL {version} has no backup_manifest")]
    Version { version: PgVersion },
    #[error("file '{path}' was modified {seconds} seconds after 1970, which is no date")]
    Time { path: String, seconds: i64 },
    #[error("the backup_manifest could not be written")]
    Write(#[from] fmt::Error),
}

impl Classify for BackupManifestError {
    fn code(&self) -> ErrorCode {
        match self {
            BackupManifestError::Version { .. } => ErrorCode::NotSupported,
            BackupManifestError::Time { .. } => ErrorCode::Format,
            BackupManifestError::Write(_) => ErrorCode::FileWrite,
        }
    }
}

/// Writes the manifest piece by piece.
pub fn write_backup_manifest<'a, W: Write>(
    out: &mut W,
    version: PgVersion,
    system_id: SystemId,
    files: impl IntoIterator<Item = ManifestFile<'a>>,
    ranges: &[WalRange],
) -> Result<(), BackupManifestError> {
    if !version.has_backup_manifest() {
        return Err(BackupManifestError::Version { version });
    }
    let mut hashing = Hashing { out, sha256: Sha256::new() };
    if version >= PgVersion::V17 {
        write!(
            hashing,
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_id},\n"
        )?;
    } else {
        hashing.write_str("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n")?;
    }
    hashing.write_str("\"Files\": [")?;
    for (index, file) in files.into_iter().enumerate() {
        hashing.write_str(if index == 0 { "\n" } else { ",\n" })?;
        write_file(&mut hashing, &file)?;
    }
    hashing.write_str("\n],\n\"WAL-Ranges\": [\n")?;
    for (index, WalRange { timeline, start, end }) in ranges.iter().enumerate() {
        let separator = if index == 0 { "" } else { ",\n" };
        write!(
            hashing,
            "{separator}{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
        )?;
    }
    hashing.write_str("\n],\n")?;
    let Hashing { out, sha256 } = hashing;
    out.write_str("\"Manifest-Checksum\": \"")?;
    write_hex(out, &sha256.finalize())?;
    out.write_str("\"}\n")?;
    Ok(())
}

fn write_file(out: &mut impl Write, file: &ManifestFile<'_>) -> Result<(), BackupManifestError> {
    let modified = jiff::Timestamp::from_second(file.modified)
        .map_err(|_| BackupManifestError::Time { path: file.path.to_owned(), seconds: file.modified })?;
    out.write_str("{ \"Path\": ")?;
    write_json_string(out, file.path)?;
    write!(
        out,
        ", \"Size\": {}, \"Last-Modified\": \"{} GMT\"",
        file.size_bytes,
        modified.strftime("%Y-%m-%d %H:%M:%S")
    )?;
    if let Some(crc) = file.crc32c {
        out.write_str(", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"")?;
        // PostgreSQL prints the CRC's bytes as they lie in memory.
        write_hex(out, &crc.to_le_bytes())?;
        out.write_str("\"")?;
    }
    out.write_str(" }")?;
    Ok(())
}

/// The escapes of PostgreSQL's `escape_json`.
fn write_json_string(out: &mut impl Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '"' | '\\' => write!(out, "\\{character}")?,
            control if control < ' ' => write!(out, "\\u{:04x}", u32::from(control))?,
            plain => out.write_char(plain)?,
        }
    }
    out.write_char('"')
}

fn write_hex(out: &mut impl Write, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// Passes text on and hashes it, up to the line that holds the hash.
struct Hashing<'a, W> {
    out: &'a mut W,
    sha256: Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.sha256.update(text.as_bytes());
        self.out.write_str(text)
    }
}

#[cfg(test)]
mod tests;
