//! Copies that the store makes by itself: `rewrite`, from the generation that was looked at, to a name that must be free.
//!
//! Invariant: a copy bears what a put would: tags, retention, and the name of what made it, by which a lost answer is told from somebody
//! else's object. Its size is compared before anybody hears of it.

use crate::parts::{Ticket, UPLOAD};
use crate::resource::Resource;
use crate::{GcsStorage, Inner};
use pgconvoy_core::config::GcsConfig;
use pgconvoy_storage::parts::make_at_once;
use pgconvoy_storage::{IoAction, ObjectInfo, ObjectKey, StorageError};
use reqwest::Method;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What two stores have in common if one service lets the same one into both: all that is not about a single repository.
pub(crate) fn account(config: &GcsConfig) -> GcsConfig {
    GcsConfig { bucket: String::new(), tags: BTreeMap::new(), ..config.clone() }
}

/// How far it is: an object that goes to another place or class takes several calls.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Progress {
    done: bool,
    rewrite_token: Option<String>,
    resource: Resource,
}

impl GcsStorage {
    pub(crate) async fn copy_once(
        &self,
        origin: &GcsStorage,
        object: &ObjectInfo,
        key: &ObjectKey,
    ) -> Result<(), StorageError> {
        let rewrite =
            |ticket: Arc<Ticket>| async move { self.inner.rewrite(&ticket, &origin.inner, object).await };
        Box::pin(make_at_once(self, key, self.limits.retry, rewrite)).await
    }
}

impl Inner {
    async fn rewrite(
        &self,
        ticket: &Ticket,
        origin: &Inner,
        object: &ObjectInfo,
    ) -> Result<(), StorageError> {
        let (at, from) = (self.place(Some(ticket.key())), origin.place(Some(&object.key)));
        let generation = object.known_etag(|| from.clone())?;
        let name = self.root.name(ticket.key());
        let mut metadata = self.tags.clone();
        metadata.insert(UPLOAD.to_owned(), ticket.nonce().to_owned());
        let mut description =
            serde_json::json!({ "contentType": "application/octet-stream", "metadata": metadata });
        let retention = self.retention(ticket.key());
        if let Some(retention) = &retention {
            description["retention"] = retention.clone();
        }
        let mut token: Option<String> = None;
        let made = loop {
            let call = self.api.rewrite((&origin.api.bucket, &origin.root.name(&object.key)), &name, &at);
            let call = call.query("sourceGeneration", generation).must_create(true).json(&description);
            let call = match &token {
                Some(token) => call.query("rewriteToken", token),
                None => call,
            };
            match self.api.ask::<Progress>(call).await {
                Ok(progress) if progress.done => break progress.resource,
                Ok(Progress { rewrite_token: Some(next), .. }) => token = Some(next),
                Ok(_) => {
                    let reason = "it neither copies an object to its end nor says how to go on".to_owned();
                    return Err(StorageError::NotSupported { at, reason });
                }
                Err(StorageError::NotFound { .. }) => return Err(origin.absence(object).await),
                Err(error) => return Err(error),
            }
        };
        if made.size != object.size {
            let generation = made.generation.to_string();
            let call = self.api.object(Method::DELETE, &name, &at, IoAction::Remove);
            self.api.tell(call.query("generation", &generation)).await?;
            let reason = format!("it copied {} of {} bytes", made.size, object.size);
            return Err(StorageError::NotSupported { at, reason });
        }
        self.retain(&made, &name, retention.as_ref(), &at).await
    }

    /// The generation that was to be copied is not there: gone, or replaced.
    async fn absence(&self, object: &ObjectInfo) -> StorageError {
        let at = self.place(Some(&object.key));
        let call = self.api.object(Method::GET, &self.root.name(&object.key), &at, IoAction::Read);
        match self.api.ask::<Resource>(call.query("fields", "generation")).await {
            Ok(_) => StorageError::Changed { at },
            Err(error) => error,
        }
    }
}
