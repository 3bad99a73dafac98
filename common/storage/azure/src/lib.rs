//! Azure Blob Storage: one container, or a path in it, as a store.
//!
//! Blobs are block blobs. Small ones are one Put Blob, others go in blocks ([`blocks`]) that one Put Block List makes an
//! object. The SDK makes the requests, [`door`] signs and sends them, [`trouble`] reads what goes wrong. Retries are
//! nobody's here: the retry decorator and uploads in parts have them.
//!
//! Code map: [`address`] says where the container is, [`access`] by what right one asks; [`reading`], [`blocks`] and
//! [`list`] are the calls, [`batch`] deletes many blobs by one request, [`copy`] has the service copy some, [`lock`] is what a put says of
//! immutability, [`versions`]
//! looks into the past.
//!
//! Invariants
//! 1. `If-None-Match: *` goes with every put and commit that must create: the service decides who was first.
//! 2. What is absent is what the service calls `BlobNotFound`, nothing else.
//! 3. No secret in errors, `Debug` forms or logs; no address with a query either.
//!
//! Failure story: an upload that dies leaves uncommitted blocks. They are in no listing, cost room for a week and are then
//! removed by Azure itself; it has no call that would remove them earlier and not show an object. So there is nothing to
//! sweep. Accounts with a hierarchical namespace work, but blobs there lie in directories that stay when they are empty.

mod access;
mod address;
mod batch;
mod blocks;
mod copy;
mod door;
mod list;
mod lock;
mod reading;
mod trouble;
mod versions;

#[cfg(test)]
mod testing;

pub use access::Surroundings;

use access::Access;
use async_trait::async_trait;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::{Body, ClientOptions, Etag, LoggingOptions, RetryOptions, Transport, Url};
use azure_core::time::{OffsetDateTime, parse_rfc7231};
use azure_storage_blob::models::BlobClientUploadOptions;
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};
use blocks::{PART_BYTES, PARTS_IN_FLIGHT_MAX, PARTS_MAX};
use bytes::Bytes;
use door::{Delimiting, Door};
use pgconvoy_core::config::AzureConfig;
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::http::batch::Batches;
use pgconvoy_storage::pace::Pace;
use pgconvoy_storage::parts::{PartLimits, PartSlots, PartedUpload};
use pgconvoy_storage::{
    Feature, Features, IoAction, ListAfter, ListDepth, ListPage, Lock, LockProof, ObjectInfo, ObjectKey,
    Origin, Place, PutMode, Storage, StorageError, Upload, http, not_an_origin,
};
use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use trouble::Asked;

/// Requests to one store at a time, of all uploads and reads of this process, before it asks for patience.
const REQUESTS_MAX: u32 = 64;

const ETAG: HeaderName = HeaderName::from_static("etag");

/// How a store is used, beside what its configuration says.
#[derive(Debug, Clone)]
pub struct AzureOptions {
    /// Where in the container: `/pg`.
    pub path: String,
    /// For the parts of uploads; whole calls have the retry decorator's.
    pub retry: RetryPolicy,
    pub slots: PartSlots,
    pub surroundings: Surroundings,
    /// What new blobs are guarded by.
    pub lock: Option<Lock>,
}

/// A clone is the same store.
#[derive(Clone)]
pub struct AzureStorage(Arc<Inner>);

struct Inner {
    container: BlobContainerClient,
    /// The container's way out, for what the SDK has no call for.
    door: Arc<Door>,
    /// What all keys lie under.
    root: Option<ObjectKey>,
    name: String,
    config: AzureConfig,
    /// Equal for all repositories that one service lets the same one into.
    account: AzureConfig,
    access: Access,
    pace: Pace,
    limits: PartLimits,
    slots: PartSlots,
    /// `x-ms-tags` of what is written.
    tags: Option<String>,
    lock: Option<Lock>,
    markers: list::Markers,
    batches: Batches,
}

impl fmt::Debug for AzureStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, access, .. } = &*self.0;
        f.debug_struct("AzureStorage").field("name", name).field("access", access).finish_non_exhaustive()
    }
}

impl AzureStorage {
    /// Looks at the configuration and at `ca-file`; nothing is sent.
    pub fn new(config: &AzureConfig, options: AzureOptions) -> Result<AzureStorage, StorageError> {
        let name = describe(config, &options.path);
        let refused = |reason: String| {
            let hint = "correct the repository's section of the configuration";
            StorageError::refused(Place::new(name.as_str(), None), IoAction::Open, reason, hint)
        };
        let root = match options.path.trim_matches('/') {
            "" => None,
            path => Some(path.parse().map_err(|error| refused(format!("path: {error}")))?),
        };
        let access = Access::of(config, &options.surroundings).map_err(refused)?;
        let account = address::account_url(config).map_err(refused)?;
        let url = address::within(&account, [config.container.as_str()]);
        let client = http::client(&config.tls, &name)?;
        let account_config = copy::account(config, &account);
        let door = Arc::new(Door::new(client, access.clone(), account));
        let container = container(url, Arc::clone(&door)).map_err(|error| refused(error.to_string()))?;
        let limits = PartLimits {
            bytes: PART_BYTES,
            in_flight_max: PARTS_IN_FLIGHT_MAX,
            parts_max: PARTS_MAX,
            retry: options.retry,
        };
        Ok(AzureStorage(Arc::new(Inner {
            container,
            door,
            root,
            config: config.clone(),
            account: account_config,
            access,
            pace: Pace::new(REQUESTS_MAX),
            limits,
            slots: options.slots,
            tags: tags(config),
            lock: options.lock,
            markers: list::Markers::default(),
            batches: Batches::default(),
            name,
        })))
    }

    fn place(&self, key: Option<&ObjectKey>) -> Place {
        Place::new(self.0.name.as_str(), key)
    }

    /// For an error of a request.
    fn asked(&self, key: Option<&ObjectKey>, action: IoAction) -> Asked {
        let url = self.0.container.url();
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        Asked {
            at: self.place(key),
            action,
            container: self.0.config.container.clone(),
            account: self.0.config.account.clone(),
            host: format!("{}{port}", url.host_str().unwrap_or_default()),
            access: self.0.access.facts(),
        }
    }

    /// Makes a request when the store's pace allows it.
    async fn ask<T>(
        &self,
        key: Option<&ObjectKey>,
        action: IoAction,
        request: impl Future<Output = azure_core::Result<T>>,
    ) -> Result<T, StorageError> {
        let answer = async { request.await.map_err(|error| self.asked(key, action).trouble(&error)) };
        self.0.pace.run(answer).await
    }

    /// Of a blob in the container.
    fn blob_name(&self, key: &ObjectKey) -> String {
        match &self.0.root {
            Some(root) => format!("{root}/{key}"),
            None => key.to_string(),
        }
    }

    fn blob(&self, key: &ObjectKey) -> BlobClient {
        self.0.container.blob_client(&self.blob_name(key))
    }

    fn upload(&self, key: &ObjectKey, mode: PutMode) -> PartedUpload<AzureStorage> {
        PartedUpload::new(self.clone(), key, mode, self.0.limits, &self.0.slots)
    }

    /// Size, time and what else is in the head; `None` is known absence.
    async fn head(&self, key: &ObjectKey) -> Result<Option<Headers>, StorageError> {
        let blob = self.blob(key);
        let answer = self.ask(Some(key), IoAction::Read, Box::pin(blob.get_properties(None))).await;
        match answer {
            Ok(answer) => Ok(Some(answer.headers().clone())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `azure:account/container/path`, for people.
pub fn describe(config: &AzureConfig, path: &str) -> String {
    let name = format!("azure:{}/{}/{}", config.account, config.container, path.trim_matches('/'));
    name.trim_end_matches('/').to_owned()
}

fn container(url: Url, door: Arc<Door>) -> azure_core::Result<BlobContainerClient> {
    let client_options = ClientOptions {
        transport: Some(Transport::new(door)),
        // Whoever calls tries again.
        retry: RetryOptions::none(),
        per_try_policies: vec![Arc::new(Delimiting)],
        logging: LoggingOptions::default(),
        ..ClientOptions::default()
    };
    let options = BlobContainerClientOptions { client_options, ..BlobContainerClientOptions::default() };
    BlobContainerClient::new(url, None, Some(options))
}

/// As a query has them; `None` without any.
fn tags(config: &AzureConfig) -> Option<String> {
    let mut url: Url = "https://tags/".parse().expect("a valid address");
    url.query_pairs_mut().extend_pairs(&config.tags);
    url.query().filter(|query| !query.is_empty()).map(str::to_owned)
}

/// The condition of a put.
fn condition(mode: PutMode) -> Option<Etag> {
    match mode {
        PutMode::Create => Some(Etag::from("*")),
        PutMode::Overwrite => None,
    }
}

fn modified(headers: &Headers) -> Option<SystemTime> {
    let text = headers.get_optional_str(&HeaderName::from_static("last-modified"))?;
    parse_rfc7231(text).ok().and_then(system_time)
}

fn system_time(moment: OffsetDateTime) -> Option<SystemTime> {
    let seconds = u64::try_from(moment.unix_timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[async_trait]
impl Storage for AzureStorage {
    fn describe(&self) -> String {
        self.0.name.clone()
    }

    fn features(&self) -> Features {
        let features = Features::NONE
            .with(Feature::CreateOnly)
            .with(Feature::RangedReads)
            .with(Feature::DurablePut)
            .with(Feature::ModifiedTime)
            .with_joins_from(pgconvoy_storage::parts::joined_from(PART_BYTES));
        if self.0.batches.are_taken() { features.with(Feature::BatchedDeletes) } else { features }
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let blob = self.blob(key);
        let (immutability_policy_expiry, immutability_policy_mode) = self.policy(key);
        let options = BlobClientUploadOptions {
            if_none_match: condition(mode),
            immutability_policy_expiry,
            immutability_policy_mode,
            blob_tags_string: self.0.tags.clone(),
            // As many as there are: one request.
            partition_size: NonZero::new(u64::try_from(body.len().max(1)).unwrap_or(u64::MAX)),
            ..BlobClientUploadOptions::default()
        };
        let upload = Box::pin(blob.upload(Body::from(body).into(), Some(options)));
        self.ask(Some(key), IoAction::Write, upload).await.map(drop)
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(self.upload(key, mode)))
    }

    fn origin(&self) -> Option<&Origin> {
        Some(self)
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        let origin = origin.downcast_ref::<AzureStorage>()?;
        (origin.0.account == self.0.account).then_some(copy::BYTES_MAX)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        match origin.downcast_ref() {
            Some(origin) => self.copy_once(origin, object, key).await,
            None => Err(not_an_origin(self.place(Some(key)))),
        }
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.read_whole(key, size_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.read_range(key, range).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let Some(headers) = self.head(key).await? else { return Ok(None) };
        let size = self.size_of(key, &headers)?;
        let etag = headers.get_optional_str(&ETAG).map(Into::into);
        Ok(Some(ObjectInfo { key: key.clone(), size, modified: modified(&headers), etag }))
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.list_page(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let blob = self.blob(key);
        let deleted = self.ask(Some(key), IoAction::Remove, Box::pin(blob.delete(None))).await;
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        http::batch::delete_many(self, keys).await
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.look_at_lock().await
    }
}
