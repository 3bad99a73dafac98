//! Old versions, for views of the past: `ListObjectVersions` and reads by version.
//!
//! Objects and marks of deletion come in lists of their own, each the newest first of a key; times are whole seconds.

use crate::store::{S3Storage, moment};
use async_trait::async_trait;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use bytes::Bytes;
use pgconvoy_storage::versions::{Version, VersionedStore, Versions};
use pgconvoy_storage::{IoAction, ObjectKey, Place, StorageError};
use std::ops::Range;

/// Where a page begins: behind this version of this key.
#[derive(Debug, Default)]
struct Marker {
    key: Option<String>,
    version: Option<String>,
}

impl S3Storage {
    /// All versions of what lies directly under names that begin so.
    async fn all_versions(&self, at: &Place, begin: String) -> Result<Versions, StorageError> {
        let mut found = Versions::default();
        let mut marker = Marker::default();
        loop {
            let request = self
                .client
                .list_object_versions()
                .bucket(&self.asker.bucket)
                .prefix(&begin)
                .delimiter("/")
                .set_key_marker(marker.key.take())
                .set_version_id_marker(marker.version.take())
                .set_request_payer(self.payer.clone());
            let page = self.ask(at, IoAction::List, Box::pin(request.send())).await?;
            self.note(&page, &mut found);
            if page.is_truncated() != Some(true) {
                found.prefixes.sort();
                found.prefixes.dedup();
                return Ok(found);
            }
            marker = Marker { key: page.next_key_marker, version: page.next_version_id_marker };
            if marker.key.is_none() {
                let reason = "the store says that a listing goes on, but not how".to_owned();
                return Err(StorageError::NotSupported { at: at.clone(), reason });
            }
        }
    }

    fn note(&self, page: &ListObjectVersionsOutput, found: &mut Versions) {
        let objects = page.versions().iter().filter_map(|version| {
            let size = version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            Some(Version {
                key: self.key(version.key()?)?,
                id: version.version_id().unwrap_or_default().to_owned(),
                since: moment(version.last_modified())?,
                until: None,
                size: Some(size),
            })
        });
        let marks = page.delete_markers().iter().filter_map(|mark| {
            Some(Version {
                key: self.key(mark.key()?)?,
                id: mark.version_id().unwrap_or_default().to_owned(),
                since: moment(mark.last_modified())?,
                until: None,
                size: None,
            })
        });
        found.objects.extend(objects.chain(marks));
        let prefixes = page.common_prefixes().iter();
        found.prefixes.extend(prefixes.filter_map(|prefix| self.key(prefix.prefix()?.strip_suffix('/')?)));
    }
}

#[async_trait]
impl VersionedStore for S3Storage {
    fn describe(&self) -> String {
        self.description.to_string()
    }

    async fn versions_under(&self, prefix: Option<&ObjectKey>) -> Result<Versions, StorageError> {
        self.all_versions(&self.place(prefix), self.names_under(prefix)).await
    }

    async fn versions_of(&self, key: &ObjectKey) -> Result<Vec<Version>, StorageError> {
        let found = self.all_versions(&self.place(Some(key)), self.name(key)).await?;
        Ok(found.objects.into_iter().filter(|version| version.key == *key).collect())
    }

    async fn read_version(&self, version: &Version, range: Range<u64>) -> Result<Bytes, StorageError> {
        let (key, wanted) = (&version.key, range.end);
        let id = Some(version.id.clone()).filter(|id| !id.is_empty());
        let body = self.pace.run(self.get_range_of(key, id, range)).await?;
        let size = version.size.unwrap_or(0);
        body.ok_or_else(|| StorageError::Truncated { at: self.place(Some(key)), size, wanted })
    }
}
