//! Reading, whole or a range: never more than was asked for, never less without an error.

use crate::errors::{Answer, Outcome, interrupted, unavailable};
use crate::request::{MD5_OF_OBJECT, content_md5_aside};
use crate::store::{S3Storage, size_of};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use bytes::{Bytes, BytesMut};
use pgconvoy_storage::{IoAction, ObjectKey, Place, StorageError};
use std::ops::Range;

/// How much room a promise alone is worth; beyond it grows with what comes.
const BELIEVED_MAX: usize = 32 << 20;

impl S3Storage {
    fn reading(&self, key: &ObjectKey) -> GetObjectFluentBuilder {
        self.client
            .get_object()
            .bucket(&self.asker.bucket)
            .key(self.name(key))
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_request_payer(self.payer.clone())
    }

    pub(crate) async fn get_once(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let at = self.place(Some(key));
        let answer = self
            .judged(&at, IoAction::Read, Box::pin(self.reading(key).send()).await)
            .map_err(|outcome| self.sorted(&at, IoAction::Read, outcome))?;
        let promised = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if let Some(size) = promised.filter(|size| *size > size_max) {
            return Err(StorageError::TooLarge { at, size, size_max });
        }
        let md5 = answer.metadata().and_then(|metadata| metadata.get(MD5_OF_OBJECT)).cloned();
        let body = received(&at, answer, promised, size_max).await?;
        match md5 {
            Some(stored) if stored != content_md5_aside(&body).await => {
                Err(unavailable(&at, "what came is not what was stored: its MD5 is another".to_owned()))
            }
            _ => Ok(body),
        }
    }

    pub(crate) async fn get_range_once(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        self.get_range_of(key, None, range).await
    }

    /// Of a version, or of the object as it is. `None`: it has nothing there.
    pub(crate) async fn get_range_of(
        &self,
        key: &ObjectKey,
        version: Option<String>,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StorageError> {
        let at = self.place(Some(key));
        let wanted = range.end - range.start;
        let request = self.reading(key).set_version_id(version).range(format!(
            "bytes={}-{}",
            range.start,
            range.end - 1
        ));
        let answer = match self.judged(&at, IoAction::Read, Box::pin(request.send()).await) {
            Ok(answer) => answer,
            Err(Outcome::Answered(Answer { status: 416, .. })) => return Ok(None),
            Err(outcome) => return Err(self.sorted(&at, IoAction::Read, outcome)),
        };
        let came = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let part = answer.content_range().and_then(content_range);
        match (part, came) {
            (Some((start, total)), Some(length)) if start == range.start => {
                if total < range.end {
                    return Err(StorageError::Truncated { at, size: total, wanted: range.end });
                }
                if length != wanted {
                    return Err(unavailable(&at, format!("it gives {length} bytes instead of {wanted}")));
                }
                received(&at, answer, Some(length), wanted).await.map(Some)
            }
            _ => Err(StorageError::NotSupported { at, reason: "the store does not serve ranges".to_owned() }),
        }
    }

    /// Why a range could not be had.
    pub(crate) async fn too_short(&self, key: &ObjectKey, wanted: u64) -> StorageError {
        let at = self.place(Some(key));
        match self.facts(key).await {
            Ok(Some(facts)) => StorageError::Truncated { size: size_of(&facts), at, wanted },
            Ok(None) => StorageError::NotFound { at },
            Err(error) => error,
        }
    }
}

/// `bytes 0-9/100` as its first byte and the length of the object.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()?))
}

/// The body, of the promised length or an error, and never more than `size_max`.
async fn received(
    at: &Place,
    mut answer: GetObjectOutput,
    promised: Option<u64>,
    size_max: u64,
) -> Result<Bytes, StorageError> {
    let room = usize::try_from(promised.unwrap_or(0)).unwrap_or(0).min(BELIEVED_MAX);
    let mut body = BytesMut::with_capacity(room);
    loop {
        let chunk = match answer.body.next().await {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(interrupted(at, IoAction::Read, &error)),
            None => break,
        };
        let size = length(&body) + length(&chunk);
        if size > promised.unwrap_or(size_max) {
            return Err(StorageError::TooLarge { at: at.clone(), size, size_max });
        }
        body.extend_from_slice(&chunk);
    }
    match promised {
        Some(promised) if promised != length(&body) => {
            Err(unavailable(at, format!("its answer ended at byte {} of {promised}", body.len())))
        }
        _ => Ok(body.freeze()),
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length in memory fits 64 bits")
}
