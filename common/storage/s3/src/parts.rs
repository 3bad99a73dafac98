//! Uploads in parts: S3's multipart uploads.

use crate::errors::Outcome;
use crate::lock::headers;
use crate::request::{UPLOAD_OF_OBJECT, content_md5_aside};
use crate::store::{S3Storage, create_only};
use async_trait::async_trait;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MultipartUpload};
use bytes::Bytes;
use pgconvoy_storage::decorate::retry::Tries;
use pgconvoy_storage::parts::{PartStore, TIDYING};
use pgconvoy_storage::{IoAction, ObjectKey, Place, PutMode, StorageError, random};
use std::time::{Duration, SystemTime};

pub struct Ticket {
    key: ObjectKey,
    mode: PutMode,
    upload: String,
    /// What the object bears when this upload has joined it.
    nonce: String,
}

impl Ticket {
    pub(crate) fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub(crate) fn upload(&self) -> &str {
        &self.upload
    }
}

#[async_trait]
impl PartStore for S3Storage {
    type Ticket = Ticket;
    type Part = CompletedPart;

    async fn begin_parts(&self, key: &ObjectKey, mode: PutMode) -> Result<Ticket, StorageError> {
        let at = self.place(Some(key));
        let nonce = random::hex(|| at.clone())?;
        let (lock_mode, lock_until) = headers(self.retention(key));
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.asker.bucket)
            .key(self.name(key))
            .metadata(UPLOAD_OF_OBJECT, &nonce)
            .set_storage_class(self.keeping.storage_class.clone())
            .set_server_side_encryption(self.keeping.encryption())
            .set_ssekms_key_id(self.keeping.kms_key_id.clone())
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_tagging(self.keeping.tags.clone())
            .set_object_lock_mode(lock_mode)
            .set_object_lock_retain_until_date(lock_until)
            .set_request_payer(self.payer.clone());
        let begun = self.ask(&at, IoAction::Write, Box::pin(request.send())).await?;
        let Some(upload) = begun.upload_id else { return Err(speechless(at, "the id of the upload")) };
        Ok(Ticket { key: key.clone(), mode, upload, nonce })
    }

    async fn put_part(
        &self,
        ticket: &Ticket,
        number: u32,
        body: Bytes,
    ) -> Result<CompletedPart, StorageError> {
        let at = self.place(Some(&ticket.key));
        let md5 = content_md5_aside(&body).await;
        let number = i32::try_from(number + 1).expect("there are at most 10,000 parts");
        let request = self
            .client
            .upload_part()
            .bucket(&self.asker.bucket)
            .key(self.name(&ticket.key))
            .upload_id(&ticket.upload)
            .part_number(number)
            .content_md5(md5)
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_request_payer(self.payer.clone())
            .body(body.into())
            .customize();
        let request = if self.signs_payloads { request } else { request.disable_payload_signing() };
        let stored = self.ask(&at, IoAction::Write, Box::pin(request.send())).await?;
        let Some(tag) = stored.e_tag else { return Err(speechless(at, "the tag of a part")) };
        Ok(CompletedPart::builder().part_number(number).e_tag(tag).build())
    }

    async fn join_parts(&self, ticket: &Ticket, parts: &[CompletedPart]) -> Result<(), StorageError> {
        let at = self.place(Some(&ticket.key));
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.asker.bucket)
            .key(self.name(&ticket.key))
            .upload_id(&ticket.upload)
            .set_if_none_match(create_only(ticket.mode))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build())
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_request_payer(self.payer.clone());
        let mut refusal = None;
        let join = async {
            match self.judged(&at, IoAction::Publish, Box::pin(request.send()).await) {
                Ok(_) => Ok(()),
                Err(Outcome::Answered(answer)) if answer.is_lost_race() || answer.is_conflict() => {
                    refusal = Some(answer);
                    Ok(())
                }
                Err(outcome) => Err(self.sorted(&at, IoAction::Publish, outcome)),
            }
        };
        self.pace.run(join).await?;
        match refusal {
            None => Ok(()),
            Some(answer) => Err(self.lost(&at, &ticket.key, Outcome::Answered(answer)).await),
        }
    }

    async fn is_joined(&self, ticket: &Ticket) -> Result<bool, StorageError> {
        let facts = self.facts(&ticket.key).await?;
        let metadata = facts.as_ref().and_then(|facts| facts.metadata());
        Ok(metadata.and_then(|metadata| metadata.get(UPLOAD_OF_OBJECT)) == Some(&ticket.nonce))
    }

    async fn discard_parts(&self, ticket: &Ticket) {
        let at = self.place(Some(&ticket.key));
        let name = self.name(&ticket.key);
        let end = || self.end_upload(&at, &name, &ticket.upload);
        if let Err(error) = Tries::new(TIDYING, at.clone()).repeat(end).await {
            tracing::warn!(%error, "an upload that was given up stays unfinished until it is swept");
        }
    }

    async fn discard_strays(&self, key: &ObjectKey) {
        let at = self.place(Some(key));
        let name = self.name(key);
        let end = || self.end_uploads(&at, &name, |upload| upload.key() == Some(&name));
        if let Err(error) = Tries::new(TIDYING, at.clone()).repeat(end).await {
            tracing::warn!(%error, "an upload whose beginning lost its answer may stay unfinished: a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) ends it");
        }
    }
}

impl S3Storage {
    /// False: there was no such upload any more.
    async fn end_upload(&self, at: &Place, name: &str, upload: &str) -> Result<bool, StorageError> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.asker.bucket)
            .key(name)
            .upload_id(upload)
            .set_request_payer(self.payer.clone());
        match self.ask(at, IoAction::Remove, Box::pin(request.send())).await {
            Ok(_) => Ok(true),
            Err(StorageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends unfinished uploads under `prefix` that were begun so long ago.
    pub(crate) async fn end_uploads_since(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        // A span longer than the clock's whole past leaves everything in place.
        let limit = SystemTime::now().checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        let begun = |upload: &MultipartUpload| SystemTime::try_from(*upload.initiated()?).ok();
        let is_old = |upload: &MultipartUpload| begun(upload).is_some_and(|begun| begun <= limit);
        self.end_uploads(&self.place(prefix), &self.names_under(prefix), is_old).await
    }

    /// Ends the unfinished uploads to names that begin so and are to end, and says how many.
    async fn end_uploads(
        &self,
        at: &Place,
        names: &str,
        is_to_end: impl Fn(&MultipartUpload) -> bool,
    ) -> Result<u64, StorageError> {
        let mut ended = 0;
        let (mut key_marker, mut upload_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.asker.bucket)
                .prefix(names)
                .set_key_marker(key_marker.take())
                .set_upload_id_marker(upload_marker.take())
                .set_request_payer(self.payer.clone());
            let page = self.ask(at, IoAction::List, Box::pin(request.send())).await?;
            for upload in page.uploads().iter().filter(|upload| is_to_end(upload)) {
                let (Some(name), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                if self.end_upload(at, name, id).await? {
                    ended += 1;
                }
            }
            if page.is_truncated() != Some(true) || page.next_key_marker().is_none() {
                return Ok(ended);
            }
            (key_marker, upload_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }
}

pub(crate) fn speechless(at: Place, what: &str) -> StorageError {
    StorageError::NotSupported { at, reason: format!("the store answered without {what}") }
}
