//! Object Lock: what a put says of it, and whether the bucket can keep it.
//!
//! S3 takes a put with a retention only if its body is guarded by a checksum, which every body here is (its MD5). A bucket that
//! has no Object Lock refuses such puts; servers that know nothing of it may ignore the headers, so the bucket is asked.

use crate::errors::{Answer, Outcome};
use crate::store::S3Storage;
use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockMode};
use aws_smithy_types::DateTime;
use pgconvoy_storage::{IoAction, LockMode, LockProof, ObjectKey, StorageError};
use std::time::SystemTime;

/// As headers of a put.
pub(crate) struct Retention {
    pub mode: ObjectLockMode,
    pub until: DateTime,
}

pub(crate) fn headers(retention: Option<Retention>) -> (Option<ObjectLockMode>, Option<DateTime>) {
    retention.map(|retention| (retention.mode, retention.until)).unzip()
}

impl S3Storage {
    /// What a put of this object says; `None`: nothing.
    pub(crate) fn retention(&self, key: &ObjectKey) -> Option<Retention> {
        let lock = self.keeping.lock.as_ref()?;
        let until = lock.until(key, SystemTime::now())?;
        let mode = match lock.mode {
            LockMode::Governance => ObjectLockMode::Governance,
            LockMode::Compliance => ObjectLockMode::Compliance,
        };
        Some(Retention { mode, until: until.into() })
    }

    pub(crate) async fn look_at_lock(&self) -> Result<LockProof, StorageError> {
        let Some(lock) = &self.keeping.lock else { return Ok(LockProof::NotAsked) };
        let at = self.place(None);
        let request = self.client.get_object_lock_configuration().bucket(&self.asker.bucket);
        let mut answered = None;
        let ask = async {
            match self.judged(&at, IoAction::Use, Box::pin(request.send()).await) {
                Ok(found) => Ok(found.object_lock_configuration),
                Err(Outcome::Answered(answer)) if is_final(&answer) => {
                    answered = Some(answer);
                    Ok(None)
                }
                Err(outcome) => Err(self.sorted(&at, IoAction::Use, outcome)),
            }
        };
        let found = self.pace.run(ask).await?;
        if let Some(answer) = answered.filter(|answer| answer.status == 403) {
            let reason = "the credentials lack s3:GetBucketObjectLockConfiguration";
            return Ok(LockProof::Untold(format!("{reason}: {}", answer.words())));
        }
        match found.and_then(|found| found.object_lock_enabled) {
            Some(ObjectLockEnabled::Enabled) => Ok(LockProof::Kept(lock.words())),
            _ => Err(self.asker.without_lock(at)),
        }
    }
}

/// No other answer is to be had by asking again.
fn is_final(answer: &Answer) -> bool {
    answer.code == "ObjectLockConfigurationNotFoundError"
        || answer.code == "NotImplemented"
        || answer.status == 501
        || answer.status == 403 && answer.code == "AccessDenied"
}
