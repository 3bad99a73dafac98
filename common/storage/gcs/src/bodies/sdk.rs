//! Bodies by Google's SDK.
//!
//! Its retries, its resuming of reads and its resumable uploads are off: a call here is one request, and what is to be tried again
//! is decided where it is for all stores. Errors are brought into the classes of all stores by what they say of HTTP.

use super::{NewObject, WRONG_CHECKSUM, Wanted, Which, damaged};
use crate::api::Api;
use crate::credentials::TokenError;
use crate::refusal::Answer;
use bytes::{Bytes, BytesMut};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::error::ReadError;
use google_cloud_storage::model_ext::ReadRange;
use google_cloud_storage::read_resume_policy::NeverResume;
use http::header::RETRY_AFTER;
use pgconvoy_storage::http::{retry_after, unanswered};
use pgconvoy_storage::{IoAction, Place, StorageError};
use std::error::Error;
use tokio::sync::OnceCell;

pub(crate) struct Sdk {
    /// Made at the first use, inside the runtime that will serve it.
    client: OnceCell<Storage>,
    bucket: String,
    user_project: Option<String>,
}

impl std::fmt::Debug for Sdk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sdk").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Sdk {
    pub(super) fn new(api: &Api, user_project: Option<String>) -> Sdk {
        let bucket = format!("projects/_/buckets/{}", api.bucket);
        Sdk { client: OnceCell::new(), bucket, user_project }
    }

    async fn client(&self, api: &Api, at: &Place) -> Result<&Storage, StorageError> {
        let made = self.client.get_or_try_init(async || {
            let builder = Storage::builder()
                .with_endpoint(api.endpoint.as_str())
                .with_credentials(api.bearer.clone())
                .with_retry_policy(NeverRetry)
                .with_read_resume_policy(NeverResume)
                .with_resumable_upload_threshold(usize::MAX)
                .with_grpc_subchannel_count(1);
            builder.build().await
        });
        made.await.map_err(|error| StorageError::NotSupported {
            at: at.clone(),
            reason: format!("no client of Google's SDK: {error}"),
        })
    }

    pub(super) async fn put(&self, api: &Api, new: NewObject<'_>, at: &Place) -> Result<i64, StorageError> {
        let client = self.client(api, at).await?;
        let once = async || {
            let write = client
                .write_object(self.bucket.as_str(), new.name, new.body.clone())
                .with_known_crc32c(new.crc32c)
                .set_content_type("application/octet-stream")
                .set_metadata(new.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            let write = if new.must_create { write.set_if_generation_match(0) } else { write };
            let write = match &self.user_project {
                Some(project) => write.with_quota_project(project.as_str()),
                None => write,
            };
            Box::pin(write.send_unbuffered()).await
        };
        let request = async {
            let bearing = api.bearing(at).await?;
            let mut answer = once().await;
            if is_unauthorised(&answer) && api.bearer.forget(&bearing).await {
                answer = once().await;
            }
            match answer {
                Ok(object) => Ok(object.generation),
                Err(error) if new.must_create && error.http_status_code() == Some(412) => {
                    Err(StorageError::AlreadyExists { at: at.clone() })
                }
                Err(error) => Err(sorted(api, at, IoAction::Write, &error).await),
            }
        };
        api.pace.run(request).await
    }

    pub(super) async fn read(
        &self,
        api: &Api,
        which: Which<'_>,
        wanted: Wanted,
        at: &Place,
    ) -> Result<Bytes, StorageError> {
        let client = self.client(api, at).await?;
        let once = async || {
            let read = client.read_object(self.bucket.as_str(), which.name);
            let read = match which.generation {
                Some(generation) => read.set_generation(generation),
                None => read,
            };
            let read = match &wanted {
                Wanted::Whole { .. } => read,
                Wanted::Part(range) => {
                    read.set_read_range(ReadRange::segment(range.start, range.end - range.start))
                }
            };
            let read = match &self.user_project {
                Some(project) => read.with_quota_project(project.as_str()),
                None => read,
            };
            Box::pin(read.send()).await
        };
        let request = async {
            let bearing = api.bearing(at).await?;
            let mut answer = once().await;
            if is_unauthorised(&answer) && api.bearer.forget(&bearing).await {
                answer = once().await;
            }
            let mut response = match answer {
                Ok(response) => response,
                Err(error) => return Err(sorted(api, at, IoAction::Read, &error).await),
            };
            let size = u64::try_from(response.object().size).unwrap_or_default();
            let length = wanted.length(size, at)?;
            let mut body = BytesMut::with_capacity(length);
            while let Some(chunk) = response.next().await {
                match chunk {
                    Ok(chunk) if body.len() + chunk.len() <= length => body.extend_from_slice(&chunk),
                    Ok(_) => return Err(damaged(at, "more came than was asked for")),
                    Err(error) => return Err(sorted(api, at, IoAction::Read, &error).await),
                }
            }
            if body.len() < length {
                return Err(damaged(at, "its answer ended too early"));
            }
            Ok(body.freeze())
        };
        api.pace.run(request).await
    }
}

fn is_unauthorised<T>(answer: &Result<T, google_cloud_storage::Error>) -> bool {
    answer.as_ref().is_err_and(|error| error.http_status_code() == Some(401))
}

async fn sorted(
    api: &Api,
    at: &Place,
    action: IoAction,
    error: &google_cloud_storage::Error,
) -> StorageError {
    if let Some(refused) = cause::<TokenError>(error) {
        return refused.clone().at(at.clone());
    }
    if matches!(cause(error), Some(ReadError::ChecksumMismatch(_))) {
        return damaged(at, WRONG_CHECKSUM);
    }
    let Some(status) = error.http_status_code() else {
        // The outermost error would only say which of the SDK's classes it has.
        return unanswered(at.clone(), action, error.source().unwrap_or(error));
    };
    let header = error.http_headers().and_then(|headers| headers.get(RETRY_AFTER));
    let wait = retry_after(header.and_then(|value| value.to_str().ok()));
    let answer = match error.status() {
        Some(said) => {
            let message = said.message.clone();
            Answer { status, reason: String::new(), message, retry_after: wait }
        }
        None => Answer::new(status, error.http_payload().map_or(&[][..], |body| &body[..]), wait),
    };
    api.refused(at, action, &answer).await
}

fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
