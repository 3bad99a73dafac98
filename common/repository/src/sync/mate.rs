//! A mate: copies objects for a synchronisation that somebody else leads, and publishes nothing.
//!
//! Invariants
//! 1. It copies between the very repositories that the other one means, and packs only while the target has the record that their
//!    backup is being copied.
//! 2. Every put is create-only by the store itself, so a target that only locks of each host guard is refused; every object is
//!    proved before it is complete, as the main worker's own are.
//!
//! Failure story: whatever it leaves undone the other one finds undone. One that wakes late puts what is there already, or an object
//! under a label that bears the record of a copy: the next copy finds it complete.

use super::crew::{Outcome, Said};
use super::pack::Rests;
use super::taking::Taken;
use super::trouble::Trouble;
use super::{Sync, SyncOptions, refuse_pair, refused};
use crate::open::Repository;
use crate::verify::{Job, VerifyOptions};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::CatalogueBody;
use pgconvoy_core::ids::{Identity, StanzaName};
use pgconvoy_core::plan::sync::SyncRefusal;
use pgconvoy_core::wire::{CopyObjects, CopyPart};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// One that can be given parts. Its methods block: not for threads of the runtime.
pub struct SyncMate(Sync);

/// What a late mate puts again would be sealed under another salt, which packs that borrow from it do not know.
fn refuse_locks(target: &Repository) -> Result<(), Failure> {
    if target.storage().unguarded().is_none() {
        return Ok(());
    }
    let message = format!(
        "{} lets one object replace another, and locks on this host keep nobody else from that",
        target.describe()
    );
    Err(Failure::new(ErrorCode::NotSupported, message)
        .hint("into a repository with create-only = \"lock\" one worker copies by itself: that takes longer, and nothing else"))
}

/// What it was given to copy, looked at.
#[derive(Debug)]
pub struct Ready {
    objects: CopyObjects,
    /// Labels that its packs may borrow from.
    references: Vec<BackupLabel>,
}

impl SyncMate {
    /// Must be called on the runtime that its threads will wait with.
    pub async fn open(
        source: Arc<Repository>,
        target: Arc<Repository>,
        stanza: &StanzaName,
        options: &SyncOptions,
    ) -> Result<SyncMate, Failure> {
        refuse_pair(&source, &target)?;
        refuse_locks(&target)?;
        let clusters = source.clusters(stanza).await?;
        let Some(secret) = clusters.first().map(|cluster| cluster.hash_secret.clone()) else {
            return Err(refused(&SyncRefusal::NoStanza, &source, &target));
        };
        let job = |repository| {
            let (process_max, cancel) = (options.process_max, options.cancel.clone());
            Job::new(repository, stanza, VerifyOptions { set: None, process_max, cancel }, Arc::new(|_| {}))
        };
        Ok(SyncMate(Sync {
            source: job(source),
            target: job(target),
            clusters,
            secret,
            taken: Taken::default(),
            options: options.clone(),
            fatal: Mutex::new(None),
            copies_fail: AtomicBool::new(false),
        }))
    }

    /// `None`: it is not being copied any more. An error: this mate cannot help.
    pub fn ready(&self, part: &CopyPart) -> Result<Option<Ready>, Failure> {
        self.must_be_meant(part)?;
        let references = match &part.objects {
            CopyObjects::Wal { .. } => Some(Vec::new()),
            CopyObjects::Packs { label, backup, .. } => {
                self.references_of(*label, *backup).map_err(Trouble::told)?
            }
        };
        Ok(references.map(|references| Ready { objects: part.objects.clone(), references }))
    }

    fn must_be_meant(&self, part: &CopyPart) -> Result<(), Failure> {
        for (job, meant) in [(&self.0.source, part.source), (&self.0.target, part.target)] {
            if job.repository.identity() != meant {
                let number = job.repository.number();
                let message = format!("repo {number} is another repository than the main worker's");
                return Err(Failure::new(ErrorCode::RepoInvalid, message)
                    .hint("give all workers the same repositories under the same numbers"));
            }
        }
        Ok(())
    }

    fn references_of(
        &self,
        label: BackupLabel,
        backup: Identity,
    ) -> Result<Option<Vec<BackupLabel>>, Trouble> {
        let Sync { source, target, .. } = &self.0;
        let is_marked = self.0.in_target(target.repository.copy_record(&target.stanza, label))?;
        if is_marked.is_none_or(|record| record.backup != backup) {
            return Ok(None);
        }
        match source.wait(source.repository.catalogue_entry(&source.stanza, label))? {
            Some(CatalogueBody::Published(record)) if record.backup == backup => Ok(Some(record.references)),
            _ => Ok(None),
        }
    }

    /// What there is to say of an object, by its place in the part. One that cannot be copied is for the main worker to find; an error
    /// means that nothing can.
    pub fn copy(&self, ready: &Ready, number: usize) -> Result<Said, Failure> {
        let copied = match &ready.objects {
            CopyObjects::Packs { packs, .. } => packs.get(number).map(|pack| {
                let rests = Rests { references: &ready.references, relying: &[] };
                self.0.pack(*pack, rests).map(|moved| moved.new_bytes().is_some())
            }),
            CopyObjects::Wal { archive, files } => files.get(number).map(|file| {
                self.0.wal_file(*archive, file, Said::Nothing).map(|copied| copied.new_bytes().is_some())
            }),
        };
        match copied {
            Some(Ok(true)) => Ok(Said::Copied),
            Some(Ok(false)) | None => Ok(Said::Present),
            Some(Err(Trouble::Failed(failure) | Trouble::Differs(failure))) => {
                tracing::warn!("left to the main worker: {failure}");
                Ok(Said::Present)
            }
            Some(Err(trouble)) => Err(trouble.told()),
        }
    }
}
