//! What came of a synchronisation, and how it is shown.

use super::object::Written;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::layout::ArchiveId;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::units::ByteCount;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncStatus {
    Copied,
    Present,
    /// The label is another backup's in the target.
    Conflict,
    /// The target has given it up.
    Void,
    /// What it refers to is not in the target.
    LeftOut,
    /// A backup is being written there under this label.
    Busy,
    Error,
}

impl SyncStatus {
    pub const fn name(self) -> &'static str {
        match self {
            SyncStatus::Copied => "copied",
            SyncStatus::Present => "present",
            SyncStatus::Conflict => "conflict",
            SyncStatus::Void => "void",
            SyncStatus::LeftOut => "left-out",
            SyncStatus::Busy => "busy",
            SyncStatus::Error => "error",
        }
    }
}

/// Things that were copied, and those that were there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub copied: u64,
    pub present: u64,
}

impl Counted {
    fn add(&mut self, is_new: bool) {
        if is_new { self.copied += 1 } else { self.present += 1 }
    }

    fn json(self) -> Value {
        json!({"copied": self.copied, "present": self.present})
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSync {
    pub label: BackupLabel,
    pub status: SyncStatus,
    pub reason: Option<String>,
    pub packs: Counted,
    /// Plans, stop records, the manifest.
    pub objects: Counted,
    /// That were written to the target.
    pub bytes: u64,
    /// Those of them that the store copied by itself.
    pub bytes_by_store: u64,
}

impl BackupSync {
    pub(super) fn of(label: BackupLabel, status: SyncStatus, reason: Option<String>) -> BackupSync {
        let (packs, objects) = (Counted::default(), Counted::default());
        BackupSync { label, status, reason, packs, objects, bytes: 0, bytes_by_store: 0 }
    }

    /// `None`: it was there.
    pub(super) fn add_object(&mut self, written: Option<Written>) {
        self.objects.add(written.is_some());
        self.add(written.unwrap_or_default());
    }

    pub(super) fn add_pack(&mut self, written: Option<Written>) {
        self.packs.add(written.is_some());
        self.add(written.unwrap_or_default());
    }

    fn add(&mut self, written: Written) {
        self.bytes += written.bytes;
        self.bytes_by_store += written.bytes_by_store;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSync {
    pub id: String,
    pub files: u64,
    pub parts: u64,
    /// Files that somebody else has brought meanwhile.
    pub present: u64,
    pub bytes: u64,
    /// Those of them that the store copied by itself.
    pub bytes_by_store: u64,
}

impl ArchiveSync {
    pub(super) fn new(id: ArchiveId) -> ArchiveSync {
        ArchiveSync { id: id.to_string(), files: 0, parts: 0, present: 0, bytes: 0, bytes_by_store: 0 }
    }

    pub(super) fn add_file(&mut self, written: Written) {
        self.files += 1;
        self.add(written);
    }

    pub(super) fn add_part(&mut self, written: Written) {
        self.parts += 1;
        self.add(written);
    }

    fn add(&mut self, written: Written) {
        self.bytes += written.bytes;
        self.bytes_by_store += written.bytes_by_store;
    }
}

/// So many errors are told; the others are counted, and logged as they come.
pub(super) const ERRORS_TOLD: usize = 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReport {
    pub from: RepoKey,
    pub to: RepoKey,
    pub stanza: StanzaName,
    /// In the order in which they were copied.
    pub backups: Vec<BackupSync>,
    /// Those that lacked something.
    pub archives: Vec<ArchiveSync>,
    /// The first ones.
    pub errors: Vec<Failure>,
    /// How many more there were.
    pub errors_untold: usize,
    codes: BTreeSet<ErrorCode>,
    /// Why it ended before all was tried.
    pub ended_by: Option<Failure>,
}

impl SyncReport {
    pub(super) fn new(from: RepoKey, to: RepoKey, stanza: &StanzaName) -> SyncReport {
        SyncReport {
            from,
            to,
            stanza: stanza.clone(),
            backups: Vec::new(),
            archives: Vec::new(),
            errors: Vec::new(),
            errors_untold: 0,
            codes: BTreeSet::new(),
            ended_by: None,
        }
    }

    pub(super) fn add_error(&mut self, failure: Failure) {
        self.codes.insert(failure.code);
        if self.errors.len() < ERRORS_TOLD {
            self.errors.push(failure);
        } else {
            tracing::warn!("[{}] {failure}", failure.code);
            self.errors_untold += 1;
        }
    }

    /// How the command ends.
    pub fn verdict(&self) -> Result<(), Failure> {
        if let Some(failure) = &self.ended_by {
            return Err(failure.clone());
        }
        let Some(first) = self.told_by_verdict().and_then(|number| self.errors.get(number)) else {
            return Ok(());
        };
        let mut failure = Failure { code: self.code(), ..first.clone() };
        let others = self.errors.len() - 1 + self.errors_untold;
        if others > 0 {
            failure.message = format!("{} (and {others} more)", first.message);
        }
        Err(failure)
    }

    /// Errors that are kept here and that the verdict does not tell.
    pub fn others(&self) -> impl Iterator<Item = &Failure> {
        let told = self.told_by_verdict().filter(|_| self.ended_by.is_none());
        self.errors
            .iter()
            .enumerate()
            .filter(move |(number, _)| Some(*number) != told)
            .map(|(_, error)| error)
    }

    fn told_by_verdict(&self) -> Option<usize> {
        let code = self.code();
        let fitting = self.errors.iter().position(|failure| failure.code == code);
        fitting.or((!self.errors.is_empty()).then_some(0))
    }

    /// What is left out for another's sake does not hide the cause.
    fn code(&self) -> ErrorCode {
        let mut causes = self.codes.iter().filter(|code| **code != ErrorCode::Command);
        match (causes.next(), causes.next()) {
            (Some(only), None) => *only,
            _ => ErrorCode::Command,
        }
    }

    pub fn to_json(&self) -> Value {
        let backup = |backup: &BackupSync| {
            json!({
                "label": backup.label.to_string(),
                "status": backup.status.name(),
                "bytes": backup.bytes,
                "bytes-by-store": backup.bytes_by_store,
                "packs": backup.packs.json(),
                "objects": backup.objects.json(),
                "reason": backup.reason,
            })
        };
        let archive = |archive: &ArchiveSync| {
            json!({
                "id": archive.id,
                "files": archive.files,
                "parts": archive.parts,
                "present": archive.present,
                "bytes": archive.bytes,
                "bytes-by-store": archive.bytes_by_store,
            })
        };
        let error = |failure: &Failure| json!({"code": failure.code.number(), "message": failure.message});
        let untold = (self.errors_untold > 0).then(|| {
            Failure::new(
                ErrorCode::Command,
                format!("and {} more errors, which the log tells", self.errors_untold),
            )
        });
        json!({
            "from": self.from.0,
            "to": self.to.0,
            "stanza": self.stanza.as_str(),
            "backup": self.backups.iter().map(backup).collect::<Vec<_>>(),
            "archive": self.archives.iter().map(archive).collect::<Vec<_>>(),
            "errors": self.ended_by.iter().chain(&self.errors).chain(&untold).map(error).collect::<Vec<_>>(),
        })
    }
}

/// All of them in one, under the first one's code.
pub(super) fn together(mut failures: Vec<Failure>) -> Option<Failure> {
    if failures.len() < 2 {
        return failures.pop();
    }
    let mut one = failures[0].clone();
    let told: Vec<&str> = failures.iter().take(ERRORS_TOLD).map(|failure| failure.message.as_str()).collect();
    one.message = told.join("; ");
    if failures.len() > ERRORS_TOLD {
        let _ = write!(one.message, "; and {} more", failures.len() - ERRORS_TOLD);
    }
    Some(one)
}

/// For people, from the JSON: a job's result comes as such.
pub fn json_to_text(result: &Value) -> String {
    let mut text = String::new();
    let bytes = |value: &Value| ByteCount(value["bytes"].as_u64().unwrap_or_default());
    let each = |name: &str| result[name].as_array().map(Vec::as_slice).unwrap_or_default();
    for backup in each("backup") {
        let word = |name: &str| backup[name].as_str().unwrap_or_default();
        let _ = write!(text, "{}: {}", word("label"), word("status"));
        let _ = match word("reason") {
            "" if word("status") == "copied" => {
                let packs = &backup["packs"];
                writeln!(
                    text,
                    ", {} ({} packs, {} were there)",
                    bytes(backup),
                    packs["copied"],
                    packs["present"]
                )
            }
            "" => writeln!(text),
            reason => writeln!(text, ", {reason}"),
        };
    }
    for archive in each("archive") {
        let id = archive["id"].as_str().unwrap_or_default();
        let _ = writeln!(text, "archive {id}: {} WAL files, {}", archive["files"], bytes(archive));
    }
    if text.is_empty() {
        text.push_str("nothing to copy\n");
    }
    let by_store = |value: &Value| value["bytes-by-store"].as_u64().unwrap_or_default();
    let copied: u64 = each("backup").iter().chain(each("archive")).map(by_store).sum();
    if copied > 0 {
        let _ = writeln!(text, "{} of it were copied by the store itself", ByteCount(copied));
    }
    for worker in each("workers") {
        let name = worker["name"].as_str().unwrap_or_default();
        let _ = writeln!(text, "worker {name}: {} objects, {}", worker["objects"], bytes(worker));
    }
    for warning in each("warnings").iter().filter_map(Value::as_str) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::ids::RepoKey;

    fn failures(count: usize) -> impl Iterator<Item = Failure> {
        (0..count).map(|number| Failure::new(ErrorCode::Checksum, format!("pack {number} is damaged")))
    }

    #[test]
    fn of_thousands_of_errors_ten_are_named_and_the_others_counted() -> Result<(), Box<dyn std::error::Error>>
    {
        let mut report = SyncReport::new(RepoKey(1), RepoKey(2), &"main".parse()?);
        failures(10_000).for_each(|failure| report.add_error(failure));
        let told = report.to_json();
        assert_eq!(told["errors"].as_array().map(Vec::len), Some(ERRORS_TOLD + 1));
        assert_eq!(told["errors"][ERRORS_TOLD]["message"], "and 9990 more errors, which the log tells");
        let verdict = report.verdict().err().ok_or("it is no success")?;
        assert_eq!(
            (verdict.code, verdict.message.as_str()),
            (ErrorCode::Checksum, "pack 0 is damaged (and 9999 more)")
        );
        report.add_error(Failure::new(ErrorCode::Crypto, "another key"));
        assert_eq!(report.verdict().err().map(|failure| failure.code), Some(ErrorCode::Command));
        Ok(())
    }

    #[test]
    fn the_verdict_names_a_cause_and_every_other_error_is_told_beside_it()
    -> Result<(), Box<dyn std::error::Error>> {
        let mut report = SyncReport::new(RepoKey(1), RepoKey(2), &"main".parse()?);
        report.add_error(Failure::new(ErrorCode::Command, "left out"));
        failures(2).for_each(|failure| report.add_error(failure));
        let verdict = report.verdict().err().ok_or("it is no success")?;
        assert_eq!(
            (verdict.code, verdict.message.as_str()),
            (ErrorCode::Checksum, "pack 0 is damaged (and 2 more)")
        );
        let others =
            |report: &SyncReport| report.others().map(|error| error.message.clone()).collect::<Vec<_>>();
        assert_eq!(others(&report), ["left out", "pack 1 is damaged"]);
        report.ended_by = Some(Failure::new(ErrorCode::FileWrite, "no space is left"));
        assert_eq!(others(&report), ["left out", "pack 0 is damaged", "pack 1 is damaged"]);
        Ok(())
    }

    #[test]
    fn failures_of_one_backup_are_told_together_in_short() {
        let message = |count| together(failures(count).collect()).map(|failure| failure.message);
        assert_eq!(message(0), None);
        assert_eq!(message(2).as_deref(), Some("pack 0 is damaged; pack 1 is damaged"));
        let many = message(10_000).unwrap_or_default();
        assert!(many.ends_with("pack 9 is damaged; and 9990 more") && many.len() < 1000, "{many}");
    }
}
