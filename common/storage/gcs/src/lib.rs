//! Repositories in Google Cloud Storage: [`Storage`] over the documented JSON API and Google's SDK.
//!
//! Code map: [`api`] makes requests, [`refusal`] reads their errors, [`credentials`] says who asks; [`bodies`] puts and reads
//! objects by the SDK or by JSON, [`batch`] deletes many in one request, [`parts`] joins large ones of parts,
//! [`copy`] has the store copy some, [`listing`] lists, [`lock`] retains, [`versions`] looks into the past, [`names`]
//! names.
//!
//! What is not here: retries (the retry decorator's, and those of [`PartedUpload`] for parts), encryption, storage classes (the
//! bucket's default class holds).
//!
//! Invariants
//! 1. `Create` is `ifGenerationMatch=0`: the store decides who was first, with uploads in one piece and in parts alike.
//! 2. Every request takes its turn from one pace, so that a store that asks for patience gets it from all.
//! 3. No object is believed whose crc32c was not checked by one side: puts by the store, reads of whole objects here, ranges by
//!    the format above, which authenticates each frame.

mod api;
mod batch;
mod bodies;
mod copy;
mod credentials;
mod listing;
mod lock;
mod names;
mod parts;
mod refusal;
mod resource;
mod versions;

pub use parts::{Part, Ticket};

use api::Api;
use async_trait::async_trait;
use bodies::{Bodies, NewObject, Wanted, Which};
use bytes::Bytes;
use credentials::Bearer;
use http::HeaderValue;
use names::Root;
use pgconvoy_core::config::GcsConfig;
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::http::batch::{self as many, Batches};
use pgconvoy_storage::http::client;
use pgconvoy_storage::pace::Pace;
use pgconvoy_storage::parts::{PartLimits, PartSlots, PartStore, PartedUpload};
use pgconvoy_storage::{
    Feature, Features, IoAction, ListAfter, ListDepth, ListPage, Lock, LockProof, ObjectInfo, ObjectKey,
    Origin, Place, PutMode, Storage, StorageError, Upload, not_an_origin,
};
use reqwest::Method;
use resource::Resource;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Requests at a time: what the slots of a large worker keep busy; the store makes it fewer when it says so.
const REQUESTS_MAX: u32 = 64;
/// Small enough for a slot's memory with several under way.
const PART_BYTES: usize = 5 << 20;
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// 48 GiB of one object, three rounds of composing.
const PARTS_MAX: u32 = 10_000;

/// A bucket, or what lies under a prefix of it. A clone is the same store.
#[derive(Debug, Clone)]
pub struct GcsStorage {
    inner: Arc<Inner>,
    limits: PartLimits,
    slots: PartSlots,
}

#[derive(Debug)]
struct Inner {
    description: String,
    root: Root,
    api: Api,
    bodies: Bodies,
    batches: Batches,
    /// Metadata of every object.
    tags: BTreeMap<String, String>,
    /// What new objects are guarded by.
    lock: Option<Lock>,
    /// Equal for all repositories that one service lets the same one into.
    account: GcsConfig,
}

impl Inner {
    fn place(&self, key: Option<&ObjectKey>) -> Place {
        Place::new(self.description.as_str(), key)
    }
}

impl GcsStorage {
    /// Nothing is asked yet but the key file. `retry` is for the parts of an upload; other calls are made once.
    pub fn open(
        config: &GcsConfig,
        path: &str,
        slots: PartSlots,
        retry: RetryPolicy,
        lock: Option<Lock>,
    ) -> Result<GcsStorage, StorageError> {
        // The SDK signs and connects with the process's provider; another one that was installed before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let description = describe(&config.bucket, path);
        let unusable = |reason: String, hint: &str| {
            let at = Place::new(description.as_str(), None);
            StorageError::unusable(at, ErrorCode::OptionInvalidValue, reason, hint)
        };
        let root =
            Root::new(path).map_err(|reason| unusable(reason, "path is the prefix of all object names"))?;
        let user_project = config.user_project.as_deref().map(HeaderValue::from_str).transpose();
        let user_project = user_project.map_err(|_| {
            unusable("user-project is no project".to_owned(), "name a project by its identifier")
        })?;
        let http = client(&config.tls, &description)?;
        let bearer =
            Bearer::new(config, &http).map_err(|error| error.at(Place::new(description.as_str(), None)))?;
        let api = Api {
            http,
            endpoint: endpoint(&config.endpoint),
            bucket: config.bucket.clone(),
            bearer,
            user_project,
            pace: Pace::new(REQUESTS_MAX),
        };
        let limits =
            PartLimits { bytes: PART_BYTES, in_flight_max: PARTS_IN_FLIGHT_MAX, parts_max: PARTS_MAX, retry };
        let bodies = Bodies::new(config, &api);
        let inner = Inner {
            description,
            root,
            api,
            bodies,
            batches: Batches::default(),
            tags: config.tags.clone(),
            lock,
            account: copy::account(config),
        };
        Ok(GcsStorage { inner: Arc::new(inner), limits, slots })
    }

    async fn read(&self, key: &ObjectKey, wanted: Wanted) -> Result<Bytes, StorageError> {
        let name = self.inner.root.name(key);
        self.read_which(key, Which { name: &name, generation: None }, wanted).await
    }

    async fn read_which(
        &self,
        key: &ObjectKey,
        which: Which<'_>,
        wanted: Wanted,
    ) -> Result<Bytes, StorageError> {
        let Inner { api, bodies, .. } = &*self.inner;
        bodies.read(api, which, wanted, &self.inner.place(Some(key))).await
    }

    /// An object's size as an error where it ends before what was asked for.
    async fn ends_before(&self, key: &ObjectKey, wanted: u64) -> Result<(), StorageError> {
        let at = self.inner.place(Some(key));
        match self.stat(key).await? {
            None => Err(StorageError::NotFound { at }),
            Some(ObjectInfo { size, .. }) if size < wanted => {
                Err(StorageError::Truncated { at, size, wanted })
            }
            Some(_) => Ok(()),
        }
    }
}

/// For people, without anything secret.
pub fn describe(bucket: &str, path: &str) -> String {
    match path.trim_matches('/') {
        "" => format!("gcs:{bucket}"),
        path => format!("gcs:{bucket}/{path}"),
    }
}

/// An address without a scheme is one of TLS.
fn endpoint(configured: &str) -> String {
    let address = configured.trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("https://{address}") }
}

#[async_trait]
impl Storage for GcsStorage {
    fn describe(&self) -> String {
        self.inner.description.clone()
    }

    fn features(&self) -> Features {
        let features = Features::NONE
            .with(Feature::CreateOnly)
            .with(Feature::RangedReads)
            .with(Feature::DurablePut)
            .with(Feature::SweepsUploads)
            .with(Feature::ModifiedTime)
            .with_joins_from(pgconvoy_storage::parts::joined_from(PART_BYTES));
        if self.inner.batches.are_taken() { features.with(Feature::BatchedDeletes) } else { features }
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let Inner { root, api, bodies, tags, .. } = &*self.inner;
        let new = NewObject {
            name: &root.name(key),
            must_create: mode == PutMode::Create,
            body: &body,
            crc32c: crc32c::crc32c(&body),
            metadata: tags,
            retention: self.inner.retention(key),
        };
        bodies.put(api, new, &self.inner.place(Some(key))).await.map(drop)
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(PartedUpload::new(self.clone(), key, mode, self.limits, &self.slots)))
    }

    fn origin(&self) -> Option<&Origin> {
        Some(self)
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        let origin = origin.downcast_ref::<GcsStorage>()?;
        (origin.inner.account == self.inner.account).then_some(u64::MAX)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        match origin.downcast_ref() {
            Some(origin) => self.copy_once(origin, object, key).await,
            None => Err(not_an_origin(self.inner.place(Some(key)))),
        }
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.read(key, Wanted::Whole { size_max }).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        // HTTP has no empty range, and servers disagree about ranges that begin behind the end.
        if range.is_empty() {
            self.ends_before(key, range.end).await?;
            return Ok(Bytes::new());
        }
        // What no object can have is not worth a request, and the SDK counts with a sign.
        if i64::try_from(range.end).is_err() {
            self.ends_before(key, range.end).await?;
        }
        match self.read(key, Wanted::Part(range.clone())).await {
            // The request, and not whoever asks: servers have several words for a range that is not there.
            Err(error @ StorageError::Refused { code: ErrorCode::FileRead, .. }) => {
                self.ends_before(key, range.end).await?;
                Err(error)
            }
            answer => answer,
        }
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let Inner { root, api, .. } = &*self.inner;
        let at = self.inner.place(Some(key));
        let call = api.object(Method::GET, &root.name(key), &at, IoAction::Open);
        match api.ask::<Resource>(call.query("fields", "size,timeCreated,generation")).await {
            Ok(object) => {
                let (size, modified) = (object.size, object.created());
                let etag = Some(object.generation.to_string().into());
                Ok(Some(ObjectInfo { key: key.clone(), size, modified, etag }))
            }
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.inner.list(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let Inner { root, api, .. } = &*self.inner;
        let at = self.inner.place(Some(key));
        match api.tell(api.object(Method::DELETE, &root.name(key), &at, IoAction::Remove)).await {
            Ok(()) | Err(StorageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StorageError> {
        many::delete_many(self, keys).await
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        self.inner.sweep(prefix, older_than).await
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.inner.look_at_lock().await
    }
}

#[async_trait]
impl PartStore for GcsStorage {
    type Ticket = Ticket;
    type Part = Part;

    async fn begin_parts(&self, key: &ObjectKey, mode: PutMode) -> Result<Ticket, StorageError> {
        self.inner.begin_parts(key, mode)
    }

    async fn put_part(&self, ticket: &Ticket, number: u32, body: Bytes) -> Result<Part, StorageError> {
        self.inner.put_part(ticket, number, &body).await
    }

    async fn join_parts(&self, ticket: &Ticket, parts: &[Part]) -> Result<(), StorageError> {
        self.inner.join_parts(ticket, parts).await
    }

    async fn is_joined(&self, ticket: &Ticket) -> Result<bool, StorageError> {
        self.inner.is_joined(ticket).await
    }

    async fn discard_parts(&self, ticket: &Ticket) {
        self.inner.discard_parts(ticket).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_and_without_a_scheme_is_an_address() {
        assert_eq!(endpoint("storage.googleapis.com"), "https://storage.googleapis.com");
        assert_eq!(endpoint("https://storage.googleapis.com/"), "https://storage.googleapis.com");
        assert_eq!(endpoint("http://127.0.0.1:14443"), "http://127.0.0.1:14443");
    }

    #[test]
    fn a_store_is_called_by_bucket_and_prefix() {
        assert_eq!(describe("b", "/"), "gcs:b");
        assert_eq!(describe("b", "/pg/main/"), "gcs:b/pg/main");
    }
}
