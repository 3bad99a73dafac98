//! WAL: histories, segments, what was streamed of segments, and records of what was given up.

use super::Sync;
use super::crew::{Outcome, Said};
use super::object::{Proof, Put, Written};
use super::report::{ArchiveSync, SyncReport, together};
use super::trouble::Trouble;
use crate::error::RepositoryError;
use crate::object::ObjectReader;
use crate::verify::Job;
use crate::wal::WalReader;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::wal::WalBody;
use pgconvoy_core::ids::ClusterNumber;
use pgconvoy_core::pg::{WalFileName, WalPart, WalSegmentName, WalSegmentSize};
use pgconvoy_core::plan::sync::{ArchiveStep, Published, SyncPlan};
use pgconvoy_core::wire::CopyObjects;
use sha1::{Digest, Sha1};
use std::collections::BTreeSet;

/// What is to be copied of all archives, and what of it is done.
pub(super) struct Archives<'a> {
    sync: &'a Sync,
    archives: Vec<Lacking<'a>>,
}

struct Lacking<'a> {
    cluster: ClusterNumber,
    size: WalSegmentSize,
    id: ArchiveId,
    /// `None`: the target has all.
    step: Option<&'a ArchiveStep>,
    /// In order; files leave it when they were tried.
    files: Vec<WalFileName>,
    /// They are in the source, and could not be copied.
    lost: BTreeSet<WalSegmentName>,
    /// They are in the target as they are in the source, if both have them.
    equal: BTreeSet<WalSegmentName>,
    told: ArchiveSync,
}

impl<'a> Archives<'a> {
    pub(super) fn new(sync: &'a Sync, plan: &'a SyncPlan) -> Archives<'a> {
        let lacking = |cluster: &ClusterBody| {
            let id = cluster.archive_id();
            let step = plan.archives.iter().find(|step| step.archive == id);
            Lacking {
                cluster: cluster.number,
                size: cluster.wal_segment_size,
                id,
                step,
                files: step.map(|step| step.files.clone()).unwrap_or_default(),
                lost: BTreeSet::new(),
                equal: BTreeSet::new(),
                told: ArchiveSync::new(id),
            }
        };
        Archives { sync, archives: sync.clusters.iter().map(lacking).collect() }
    }

    /// They lead to all else.
    pub(super) fn histories(&mut self, report: &mut SyncReport) -> Result<(), Trouble> {
        let is_history = |file: &WalFileName| matches!(file, WalFileName::History(_));
        self.archives.iter_mut().try_for_each(|archive| archive.copy(self.sync, is_history, report))
    }

    /// The segments of a backup. Those that the source does not have either are no reason not to copy it; those that the target has
    /// under their names must be the same.
    pub(super) fn of_backup(&mut self, backup: &Published, report: &mut SyncReport) -> Result<(), Trouble> {
        let Some(archive) = self.archives.iter_mut().find(|archive| archive.cluster == backup.cluster) else {
            return Ok(());
        };
        let needed: BTreeSet<WalSegmentName> = backup.segments(archive.size).collect();
        let is_needed =
            |file: &WalFileName| matches!(file, WalFileName::Segment(segment) if needed.contains(segment));
        archive.copy(self.sync, is_needed, report)?;
        if let Some(segment) = archive.lost.intersection(&needed).next() {
            let file = WalFileName::Segment(*segment);
            let object = layout::wal_file(&self.sync.target.stanza, archive.id, &file);
            return Err(
                RepositoryError::Missing { place: self.sync.target.repository.describe(), object }.into()
            );
        }
        archive.compare(self.sync, &needed)
    }

    pub(super) fn rest(&mut self, report: &mut SyncReport) -> Result<(), Trouble> {
        for archive in &mut self.archives {
            archive.copy(self.sync, |_| true, report)?;
            archive.parts(self.sync, report)?;
            archive.dropped(self.sync, report)?;
        }
        Ok(())
    }

    /// What was done of each.
    pub(super) fn told(self) -> impl Iterator<Item = ArchiveSync> {
        self.archives.into_iter().filter(|archive| archive.step.is_some()).map(|archive| archive.told)
    }
}

impl Lacking<'_> {
    fn copy(
        &mut self,
        sync: &Sync,
        is_meant: impl Fn(&WalFileName) -> bool,
        report: &mut SyncReport,
    ) -> Result<(), Trouble> {
        let (now, later): (Vec<_>, Vec<_>) = self.files.iter().copied().partition(is_meant);
        self.files = later;
        let id = self.id;
        let part = |files: &[WalFileName]| CopyObjects::Wal { archive: id, files: files.to_vec() };
        let told = sync.each_shared(&format!("archive {id}"), &now, part, |file, said| {
            sync.gathered(sync.wal_file(id, file, said))
        })?;
        for (number, copied) in told {
            if let (Ok(Copied::New(_) | Copied::Present(_)), WalFileName::Segment(segment)) =
                (&copied, now[number])
            {
                self.equal.insert(segment);
            }
            match (copied, now[number]) {
                (Ok(Copied::New(written)), _) => self.told.add_file(written),
                (Ok(Copied::Present(_)), _) => self.told.present += 1,
                (Ok(Copied::Gone), _) => {}
                (Err(trouble), file) => {
                    if let WalFileName::Segment(segment) = file {
                        self.lost.insert(segment);
                    }
                    report.add_error(trouble.told().context(format!("WAL {file}")));
                }
            }
        }
        Ok(())
    }

    /// By what their footers tell, which is not much to read: of two servers that were one, each has WAL of its own under the same names.
    fn compare(&mut self, sync: &Sync, needed: &BTreeSet<WalSegmentName>) -> Result<(), Trouble> {
        let id = self.id;
        let open: Vec<WalSegmentName> = needed.difference(&self.equal).copied().collect();
        let what = format!("WAL that both have in archive {id}");
        let told =
            sync.source.each(&what, &open, |segment| sync.gathered(sync.same_segment(id, *segment)))?;
        let mut failures = Vec::new();
        for (number, result) in told {
            match result {
                Ok(()) => {
                    self.equal.insert(open[number]);
                }
                Err(trouble) => failures.push(trouble.told().context(format!("WAL {}", open[number]))),
            }
        }
        together(failures).map_or(Ok(()), |failure| Err(Trouble::Failed(failure)))
    }

    fn parts(&mut self, sync: &Sync, report: &mut SyncReport) -> Result<(), Trouble> {
        let (id, Some(step)) = (self.id, self.step) else { return Ok(()) };
        let what = format!("parts of segments in archive {id}");
        let told = sync.source.each(&what, &step.parts, |part| sync.gathered(sync.wal_part(id, part)))?;
        for (number, copied) in told {
            match copied {
                Ok(Copied::New(written)) => self.told.add_part(written),
                Ok(Copied::Present(_) | Copied::Gone) => {}
                Err(trouble) => {
                    report.add_error(trouble.told().context(format!("WAL {}", step.parts[number])));
                }
            }
        }
        Ok(())
    }

    fn dropped(&self, sync: &Sync, report: &mut SyncReport) -> Result<(), Trouble> {
        let (source, target, stanza) =
            (&sync.source.repository, &sync.target.repository, &sync.source.stanza);
        for file in self.step.iter().flat_map(|step| &step.dropped) {
            let copying = async {
                match source.dropped_record(stanza, self.id, file).await? {
                    Some(record) => target.record_dropped(stanza, self.id, file, &record).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = sync.source.wait(copying) {
                match Trouble::of_target(error) {
                    Trouble::Failed(failure) => {
                        report.add_error(failure.context(format!("record of dropped WAL {file}")));
                    }
                    other => return Err(other),
                }
            }
        }
        Ok(())
    }
}

pub(super) enum Copied {
    New(Written),
    /// With the bytes that it takes.
    Present(u64),
    /// From the source: it was expired, or something stands for it now.
    Gone,
}

impl Outcome for Copied {
    fn new_bytes(&self) -> Option<u64> {
        match self {
            Copied::New(written) => Some(written.bytes),
            Copied::Present(_) | Copied::Gone => None,
        }
    }

    fn credit(&mut self) -> Option<u64> {
        let Copied::Present(bytes) = *self else { return None };
        *self = Copied::New(Written { bytes, bytes_by_store: 0 });
        Some(bytes)
    }
}

/// The whole content, by its SHA-1.
struct DigestProof<'a> {
    place: &'a str,
    object: &'a str,
    body: &'a WalBody,
    size: u64,
    sha1: Sha1,
}

impl Proof for DigestProof<'_> {
    fn begin(&mut self) {
        (self.size, self.sha1) = (0, Sha1::new());
    }

    fn frame(&mut self, _: usize, raw: &[u8]) -> Result<(), RepositoryError> {
        self.size += raw.len() as u64;
        self.sha1.update(raw);
        Ok(())
    }

    fn end(&mut self) -> Result<(), RepositoryError> {
        let found: [u8; 20] = self.sha1.clone().finalize().into();
        if self.size == self.body.size && found == self.body.sha1 {
            return Ok(());
        }
        Err(RepositoryError::Contradiction {
            place: self.place.to_owned(),
            object: self.object.to_owned(),
            reason: "its content does not match its SHA-1".into(),
        })
    }
}

impl Sync {
    pub(super) fn wal_file(
        &self,
        archive: ArchiveId,
        file: &WalFileName,
        said: Said,
    ) -> Result<Copied, Trouble> {
        let stanza = &self.source.stanza;
        let opened = self.source.wait(self.source.repository.open_wal(stanza, archive, file))?;
        let there = || self.target.wait(self.target.repository.open_wal(stanza, archive, file));
        match (said, &opened) {
            (Said::Nothing, _) | (_, None) => {}
            (Said::Copied | Said::Present, Some(reader)) => {
                if let Some(known) = self.known(reader, there().map_err(Trouble::of_target)?) {
                    return known;
                }
            }
        }
        self.wal_object(opened, there)
    }

    /// One that either lacks is no matter here.
    fn same_segment(&self, archive: ArchiveId, segment: WalSegmentName) -> Result<(), Trouble> {
        let (stanza, file) = (&self.source.stanza, WalFileName::Segment(segment));
        let of = |job: &Job| job.wait(job.repository.open_wal(stanza, archive, &file));
        let (Some(ours), Some(theirs)) = (of(&self.source)?, of(&self.target)?) else { return Ok(()) };
        if (ours.body.size, ours.body.sha1) == (theirs.body.size, theirs.body.sha1) {
            return Ok(());
        }
        let place = self.target.repository.describe();
        Err(RepositoryError::Duplicate { place, name: theirs.body.name }.into())
    }

    fn wal_part(&self, archive: ArchiveId, part: &WalPart) -> Result<Copied, Trouble> {
        let stanza = &self.source.stanza;
        let opened = self.source.wait(self.source.repository.open_wal_part(stanza, archive, part))?;
        let there = || self.target.wait(self.target.repository.open_wal_part(stanza, archive, part));
        self.wal_object(opened, there)
    }

    fn wal_object(
        &self,
        opened: Option<WalReader>,
        there: impl Fn() -> Result<Option<WalReader>, RepositoryError>,
    ) -> Result<Copied, Trouble> {
        let Some(reader) = opened else { return Ok(Copied::Gone) };
        let object: &ObjectReader = &reader.object;
        let (place, body) = (object.place(), &reader.body);
        let mut proof = DigestProof { place, object: object.name(), body, size: 0, sha1: Sha1::new() };
        match self.reseal(object, Kind::Wal, object.encoded_body(), &mut proof)? {
            Put::New(written) => Ok(Copied::New(written)),
            Put::Exists => {
                let gone = || RepositoryError::Interrupted { what: "comparing a WAL file" }.into();
                self.known(&reader, there().map_err(Trouble::of_target)?).unwrap_or_else(|| Err(gone()))
            }
        }
    }

    /// What the target has under the name; `None`: nothing.
    fn known(&self, reader: &WalReader, there: Option<WalReader>) -> Option<Result<Copied, Trouble>> {
        let there = there?;
        if there.body == reader.body {
            return Some(Ok(Copied::Present(there.object.size())));
        }
        let place = self.target.repository.describe();
        Some(Err(RepositoryError::Duplicate { place, name: reader.body.name.clone() }.into()))
    }
}
