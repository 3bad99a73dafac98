//! The `backup_label` that the stop function returns, which a restored cluster recovers by.
//!
//! The text itself is stored and restored byte for byte; what is parsed here only answers questions about it. Lines that
//! nobody asks for are passed over, so a `.backup` history file, which repeats the label's lines, can be read as well.
//!
//! Source: `access/xlogbackup.c` (`build_backup_content`), `access/xlogrecovery.c` (`read_backup_label`).

use crate::pg::{Lsn, PgFormatError, TimelineId, WalSegmentName};

/// What a `backup_label` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabelFile {
    /// Where replay begins: the redo position of the backup's checkpoint.
    pub start: Lsn,
    /// The segment that `start` lies in.
    pub start_segment: WalSegmentName,
    /// The backup's checkpoint record.
    pub checkpoint: Lsn,
    /// `streamed`; `pg_start_backup` wrote it for exclusive backups too, before 15.
    pub method: String,
    /// `primary` (before 14 `master`) or `standby`.
    pub from: String,
    /// In the server's log time zone; for people.
    pub start_time: String,
    /// What the caller of the start function named the backup.
    pub label: String,
    /// Since 11.
    pub start_timeline: Option<TimelineId>,
    /// Since 17, in what `pg_basebackup --incremental` took: PostgreSQL does not start from such a directory.
    pub incremental_from: Option<Lsn>,
}

const WHAT: &str = "backup_label";

impl BackupLabelFile {
    pub fn parse(text: &str) -> Result<Self, PgFormatError> {
        let (start, file) = required(text, "START WAL LOCATION: ", "it has no START WAL LOCATION")?
            .split_once(" (file ")
            .ok_or_else(|| PgFormatError::new(WHAT, text, "its START WAL LOCATION names no file"))?;
        let file = file.strip_suffix(')').unwrap_or(file);
        let start_timeline = match value(text, "START TIMELINE: ") {
            None => None,
            Some(number) => Some(TimelineId(
                number
                    .parse()
                    .map_err(|_| PgFormatError::new(WHAT, number, "its START TIMELINE is no number"))?,
            )),
        };
        let label = BackupLabelFile {
            start: start.parse()?,
            start_segment: file.parse()?,
            checkpoint: required(text, "CHECKPOINT LOCATION: ", "it has no CHECKPOINT LOCATION")?.parse()?,
            method: required(text, "BACKUP METHOD: ", "it has no BACKUP METHOD")?.to_owned(),
            from: required(text, "BACKUP FROM: ", "it has no BACKUP FROM")?.to_owned(),
            start_time: required(text, "START TIME: ", "it has no START TIME")?.to_owned(),
            label: required(text, "LABEL: ", "it has no LABEL")?.to_owned(),
            start_timeline,
            incremental_from: value(text, "INCREMENTAL FROM LSN: ").map(str::parse).transpose()?,
        };
        if label.start_timeline.is_some_and(|timeline| timeline != label.start_segment.timeline()) {
            return Err(PgFormatError::new(
                WHAT,
                text,
                "its START TIMELINE is not that of its START WAL LOCATION",
            ));
        }
        Ok(label)
    }

    pub fn timeline(&self) -> TimelineId {
        self.start_segment.timeline()
    }
}

/// What follows `key` on the first line that begins with it.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))
}

fn required<'a>(text: &'a str, key: &str, missing: &'static str) -> Result<&'a str, PgFormatError> {
    value(text, key).ok_or_else(|| PgFormatError::new(WHAT, text, missing))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    const OF_10: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: master\nSTART TIME: 2026-11-23 08:35:27 UTC\nLABEL: nightly \"x\"\n";
    const OF_18: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000080\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-23 08:35:32 UTC\nLABEL: nightly \"x\"\nSTART TIMELINE: 1\n";

    #[test]
    fn what_servers_of_10_and_18_returned_is_understood() {
        let label = BackupLabelFile::parse(OF_18).unwrap();
        assert_eq!((label.start, label.checkpoint), (Lsn(0x200_0028), Lsn(0x200_0080)));
        assert_eq!(label.start_segment.to_string(), "000000010000000000000002");
        assert_eq!((label.label.as_str(), label.from.as_str()), ("nightly \"x\"", "primary"));
        assert_eq!((label.start_timeline, label.incremental_from), (Some(TimelineId(1)), None));
        let label = BackupLabelFile::parse(OF_10).unwrap();
        assert_eq!(
            (label.start_timeline, label.timeline(), label.from.as_str()),
            (None, TimelineId(1), "master")
        );
    }

    #[test]
    fn a_server_that_contradicts_itself_about_the_timeline_is_not_believed() {
        let text = OF_18.replace("START TIMELINE: 1", "START TIMELINE: 2");
        assert!(BackupLabelFile::parse(&text).unwrap_err().reason.contains("START TIMELINE"));
    }

    #[test]
    fn every_line_but_the_timeline_is_needed() {
        for missing in 0..6 {
            let lines = OF_18.lines().enumerate().filter(|(index, _)| *index != missing);
            let text: String = lines.map(|(_, line)| format!("{line}\n")).collect();
            assert!(BackupLabelFile::parse(&text).is_err(), "without line {missing}");
        }
    }

    #[test]
    fn an_incremental_of_pg_basebackup_is_recognised() {
        let text = format!("{OF_18}INCREMENTAL FROM LSN: 1/ABCD0028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(BackupLabelFile::parse(&text).unwrap().incremental_from, Some(Lsn(0x1_ABCD_0028)));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "((START WAL LOCATION|LABEL|START TIMELINE|CHECKPOINT LOCATION): [0-9A-F/() file]{0,40}\n|\\PC{0,9}){0,6}") {
            let _ = BackupLabelFile::parse(&text);
        }
    }
}
