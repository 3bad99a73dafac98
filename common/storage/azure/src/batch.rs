//! Many deletes in one request: "Blob Batch" of Azure's REST documentation, scoped to the container.
//!
//! The SDK has no such call, so the request is made here ([`request`]) and goes out by the same [`door`](crate::door); what comes
//! back is read by [`answer`], and each refusal in it by [`trouble`](crate::trouble), as if the blob had been asked for alone.
//!
//! Invariants
//! 1. A blob counts as gone only by the answer to its own part: 202 or 204, or 404 with `BlobNotFound`. What is no whole answer to
//!    all parts is an error, whatever it says of some.
//! 2. What a retention, a hold or a lease keeps holds up nothing else and is the error in the end.
//! 3. Whatever else a batch refuses, as a whole or a part of it, is asked for alone, and that answer counts. So a signature without the
//!    right to delete is told in the same words as ever, a token that was taken back is renewed by the door, and nothing here
//!    has to know by which code an account, a gateway or an emulator says that it takes no batches.
//! 4. A store is believed to take none when it refused all of a batch, be it as a whole or part by part, and then took the first of
//!    the same deletes alone. It is not asked for one again, and
//!    [`Feature::BatchedDeletes`](pgconvoy_storage::Feature::BatchedDeletes) is gone.
//!
//! Failure story: a batch is not atomic. One whose answer was lost is made again as a whole, and finds absent what the first one
//! deleted. A server that is busy, for the batch or for a part of it, is an error that a retry may mend.

mod answer;
mod request;

use crate::AzureStorage;
use answer::{Answer, Misread, parse};
use azure_core::http::headers::HeaderName;
use azure_core::http::{AsyncRawResponse, HttpClient as _, RawResponse};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use pgconvoy_core::failure::{Classify as _, Retry};
use pgconvoy_storage::{IoAction, ObjectKey, Storage as _, StorageError};
use request::Batch;
use std::sync::atomic::Ordering;

/// Requests of a batch, by Azure's documentation.
const PARTS_MAX: usize = 256;
/// An answer has some 300 bytes for each part, with an error some 700: nothing that comes is near it.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Deletes under way at a time where there are no batches: the store's pace may allow fewer.
const ALONE_AT_ONCE: usize = 16;

const CONTENT_TYPE: HeaderName = HeaderName::from_static("content-type");

/// What a batch came to.
#[derive(Debug, Default)]
struct Outcome {
    /// To be asked for alone.
    refused: Vec<ObjectKey>,
    /// Where that is all of them: why the first was refused.
    refusal_of_all: Option<StorageError>,
    kept: Option<StorageError>,
}

/// What is kept is told in the end; anything else ends the call.
fn unless_kept(
    kept: &mut Result<(), StorageError>,
    deleted: Result<(), StorageError>,
) -> Result<(), StorageError> {
    match deleted {
        Err(error) if error.is_kept() => {
            if kept.is_ok() {
                *kept = Err(error);
            }
            Ok(())
        }
        other => other,
    }
}

impl AzureStorage {
    pub(crate) fn takes_batches(&self) -> bool {
        !self.0.has_no_batches.load(Ordering::Relaxed)
    }

    pub(crate) async fn remove_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let mut kept = Ok(());
        let mut rest = keys;
        while !rest.is_empty() {
            if rest.len() == 1 || !self.takes_batches() {
                unless_kept(&mut kept, self.remove_alone(rest, None).await)?;
                break;
            }
            let batch = self.batch(rest).await?;
            let (now, later) = rest.split_at(batch.parts);
            let outcome = self.0.pace.run(Box::pin(self.submit(batch, now))).await?;
            unless_kept(&mut kept, outcome.kept.map_or(Ok(()), Err))?;
            let alone = self.remove_alone(&outcome.refused, outcome.refusal_of_all).await;
            unless_kept(&mut kept, alone)?;
            rest = later;
        }
        kept
    }

    /// One by one, several at a time. The first goes ahead, so that a refusal of all costs one request, and shows whether that of a whole
    /// batch was of batches. What fails in passing holds up no other, so that a second try finds less to do.
    async fn remove_alone(
        &self,
        keys: &[ObjectKey],
        refusal_of_all: Option<StorageError>,
    ) -> Result<(), StorageError> {
        let Some((first, others)) = keys.split_first() else { return Ok(()) };
        let mut kept = Ok(());
        unless_kept(&mut kept, self.delete(first).await)?;
        if let Some(refusal) = refusal_of_all {
            self.0.has_no_batches.store(true, Ordering::Relaxed);
            tracing::warn!(store = %self.0.name, %refusal, "the store takes no batches, blobs are deleted one by one from now on");
        }
        let deletes: Vec<_> = others.iter().map(|key| self.delete(key)).collect();
        let mut deleted = stream::iter(deletes).buffer_unordered(ALONE_AT_ONCE);
        let mut passing = Ok(());
        while let Some(answer) = deleted.next().await {
            match answer {
                Err(error) if error.retry() == Retry::MayHelp => passing = passing.and(Err(error)),
                other => unless_kept(&mut kept, other)?,
            }
        }
        passing.and(kept)
    }

    async fn submit(&self, batch: Batch, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let sent = self.0.door.execute_request(&batch.request).await;
        let answer = sent.map_err(|error| self.asked(None, IoAction::Remove).trouble(&error))?;
        let answer = self.whole(answer).await?;
        if !answer.status().is_success() {
            return self.refused_as_a_whole(&answer, keys);
        }
        let kind = answer.headers().get_optional_str(&CONTENT_TYPE);
        match parse(kind, answer.body(), keys.len()) {
            Ok(Answer::OfParts(parts)) => self.judge(keys, &parts),
            Ok(Answer::OfAll(part)) => self.refused_as_a_whole(&part, keys),
            Err(misread) => Err(self.no_answer(misread)),
        }
    }

    /// All of an answer, as far as one may be long.
    async fn whole(&self, answer: AsyncRawResponse) -> Result<RawResponse, StorageError> {
        let (status, headers, mut body) = answer.deconstruct();
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece: Bytes = piece.map_err(|error| self.asked(None, IoAction::Remove).trouble(&error))?;
            if piece.len() > ANSWER_BYTES_MAX - whole.len() {
                let reason = format!("it is longer than {ANSWER_BYTES_MAX} bytes");
                return Err(self.no_answer(reason.into()));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(RawResponse::from_bytes(status, headers, whole.freeze()))
    }

    fn no_answer(&self, Misread { reason, is_cut }: Misread) -> StorageError {
        let (at, reason) = (self.place(None), format!("the answer is none to a batch of deletes: {reason}"));
        match is_cut {
            true => StorageError::Unavailable { at, reason },
            false => StorageError::NotSupported { at, reason },
        }
    }

    fn refused_as_a_whole(&self, answer: &RawResponse, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let refusal = self.asked(None, IoAction::Remove).answered(answer);
        if is_passing(answer, &refusal) {
            return Err(refusal);
        }
        Ok(Outcome { refused: keys.to_vec(), refusal_of_all: Some(refusal), kept: None })
    }

    /// Reads the parts, one for each key.
    fn judge(&self, keys: &[ObjectKey], parts: &[RawResponse]) -> Result<Outcome, StorageError> {
        let mut outcome = Outcome::default();
        let mut refusal = None;
        let mut passing = Ok(());
        for (key, part) in keys.iter().zip(parts) {
            if matches!(u16::from(part.status()), 202 | 204) {
                continue;
            }
            let error = self.asked(Some(key), IoAction::Remove).answered(part);
            if error.is_not_found() {
                continue;
            }
            if error.is_kept() {
                outcome.kept.get_or_insert(error);
            } else if is_passing(part, &error) {
                passing = passing.and(Err(error));
            } else {
                outcome.refused.push(key.clone());
                refusal.get_or_insert(error);
            }
        }
        outcome.refusal_of_all = refusal.filter(|_| outcome.refused.len() == keys.len());
        passing.map(|()| outcome)
    }
}

/// 501 is of that class too, but a server that has no such call will have none at the next try.
fn is_passing(answer: &RawResponse, error: &StorageError) -> bool {
    error.retry() == Retry::MayHelp && u16::from(answer.status()) != 501
}

#[cfg(test)]
mod tests;
