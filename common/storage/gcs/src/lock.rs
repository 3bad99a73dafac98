//! Retention of single objects (Object Retention Lock), which Google keeps in buckets that were made for it.
//!
//! Governance is a retention that is unlocked: whoever has the right can shorten or remove it. Compliance is a locked one.
//!
//! Invariant: an object that lasts is not "stored" before its description says that it is retained. A put brings its retention
//! along; a composed object is looked at, and patched where the answer does not show it.

use crate::Inner;
use crate::resource::Resource;
use pgconvoy_storage::{IoAction, LockMode, LockProof, ObjectKey, Place, StorageError};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::SystemTime;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Bucket {
    object_retention: Option<ObjectRetention>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectRetention {
    mode: String,
}

impl Inner {
    /// What an object's description says of it; `None`: nothing.
    pub(crate) fn retention(&self, key: &ObjectKey) -> Option<Value> {
        let lock = self.lock.as_ref()?;
        let until = jiff::Timestamp::try_from(lock.until(key, SystemTime::now())?).ok()?;
        let mode = match lock.mode {
            LockMode::Governance => "Unlocked",
            LockMode::Compliance => "Locked",
        };
        Some(json!({ "mode": mode, "retainUntilTime": until.to_string() }))
    }

    /// Makes sure that an object that is there is retained.
    pub(crate) async fn retain(
        &self,
        object: &Resource,
        name: &str,
        retention: Option<&Value>,
        at: &Place,
    ) -> Result<(), StorageError> {
        let Some(retention) = retention.filter(|_| !object.is_retained()) else { return Ok(()) };
        let generation = object.generation.to_string();
        let call = self.api.object(Method::PATCH, name, at, IoAction::Publish);
        let call = call.query("generation", &generation).query("fields", "generation,retention");
        let patched: Resource = self.api.ask(call.json(&json!({ "retention": retention }))).await?;
        if patched.is_retained() { Ok(()) } else { Err(self.without_lock(at.clone())) }
    }

    pub(crate) async fn look_at_lock(&self) -> Result<LockProof, StorageError> {
        let Some(lock) = &self.lock else { return Ok(LockProof::NotAsked) };
        let at = self.place(None);
        match self.api.ask::<Bucket>(self.api.bucket(&at).query("fields", "objectRetention")).await {
            Ok(Bucket { object_retention: Some(kept) }) if kept.mode.eq_ignore_ascii_case("enabled") => {
                Ok(LockProof::Kept(lock.words()))
            }
            Ok(_) => Err(self.without_lock(at)),
            // To look at the bucket itself needs a right that nothing else here needs.
            Err(error @ StorageError::Refused { .. }) => Ok(LockProof::Untold(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn without_lock(&self, at: Place) -> StorageError {
        let reason = format!("lock-mode is set, and bucket '{}' has no object retention", self.api.bucket);
        StorageError::refused(at, IoAction::Use, reason, ENABLE)
    }
}

pub(crate) const ENABLE: &str = "use a bucket that was made with object retention (gcloud storage buckets create --enable-per-object-retention), or remove lock-mode and lock-period";
