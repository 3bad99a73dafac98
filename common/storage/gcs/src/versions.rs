//! Old versions, for views of the past: Google calls them generations, and each says when it ended.

use crate::GcsStorage;
use crate::bodies::{Wanted, Which};
use crate::resource::{Page, Resource};
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_storage::versions::{Version, VersionedStore, Versions};
use pgconvoy_storage::{ObjectKey, Place, StorageError};
use std::cmp::Reverse;
use std::ops::Range;

const FIELDS: &str = "items(name,generation,size,timeCreated,timeDeleted),prefixes,nextPageToken";

impl GcsStorage {
    /// All generations of what lies directly under names that begin so, the newest first.
    async fn generations(&self, at: &Place, begin: &str) -> Result<Versions, StorageError> {
        let (mut items, mut found): (Vec<Resource>, Versions) = Default::default();
        let root = &self.inner.root;
        let mut token: Option<String> = None;
        loop {
            let call = self.inner.api.listing(at).query("versions", "true").query("delimiter", "/");
            let call = call.query("fields", FIELDS);
            let call = if begin.is_empty() { call } else { call.query("prefix", begin) };
            let call = match &token {
                Some(token) => call.query("pageToken", token),
                None => call,
            };
            let page: Page = self.inner.api.ask(call).await?;
            items.extend(page.items);
            found.prefixes.extend(page.prefixes.iter().filter_map(|name| root.key(name.strip_suffix('/')?)));
            token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                break;
            }
        }
        items.sort_by_key(|item| Reverse(item.generation));
        for item in items {
            let Some(key) = root.key(&item.name) else { continue };
            let Some(since) = item.created() else {
                let reason = "the store does not say when an object was written".to_owned();
                return Err(StorageError::NotSupported { at: at.clone(), reason });
            };
            let (id, until) = (item.generation.to_string(), item.deleted());
            found.objects.push(Version { key, id, since, until, size: Some(item.size) });
        }
        found.prefixes.sort();
        found.prefixes.dedup();
        Ok(found)
    }
}

#[async_trait]
impl VersionedStore for GcsStorage {
    fn describe(&self) -> String {
        self.inner.description.clone()
    }

    async fn versions_under(&self, prefix: Option<&ObjectKey>) -> Result<Versions, StorageError> {
        self.generations(&self.inner.place(prefix), &self.inner.root.below(prefix)).await
    }

    async fn versions_of(&self, key: &ObjectKey) -> Result<Vec<Version>, StorageError> {
        let found = self.generations(&self.inner.place(Some(key)), &self.inner.root.name(key)).await?;
        Ok(found.objects.into_iter().filter(|version| version.key == *key).collect())
    }

    async fn read_version(&self, version: &Version, range: Range<u64>) -> Result<Bytes, StorageError> {
        let which = Which { name: &self.inner.root.name(&version.key), generation: version.id.parse().ok() };
        self.read_which(&version.key, which, Wanted::Part(range)).await
    }
}
