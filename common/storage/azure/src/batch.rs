//! Many deletes in one request: "Blob Batch" of Azure's REST documentation, scoped to the container.
//!
//! The SDK has no such call, so the request is made here ([`request`]) and goes out by the same [`door`](crate::door). What the answer
//! counts for is decided as for all stores ([`pgconvoy_storage::http::batch`]); each refusal in it is read by
//! [`trouble`](crate::trouble), as if the blob had been asked for alone.
//!
//! Invariants
//! 1. A part is a success by 202 or 204, or by 404 with `BlobNotFound`.
//! 2. A signature without the right to delete is told in the same words as ever, and a token that was taken back is renewed by the door:
//!    what a batch refuses is asked for alone.

mod request;

use crate::AzureStorage;
use async_trait::async_trait;
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, HttpClient as _, RawResponse};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use pgconvoy_storage::http::batch::answer::{Answer, Misread, Part, parse};
use pgconvoy_storage::http::batch::{BatchStore, Batches, Outcome};
use pgconvoy_storage::{IoAction, ObjectKey, StorageError};
use request::Batch;

/// An answer has some 300 bytes for each part, with an error some 700: nothing that comes is near it.
const ANSWER_BYTES_MAX: usize = 4 << 20;

const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");

#[async_trait]
impl BatchStore for AzureStorage {
    /// By Azure's documentation.
    const PARTS_MAX: usize = 256;

    fn batches(&self) -> &Batches {
        &self.0.batches
    }

    async fn submit(&self, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let batch = self.batch(keys).await?;
        let keys = &keys[..batch.parts];
        self.0.pace.run(Box::pin(self.send(batch, keys))).await
    }
}

impl AzureStorage {
    async fn send(&self, batch: Batch, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let sent = self.0.door.execute_request(&batch.request).await;
        let answer = sent.map_err(|error| self.asked(None, IoAction::Remove).trouble(&error))?;
        let answer = self.whole(answer).await?;
        if !answer.status().is_success() {
            return self.refused_as_a_whole(&answer, keys);
        }
        let kind = answer.headers().get_optional_str(&CONTENT_TYPE);
        match parse(kind, answer.body(), keys.len(), |id| id.parse().ok()) {
            Ok(Answer::OfParts(parts)) => Outcome::of_parts(keys, &parts, |key, part| self.judge(key, part)),
            Ok(Answer::OfAll(part)) => self.refused_as_a_whole(&raw(&part), keys),
            Err(misread) => Err(misread.at(self.place(None))),
        }
    }

    /// All of an answer, as far as one may be long.
    async fn whole(&self, answer: AsyncRawResponse) -> Result<RawResponse, StorageError> {
        let (status, headers, mut body) = answer.deconstruct();
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece: Bytes = piece.map_err(|error| self.asked(None, IoAction::Remove).trouble(&error))?;
            if piece.len() > ANSWER_BYTES_MAX - whole.len() {
                let misread = Misread::from(format!("it is longer than {ANSWER_BYTES_MAX} bytes"));
                return Err(misread.at(self.place(None)));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(RawResponse::from_bytes(status, headers, whole.freeze()))
    }

    fn refused_as_a_whole(&self, answer: &RawResponse, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let refusal = self.asked(None, IoAction::Remove).answered(answer);
        Outcome::of_refusal(keys, refusal)
    }

    fn judge(&self, key: &ObjectKey, part: &Part) -> Result<(), StorageError> {
        match part.status {
            202 | 204 => Ok(()),
            _ => Err(self.asked(Some(key), IoAction::Remove).answered(&raw(part))),
        }
    }
}

/// A part as an answer by itself.
fn raw(part: &Part) -> RawResponse {
    let mut headers = Headers::new();
    for (name, value) in &part.headers {
        headers.insert(HeaderName::from(name.clone()), HeaderValue::from(value.clone()));
    }
    RawResponse::from_bytes(part.status.into(), headers, part.body.clone().into_bytes())
}

#[cfg(test)]
mod tests;
