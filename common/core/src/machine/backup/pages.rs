//! What pages that do not match their checksums mean for the backup that has them.

use super::contents::BackupContents;
use super::{BackupMachine, BackupSpec};
use crate::config::PageErrors;
use crate::failure::{ErrorCode, Failure};
use crate::pg::bad_pages::told_bad_pages;

impl BackupMachine {
    /// Only when all pages were read: who has to mend them wants to know of every one.
    pub(super) fn judge_pages(&self) -> Result<(), Failure> {
        self.contents.as_ref().map_or(Ok(()), |contents| judge(&self.spec, contents))
    }
}

fn judge(spec: &BackupSpec, contents: &BackupContents) -> Result<(), Failure> {
    let told = match spec.page_errors {
        PageErrors::Warn => None,
        PageErrors::Fail => told_bad_pages(&contents.told_bad_pages()),
    };
    told.map_or(Ok(()), |told| {
        Err(Failure::new(ErrorCode::Checksum, told)
            .hint("the server's files are damaged: is the disk healthy? Earlier backups may have these pages intact")
            .hint("--page-errors=warn publishes the backup with a record of them"))
    })
}
