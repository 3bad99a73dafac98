//! Reading: one request for one range, of which every byte must come.
//!
//! Invariant: what the answer says of its range and its size is checked before anything is allocated for it, and what comes
//! is counted. A body that ends early is a lost connection, one that goes on is no answer to what was asked.

use crate::{AzureStorage, trouble::code_of};
use azure_core::error::ErrorKind;
use azure_core::http::headers::{HeaderName, Headers};
use azure_storage_blob::models::{BlobClientDownloadOptions, BlobClientDownloadResult, HttpRange};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use pgconvoy_storage::{IoAction, ObjectKey, StorageError};
use std::num::NonZero;
use std::ops::{Range, RangeInclusive};

/// No blob is larger (190.7 TiB by Azure's documentation), and positions beyond are no valid headers.
const SIZE_MAX: u64 = 1 << 50;

const CONTENT_LENGTH: HeaderName = HeaderName::from_static("content-length");
const CONTENT_RANGE: HeaderName = HeaderName::from_static("content-range");

/// Of a blob of `total` bytes; without a body when the caller had no use for a blob of that size.
struct Fetched {
    total: u64,
    body: Option<Bytes>,
}

impl AzureStorage {
    pub(crate) async fn read_whole(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        // One byte more than allowed is never read, but tells the size.
        let end = size_max.saturating_add(1).min(SIZE_MAX);
        let fetched = self.fetch(key, None, 0..end, 0..=size_max).await?;
        let Some(Fetched { total, body }) = fetched else {
            return match self.size(key).await? {
                0 => Ok(Bytes::new()),
                size => Err(self.misfit(key, format!("the answer holds none of its {size} bytes"))),
            };
        };
        let at = self.place(Some(key));
        body.ok_or(StorageError::TooLarge { at, size: total, size_max })
    }

    pub(crate) async fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let wanted = range.end;
        let is_asked_for = range.start < range.end && range.end <= SIZE_MAX;
        let fetched = match is_asked_for {
            true => self.fetch(key, None, range.clone(), wanted..=u64::MAX).await?,
            false => None,
        };
        let size = match fetched {
            Some(Fetched { body: Some(body), .. }) => return Ok(body),
            Some(Fetched { total, .. }) => total,
            None => self.size(key).await?,
        };
        if range.start >= range.end && range.start <= size {
            return Ok(Bytes::new());
        }
        if wanted <= size {
            return Err(self.misfit(key, "the answer is not the range that was asked for".to_owned()));
        }
        Err(StorageError::Truncated { at: self.place(Some(key)), size, wanted })
    }

    /// Of a version; the range is not empty and lies within it.
    pub(crate) async fn read_range_of(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let wanted = range.end;
        let size = match self.fetch(key, version, range, wanted..=u64::MAX).await? {
            Some(Fetched { body: Some(body), .. }) => return Ok(body),
            Some(Fetched { total, .. }) => total,
            None => 0,
        };
        Err(StorageError::Truncated { at: self.place(Some(key)), size, wanted })
    }

    async fn size(&self, key: &ObjectKey) -> Result<u64, StorageError> {
        let missing = || StorageError::NotFound { at: self.place(Some(key)) };
        let headers = self.head(key).await?.ok_or_else(missing)?;
        self.size_of(key, &headers)
    }

    pub(crate) fn size_of(&self, key: &ObjectKey, headers: &Headers) -> Result<u64, StorageError> {
        number(headers, &CONTENT_LENGTH)
            .ok_or_else(|| self.misfit(key, "it did not tell the size".to_owned()))
    }

    fn misfit(&self, key: &ObjectKey, reason: String) -> StorageError {
        StorageError::NotSupported { at: self.place(Some(key)), reason }
    }

    /// Reads the range of a blob whose size is one of `sizes`; `None` when the blob ends before the range begins.
    async fn fetch(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        range: Range<u64>,
        sizes: RangeInclusive<u64>,
    ) -> Result<Option<Fetched>, StorageError> {
        let blob = self.blob(key);
        let length = range.end - range.start;
        let options = BlobClientDownloadOptions {
            range: Some(HttpRange::new(range.start, length)),
            version_id: version.map(str::to_owned),
            parallel: NonZero::new(1),
            // All of it: one request.
            partition_size: NonZero::new(usize::try_from(length).unwrap_or(usize::MAX)),
            ..BlobClientDownloadOptions::default()
        };
        let request = async {
            let answer = match Box::pin(blob.download(Some(options))).await {
                Ok(answer) => answer,
                Err(error) if is_beyond(&error) => return Ok(None),
                Err(error) => return Err(self.asked(Some(key), IoAction::Read).trouble(&error)),
            };
            let (start, total) = extent(&answer.headers)
                .ok_or_else(|| self.misfit(key, "the answer does not say what it holds".to_owned()))?;
            if !sizes.contains(&total) {
                return Ok(Some(Fetched { total, body: None }));
            }
            let expected = total.min(range.end).saturating_sub(range.start);
            if start != range.start || number(&answer.headers, &CONTENT_LENGTH) != Some(expected) {
                return Err(self.misfit(key, "the answer is not the range that was asked for".to_owned()));
            }
            let body = self.collect(key, answer, expected).await?;
            Ok(Some(Fetched { total, body: Some(body) }))
        };
        self.0.pace.run(request).await
    }

    async fn collect(
        &self,
        key: &ObjectKey,
        answer: BlobClientDownloadResult,
        expected: u64,
    ) -> Result<Bytes, StorageError> {
        let length = usize::try_from(expected)
            .map_err(|_| self.misfit(key, format!("{expected} bytes do not fit this machine's memory")))?;
        let mut whole = BytesMut::with_capacity(length);
        let mut body = answer.body;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| self.asked(Some(key), IoAction::Read).trouble(&error))?;
            if piece.len() > length - whole.len() {
                return Err(self.misfit(key, "more came than was asked for".to_owned()));
            }
            whole.extend_from_slice(&piece);
        }
        if whole.len() < length {
            let reason = format!("the answer ended after {} of {length} bytes", whole.len());
            return Err(StorageError::Unavailable { at: self.place(Some(key)), reason });
        }
        Ok(whole.freeze())
    }
}

/// The blob has nothing there. Of an empty one some servers answer with a range that cannot be, which the SDK cannot read.
fn is_beyond(error: &azure_core::Error) -> bool {
    code_of(error) == Some("InvalidRange") || matches!(error.kind(), ErrorKind::DataConversion)
}

fn number(headers: &Headers, name: &HeaderName) -> Option<u64> {
    headers.get_optional_str(name)?.trim().parse().ok()
}

/// Where an answer begins in its blob, and how long the blob is.
fn extent(headers: &Headers) -> Option<(u64, u64)> {
    let Some(range) = headers.get_optional_str(&CONTENT_RANGE) else {
        return Some((0, number(headers, &CONTENT_LENGTH)?));
    };
    let (bounds, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((bounds.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.insert(HeaderName::from_static(name), (*value).to_owned());
        }
        headers
    }

    #[test]
    fn an_answer_says_where_it_begins_and_how_long_the_blob_is() {
        let partial = headers(&[("content-range", "bytes 5-9/40"), ("content-length", "5")]);
        assert_eq!(extent(&partial), Some((5, 40)));
        assert_eq!(extent(&headers(&[("content-length", "7")])), Some((0, 7)));
        for odd in ["", "bytes */40", "bytes 5-9/*", "5-9/40", "bytes -1-2/3"] {
            assert_eq!(extent(&headers(&[("content-range", odd)])), None, "{odd}");
        }
        assert_eq!(extent(&headers(&[])), None);
    }
}
