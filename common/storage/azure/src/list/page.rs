//! What Azure answers to a listing: XML with blobs and prefixes.

use crate::system_time;
use azure_core::time::parse_rfc7231;
use pgconvoy_storage::listing::Entry;
use pgconvoy_storage::versions::{Version, Versions};
use pgconvoy_storage::{ObjectInfo, ObjectKey};
use serde::Deserialize;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RawPage {
    /// In the order of listings.
    pub(super) entries: Vec<Entry>,
    pub(super) marker: Option<String>,
}

/// Both are always there. What has neither is the page of a proxy, and no empty listing.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    blobs: Blobs,
    next_marker: String,
}

#[derive(Deserialize)]
struct Blobs {
    /// Blobs and prefixes come in one order, mixed.
    #[serde(rename = "$value", default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
enum Item {
    Blob(Blob),
    BlobPrefix(BlobPrefix),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Blob {
    name: Name,
    /// Of a listing with versions.
    #[serde(default)]
    version_id: Option<String>,
    properties: Properties,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BlobPrefix {
    name: Name,
}

#[derive(Deserialize)]
struct Name {
    /// What XML cannot hold is percent-encoded.
    #[serde(rename = "@Encoded", default)]
    encoded: bool,
    #[serde(rename = "$text", default)]
    text: String,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "Content-Length", default)]
    length: Option<u64>,
    #[serde(rename = "Last-Modified", default)]
    modified: Option<String>,
    /// `directory` in accounts with a hierarchical namespace.
    #[serde(rename = "ResourceType", default)]
    resource: Option<String>,
}

impl RawPage {
    /// `root` is what every name begins with. Names that are no keys are somebody else's and left out.
    pub(super) fn parse(body: &[u8], root: &str) -> Result<RawPage, String> {
        let answer: Answer = azure_core::xml::from_xml(body).map_err(|error| error.to_string())?;
        let mut entries = Vec::with_capacity(answer.blobs.items.len());
        for item in answer.blobs.items {
            match item {
                Item::Blob(blob) => entries.extend(blob.object(root)?),
                Item::BlobPrefix(prefix) => {
                    let name = prefix.name.decoded()?;
                    entries.extend(key(name.trim_end_matches('/'), root).map(Entry::Prefix));
                }
            }
        }
        entries.sort_by(Entry::order);
        Ok(RawPage { entries, marker: Some(answer.next_marker).filter(|marker| !marker.is_empty()) })
    }
}

/// A page of a listing with versions.
pub(crate) struct VersionPage {
    pub(crate) versions: Versions,
    pub(crate) marker: Option<String>,
}

/// The oldest of a name comes first.
pub(crate) fn parse_versions(body: &[u8], root: &str) -> Result<VersionPage, String> {
    let answer: Answer = azure_core::xml::from_xml(body).map_err(|error| error.to_string())?;
    let mut versions = Versions::default();
    for item in answer.blobs.items {
        match item {
            Item::Blob(mut blob) => {
                let id = blob.version_id.take().unwrap_or_default();
                let Some(Entry::Object(ObjectInfo { key, size, modified, .. })) = blob.object(root)? else {
                    continue;
                };
                let since = modified.ok_or_else(|| format!("'{key}' has no time"))?;
                versions.objects.push(Version { key, id, since, until: None, size: Some(size) });
            }
            Item::BlobPrefix(prefix) => {
                versions.prefixes.extend(key(prefix.name.decoded()?.trim_end_matches('/'), root));
            }
        }
    }
    Ok(VersionPage { versions, marker: Some(answer.next_marker).filter(|marker| !marker.is_empty()) })
}

impl Blob {
    fn object(self, root: &str) -> Result<Option<Entry>, String> {
        if self.properties.resource.as_deref() == Some("directory") {
            return Ok(None);
        }
        let Some(key) = key(&self.name.decoded()?, root) else { return Ok(None) };
        let size = self.properties.length.ok_or_else(|| format!("'{key}' has no size"))?;
        let modified = self.properties.modified.and_then(|text| parse_rfc7231(&text).ok());
        Ok(Some(Entry::Object(ObjectInfo {
            key,
            size,
            modified: modified.and_then(system_time),
            etag: None,
        })))
    }
}

fn key(name: &str, root: &str) -> Option<ObjectKey> {
    name.strip_prefix(root)?.parse().ok()
}

impl Name {
    fn decoded(self) -> Result<String, String> {
        if !self.encoded {
            return Ok(self.text);
        }
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let [first, tail @ ..] = rest {
            rest = tail;
            let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
            match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &tail[2..];
                }
                None => bytes.push(*first),
            }
        }
        String::from_utf8(bytes).map_err(|_| format!("the name '{}' is no text", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="https://acct.blob.core.windows.net/" ContainerName="box">
  <Prefix>pg/list/</Prefix><Delimiter>/</Delimiter>
  <Blobs>
    <Blob><Name>pg/list/a-b</Name><Properties><Last-Modified>Thu, 26 Nov 2026 10:00:07 GMT</Last-Modified>
      <Content-Length>12</Content-Length><BlobType>BlockBlob</BlobType><Content-MD5 /></Properties><OrMetadata /></Blob>
    <BlobPrefix><Name>pg/list/a/</Name></BlobPrefix>
    <Blob><Name Encoded="true">pg/list/%EF%BF%BE%25</Name><Properties><Content-Length>0</Content-Length></Properties></Blob>
    <Blob><Name>pg/list/a &amp; b</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>
    <BlobPrefix><Name>pg/list/a.b/</Name><Properties><ResourceType>directory</ResourceType></Properties></BlobPrefix>
    <Blob><Name>pg/list/dir</Name><Properties><Content-Length>0</Content-Length><ResourceType>directory</ResourceType></Properties></Blob>
    <Blob><Name>pg/list/.hidden</Name><Properties><Content-Length>0</Content-Length></Properties></Blob>
  </Blobs>
  <NextMarker>2!92!abc--</NextMarker>
</EnumerationResults>"#;

    #[test]
    fn blobs_and_prefixes_are_read_in_the_order_of_listings() {
        let page = RawPage::parse(PAGE.as_bytes(), "pg/").expect("a page");
        let name = |entry: &Entry| match entry {
            Entry::Object(object) => object.key.to_string(),
            Entry::Prefix(prefix) => format!("{prefix}/"),
        };
        let names: Vec<String> = page.entries.iter().map(name).collect();
        assert_eq!(names, ["list/a & b", "list/a-b", "list/a.b/", "list/a/", "list/\u{fffe}%"]);
        assert_eq!(page.marker.as_deref(), Some("2!92!abc--"));
        let Entry::Object(object) = &page.entries[1] else { panic!("an object") };
        let modified =
            object.modified.expect("a time").duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert_eq!((object.size, modified.as_secs()), (12, 1_795_687_207));
    }

    #[test]
    fn an_empty_page_is_a_page_and_garbage_is_none() {
        let empty = "<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>";
        assert_eq!(RawPage::parse(empty.as_bytes(), ""), Ok(RawPage::default()));
        for garbage in [
            "",
            "<html><body>hello</body></html>",
            "<EnumerationResults/>",
            "<EnumerationResults><Blobs /></EnumerationResults>",
            "<EnumerationResults><Blobs><Blob>",
        ] {
            assert!(RawPage::parse(garbage.as_bytes(), "").is_err(), "{garbage}");
        }
    }
}
