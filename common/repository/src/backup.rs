//! A backup's life in one repository: plan, heartbeats, publication, and being given up.
//!
//! One key decides between the last two: whoever creates `catalogue/<label>` first. So a writer that slept through its own
//! demise cannot publish what was swept, and nobody sweeps what was published.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::failure::{Classify, Retry};
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody, VoidRecord};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::plan::{HeartbeatBody, PlanBody, Writer};
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::{PlanNumber, StanzaName};
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_core::machine::backup::contest::Begun;
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::{LIST_PAGE_MAX, ListDepth, ObjectKey, StorageError, list_children};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    pub removed: usize,
    /// What the store said where a retention kept something.
    pub kept: Option<StorageError>,
}

impl Repository {
    /// A label that somebody else has begun in the same second is [`RepositoryError::Busy`]; one's own plan may be there already.
    pub async fn write_plan(&self, stanza: &StanzaName, plan: &PlanBody) -> Result<(), RepositoryError> {
        let name = layout::plan(stanza, plan.label, plan.number);
        match self.put_object(Kind::Plan, &name, plan).await {
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
                let other: Option<PlanBody> = self.get_object(Kind::Plan, &name).await?;
                if other.as_ref().is_some_and(|other| other.backup == plan.backup) {
                    return Ok(());
                }
                Err(self.busy(plan.label, other.map(|other| other.writer).as_ref()))
            }
            other => other,
        }
    }

    /// Somebody else backs up the same stanza.
    pub fn busy(&self, label: BackupLabel, writer: Option<&Writer>) -> RepositoryError {
        RepositoryError::Busy {
            place: self.describe(),
            label: label.to_string(),
            host: writer.map_or_else(|| "unknown".into(), |writer| writer.host.clone()),
            process: writer.map_or(0, |writer| writer.process),
        }
    }

    /// Labels that are not published: undecided and void ones. One that is being copied is nobody's unfinished backup.
    pub async fn unfinished(&self, stanza: &StanzaName) -> Result<Vec<Begun>, RepositoryError> {
        let mut unfinished = Vec::new();
        for label in self.started_labels(stanza).await? {
            let is_void = match self.catalogue_entry(stanza, label).await {
                Ok(Some(CatalogueBody::Published(_))) => continue,
                Ok(Some(CatalogueBody::Void(_))) => true,
                Ok(None) => false,
                Err(RepositoryError::Storage(error)) => return Err(error.into()),
                // The key exists, so the label is decided, whatever it says: no reason to make no backup today.
                Err(error) => {
                    tracing::warn!("backup {label} is left as it is: {error}");
                    continue;
                }
            };
            let (begun, is_copied) = self.look(stanza, label, is_void).await?;
            let is_of_a_backup = is_void || !is_copied && !self.is_decided(stanza, label).await?;
            unfinished.extend(is_of_a_backup.then_some(begun));
        }
        Ok(unfinished)
    }

    /// Labels that somebody began and nobody decided yet, without those that are being copied. Costs two listings, whatever was ever published.
    pub async fn undecided(&self, stanza: &StanzaName) -> Result<Vec<Begun>, RepositoryError> {
        // Begun ones first: one that is decided between the listings is then seen as decided.
        let mut labels = self.started_labels(stanza).await?;
        for decided in self.catalogue_labels(stanza).await? {
            labels.remove(&decided);
        }
        let mut undecided = Vec::new();
        for label in labels {
            let (begun, is_copied) = self.look(stanza, label, false).await?;
            let is_of_a_backup = !is_copied && !self.is_decided(stanza, label).await?;
            undecided.extend(is_of_a_backup.then_some(begun));
        }
        Ok(undecided)
    }

    /// After a look at the label: a copy that was published in between took its record away, and looks like a backup without.
    async fn is_decided(&self, stanza: &StanzaName, label: BackupLabel) -> Result<bool, RepositoryError> {
        let key = object_key(&layout::catalogue_entry(stanza, label));
        Ok(self.storage().stat(&key).await?.is_some())
    }

    /// What is there of a label now.
    pub async fn begun(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        is_void: bool,
    ) -> Result<Begun, RepositoryError> {
        Ok(self.look(stanza, label, is_void).await?.0)
    }

    /// The same, and whether a copy of another repository's backup is made there.
    async fn look(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        is_void: bool,
    ) -> Result<(Begun, bool), RepositoryError> {
        let listing =
            list_children(self.storage(), Some(&object_key(&layout::backup(stanza, label)))).await?;
        let names = || listing.objects.iter().map(|object| object.key.name());
        let has_manifest = names().any(|name| name == layout::MANIFEST);
        let newest = names().filter_map(layout::plan_number).max().unwrap_or(PlanNumber(1));
        let plan = self.get_object(Kind::Plan, &layout::plan(stanza, label, newest)).await;
        let plan = plan.unwrap_or_else(|error| {
            tracing::warn!("the plan of {label} cannot be read, its heartbeats decide: {error}");
            None
        });
        let beating = self.beating(stanza, label).await;
        let is_copied = names().any(|name| name == layout::COPY);
        Ok((Begun { label, is_void, plan, beating, has_manifest }, is_copied))
    }

    /// Who put the newest heartbeat. One that is removed just now, because the next one is there, tells of nobody.
    async fn beating(&self, stanza: &StanzaName, label: BackupLabel) -> Option<Writer> {
        let newest = self.newest_heartbeat(stanza, label).await.ok()??;
        let heartbeat: HeartbeatBody = self.get_object(Kind::Heartbeat, &newest).await.ok()??;
        Some(heartbeat.writer)
    }

    /// Packs that lie under a plan of a label.
    pub async fn packs(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        plan: PlanNumber,
    ) -> Result<BTreeSet<PackName>, RepositoryError> {
        let prefix = object_key(&layout::packs(stanza, label, plan));
        let objects = list_children(self.storage(), Some(&prefix)).await?.objects;
        Ok(objects.iter().filter_map(|object| PackName::parse(label, plan, object.key.name())).collect())
    }

    /// Puts the next heartbeat and removes the one before.
    pub async fn beat(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        plan: PlanNumber,
        heartbeat: &HeartbeatBody,
    ) -> Result<(), RepositoryError> {
        let name = |sequence| layout::heartbeat(stanza, label, plan, sequence);
        self.put_object(Kind::Heartbeat, &name(heartbeat.sequence), heartbeat).await?;
        if let Some(before) = heartbeat.sequence.checked_sub(1) {
            // A store under retention refuses; the next listing just has one name more.
            let _ = self.storage().delete(&object_key(&name(before))).await;
        }
        Ok(())
    }

    /// The newest heartbeat's name: two different ones, some time apart, prove a live writer without comparing clocks.
    pub async fn newest_heartbeat(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
    ) -> Result<Option<String>, RepositoryError> {
        let listing =
            list_children(self.storage(), Some(&object_key(&layout::heartbeats(stanza, label)))).await?;
        Ok(listing.objects.last().map(|object| object.key.to_string()))
    }

    /// Whether somebody has given that label up.
    pub async fn is_void(&self, stanza: &StanzaName, label: BackupLabel) -> Result<bool, RepositoryError> {
        Ok(matches!(self.catalogue_entry(stanza, label).await?, Some(CatalogueBody::Void(_))))
    }

    /// Creates the void record, unless the backup was published meanwhile, which is what `false` tells.
    pub async fn give_up(&self, stanza: &StanzaName, record: VoidRecord) -> Result<bool, RepositoryError> {
        let name = layout::catalogue_entry(stanza, record.label);
        let label = record.label;
        match self.put_object(Kind::Catalogue, &name, &CatalogueBody::Void(record)).await {
            Ok(()) => Ok(true),
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
                self.is_void(stanza, label).await
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what lies under a void label. Refuses for any other: only after a void may anybody sweep. What a retention of the
    /// store keeps stays for a later sweep, which costs room and nothing else: nobody refers to a void label.
    pub async fn sweep(&self, stanza: &StanzaName, label: BackupLabel) -> Result<Swept, RepositoryError> {
        if !self.is_void(stanza, label).await? {
            return Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: layout::catalogue_entry(stanza, label),
                reason: "it is not void, so its packs stay".into(),
            });
        }
        self.remove_files(stanza, label).await?;
        let prefix = object_key(&layout::backup(stanza, label));
        self.storage().sweep_temporary(Some(&prefix), std::time::Duration::ZERO).await?;
        let mut swept = Swept::default();
        let mut after = None;
        loop {
            let page = self
                .storage()
                .list(Some(&prefix), ListDepth::Recursive, after.as_ref(), LIST_PAGE_MAX)
                .await?;
            let keys: Vec<ObjectKey> = page.objects.into_iter().map(|object| object.key).collect();
            match self.storage().delete_many(&keys).await {
                Err(error) if error.is_kept() => swept.kept = swept.kept.or(Some(error)),
                other => other.map(|()| swept.removed += keys.len())?,
            }
            match page.more {
                Some(more) => after = Some(more),
                None => return Ok(swept),
            }
        }
    }

    /// Manifest, data directory where there is one, then entry. Repeating it after a lost answer finds its own manifest and its own entry, and is content.
    pub async fn publish(
        &self,
        stanza: &StanzaName,
        contents: Arc<BackupContents>,
        mut record: BackupRecord,
    ) -> Result<(), RepositoryError> {
        let head = contents.head_in(&record);
        record.manifest = match self.write_manifest(stanza, head.clone(), contents.clone()).await {
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {
                self.own_manifest(stanza, &head).await?
            }
            written => written?,
        };
        // Only whoever wrote the manifest, or wrote the same, may give that name.
        self.put_in_place(stanza, head, contents).await?;
        self.publish_entry(stanza, record).await
    }

    /// The entry alone: everything else is in place. Repeating it finds its own, and is content.
    pub(crate) async fn publish_entry(
        &self,
        stanza: &StanzaName,
        record: BackupRecord,
    ) -> Result<(), RepositoryError> {
        let (label, backup) = (record.label, record.backup);
        let name = layout::catalogue_entry(stanza, label);
        match self.put_object(Kind::Catalogue, &name, &CatalogueBody::Published(Box::new(record))).await {
            Err(RepositoryError::Storage(StorageError::AlreadyExists { .. })) => {}
            // The answer was lost: the entry itself tells whether it is there.
            Err(error) if error.retry() == Retry::MayHelp => {
                return match self.catalogue_entry(stanza, label).await {
                    Ok(Some(CatalogueBody::Published(published))) if published.backup == backup => Ok(()),
                    _ => Err(error),
                };
            }
            other => return other,
        }
        match self.catalogue_entry(stanza, label).await? {
            Some(CatalogueBody::Published(published)) if published.backup == backup => Ok(()),
            Some(CatalogueBody::Void(void)) => Err(RepositoryError::Void {
                place: self.describe(),
                label: label.to_string(),
                reason: void.reason,
            }),
            _ => Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: name,
                reason: "another backup was published under this label".into(),
            }),
        }
    }

    /// Removes what only a running backup needs.
    pub async fn tidy_published(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
    ) -> Result<(), RepositoryError> {
        let prefix = object_key(&layout::heartbeats(stanza, label));
        for object in list_children(self.storage(), Some(&prefix)).await?.objects {
            self.storage().delete(&object.key).await?;
        }
        self.remove_attempts(stanza).await
    }

    pub fn void_record(label: BackupLabel, reason: &str, writer: &Writer, now: Timestamp) -> VoidRecord {
        VoidRecord { label, reason: reason.to_owned(), voided: now, writer: writer.clone() }
    }
}
