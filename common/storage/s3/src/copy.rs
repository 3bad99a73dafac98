//! Copies that the server makes: an upload whose only part it fetches by itself.
//!
//! `CopyObject` alone would be one request, but servers that take `If-None-Match` for its target are few and new, and the others replace what
//! is there without a word. A join of parts has that condition wherever a repository can be at all, and an upload bears class, tags,
//! encryption and retention whoever fills it. Which source is meant says its ETag.

use crate::errors::Outcome;
use crate::parts::{Ticket, speechless};
use crate::request::{CustomerKey, escaped};
use crate::store::S3Storage;
use aws_sdk_s3::types::CompletedPart;
use pgconvoy_core::config::{S3Config, UriStyle};
use pgconvoy_storage::{IoAction, ObjectInfo, ObjectKey, PutMode, StorageError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of one part.
pub(crate) const COPY_BYTES_MAX: u64 = 5 << 30;

/// What two stores have in common if one server lets the same one into both: all that is not about a single repository.
pub(crate) fn account(config: &S3Config, endpoint: &str) -> S3Config {
    S3Config {
        bucket: String::new(),
        endpoint: endpoint.to_owned(),
        uri_style: UriStyle::Path,
        kms_key_id: None,
        sse_customer_key: None,
        storage_class: None,
        tags: BTreeMap::new(),
        ..config.clone()
    }
}

impl S3Storage {
    pub(crate) async fn copy_once(
        &self,
        origin: &S3Storage,
        object: &ObjectInfo,
        key: &ObjectKey,
    ) -> Result<(), StorageError> {
        // Before an upload is begun.
        object.known_etag(|| origin.place(Some(&object.key)))?;
        let (store, origin, source) = (self.clone(), origin.clone(), object.clone());
        let find = move |ticket: Arc<Ticket>, _| {
            let (store, origin, source) = (store.clone(), origin.clone(), source.clone());
            async move { store.copy_part(&ticket, &origin, &source).await }
        };
        self.upload_of_parts(key, PutMode::Create).finish_with(object.size, 1, find).await
    }

    async fn copy_part(
        &self,
        ticket: &Ticket,
        origin: &S3Storage,
        object: &ObjectInfo,
    ) -> Result<CompletedPart, StorageError> {
        let (at, from) = (self.place(Some(ticket.key())), origin.place(Some(&object.key)));
        let etag = object.known_etag(|| from.clone())?;
        let source_key = origin.customer_key.as_ref();
        let request = self
            .client
            .upload_part_copy()
            .bucket(&self.asker.bucket)
            .key(self.name(ticket.key()))
            .upload_id(ticket.upload())
            .part_number(1)
            .copy_source(format!("{}/{}", origin.asker.bucket, escaped(&origin.name(&object.key))))
            .copy_source_if_match(etag)
            .set_copy_source_sse_customer_algorithm(source_key.map(|_| CustomerKey::algorithm()))
            .set_copy_source_sse_customer_key(source_key.map(CustomerKey::key))
            .set_copy_source_sse_customer_key_md5(source_key.map(CustomerKey::md5))
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_request_payer(self.payer.clone());
        let mut refusal = None;
        let copy = async {
            match self.judged(&at, IoAction::Write, Box::pin(request.send()).await) {
                Ok(copied) => Ok(Some(copied)),
                // Not an error of the store, so its pace does not suffer.
                Err(Outcome::Answered(answer)) if answer.is_lost_race() => {
                    refusal = Some(StorageError::Changed { at: from.clone() });
                    Ok(None)
                }
                Err(Outcome::Answered(answer)) if answer.code == "NoSuchKey" => {
                    refusal = Some(StorageError::NotFound { at: from.clone() });
                    Ok(None)
                }
                Err(outcome) => Err(self.sorted(&at, IoAction::Write, outcome)),
            }
        };
        let copied = self.pace.run(copy).await?;
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let Some(tag) = copied.and_then(|copied| copied.copy_part_result?.e_tag) else {
            return Err(speechless(at, "the tag of a part"));
        };
        Ok(CompletedPart::builder().part_number(1).e_tag(tag).build())
    }
}
