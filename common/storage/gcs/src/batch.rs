//! Many deletes in one request: the batch endpoint of the documented JSON API.
//!
//! What an answer counts for is decided as for all stores ([`pgconvoy_storage::http::batch`]); each refusal in it is read by
//! [`refusal`](crate::refusal), as if the object had been asked for alone.
//!
//! Invariants
//! 1. A part is addressed by the path of an ordinary request, percent-encoded alike, so nothing in it can end a line. Who asks, and who
//!    pays, stands in the head of the batch, which Google applies to all its parts.
//! 2. A part is a success by 200 or 204, or by 404 with words that tell of an object. With any other words, and with no part's number
//!    told, the objects are asked for alone.
//! 3. A token that a part was refused with is renewed once, and the batch made again: that says nothing about batches.

use crate::GcsStorage;
use crate::api::Call;
use crate::refusal::{Absence, Answer as Refusal, no_bucket, sort};
use async_trait::async_trait;
use http::header::{CONTENT_TYPE, HeaderMap};
use pgconvoy_storage::http::batch::answer::{Answer, Flaw, Part, parse};
use pgconvoy_storage::http::batch::{BatchStore, Batches, Outcome};
use pgconvoy_storage::http::retry_after;
use pgconvoy_storage::{IoAction, ObjectKey, Place, StorageError, random};

/// An answer has some 300 bytes for each part, with an error some 1200: nothing that comes is near it.
const ANSWER_BYTES_MAX: usize = 2 << 20;

#[async_trait]
impl BatchStore for GcsStorage {
    /// By Google's documentation; with the longest names there are they stay far below the 10 MB that a batch may have.
    const PARTS_MAX: usize = 100;

    fn batches(&self) -> &Batches {
        &self.inner.batches
    }

    async fn submit(&self, keys: &[ObjectKey]) -> Result<Outcome, StorageError> {
        let keys = &keys[..keys.len().min(Self::PARTS_MAX)];
        let name = random::hex(|| self.inner.place(None))?;
        let call = self.batch(keys, &name);
        self.inner.api.pace.run(Box::pin(self.send(&call, keys, &name))).await
    }
}

impl GcsStorage {
    /// `name` is what parts are told from those of other batches by, and the boundary.
    fn batch(&self, keys: &[ObjectKey], name: &str) -> Call<'static> {
        let api = &self.inner.api;
        let mut body = String::new();
        for (number, key) in keys.iter().enumerate() {
            let path = api.object_path(&self.inner.root.name(key));
            body.push_str(&format!(
                "--{name}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\
                 Content-ID: <{name}+{number}>\r\n\r\nDELETE {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n\r\n"
            ));
        }
        body.push_str(&format!("--{name}--\r\n"));
        let call = api.batch(&self.inner.place(None), IoAction::Remove);
        call.body(&format!("multipart/mixed; boundary={name}"), vec![body.into()])
    }

    async fn send(&self, call: &Call<'_>, keys: &[ObjectKey], name: &str) -> Result<Outcome, StorageError> {
        let api = &self.inner.api;
        let bearing = api.bearing(&call.at).await?;
        let mut answer = self.send_once(call, &bearing, keys.len(), name).await?;
        if answer.is_about_token() && api.bearer.forget(&bearing).await {
            answer = self.send_once(call, &api.bearing(&call.at).await?, keys.len(), name).await?;
        }
        match answer {
            Answered::Parts(parts) => Outcome::of_parts(keys, &parts, |key, part| self.judge(key, part)),
            Answered::Refused(_, refusal) => Outcome::of_refusal(keys, refusal),
        }
    }

    async fn send_once(
        &self,
        call: &Call<'_>,
        bearing: &HeaderMap,
        asked: usize,
        name: &str,
    ) -> Result<Answered, StorageError> {
        let api = &self.inner.api;
        let refused = |refusal: &Refusal| {
            Answered::Refused(refusal.status, sort(call.at.clone(), IoAction::Remove, refusal))
        };
        let response = api.send_once(call, bearing).await?;
        let status = response.status();
        if !status.is_success() {
            return Ok(refused(&api.refusal(response, call).await));
        }
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        let body = api.bounded(response, ANSWER_BYTES_MAX, call).await?;
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
        match parse(kind, &body, asked, |id| number(id, name)) {
            Ok(Answer::OfParts(parts)) => Ok(Answered::Parts(parts)),
            Ok(Answer::OfAll(part)) => Ok(refused(&read(&part))),
            // An emulator that knows no numbers: what its parts say can be of any object.
            Err(misread) if misread.flaw == Flaw::Nameless => {
                Ok(Answered::Refused(status.as_u16(), misread.at(call.at.clone())))
            }
            Err(misread) => Err(misread.at(call.at.clone())),
        }
    }

    fn judge(&self, key: &ObjectKey, part: &Part) -> Result<(), StorageError> {
        if matches!(part.status, 200 | 204) {
            return Ok(());
        }
        let (at, refusal) = (self.inner.place(Some(key)), read(part));
        match refusal.absence() {
            Absence::Object if part.status == 404 => Err(StorageError::NotFound { at }),
            Absence::Bucket if part.status == 404 => {
                Err(no_bucket(Place::new(at.store.as_ref(), None), &self.inner.api.bucket))
            }
            _ => Err(sort(at, IoAction::Remove, &refusal)),
        }
    }
}

enum Answered {
    /// One for each key.
    Parts(Vec<Part>),
    /// All of it, with this status.
    Refused(u16, StorageError),
}

impl Answered {
    fn is_about_token(&self) -> bool {
        match self {
            Answered::Parts(parts) => parts.iter().any(|part| part.status == 401),
            Answered::Refused(status, _) => *status == 401,
        }
    }
}

/// `<response-` and what the part was called.
fn number(id: &str, name: &str) -> Option<usize> {
    let number = id.strip_prefix("<response-")?.strip_prefix(name)?.strip_prefix('+')?.strip_suffix('>')?;
    number.parse().ok()
}

fn read(part: &Part) -> Refusal {
    Refusal::new(part.status, part.body.as_bytes(), retry_after(part.header("retry-after")))
}

#[cfg(test)]
mod tests;
