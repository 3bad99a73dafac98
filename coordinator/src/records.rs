//! Job records in the lease store: written by the leader only, read by whoever leads next.

use crate::leader::Leadership;
use bytes::Bytes;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::{decode, encode_named};
use pgconvoy_core::machine::backup::Announced;
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::wire::JobId;
use pgconvoy_lease::keys::{JobKeys, specified_job};
use pgconvoy_lease::store::{Expected, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Records of jobs that are over which are kept; older ones go.
pub const FINISHED_JOBS_KEPT: usize = 500;

/// One job's record: the copy in memory and the one in the store change together.
pub struct JobKeeper {
    leadership: Arc<Leadership>,
    keys: JobKeys,
    record: Mutex<JobRecord>,
    /// One change after the other: each is made to what the one before has stored.
    changing: tokio::sync::Mutex<()>,
}

impl JobKeeper {
    pub fn new(leadership: Arc<Leadership>, record: JobRecord) -> Arc<JobKeeper> {
        let keys = job_keys(&leadership, record.id);
        Arc::new(JobKeeper { leadership, keys, record: Mutex::new(record), changing: Default::default() })
    }

    pub fn record(&self) -> JobRecord {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record; nobody sees the change before it is stored.
    pub async fn change(&self, change: impl FnOnce(&mut JobRecord)) -> Result<JobRecord, Failure> {
        let _one_at_a_time = self.changing.lock().await;
        let mut record = self.record();
        change(&mut record);
        let value = Bytes::from(encode_named(&record));
        let write = Write::Put { key: self.keys.spec(), value, expected: Expected::Anything };
        self.leadership.commit(vec![write]).await?;
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record.clone();
        Ok(record)
    }

    pub(crate) async fn announced(&self, announced: Announced) -> Result<(), Failure> {
        let tell = |record: &mut JobRecord| {
            if let Some(begun) = &mut record.begun {
                begun.announced = Some(announced);
            }
        };
        self.change(tell).await.map(|_| ())
    }

    /// Leases and accepted units of a job that is over are of no use any more.
    pub async fn forget_progress(&self) -> Result<(), Failure> {
        let guard = Some(self.leadership.guard());
        self.leadership.leases.delete_prefix(&self.keys.leases(), guard).await?;
        self.leadership.leases.delete_prefix(&self.keys.all_done(), guard).await?;
        Ok(())
    }

    /// As if it had never been.
    pub async fn delete(&self) -> Result<(), Failure> {
        Ok(self.leadership.commit(vec![Write::Delete { key: self.keys.spec() }]).await?)
    }
}

pub(crate) fn job_keys(leadership: &Leadership, job: JobId) -> JobKeys {
    leadership.keys.job(&job.to_string()).expect("a UUID is a valid part of a key")
}

/// Every job that the store knows. One that cannot be read is left alone and told.
pub async fn load(leadership: &Arc<Leadership>) -> Result<Vec<JobRecord>, Failure> {
    let mut records = Vec::new();
    for entry in leadership.list(&leadership.keys.jobs()).await?.entries {
        if specified_job(&leadership.keys, &entry.key).is_none() {
            continue;
        }
        match decode::<JobRecord>("job record", &entry.value) {
            Ok(record) => records.push(record),
            Err(error) => tracing::error!("{} cannot be read: {error}", entry.key),
        }
    }
    Ok(records)
}
