//! The contract, one request of the store for each call where one is enough.

use crate::copy::COPY_BYTES_MAX;
use crate::errors::{Answer, Asker, Outcome, outcome, unavailable};
use crate::list;
use crate::lock::headers;
use crate::request::{CustomerKey, Keeping, MD5_OF_OBJECT, content_md5, content_md5_aside};
use async_trait::async_trait;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{Delete, ObjectIdentifier, RequestPayer};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use bytes::Bytes;
use pgconvoy_core::config::S3Config;
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::pace::Pace;
use pgconvoy_storage::parts::{PartLimits, PartSlots, PartedUpload};
use pgconvoy_storage::{
    Feature, Features, IoAction, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Origin,
    Place, PutMode, Storage, StorageError, Upload, not_an_origin,
};
use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// The smallest part that S3 takes, but for the last one.
const PART_BYTES: usize = 5 << 20;
/// Of one upload: enough that the pauses between answer and next part cost no throughput at 100 ms.
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// S3's own limit: objects of 48 GiB at most.
const PARTS_MAX: u32 = 10_000;
/// Keys of one request for deletion.
const DELETES_MAX: usize = 1000;

/// A bucket, or what lies under one prefix of it. A clone is the same store.
#[derive(Debug, Clone)]
pub struct S3Storage(Arc<Inner>);

/// What clones share.
pub struct Inner {
    pub(crate) client: aws_sdk_s3::Client,
    /// Equal for all repositories that one server lets the same one into.
    pub(crate) account: S3Config,
    /// Without slashes around it; empty: the whole bucket.
    pub(crate) prefix: String,
    pub(crate) description: Arc<str>,
    pub(crate) keeping: Keeping,
    pub(crate) customer_key: Option<CustomerKey>,
    pub(crate) payer: Option<RequestPayer>,
    /// TLS guards bodies already where there is TLS.
    pub(crate) signs_payloads: bool,
    pub(crate) asker: Asker,
    pub(crate) pace: Pace,
    pub(crate) retry: RetryPolicy,
    pub(crate) slots: PartSlots,
    /// Something was answered that only an existing bucket can answer.
    pub(crate) is_bucket_known: AtomicBool,
    pub(crate) lists_directories: Arc<AtomicBool>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("S3Storage").field(&self.description).finish()
    }
}

impl std::ops::Deref for S3Storage {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl S3Storage {
    pub(crate) fn of(inner: Inner) -> S3Storage {
        S3Storage(Arc::new(inner))
    }

    pub(crate) fn place(&self, key: Option<&ObjectKey>) -> Place {
        Place::new(Arc::clone(&self.description), key)
    }

    /// The name of an object in the bucket.
    pub(crate) fn name(&self, key: &ObjectKey) -> String {
        if self.prefix.is_empty() { key.to_string() } else { format!("{}/{key}", self.prefix) }
    }

    /// What names of objects under `prefix` begin with.
    pub(crate) fn names_under(&self, prefix: Option<&ObjectKey>) -> String {
        match prefix {
            Some(key) => format!("{}/", self.name(key)),
            None if self.prefix.is_empty() => String::new(),
            None => format!("{}/", self.prefix),
        }
    }

    /// The key of a name; `None` for what is no object of ours.
    pub(crate) fn key(&self, name: &str) -> Option<ObjectKey> {
        let tail = if self.prefix.is_empty() {
            name
        } else {
            name.strip_prefix(self.prefix.as_str())?.strip_prefix('/')?
        };
        tail.parse().ok()
    }

    pub(crate) fn upload_of_parts(&self, key: &ObjectKey, mode: PutMode) -> PartedUpload<S3Storage> {
        let limits = PartLimits {
            bytes: PART_BYTES,
            in_flight_max: PARTS_IN_FLIGHT_MAX,
            parts_max: PARTS_MAX,
            retry: self.retry,
        };
        PartedUpload::new(self.clone(), key, mode, limits, &self.slots)
    }

    pub(crate) fn customer_algorithm(&self) -> Option<String> {
        self.customer_key.as_ref().map(|_| CustomerKey::algorithm())
    }

    pub(crate) fn customer_key(&self) -> Option<String> {
        self.customer_key.as_ref().map(CustomerKey::key)
    }

    pub(crate) fn customer_key_md5(&self) -> Option<String> {
        self.customer_key.as_ref().map(CustomerKey::md5)
    }

    /// Remembers what an answer tells of the bucket, and gives the answer of a failure for closer looking.
    pub(crate) fn judged<T, E>(
        &self,
        at: &Place,
        action: IoAction,
        result: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, Outcome>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let judged = result.map_err(|error| outcome(at, action, &error));
        match &judged {
            Ok(_) => self.is_bucket_known.store(true, Ordering::Relaxed),
            Err(Outcome::Answered(answer)) if answer.code == "NoSuchKey" || answer.is_lost_race() => {
                self.is_bucket_known.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        judged
    }

    pub(crate) fn sorted(&self, at: &Place, action: IoAction, outcome: Outcome) -> StorageError {
        match outcome {
            // The store answered before: something in front of it does so now, as proxies do while a store starts.
            Outcome::Answered(answer) if answer.is_absence_by_a_stranger() && self.is_bucket_known() => {
                unavailable(at, format!("{}, in words that are not the store's", answer.words()))
            }
            Outcome::Answered(answer) => self.asker.sort(at.clone(), action, &answer),
            Outcome::Failed(error) => error,
        }
    }

    /// One request whose failures need no closer look.
    pub(crate) async fn ask<T, E>(
        &self,
        at: &Place,
        action: IoAction,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, StorageError>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let request = async {
            self.judged(at, action, request.await).map_err(|outcome| self.sorted(at, action, outcome))
        };
        self.pace.run(request).await
    }

    /// What a failed create means: 412 that the key exists, 409 that somebody is at it.
    pub(crate) async fn lost(&self, at: &Place, key: &ObjectKey, outcome: Outcome) -> StorageError {
        match &outcome {
            Outcome::Answered(answer) if answer.is_lost_race() => {
                StorageError::AlreadyExists { at: at.clone() }
            }
            Outcome::Answered(answer) if answer.is_conflict() => match self.facts(key).await {
                Ok(Some(_)) => StorageError::AlreadyExists { at: at.clone() },
                Ok(None) => self.sorted(at, IoAction::Publish, outcome),
                Err(error) => error,
            },
            _ => self.sorted(at, IoAction::Write, outcome),
        }
    }

    async fn put_once(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let at = self.place(Some(key));
        let md5 = content_md5_aside(&body).await;
        let (lock_mode, lock_until) = headers(self.retention(key));
        let request = self
            .client
            .put_object()
            .bucket(&self.asker.bucket)
            .key(self.name(key))
            .set_if_none_match(create_only(mode))
            .content_md5(&md5)
            .metadata(MD5_OF_OBJECT, &md5)
            .set_storage_class(self.keeping.storage_class.clone())
            .set_server_side_encryption(self.keeping.encryption())
            .set_ssekms_key_id(self.keeping.kms_key_id.clone())
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_tagging(self.keeping.tags.clone())
            .set_object_lock_mode(lock_mode)
            .set_object_lock_retain_until_date(lock_until)
            .set_request_payer(self.payer.clone())
            .body(body.into())
            .customize();
        let request = if self.signs_payloads { request } else { request.disable_payload_signing() };
        let mut refusal = None;
        let put = async {
            match self.judged(&at, IoAction::Write, Box::pin(request.send()).await) {
                Ok(_) => Ok(()),
                // Not an error of the store, so its pace does not suffer.
                Err(outcome @ Outcome::Answered(_)) if is_about_creation(&outcome) => {
                    refusal = Some(outcome);
                    Ok(())
                }
                Err(outcome) => Err(self.sorted(&at, IoAction::Write, outcome)),
            }
        };
        self.pace.run(put).await?;
        match refusal {
            None => Ok(()),
            Some(outcome) => Err(self.lost(&at, key, outcome).await),
        }
    }

    /// What `HEAD` tells; `None` is known absence.
    pub(crate) async fn facts(&self, key: &ObjectKey) -> Result<Option<HeadObjectOutput>, StorageError> {
        let at = self.place(Some(key));
        let request = self
            .client
            .head_object()
            .bucket(&self.asker.bucket)
            .key(self.name(key))
            .set_sse_customer_algorithm(self.customer_algorithm())
            .set_sse_customer_key(self.customer_key())
            .set_sse_customer_key_md5(self.customer_key_md5())
            .set_request_payer(self.payer.clone());
        let mut unexplained = None;
        let ask = async {
            match self.judged(&at, IoAction::Read, Box::pin(request.send()).await) {
                Ok(facts) => Ok(Some(facts)),
                Err(Outcome::Answered(answer))
                    if answer.status == 404 && answer.is_numbered && self.is_bucket_known() =>
                {
                    Ok(None)
                }
                Err(Outcome::Answered(answer)) if answer.status < 500 => {
                    unexplained = Some(answer);
                    Ok(None)
                }
                Err(outcome) => Err(self.sorted(&at, IoAction::Read, outcome)),
            }
        };
        let facts = self.pace.run(ask).await?;
        match unexplained {
            Some(answer) => self.explained(&at, key, &answer).await.map(|()| None),
            None => Ok(facts),
        }
    }

    fn is_bucket_known(&self) -> bool {
        self.is_bucket_known.load(Ordering::Relaxed)
    }

    /// An answer to `HEAD` has no words, so that a missing bucket, or a proxy in front of a store that starts, looks like a
    /// missing object. A listing has words.
    async fn explained(&self, at: &Place, key: &ObjectKey, answer: &Answer) -> Result<(), StorageError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.asker.bucket)
            .prefix(self.name(key))
            .max_keys(1)
            .set_request_payer(self.payer.clone());
        let listed = self.ask(at, IoAction::Read, Box::pin(request.send())).await?;
        if answer.status != 404 {
            return Err(self.asker.sort(at.clone(), IoAction::Read, answer));
        }
        let name = self.name(key);
        if listed.contents().iter().any(|object| object.key() == Some(name.as_str())) {
            return Err(unavailable(at, "it answered 404 of an object that it lists".to_owned()));
        }
        Ok(())
    }

    async fn delete_batch(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let at = self.place(None);
        let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(self.name(key)).build());
        let objects = objects.collect::<Result<Vec<_>, _>>().expect("every object has a key");
        let wanted = Delete::builder().set_objects(Some(objects)).quiet(true).build();
        let request = self
            .client
            .delete_objects()
            .bucket(&self.asker.bucket)
            .delete(wanted.expect("the objects are set"))
            .set_request_payer(self.payer.clone())
            .customize()
            // What S3 asked for before it knew other checksums, and what servers like it still ask for.
            .mutate_request(|request| {
                if let Some(md5) = request.body().bytes().map(content_md5) {
                    request.headers_mut().insert("content-md5", md5);
                }
            });
        let done = self.ask(&at, IoAction::Remove, Box::pin(request.send())).await?;
        let failed = done.errors().iter().filter(|error| error.code() != Some("NoSuchKey"));
        let errors = failed.map(|error| self.undeleted(error)).collect::<Vec<_>>();
        // What is kept is no trouble, so anything else goes before it.
        match errors.iter().find(|error| !error.is_kept()).or(errors.first()) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn undeleted(&self, error: &aws_sdk_s3::types::Error) -> StorageError {
        let key = error.key().and_then(|name| self.key(name));
        let answer = Answer {
            status: if error.code() == Some("AccessDenied") { 403 } else { 500 },
            code: error.code().unwrap_or_default().to_owned(),
            message: error.message().unwrap_or_default().to_owned(),
            ..Answer::default()
        };
        self.asker.sort(self.place(key.as_ref()), IoAction::Remove, &answer)
    }
}

fn is_about_creation(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(answer) if answer.is_lost_race() || answer.is_conflict())
}

pub(crate) fn create_only(mode: PutMode) -> Option<String> {
    (mode == PutMode::Create).then(|| "*".to_owned())
}

pub(crate) fn size_of(facts: &HeadObjectOutput) -> u64 {
    facts.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

/// To the second: a listing may know more than the head of an answer, and both must say the same.
pub(crate) fn moment(time: Option<&DateTime>) -> Option<SystemTime> {
    let seconds = u64::try_from(time?.secs()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[async_trait]
impl Storage for S3Storage {
    fn describe(&self) -> String {
        self.description.to_string()
    }

    fn features(&self) -> Features {
        Features::NONE
            .with(Feature::CreateOnly)
            .with(Feature::RangedReads)
            .with(Feature::DurablePut)
            .with(Feature::SweepsUploads)
            .with(Feature::ModifiedTime)
            .with(Feature::BatchedDeletes)
            .with_joins_from(pgconvoy_storage::parts::joined_from(PART_BYTES))
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        self.put_once(key, mode, body).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(self.upload_of_parts(key, mode)))
    }

    fn origin(&self) -> Option<&Origin> {
        Some(self)
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        let origin = origin.downcast_ref::<S3Storage>()?;
        (origin.account == self.account).then_some(COPY_BYTES_MAX)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        match origin.downcast_ref() {
            Some(origin) => self.copy_once(origin, object, key).await,
            None => Err(not_an_origin(self.place(Some(key)))),
        }
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.pace.run(self.get_once(key, size_max)).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        if range.start < range.end {
            let end = range.end;
            return match self.pace.run(self.get_range_once(key, range)).await? {
                Some(body) => Ok(body),
                // Asked only now: a request within a request waits for a turn that it has itself.
                None => Err(self.too_short(key, end).await),
            };
        }
        match self.facts(key).await? {
            Some(facts) if size_of(&facts) >= range.start => Ok(Bytes::new()),
            Some(facts) => Err(StorageError::Truncated {
                at: self.place(Some(key)),
                size: size_of(&facts),
                wanted: range.start,
            }),
            None => Err(StorageError::NotFound { at: self.place(Some(key)) }),
        }
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let facts = self.facts(key).await?;
        Ok(facts.map(|facts| ObjectInfo {
            key: key.clone(),
            size: size_of(&facts),
            modified: moment(facts.last_modified()),
            etag: facts.e_tag().map(Into::into),
        }))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        list::page(self, prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let at = self.place(Some(key));
        let request = self
            .client
            .delete_object()
            .bucket(&self.asker.bucket)
            .key(self.name(key))
            .set_request_payer(self.payer.clone());
        match self.ask(&at, IoAction::Remove, Box::pin(request.send())).await {
            Ok(_) | Err(StorageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        let mut kept = Ok(());
        for batch in keys.chunks(DELETES_MAX) {
            match self.delete_batch(batch).await {
                Err(error) if error.is_kept() => kept = kept.and(Err(error)),
                other => other?,
            }
        }
        kept
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        self.end_uploads_since(prefix, older_than).await
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.look_at_lock().await
    }
}
