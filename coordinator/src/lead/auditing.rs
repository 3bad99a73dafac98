//! What people ask of this leadership is written down by it.

use super::{Caller, Lead};
use crate::actors::backup::now;
use crate::audit::{self, Entry};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::record::AuditRecord;
use std::sync::atomic::Ordering;

/// Records between two looks at how many there are.
const RECORDS_PER_TRIM: usize = 250;

impl Lead {
    /// Before it is done: what is not written down is not done.
    pub async fn audit_begin(&self, caller: &Caller, what: &str, object: &str) -> Result<Entry, Failure> {
        let entry = Entry::asked(caller, what, object, now(), (self.deps.identity)()?);
        self.write_down(&entry).await?;
        Ok(entry)
    }

    /// `Err`: why it was not done. The deed stands, whether this can be written or not.
    pub async fn audit_end(&self, entry: Entry, outcome: Result<(), ErrorCode>) {
        let entry = match outcome {
            Ok(()) => entry.done(),
            Err(code) => entry.refused(code),
        };
        if let Err(failure) = self.write_down(&entry).await {
            tracing::warn!("the outcome of a deed was not written to the audit: {failure}");
        }
    }

    /// What is not even begun.
    pub async fn audit_refusal(&self, caller: &Caller, what: &str, object: &str, code: ErrorCode) {
        let written = async {
            let entry = Entry::asked(caller, what, object, now(), (self.deps.identity)()?);
            self.write_down(&entry.refused(code)).await
        };
        if let Err(failure) = written.await {
            tracing::warn!("a refusal was not written to the audit: {failure}");
        }
    }

    pub async fn audits(&self) -> Result<Vec<AuditRecord>, Failure> {
        audit::list(&self.deps.leadership).await
    }

    async fn write_down(&self, entry: &Entry) -> Result<(), Failure> {
        let leadership = &self.deps.leadership;
        leadership.commit(vec![entry.write(&leadership.keys)?]).await?;
        if self.audited.fetch_add(1, Ordering::Relaxed) % RECORDS_PER_TRIM == RECORDS_PER_TRIM - 1 {
            audit::trim(leadership).await?;
        }
        Ok(())
    }
}
