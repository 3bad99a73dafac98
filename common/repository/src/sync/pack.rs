//! Packs: every block proved by its hash, every borrowed block looked up in the target's own packs.

use super::Sync;
use super::crew::Outcome;
use super::object::{Proof, Put, Written};
use super::trouble::Trouble;
use crate::error::RepositoryError;
use crate::object::{ObjectReader, object_key};
use crate::pack::PackReader;
use crate::verify::Job;
use crate::verify::pack::{OwnRun, flaw_of_frame, lends_all, name_of, own_runs};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::{Kind, Protection};
use pgconvoy_core::format::pack::PackBody;
use pgconvoy_core::format::{BackupLabel, HashSecret, encode_named};
use pgconvoy_core::ids::KeyGeneration;
use std::collections::BTreeSet;

/// A pack that is in the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// What it took to bring it; `None`: it was there.
    pub(super) written: Option<Written>,
    /// What it takes there.
    pub(super) bytes: u64,
}

impl Outcome for Moved {
    fn new_bytes(&self) -> Option<u64> {
        self.written.map(|written| written.bytes)
    }

    fn credit(&mut self) -> Option<u64> {
        self.written = Some(Written { bytes: self.bytes, bytes_by_store: 0 });
        Some(self.bytes)
    }
}

/// What a pack's backup has to do with others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rests<'a> {
    /// Labels that blocks may be borrowed from, beside its own.
    pub(super) references: &'a [BackupLabel],
    /// Backups that the target has published and that refer to it.
    pub(super) relying: &'a [BackupLabel],
}

/// Enough to know which they are.
const LABELS_TOLD: usize = 10;

struct BlockProof<'a> {
    pack: &'a PackReader,
    runs: Vec<OwnRun<'a>>,
    secret: &'a HashSecret,
}

impl Proof for BlockProof<'_> {
    fn frame(&mut self, number: usize, raw: &[u8]) -> Result<(), RepositoryError> {
        match flaw_of_frame(&self.runs, number, raw, self.secret) {
            None => Ok(()),
            Some(reason) => Err(RepositoryError::Contradiction {
                place: self.pack.object.place().to_owned(),
                object: self.pack.object.name().to_owned(),
                reason,
            }),
        }
    }

    fn end(&mut self) -> Result<(), RepositoryError> {
        Ok(())
    }
}

impl Sync {
    pub(super) fn pack(&self, name: PackName, rests: Rests<'_>) -> Result<Moved, Trouble> {
        let pack = self.opened(name)?;
        let body = self.rehomed(&pack, rests.references)?;
        let wanted = body.as_ref().unwrap_or(&pack.body);
        if let Some(bytes) = self.has_this_pack(&pack, wanted, name)? {
            return Ok(Moved { written: None, bytes });
        }
        if !rests.relying.is_empty() {
            return Err(self.would_break(&pack, rests.relying));
        }
        // What was not touched stays as it is, with what a newer version may have put in.
        let encoded = match &body {
            Some(body) => encode_named(body),
            None => pack.object.encoded_body().to_vec(),
        };
        let mut proof = BlockProof { pack: &pack, runs: own_runs(&pack), secret: &self.secret };
        match self.reseal(&pack.object, Kind::Pack, &encoded, &mut proof)? {
            Put::New(written) => Ok(Moved { written: Some(written), bytes: written.bytes }),
            Put::Exists => match self.has_this_pack(&pack, wanted, name)? {
                Some(bytes) => Ok(Moved { written: None, bytes }),
                None => Err(RepositoryError::Interrupted { what: "comparing a pack" }.into()),
            },
        }
    }

    fn would_break(&self, pack: &PackReader, relying: &[BackupLabel]) -> Trouble {
        let labels: Vec<String> = relying.iter().take(LABELS_TOLD).map(BackupLabel::to_string).collect();
        let message = format!(
            "{} is not in {}, though {} of its backups refer to it ({}): a copy is sealed anew, and they could not open it",
            pack.object.name(),
            self.target.repository.describe(),
            relying.len(),
            labels.join(", ")
        );
        Trouble::Failed(
            Failure::new(ErrorCode::BackupSetInvalid, message)
                .hint("they cannot be restored from there: remove them there first, then all can be copied"),
        )
    }

    fn opened(&self, name: PackName) -> Result<PackReader, Trouble> {
        let Job { repository, stanza, .. } = &self.source;
        Ok(self.source.wait(PackReader::open(repository, stanza, name, None, &self.secret))?)
    }

    fn opened_in_target(&self, name: PackName) -> Result<PackReader, Trouble> {
        let Job { repository, stanza, .. } = &self.target;
        self.in_target(PackReader::open(repository, stanza, name, None, &self.secret))
    }

    /// Its size, if the target has it. Compared is what the footers say, which includes the hash of every block, where borrowed ones lie and what
    /// these packs are sealed with: an object is complete or it is not there.
    fn has_this_pack(
        &self,
        pack: &PackReader,
        wanted: &PackBody,
        name: PackName,
    ) -> Result<Option<u64>, Trouble> {
        let key = object_key(&name.key(&self.target.stanza));
        if self.in_target(self.target.repository.storage().stat(&key))?.is_none() {
            return Ok(None);
        }
        let there = self.opened_in_target(name)?;
        let raw_bytes = |object: &ObjectReader| -> Vec<u32> {
            object.frames().iter().map(|frame| frame.raw_bytes()).collect()
        };
        let is_same =
            bare(&there.body) == bare(wanted) && raw_bytes(&there.object) == raw_bytes(&pack.object);
        if is_same { Ok(Some(there.object.size())) } else { Err(self.differs(pack.object.name())) }
    }

    /// The footer as it must be in the target; `None`: as it is.
    fn rehomed(&self, pack: &PackReader, references: &[BackupLabel]) -> Result<Option<PackBody>, Trouble> {
        if pack.body.foreign.is_empty() && !pack.body.plain {
            return Ok(None);
        }
        let mut body = PackBody { plain: false, ..pack.body.clone() };
        for (foreign, number) in body.foreign.iter_mut().zip(1u32..) {
            self.source.go_on()?;
            let name = name_of(foreign);
            let contradiction = |reason: String| RepositoryError::Contradiction {
                place: pack.object.place().to_owned(),
                object: pack.object.name().to_owned(),
                reason,
            };
            if name.label != pack.body.label && !references.contains(&name.label) {
                let reason = format!("it borrows from backup {}, which its backup does not list", name.label);
                return Err(contradiction(reason).into());
            }
            let lender = self.opened_in_target(name)?;
            if !lends_all(&pack.body.ranges, number, foreign, &lender) {
                let place = self.target.repository.describe();
                let reason = format!("blocks that it borrows are not in {place}/{}", lender.object.name());
                return Err(contradiction(reason).into());
            }
            (foreign.generation, foreign.salt) = match lender.object.protection() {
                Protection::None => (KeyGeneration(0), vec![0; 32]),
                Protection::Aes256Gcm { generation, salt } => (*generation, salt.to_vec()),
            };
        }
        Ok(Some(body))
    }

    /// All packs of the backup's own label that these need, themselves included. Packs refer to those of earlier plans, so plans are
    /// gone through from the newest on.
    pub(super) fn with_lenders(&self, packs: BTreeSet<PackName>) -> Result<BTreeSet<PackName>, Trouble> {
        let mut needed = packs;
        let Some(first) = needed.first().copied() else { return Ok(needed) };
        let newest = needed.iter().map(|pack| pack.plan).max().unwrap_or(first.plan);
        let mut plan = newest;
        // A first plan has nothing of its own before it.
        while plan.0 > 1 {
            let of_plan: Vec<PackName> = needed.iter().filter(|pack| pack.plan == plan).copied().collect();
            let lent = self.source.each("packs of earlier attempts", &of_plan, |name| {
                let lenders = self.opened(*name).map(|pack| {
                    let own =
                        pack.body.foreign.iter().map(name_of).filter(|lender| lender.label == name.label);
                    own.collect::<Vec<PackName>>()
                });
                self.gathered(lenders)
            })?;
            for (_, lenders) in lent {
                // One that cannot be opened is told of when its turn comes.
                needed.extend(lenders.unwrap_or_default());
            }
            plan.0 -= 1;
        }
        Ok(needed)
    }
}

/// Without what says the same in two ways: no salt, and how bytes lie.
fn bare(body: &PackBody) -> PackBody {
    let mut body = PackBody { plain: false, ..body.clone() };
    for foreign in body.foreign.iter_mut().filter(|foreign| foreign.salt.iter().all(|byte| *byte == 0)) {
        foreign.salt.clear();
    }
    body
}
