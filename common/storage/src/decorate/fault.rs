//! A store whose faults a test decides, one rule at a time.
//!
//! Rules are tried in the order they were added, and the first that applies decides; a call without one passes
//! through. A rule counts the calls that it matches, skips some, then strikes so many times.

mod rule;

pub use rule::{Effect, Faults, KeyPattern, Kind, Operation, Rule, RuleId};

use crate::{
    Features, IoAction, ListAfter, ListDepth, ListPage, LockProof, ObjectInfo, ObjectKey, Origin, Place,
    PutMode, Space, Storage, StorageError, Upload,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::future::pending;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What is left of an effect once the call is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aftermath {
    None,
    Lost(Kind),
    Truncate(usize),
    Flip(usize),
    Overwrite,
}

#[derive(Debug)]
pub struct FaultStorage {
    inner: Arc<dyn Storage>,
    faults: Faults,
}

impl FaultStorage {
    pub fn new(inner: Arc<dyn Storage>) -> (Self, Faults) {
        let faults = Faults::default();
        (FaultStorage { inner, faults: faults.clone() }, faults)
    }

    fn target(&self, operation: Operation, key: Option<&ObjectKey>) -> Target {
        let at = Place::new(self.inner.describe(), key);
        Target { faults: self.faults.clone(), at, operation }
    }
}

/// One call that may be struck.
struct Target {
    faults: Faults,
    at: Place,
    operation: Operation,
}

impl Target {
    const fn action(&self) -> IoAction {
        match self.operation {
            Operation::Put | Operation::Write | Operation::Copy | Operation::Any => IoAction::Write,
            Operation::Begin | Operation::Stat => IoAction::Open,
            Operation::Finish => IoAction::Publish,
            Operation::Get | Operation::GetRange => IoAction::Read,
            Operation::List => IoAction::List,
            Operation::Abort | Operation::Delete | Operation::Sweep => IoAction::Remove,
        }
    }

    async fn before(&self) -> Result<Aftermath, StorageError> {
        match self.faults.strike(self.operation, self.at.key.as_ref()) {
            None => Ok(Aftermath::None),
            Some(Effect::Fail(kind)) => Err(kind.error(self.at.clone(), self.action())),
            Some(Effect::LoseAnswer(kind)) => Ok(Aftermath::Lost(kind)),
            Some(Effect::Delay(wait)) => {
                tokio::time::sleep(wait).await;
                Ok(Aftermath::None)
            }
            Some(Effect::Stall) => pending().await,
            Some(Effect::TruncateRead(length)) => Ok(Aftermath::Truncate(length)),
            Some(Effect::FlipBit(bit)) => Ok(Aftermath::Flip(bit)),
            Some(Effect::IgnoreCreateOnly) => Ok(Aftermath::Overwrite),
        }
    }

    fn after<T>(&self, aftermath: Aftermath, result: Result<T, StorageError>) -> Result<T, StorageError> {
        match (aftermath, result) {
            (Aftermath::Lost(kind), Ok(_)) => Err(kind.error(self.at.clone(), self.action())),
            (_, result) => result,
        }
    }

    fn after_read(
        &self,
        aftermath: Aftermath,
        result: Result<Bytes, StorageError>,
    ) -> Result<Bytes, StorageError> {
        let body = self.after(aftermath, result)?;
        Ok(match aftermath {
            Aftermath::Truncate(length) => body.slice(..length.min(body.len())),
            Aftermath::Flip(bit) if bit / 8 < body.len() => {
                let mut turned = body.to_vec();
                turned[bit / 8] ^= 1 << (bit % 8);
                turned.into()
            }
            _ => body,
        })
    }
}

fn mode_after(aftermath: Aftermath, mode: PutMode) -> PutMode {
    if aftermath == Aftermath::Overwrite { PutMode::Overwrite } else { mode }
}

#[async_trait]
impl Storage for FaultStorage {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn directory(&self) -> Option<&std::path::Path> {
        self.inner.directory()
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        let target = self.target(Operation::Put, Some(key));
        let aftermath = target.before().await?;
        target.after(aftermath, self.inner.put(key, mode_after(aftermath, mode), body).await)
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        let target = self.target(Operation::Begin, Some(key));
        let aftermath = target.before().await?;
        let begun = self.inner.begin(key, mode_after(aftermath, mode)).await;
        let inner = target.after(aftermath, begun)?;
        let [write, finish, abort] = [Operation::Write, Operation::Finish, Operation::Abort]
            .map(|operation| self.target(operation, Some(key)));
        Ok(Box::new(FaultUpload { inner, write, finish, abort, is_dead: false }))
    }

    fn origin(&self) -> Option<&Origin> {
        self.inner.origin()
    }

    fn copies_from(&self, origin: &Origin) -> Option<u64> {
        self.inner.copies_from(origin)
    }

    async fn copy(&self, origin: &Origin, object: &ObjectInfo, key: &ObjectKey) -> Result<(), StorageError> {
        let target = self.target(Operation::Copy, Some(key));
        let aftermath = target.before().await?;
        target.after(aftermath, self.inner.copy(origin, object, key).await)
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        let target = self.target(Operation::Get, Some(key));
        let aftermath = target.before().await?;
        target.after_read(aftermath, self.inner.get(key, size_max).await)
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        let target = self.target(Operation::GetRange, Some(key));
        let aftermath = target.before().await?;
        target.after_read(aftermath, self.inner.get_range(key, range).await)
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        let target = self.target(Operation::Stat, Some(key));
        let aftermath = target.before().await?;
        target.after(aftermath, self.inner.stat(key).await)
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let target = self.target(Operation::List, prefix);
        let aftermath = target.before().await?;
        target.after(aftermath, self.inner.list(prefix, depth, after, limit).await)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let target = self.target(Operation::Delete, Some(key));
        let aftermath = target.before().await?;
        target.after(aftermath, self.inner.delete(key).await)
    }

    async fn sweep_temporary(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        let target = self.target(Operation::Sweep, prefix);
        let aftermath = target.before().await?;
        target.after(aftermath, self.inner.sweep_temporary(prefix, older_than).await)
    }

    async fn prove_lock(&self) -> Result<LockProof, StorageError> {
        self.inner.prove_lock().await
    }

    async fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space().await
    }
}

struct FaultUpload {
    inner: Box<dyn Upload>,
    write: Target,
    finish: Target,
    abort: Target,
    /// A failed write kills an upload, an injected one too.
    is_dead: bool,
}

impl FaultUpload {
    async fn write_struck(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let aftermath = self.write.before().await?;
        self.write.after(aftermath, self.inner.write(chunk).await)
    }
}

#[async_trait]
impl Upload for FaultUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        if self.is_dead {
            return Err(Kind::Io.error(self.write.at.clone(), IoAction::Write));
        }
        // Dead also when this future is dropped half way.
        self.is_dead = true;
        self.write_struck(chunk).await?;
        self.is_dead = false;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StorageError> {
        if self.is_dead {
            return Err(Kind::Io.error(self.finish.at.clone(), IoAction::Publish));
        }
        let aftermath = self.finish.before().await?;
        self.finish.after(aftermath, self.inner.finish().await)
    }

    async fn abort(self: Box<Self>) {
        if self.abort.before().await.is_ok() {
            self.inner.abort().await;
        }
    }
}

#[cfg(test)]
mod tests;
