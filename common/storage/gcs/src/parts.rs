//! Large objects: parts put side by side as objects of their own, joined by `compose`.
//!
//! A resumable session takes its bytes in order, one connection at a time; the XML API's multipart upload knows no
//! preconditions, so nobody could say who created an object first. Composing can: the last `compose` bears the precondition.
//!
//! Invariants
//! 1. Parts have names that no key can have, under a name that only this upload knows. Nothing shows before the last compose.
//! 2. The composed object's size and crc32c are those of its parts together; one that differs is removed again.
//! 3. An object that an upload made bears the upload's name in its metadata: a join whose answer was lost is found by it.
//!
//! Failure story: parts of an upload that died stay until a sweep. In a bucket with a retention policy, a default hold or soft
//! delete they stay as long as that keeps objects, and are paid for: such a bucket holds large objects twice for that time. Parts
//! have the bucket's default class, since a composed object has the class of its parts.

use crate::Inner;
use crate::bodies::NewObject;
use crate::resource::Resource;
use crc32c::crc32c_combine;
use futures::future::try_join_all;
use futures::{StreamExt as _, stream};
use pgconvoy_storage::decorate::retry::Tries;
use pgconvoy_storage::parts::TIDYING;
use pgconvoy_storage::{IoAction, ObjectKey, Place, PutMode, StorageError, random};
use reqwest::Method;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What one compose takes.
const SOURCES_MAX: usize = 32;
/// Parts that are removed at a time. Each has its own time from then on, however many there are before it.
const REMOVALS_AT_ONCE: usize = 64;
/// Whose metadata holds the name of the upload that made the object.
pub(crate) const UPLOAD: &str = "pgconvoy-upload";

/// An upload, known by a random name.
#[derive(Debug)]
pub struct Ticket {
    key: ObjectKey,
    mode: PutMode,
    nonce: String,
}

impl Ticket {
    pub(crate) fn key(&self) -> &ObjectKey {
        &self.key
    }

    pub(crate) fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// A part that is in the bucket.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    generation: i64,
    size: u64,
    crc32c: u32,
}

impl Part {
    fn version(&self) -> (&str, i64) {
        (&self.name, self.generation)
    }
}

impl Inner {
    pub(crate) fn begin_parts(&self, key: &ObjectKey, mode: PutMode) -> Result<Ticket, StorageError> {
        let nonce = random::hex(|| self.place(Some(key)))?;
        Ok(Ticket { key: key.clone(), mode, nonce })
    }

    pub(crate) async fn put_part(
        &self,
        ticket: &Ticket,
        number: u32,
        body: &bytes::Bytes,
    ) -> Result<Part, StorageError> {
        let name = format!("{}{number:06}", self.root.parts_of(&ticket.key, &ticket.nonce));
        let crc32c = crc32c::crc32c(body);
        let metadata = &BTreeMap::new();
        let new = NewObject { name: &name, must_create: false, body, crc32c, metadata, retention: None };
        let generation = self.bodies.put(&self.api, new, &self.place(Some(&ticket.key))).await?;
        let size = u64::try_from(body.len()).expect("a length in memory fits 64 bits");
        Ok(Part { name, generation, size, crc32c })
    }

    pub(crate) async fn join_parts(
        self: &Arc<Self>,
        ticket: &Ticket,
        parts: &[Part],
    ) -> Result<(), StorageError> {
        let at = self.place(Some(&ticket.key));
        let mut made: Vec<Part> = Vec::new();
        let mut level = parts.to_vec();
        for round in 0.. {
            if level.len() <= SOURCES_MAX {
                break;
            }
            let folder = self.root.parts_of(&ticket.key, &ticket.nonce);
            let groups = level.chunks(SOURCES_MAX).enumerate().map(|(number, group)| {
                let name = format!("{folder}joined-{round}-{number:06}");
                self.compose(name, group, false, serde_json::json!({}), &at)
            });
            level = try_join_all(groups).await?;
            made.extend_from_slice(&level);
        }
        let mut metadata = self.tags.clone();
        metadata.insert(UPLOAD.to_owned(), ticket.nonce.clone());
        let must_create = ticket.mode == PutMode::Create;
        let mut description = serde_json::json!({ "metadata": metadata });
        if let Some(retention) = self.retention(&ticket.key) {
            description["retention"] = retention;
        }
        self.compose(self.root.name(&ticket.key), &level, must_create, description, &at).await?;
        made.extend_from_slice(parts);
        // Goes on when nobody waits for it any more: the object is there, only room is lost.
        let (inner, at) = (Arc::clone(self), at.clone());
        let removing = async move { inner.remove_all(made.iter().map(Part::version), &at).await };
        let _ = tokio::spawn(removing).await;
        Ok(())
    }

    /// Makes one object of a few with what its description says, and checks what came of it.
    async fn compose(
        &self,
        name: String,
        sources: &[Part],
        must_create: bool,
        mut description: serde_json::Value,
        at: &Place,
    ) -> Result<Part, StorageError> {
        let names: Vec<_> = sources.iter().map(|part| serde_json::json!({ "name": part.name })).collect();
        description["contentType"] = "application/octet-stream".into();
        let retention = description.get("retention").cloned();
        let request = serde_json::json!({ "sourceObjects": names, "destination": description });
        let call = self.api.compose(&name, at).query("fields", "generation,size,crc32c,retention");
        let composed: Resource = self.api.ask(call.must_create(must_create).json(&request)).await?;
        let (size, crc32c) = sources.iter().fold((0, 0), |(size, crc), part| {
            let length = usize::try_from(part.size).expect("a part was in memory, or is made of such");
            (size + part.size, crc32c_combine(crc, part.crc32c, length))
        });
        if composed.size == size && composed.crc32c().is_none_or(|known| known == crc32c) {
            self.retain(&composed, &name, retention.as_ref(), at).await?;
            return Ok(Part { name, generation: composed.generation, size, crc32c });
        }
        let part = Part { name, generation: composed.generation, size, crc32c };
        self.remove_part(&part.name, part.generation, at).await;
        let reason = "what the store made of the parts is not what they hold".to_owned();
        Err(StorageError::Unavailable { at: at.clone(), reason })
    }

    pub(crate) async fn is_joined(&self, ticket: &Ticket) -> Result<bool, StorageError> {
        let at = self.place(Some(&ticket.key));
        let call = self.api.object(Method::GET, &self.root.name(&ticket.key), &at, IoAction::Open);
        match self.api.ask::<Resource>(call.query("fields", "generation,metadata,retention")).await {
            Ok(object) if object.metadata.get(UPLOAD) == Some(&ticket.nonce) => {
                let (name, retention) = (self.root.name(&ticket.key), self.retention(&ticket.key));
                self.retain(&object, &name, retention.as_ref(), &at).await.map(|()| true)
            }
            Ok(_) => Ok(false),
            Err(StorageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn discard_parts(&self, ticket: &Ticket) {
        let at = self.place(Some(&ticket.key));
        let folder = self.root.parts_of(&ticket.key, &ticket.nonce);
        let walking = Tries::new(TIDYING, at.clone()).repeat(|| self.walk(&folder, &at));
        match Box::pin(walking).await {
            Ok((found, _)) => {
                self.remove_all(found.iter().map(Resource::version), &at).await;
            }
            Err(error) => tracing::debug!(%error, "parts of an upload stay until a sweep"),
        }
    }

    /// Says how many are gone.
    async fn remove_all<'a>(&self, versions: impl Iterator<Item = (&'a str, i64)>, at: &Place) -> u64 {
        let removals: Vec<_> =
            versions.map(|(name, generation)| self.remove_part(name, generation, at)).collect();
        let removals = stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE);
        removals.fold(0, async |gone, is_gone| gone + u64::from(is_gone)).await
    }

    /// Says whether it is gone. The generation is named, so that a bucket with versions keeps none of it.
    async fn remove_part(&self, name: &str, generation: i64, at: &Place) -> bool {
        let generation = generation.to_string();
        let remove = || {
            let call = self.api.object(Method::DELETE, name, at, IoAction::Remove);
            self.api.tell(call.query("generation", &generation))
        };
        match Box::pin(Tries::new(TIDYING, at.clone()).repeat(remove)).await {
            Ok(()) | Err(StorageError::NotFound { .. }) => true,
            Err(error) => {
                tracing::warn!(%error, part = name, "a part of an upload could not be removed");
                false
            }
        }
    }

    pub(crate) async fn sweep(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        let at = self.place(prefix);
        let (found, now) = self.walk(&self.root.parts_below(prefix), &at).await?;
        // A moment that the store does not tell is no reason to keep what nobody can see.
        let is_old = |object: &&Resource| {
            let age = object.created().map(|created| now.duration_since(created).unwrap_or_default());
            age.is_none_or(|age| age >= older_than)
        };
        let old = found.iter().filter(is_old);
        Ok(self.remove_all(old.map(Resource::version), &at).await)
    }
}
