//! Old versions, for views of the past.
//!
//! Azure keeps what was replaced and what was deleted as versions with an id of their own, but no record of when a blob was
//! deleted. So a blob that was deleted before the moment still shows: what retention removed by then reappears, which harms
//! nobody who only reads.

use crate::AzureStorage;
use crate::door::Delimited;
use crate::list::page::parse_versions;
use async_trait::async_trait;
use azure_core::http::Context;
use azure_storage_blob::models::{BlobContainerClientListBlobsOptions, ListBlobsIncludeItem};
use bytes::Bytes;
use futures::StreamExt as _;
use pgconvoy_storage::versions::{Version, VersionedStore, Versions};
use pgconvoy_storage::{IoAction, ObjectKey, StorageError};
use std::ops::Range;

impl AzureStorage {
    /// All versions of what lies directly under names that begin so.
    async fn all_versions(&self, at: Option<&ObjectKey>, begin: String) -> Result<Versions, StorageError> {
        let mut found = Versions::default();
        let mut marker = None;
        loop {
            let mut options = BlobContainerClientListBlobsOptions {
                prefix: Some(begin.clone()).filter(|begin| !begin.is_empty()),
                include: Some(vec![ListBlobsIncludeItem::Versions]),
                marker: marker.take(),
                ..BlobContainerClientListBlobsOptions::default()
            };
            options.method_options.context = Context::new().with_value(Delimited);
            let request = async {
                let mut pages = self.0.container.list_blobs(Some(options))?.into_pages();
                pages.next().await.transpose()
            };
            let Some(answer) = self.ask(at, IoAction::List, Box::pin(request)).await? else { break };
            let body = answer.into_body();
            let page = parse_versions(body.as_ref(), &self.root()).map_err(|reason| {
                let reason = format!("the answer is no listing: {reason}");
                StorageError::NotSupported { at: self.place(at), reason }
            })?;
            found.objects.extend(page.versions.objects);
            found.prefixes.extend(page.versions.prefixes);
            match page.marker {
                Some(next) => marker = Some(next),
                None => break,
            }
        }
        // They come the oldest first.
        found.objects.reverse();
        found.prefixes.sort();
        found.prefixes.dedup();
        Ok(found)
    }
}

#[async_trait]
impl VersionedStore for AzureStorage {
    fn describe(&self) -> String {
        self.0.name.clone()
    }

    async fn versions_under(&self, prefix: Option<&ObjectKey>) -> Result<Versions, StorageError> {
        let begin = prefix.map_or_else(|| self.root(), |prefix| format!("{}{prefix}/", self.root()));
        self.all_versions(prefix, begin).await
    }

    async fn versions_of(&self, key: &ObjectKey) -> Result<Vec<Version>, StorageError> {
        let found = self.all_versions(Some(key), format!("{}{key}", self.root())).await?;
        Ok(found.objects.into_iter().filter(|version| version.key == *key).collect())
    }

    async fn read_version(&self, version: &Version, range: Range<u64>) -> Result<Bytes, StorageError> {
        let id = Some(version.id.as_str()).filter(|id| !id.is_empty());
        self.read_range_of(&version.key, id, range).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use crate::testing::{Answer, Server, store};
    use pgconvoy_storage::{AsOf, Storage as _, list_all, list_children};
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    /// As documented for `include=versions`: the oldest first; of a blob that was deleted no version is the current one.
    const LISTING: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="https://acct.blob.core.windows.net/" ContainerName="box"><Prefix>p/a/</Prefix><Delimiter>/</Delimiter>
  <Blobs>
    <Blob><Name>p/a/gone</Name><VersionId>2026-11-26T10:00:00.0000001Z</VersionId>
      <Properties><Last-Modified>Thu, 26 Nov 2026 10:00:00 GMT</Last-Modified><Content-Length>4</Content-Length></Properties></Blob>
    <Blob><Name>p/a/kept</Name><VersionId>2026-11-26T10:00:00.0000002Z</VersionId>
      <Properties><Last-Modified>Thu, 26 Nov 2026 10:00:00 GMT</Last-Modified><Content-Length>4</Content-Length></Properties></Blob>
    <Blob><Name>p/a/kept</Name><VersionId>2026-11-26T11:00:00.0000003Z</VersionId><IsCurrentVersion>true</IsCurrentVersion>
      <Properties><Last-Modified>Thu, 26 Nov 2026 11:00:00 GMT</Last-Modified><Content-Length>9</Content-Length></Properties></Blob>
    <Blob><Name>p/a/late</Name><VersionId>2026-11-26T11:00:00.0000004Z</VersionId><IsCurrentVersion>true</IsCurrentVersion>
      <Properties><Last-Modified>Thu, 26 Nov 2026 11:00:00 GMT</Last-Modified><Content-Length>1</Content-Length></Properties></Blob>
  </Blobs><NextMarker />
</EnumerationResults>"#;

    const TOP: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults><Blobs><BlobPrefix><Name>p/a/</Name></BlobPrefix></Blobs><NextMarker></NextMarker></EnumerationResults>"#;

    /// Of 2026-11-26, in seconds since midnight.
    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_651_200 + second)
    }

    #[tokio::test]
    async fn a_view_lists_versions_and_reads_those_of_its_moment() {
        let server = Server::start(|_, request| {
            let line = request.lines().next().unwrap_or_default().to_owned();
            match &line {
                line if line.contains("comp=list") && line.contains("p%2Fa") => {
                    Answer::new("200 OK", LISTING)
                }
                line if line.contains("comp=list") => Answer::new("200 OK", TOP),
                _ => Answer::new("206 Partial Content\r\ncontent-range: bytes 0-3/4", "body"),
            }
        })
        .await;
        let view = AsOf::new(Arc::new(store(&server)), at(10 * 3600 + 60), "then");
        let listed = list_all(&view, None).await.unwrap();
        let names: Vec<_> = listed.iter().map(|object| (object.key.as_str(), object.size)).collect();
        assert_eq!(names, [("a/gone", 4), ("a/kept", 4)]);
        assert_eq!(list_children(&view, None).await.unwrap().prefixes, ["a".parse().unwrap()]);
        assert_eq!(view.get(&"a/kept".parse().unwrap(), 9).await.unwrap(), "body");
        let asked = server.seen();
        let listings = asked.iter().filter(|request| request.contains("comp=list"));
        assert!(listings.into_iter().all(|request| {
            let line = request.lines().next().unwrap_or_default();
            line.contains("include=versions") && line.contains("delimiter=%2F")
        }));
        let read = asked.last().unwrap().lines().next().unwrap().to_owned();
        assert!(read.contains("/box/p/a/kept") || read.contains("/box/p%2Fa%2Fkept"), "{read}");
        assert!(read.contains("versionid=2026-11-26T10%3A00%3A00.0000002Z"), "{read}");
        let early = AsOf::new(Arc::new(store(&server)), at(9 * 3600), "then");
        assert_eq!(list_children(&early, None).await.unwrap().prefixes, []);
    }
}
