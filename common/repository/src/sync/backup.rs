//! One backup: everything that it is made of, a look at all of it, and its entry.

use super::Sync;
use super::crew::Said;
use super::pack::Rests;
use super::report::{BackupSync, SyncReport, SyncStatus, together};
use super::trouble::Trouble;
use super::wal::Archives;
use crate::error::RepositoryError;
use crate::manifest::ManifestReader;
use crate::object::object_key;
use crate::verify::pack::{PackCheck, PackTask};
use crate::verify::{Expected, Job, difference};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody, ManifestReference, RepositoryOutcome};
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::plan::CopyBody;
use pgconvoy_core::ids::Identity;
use pgconvoy_core::plan::sync::{Published, waves};
use pgconvoy_core::wire::CopyObjects;
use pgconvoy_storage::list_children;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn copy(
    sync: &Sync,
    label: BackupLabel,
    relying: &[BackupLabel],
    report: &mut SyncReport,
    archives: &mut Archives<'_>,
) -> Result<BackupSync, Trouble> {
    let record = sync.record(label)?;
    sync.check_references(&record)?;
    archives.of_backup(&Published::from(&record), report)?;
    let packs = sync.packs_of(&record)?;
    let is_own_record = sync.mark(&record)?;
    let copied = fill(sync, record, packs, relying);
    if matches!(copied, Err(Trouble::Differs(_))) && is_own_record {
        sync.unmark(label)?;
    }
    copied
}

fn fill(
    sync: &Sync,
    record: BackupRecord,
    packs: BTreeSet<PackName>,
    relying: &[BackupLabel],
) -> Result<BackupSync, Trouble> {
    let label = record.label;
    let mut told = BackupSync::of(label, SyncStatus::Copied, None);
    sync.papers(label, "plan-", Kind::Plan, &mut told)?;
    let rests = Rests { references: &record.references, relying };
    let stored = sync.packs((label, record.backup), packs, rests, &mut told)?;
    sync.papers(label, "stop-", Kind::Stop, &mut told)?;
    told.add_object(sync.paper(Kind::Manifest, &layout::manifest(&sync.source.stanza, label))?);
    let manifest = sync.in_target(sync.target.repository.stored_manifest(&sync.target.stanza, label))?;
    let copied = sync.record_of_copy(record, manifest, stored)?;
    sync.look_at(&copied)?;
    // Whoever was told to stop may have lost the locks by now.
    sync.source.go_on()?;
    sync.publish(copied)?;
    Ok(told)
}

impl Sync {
    fn record(&self, label: BackupLabel) -> Result<BackupRecord, Trouble> {
        let source = &self.source.repository;
        match self.source.wait(source.catalogue_entry(&self.source.stanza, label))? {
            Some(CatalogueBody::Published(record)) => Ok(*record),
            _ => {
                let object = layout::catalogue_entry(&self.source.stanza, label);
                Err(RepositoryError::Missing { place: source.describe(), object }.into())
            }
        }
    }

    /// All that it refers to is published in the target, as the same backups.
    fn check_references(&self, record: &BackupRecord) -> Result<BTreeMap<BackupLabel, Identity>, Trouble> {
        let mut known = BTreeMap::from([(record.label, record.backup)]);
        for reference in &record.references {
            let entry = |job: &Job| -> Result<Option<Identity>, Trouble> {
                match job.wait(job.repository.catalogue_entry(&job.stanza, *reference))? {
                    Some(CatalogueBody::Published(record)) => Ok(Some(record.backup)),
                    _ => Ok(None),
                }
            };
            match (entry(&self.source)?, entry(&self.target)?) {
                (Some(ours), Some(theirs)) if ours == theirs => {
                    known.insert(*reference, ours);
                }
                _ => {
                    let message =
                        format!("it refers to {reference}, which is not in the target as the same backup");
                    return Err(Trouble::Failed(Failure::new(ErrorCode::BackupSetInvalid, message)));
                }
            }
        }
        Ok(known)
    }

    /// The packs that lie under its own label, from its manifest and the footers of its packs.
    fn packs_of(&self, record: &BackupRecord) -> Result<BTreeSet<PackName>, Trouble> {
        let stored =
            self.source.wait(self.source.repository.stored_manifest(&self.source.stanza, record.label))?;
        if stored != record.manifest {
            return Err(self.flaw(
                &self.source,
                record.label,
                "its size and SHA-1 are not those in the catalogue entry",
            ));
        }
        let expected = self.expected(&self.source, record)?;
        let own = expected.packs.into_iter().filter(|pack| pack.label == record.label);
        self.with_lenders(own.collect())
    }

    /// What its manifest says, if that agrees with itself and the entry.
    fn expected(&self, job: &Job, record: &BackupRecord) -> Result<Expected, Trouble> {
        let opening = ManifestReader::open(&job.repository, &job.stanza, record.label, &record.manifest);
        let mut manifest = job.wait(opening)?;
        if let Some(what) = difference(manifest.head(), record) {
            let reason = format!("its {what} is not the one in the catalogue entry");
            return Err(self.flaw(job, record.label, &reason));
        }
        let read = Expected::read(job, &mut manifest, &self.secret);
        job.go_on()?;
        let (expected, flaws) = read?;
        match flaws.first() {
            None => Ok(expected),
            Some(flaw) => Err(self.flaw(job, record.label, flaw)),
        }
    }

    fn flaw(&self, job: &Job, label: BackupLabel, reason: &str) -> Trouble {
        RepositoryError::Contradiction {
            place: job.repository.describe(),
            object: layout::manifest(&job.stanza, label),
            reason: reason.to_owned(),
        }
        .into()
    }

    /// Before anything else lies under the label, so that nobody takes it for an unfinished backup. Tells whether this run wrote it.
    fn mark(&self, record: &BackupRecord) -> Result<bool, Trouble> {
        let (target, stanza, label) = (&self.target.repository, &self.target.stanza, record.label);
        if self.taken.marked.contains(&label) {
            return Ok(true);
        }
        if self.in_target(target.copy_record(stanza, label))?.is_none() {
            let prefix = object_key(&layout::backup(stanza, label));
            let there = self.in_target(list_children(target.storage(), Some(&prefix)))?;
            if !there.objects.is_empty() || !there.prefixes.is_empty() {
                return Err(target.busy(label, None).into());
            }
        }
        let body = CopyBody {
            label,
            backup: record.backup,
            source: self.source.repository.identity(),
            writer: self.options.writer.clone(),
            begun: self.options.now,
        };
        self.in_target(target.begin_copy(stanza, &body))
    }

    /// What lies there is somebody else's: it is for backups to judge.
    fn unmark(&self, label: BackupLabel) -> Result<(), Trouble> {
        self.in_target(self.target.repository.end_copy(&self.target.stanza, label))
    }

    fn papers(
        &self,
        label: BackupLabel,
        begin: &str,
        kind: Kind,
        told: &mut BackupSync,
    ) -> Result<(), Trouble> {
        let prefix = object_key(&layout::backup(&self.source.stanza, label));
        let listing = self.source.wait(list_children(self.source.repository.storage(), Some(&prefix)))?;
        let meant = listing.objects.iter().filter(|object| object.key.name().starts_with(begin));
        for object in meant {
            told.add_object(self.paper(kind, object.key.as_str())?);
        }
        Ok(())
    }

    /// Bytes that they take in the target, whoever stored them.
    fn packs(
        &self,
        (label, backup): (BackupLabel, Identity),
        packs: BTreeSet<PackName>,
        rests: Rests<'_>,
        told: &mut BackupSync,
    ) -> Result<u64, Trouble> {
        let what = format!("backup {label}");
        let part = |backup, packs: &[PackName]| CopyObjects::Packs { label, backup, packs: packs.to_vec() };
        let mut stored = 0;
        let (mut failures, mut differs) = (Vec::new(), false);
        for wave in waves(packs) {
            let one = |name: &PackName, _| self.gathered(self.pack(*name, rests));
            // Others do not see what relies on these.
            let moved = match rests.relying {
                [] => self.each_shared(&what, &wave, |packs| part(backup, packs), one)?,
                _ => self.source.each(&what, &wave, |name| one(name, Said::Nothing))?,
            };
            for (_, moved) in moved {
                match moved {
                    Ok(moved) => {
                        told.add_pack(moved.written);
                        stored += moved.bytes;
                    }
                    Err(trouble) => {
                        differs |= matches!(trouble, Trouble::Differs(_));
                        failures.push(trouble.told());
                    }
                }
            }
            // Later plans refer to what is missing now.
            if let Some(failure) = together(std::mem::take(&mut failures)) {
                return Err(if differs { Trouble::Differs(failure) } else { Trouble::Failed(failure) });
            }
        }
        Ok(stored)
    }

    fn record_of_copy(
        &self,
        record: BackupRecord,
        manifest: ManifestReference,
        stored: u64,
    ) -> Result<BackupRecord, Trouble> {
        let of_prior = match record.prior {
            Some(prior) => {
                let entry = self.target.repository.catalogue_entry(&self.target.stanza, prior);
                match self.in_target(entry)? {
                    Some(CatalogueBody::Published(prior)) => prior.sizes.stored_set,
                    _ => 0,
                }
            }
            None => 0,
        };
        let mut copied = BackupRecord { manifest, ..record };
        self.add_target(&mut copied.repositories);
        copied.sizes.stored = stored;
        copied.sizes.stored_set = stored.saturating_add(of_prior);
        Ok(copied)
    }

    /// Whoever reads the entry here must not take this for a repository that the backup was not for.
    fn add_target(&self, outcomes: &mut Vec<RepositoryOutcome>) {
        let (key, identity) = (self.target.repository.number(), Some(self.target.repository.identity()));
        let own = RepositoryOutcome { key, identity, expected: true };
        match outcomes.iter_mut().find(|outcome| outcome.key == key) {
            Some(there) => *there = own,
            None => outcomes.push(own),
        }
    }

    /// As a verify would, but for the data, which was proved on its way: the manifest that is stored against every footer that it leads to.
    fn look_at(&self, record: &BackupRecord) -> Result<(), Trouble> {
        let backups = self.check_references(record)?;
        let mut expected = self.expected(&self.target, record)?;
        let check =
            PackCheck { job: &self.target, secret: &self.secret, backups, references: &record.references };
        let task = |(number, name): (usize, &PackName)| PackTask {
            name: *name,
            expected: expected.of_pack(number),
            reads_data: false,
        };
        let tasks: Vec<PackTask<'_>> = expected.packs.iter().enumerate().map(task).collect();
        let what = format!("look at backup {}", record.label);
        let told =
            self.target.each(&what, &tasks, |task| crate::verify::pack::check(&check, task).map(Some))?;
        let mut flaws = Vec::new();
        let mut checksums = Vec::new();
        for (_, result) in told {
            flaws.extend(result.finding.into_iter().chain(result.mismatch));
            checksums.extend(result.checksums);
        }
        checksums.into_iter().for_each(|(slot, checksum)| expected.set_checksum(slot, checksum));
        let manifest = layout::manifest(&self.target.stanza, record.label);
        flaws.extend(expected.check_split_files(&self.target, &manifest, &self.secret));
        let failure =
            |finding: &crate::verify::Finding| Failure::new(ErrorCode::Checksum, finding.to_string());
        match together(flaws.iter().map(failure).collect()) {
            None => Ok(()),
            Some(failure) => Err(Trouble::Failed(failure)),
        }
    }

    fn publish(&self, record: BackupRecord) -> Result<(), Trouble> {
        let label = record.label;
        let (target, stanza) = (&self.target.repository, &self.target.stanza);
        self.in_target(target.publish_entry(stanza, record))?;
        // What is left of it means nothing any more; a store under retention keeps it.
        let tidied = self.target.wait(async {
            target.end_copy(stanza, label).await?;
            target.tidy_published(stanza, label).await
        });
        if let Err(error) = tidied {
            tracing::debug!("what only the copy of {label} needed stays: {error}");
        }
        Ok(())
    }
}
