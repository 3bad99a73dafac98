//! Removing temporary files that never became objects, and directories that hold nothing.

use crate::failure::is_refused_with;
use crate::list::Named;
use crate::session::{Fault, Lane};
use crate::temporary::TEMPORARY_PREFIX;
use crate::tree::{FILE_MODE, Tree, time};
use crate::wire::{self, Kind, code, flags};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use pgconvoy_storage::{IoAction, ObjectKey, StorageError};
use std::time::{Duration, SystemTime};

/// Directories that are swept at once, at each level.
const DIRECTORIES_AT_ONCE: usize = 8;

impl Tree {
    pub(crate) async fn sweep(
        &self,
        prefix: Option<&ObjectKey>,
        older_than: Duration,
    ) -> Result<u64, StorageError> {
        let lane = self.lane().await?;
        if let Some(prefix) = prefix {
            let below = prefix.join("x").unwrap_or_else(|_| prefix.clone());
            self.judge_parents(self.ask_parents(&lane, &below)).await?;
        }
        let Some(names) = self.names(&lane, prefix).await? else {
            return self.check_still_there(self.ask_root(&lane)).await.map(|()| 0);
        };
        let now = self.server_time(&lane).await?;
        // A span longer than the clock's whole past leaves everything in place.
        let limit = now.checked_sub(older_than).unwrap_or(SystemTime::UNIX_EPOCH);
        self.sweep_directory(&lane, prefix.cloned(), names, limit).await.map(|swept| swept.removed)
    }

    /// Ages are told by the server's clock, so it is asked: a file that it has just made bears its time.
    async fn server_time(&self, lane: &Lane) -> Result<SystemTime, StorageError> {
        let error = |fault| self.error(None, IoAction::Remove, fault);
        let mut bytes = [0; 8];
        // Without random bytes a name that somebody else has fails as it should.
        let _ = getrandom::fill(&mut bytes);
        let path = self.path_in(None, &format!("{TEMPORARY_PREFIX}clock-{:016x}", u64::from_ne_bytes(bytes)));
        let how = flags::WRITE | flags::CREATE | flags::EXCLUSIVE;
        let file = lane.open(&path, how, Some(FILE_MODE)).await.map_err(error)?;
        let found = lane.send(wire::fstat(&file.handle)).attributes().await;
        lane.send(wire::remove(&path)).done().await.map_err(error)?;
        let modified = found.map_err(error)?.modified.ok_or_else(|| StorageError::NotSupported {
            at: self.place(None),
            reason: "the server does not tell the times of files".to_owned(),
        })?;
        Ok(time(modified))
    }

    fn sweep_directory<'a>(
        &'a self,
        lane: &'a Lane,
        directory: Option<ObjectKey>,
        names: Vec<Named>,
        limit: SystemTime,
    ) -> BoxFuture<'a, Result<Swept, StorageError>> {
        async move {
            let directory = directory.as_ref();
            let sweeping = stream::iter(names).map(|named| self.sweep_name(lane, directory, named, limit));
            let swept = sweeping.buffer_unordered(DIRECTORIES_AT_ONCE);
            swept.try_fold(Swept { removed: 0, is_empty: true }, async |sum, one| Ok(sum.and(one))).await
        }
        .boxed()
    }

    async fn sweep_name(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
        Named { name, attributes }: Named,
        limit: SystemTime,
    ) -> Result<Swept, StorageError> {
        let kept = Swept { removed: 0, is_empty: false };
        let path = self.path_in(directory, &name);
        if attributes.kind() == Some(Kind::File) && name.starts_with(TEMPORARY_PREFIX) {
            if attributes.modified.is_none_or(|modified| time(modified) > limit) {
                return Ok(kept);
            }
            return match lane.send(wire::remove(&path)).done().await {
                Ok(()) => Ok(Swept { removed: 1, is_empty: true }),
                Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => {
                    Ok(Swept { removed: 0, is_empty: true })
                }
                Err(fault) => Err(self.error(directory, IoAction::Remove, fault)),
            };
        }
        let child = match directory {
            Some(directory) => directory.join(&name),
            None => name.parse(),
        };
        let (Ok(child), Some(Kind::Directory)) = (child, attributes.kind()) else { return Ok(kept) };
        let Some(names) = self.names(lane, Some(&child)).await? else { return Ok(kept) };
        let swept = self.sweep_directory(lane, Some(child.clone()), names, limit).await?;
        if !swept.is_empty {
            return Ok(swept);
        }
        // Succeeds only if it is empty still.
        if let Err(lost @ Fault::Lost(_)) = lane.send(wire::rmdir(&path)).done().await {
            return Err(self.error(Some(&child), IoAction::Remove, lost));
        }
        self.met().forget_directory(&child);
        Ok(swept)
    }
}

/// What was done in one place.
#[derive(Debug, Clone, Copy)]
struct Swept {
    removed: u64,
    /// Whether nothing is left there.
    is_empty: bool,
}

impl Swept {
    fn and(self, other: Swept) -> Swept {
        Swept { removed: self.removed + other.removed, is_empty: self.is_empty && other.is_empty }
    }
}
