//! The directories between the store's own and an object: real ones, made when needed, on disk before what is in them.
//!
//! Invariants
//! 1. No link below the store's directory is followed once it was met: the parts of a path are looked at before they are
//!    used, and remembered.
//! 2. Before a name is given in a directory, the entries of that directory and of all above it were synced by this process.
//!    It remembers which. A directory that somebody removes and another one makes again meanwhile is trusted unsynced:
//!    it takes that, and a loss of power in the seconds after, to lose what was stored.

use crate::failure::is_refused_with;
use crate::session::{Answer, Fault, Lane};
use crate::tree::{DIRECTORY_MODE, Tree};
use crate::wire::{self, Attributes, Kind, code, flags};
use pgconvoy_storage::{IoAction, ObjectKey, StorageError};
use std::collections::HashSet;

/// Beyond so many keys everything is forgotten, and found out again.
const REMEMBERED_MAX: usize = 8192;

/// What was found out about keys and need not be asked again.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Directories, and no links.
    directories: HashSet<ObjectKey>,
    /// Directories whose own entry is on disk.
    durable: HashSet<ObjectKey>,
    /// Regular files.
    files: HashSet<ObjectKey>,
}

impl Met {
    fn remember(set: &mut HashSet<ObjectKey>, key: &ObjectKey) {
        if set.len() >= REMEMBERED_MAX {
            set.clear();
        }
        set.insert(key.clone());
    }

    pub(crate) fn forget_directory(&mut self, key: &ObjectKey) {
        self.directories.remove(key);
        self.durable.remove(key);
    }

    pub(crate) fn add_file(&mut self, key: &ObjectKey) {
        Self::remember(&mut self.files, key);
    }

    pub(crate) fn is_file(&self, key: &ObjectKey) -> bool {
        self.files.contains(key)
    }

    pub(crate) fn forget_file(&mut self, key: &ObjectKey) {
        self.files.remove(key);
    }
}

/// From the top to the one that holds `key`.
fn parents(key: &ObjectKey) -> Vec<ObjectKey> {
    let mut found: Vec<ObjectKey> = std::iter::successors(key.parent(), ObjectKey::parent).collect();
    found.reverse();
    found
}

impl Tree {
    /// Asks about the directories above `key` that were not met yet.
    pub(crate) fn ask_parents(&self, lane: &Lane, key: &ObjectKey) -> Vec<(ObjectKey, Answer)> {
        let mut unmet = parents(key);
        {
            let met = self.met();
            unmet.retain(|parent| !met.directories.contains(parent));
        }
        let ask = |parent: ObjectKey| {
            let answer = lane.send(wire::lstat(&self.path(Some(&parent))));
            (parent, answer)
        };
        unmet.into_iter().map(ask).collect()
    }

    /// Fails where something other than a directory or a file is. What is below a file is the caller's to find; what is missing is given
    /// back.
    pub(crate) async fn judge_parents(
        &self,
        asked: Vec<(ObjectKey, Answer)>,
    ) -> Result<Vec<ObjectKey>, StorageError> {
        let mut missing = Vec::new();
        for (parent, answer) in asked {
            match answer.attributes().await.map(Attributes::kind) {
                Ok(Some(Kind::Directory) | None) => Met::remember(&mut self.met().directories, &parent),
                Ok(Some(Kind::File)) => {}
                Ok(Some(kind)) => return Err(self.not_an_object(&parent, kind)),
                Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => missing.push(parent),
                Err(fault) => return Err(self.error(Some(&parent), IoAction::Open, fault)),
            }
        }
        Ok(missing)
    }

    /// Makes the directories above `key` that were found missing; all of them, if none was.
    pub(crate) async fn make_parents(
        &self,
        lane: &Lane,
        key: &ObjectKey,
        missing: Vec<ObjectKey>,
    ) -> Result<(), StorageError> {
        let parents = if missing.is_empty() { parents(key) } else { missing };
        for parent in &parents {
            self.met().forget_directory(parent);
        }
        let made: Vec<Answer> = parents
            .iter()
            .map(|parent| lane.send(wire::mkdir(&self.path(Some(parent)), DIRECTORY_MODE)))
            .collect();
        let mut refused = Vec::new();
        for (parent, answer) in parents.iter().zip(made) {
            match answer.done().await {
                // A new directory is no link.
                Ok(()) => Met::remember(&mut self.met().directories, parent),
                Err(lost @ Fault::Lost(_)) => return Err(self.error(Some(key), IoAction::CreatePath, lost)),
                Err(fault) => refused.push((parent, fault)),
            }
        }
        // Together: most of them are refused because they are there.
        let looks: Vec<Answer> =
            refused.iter().map(|(parent, _)| lane.send(wire::lstat(&self.path(Some(parent))))).collect();
        for ((parent, fault), look) in refused.into_iter().zip(looks) {
            self.judge_refused_directory(lane, key, (parent, look), fault).await?;
        }
        Ok(())
    }

    /// A directory could not be made: fine, if it is there or what holds it is gone again.
    async fn judge_refused_directory(
        &self,
        lane: &Lane,
        key: &ObjectKey,
        (parent, look): (&ObjectKey, Answer),
        refused: Fault,
    ) -> Result<(), StorageError> {
        match look.attributes().await.map(Attributes::kind) {
            Ok(Some(Kind::Directory) | None) => Ok(()),
            Ok(Some(kind)) => Err(self.not_an_object(parent, kind)),
            Err(_) if is_refused_with(&refused, code::NO_SUCH_FILE) => Ok(()),
            Err(lost @ Fault::Lost(_)) => Err(self.error(Some(key), IoAction::CreatePath, lost)),
            Err(_) => match self.write_error(lane, key, IoAction::CreatePath, refused).await {
                // It was there, and was removed before it was looked at: the caller tries again.
                StorageError::Io { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Opens what holds the entries of those directories above `key` that are not known to be on disk.
    pub(crate) fn open_above(&self, lane: &Lane, key: &ObjectKey) -> Vec<(ObjectKey, Answer)> {
        if !self.syncs_directories() {
            return Vec::new();
        }
        let mut new = parents(key);
        {
            let met = self.met();
            new.retain(|parent| !met.durable.contains(parent));
        }
        let open = |directory: ObjectKey| {
            let holder = self.path(directory.parent().as_ref());
            (directory, lane.send(wire::open(&holder, flags::READ, None)))
        };
        new.into_iter().map(open).collect()
    }

    /// Makes these entries durable.
    pub(crate) async fn sync_above(
        &self,
        lane: &Lane,
        key: &ObjectKey,
        opening: Vec<(ObjectKey, Answer)>,
    ) -> Result<(), StorageError> {
        let error = |fault| self.error(Some(key), IoAction::SyncPath, fault);
        let mut syncing = Vec::new();
        for (directory, answer) in opening {
            let holder = lane.opened(answer).await.map_err(error)?;
            syncing.push((directory, lane.send(wire::fsync(&holder.handle)), holder));
        }
        for (directory, answer, _open) in syncing {
            answer.done().await.map_err(error)?;
            Met::remember(&mut self.met().durable, &directory);
        }
        Ok(())
    }
}
