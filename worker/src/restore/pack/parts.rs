//! The parts of files that a pack fills: opened, written, and finished when every block of them is there.

use super::super::data::Work;
use super::super::error::{Action, RestoreError};
use super::super::existing;
use super::super::files;
use super::super::ledger::{PartDone, combine};
use super::super::stock::InHand;
use super::super::sync::{Job, SyncQueue};
use super::blocks::Wanted;
use super::comparison::Comparison;
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::format::pack::PackRange;
use pgconvoy_core::plan::restore::{PackPart, PackWork, PlannedFile};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A part of this size is worth a sync of its own, so that the disk works while the rest of the file is on its way.
const PART_SYNC_BYTES: u64 = 4 << 20;

pub(super) struct Parts<'a> {
    work: &'a Work<'a>,
    queue: &'a SyncQueue,
    in_hand: &'a Arc<InHand>,
    pack: &'a PackWork,
    states: Vec<State>,
    /// The file that was written to last: parts come one after another, so one is enough.
    current: Option<Open>,
}

#[derive(Default)]
struct State {
    /// Bytes that are as they should be.
    written: u64,
    is_created: bool,
    is_compared: bool,
    /// What the first footer said: all have to agree.
    told: Option<Told>,
    crcs: Vec<(u32, u32, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    checksum: BlockHash,
    block_size: u32,
}

struct Open {
    part: usize,
    file: File,
    path: PathBuf,
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        work: &'a Work<'a>,
        queue: &'a SyncQueue,
        in_hand: &'a Arc<InHand>,
        pack: &'a PackWork,
    ) -> Self {
        let states = pack.parts.iter().map(|_| State::default()).collect();
        Parts { work, queue, in_hand, pack, states, current: None }
    }

    pub(super) fn planned(&self, part: usize) -> PackPart {
        self.pack.parts[part]
    }

    pub(super) fn file(&self, part: usize) -> &'a PlannedFile {
        &self.work.chosen.plan.files[self.pack.parts[part].file as usize]
    }

    /// Whether a repository's footer says of a part what the others' said. A part without bytes is finished by that.
    pub(super) fn agree(&mut self, part: usize, range: &PackRange) -> Result<bool, RestoreError> {
        let told = Told { checksum: range.checksum, block_size: range.block_size };
        let known = *self.states[part].told.get_or_insert(told);
        if known == told && range.length == 0 {
            self.open(part)?;
            self.finish(part)?;
        }
        Ok(known == told)
    }

    /// Blocks whose hashes were checked.
    pub(super) fn write(&mut self, wanted: &Wanted, bytes: &[u8]) -> Result<(), RestoreError> {
        let part = wanted.part;
        self.open(part)?;
        let planned = self.pack.parts[part];
        let state = &mut self.states[part];
        let block_size = state.told.expect("a part is written after its footer was read").block_size;
        let offset = planned.offset + u64::from(wanted.blocks.start) * u64::from(block_size);
        let open = self.current.as_ref().expect("it was just opened");
        open.file.write_all_at(bytes, offset).map_err(RestoreError::file(Action::Write, &open.path))?;
        let length = bytes.len() as u64;
        if self.work.with_crcs {
            state.crcs.push((wanted.blocks.start, crc32c::crc32c(bytes), length));
        }
        state.written += length;
        self.work.around.progress.add(length);
        if state.written == planned.length {
            self.finish(part)?;
        }
        Ok(())
    }

    /// Of the wanted blocks, those that what stayed of the file does not have. A part that has them all is finished by that.
    pub(super) fn lacking(&mut self, wanted: Wanted, range: &PackRange) -> Result<Vec<Wanted>, RestoreError> {
        let part = wanted.part;
        let is_compared = std::mem::replace(&mut self.states[part].is_compared, true);
        if is_compared || !self.work.standing.existing.keeps_files() || range.length == 0 {
            return Ok(vec![wanted]);
        }
        self.open(part)?;
        let offset = self.pack.parts[part].offset;
        let open = self.current.as_ref().expect("it was just opened");
        let compared = Comparison::of(&open.file, offset, range, &self.work.chosen.secret)
            .map_err(RestoreError::file(Action::Read, &open.path))?;
        let state = &mut self.states[part];
        state.written += compared.same_bytes;
        if self.work.with_crcs {
            state.crcs.extend(compared.crcs);
        }
        self.work.around.progress.keep(compared.same_bytes);
        if state.written == range.length {
            self.finish(part)?;
        }
        Ok(compared.differing.into_iter().map(|blocks| Wanted { part, blocks }).collect())
    }

    /// Takes a part of a file for the backup's as it lies there, where that is wanted and nothing speaks against it.
    pub(super) fn believe(&mut self, part: usize) -> Result<bool, RestoreError> {
        let (planned, record) = (self.pack.parts[part], self.file(part));
        if !self.work.standing.existing.may_be_a_cluster() {
            return Ok(false);
        }
        let path = self.work.ground.path(planned.file, record);
        let began = self.work.chosen.head.started.seconds();
        if !existing::is_believed(&path, record, began, self.work.standing)? {
            return Ok(false);
        }
        self.work.around.progress.keep(planned.length);
        if self.work.ledger.believe(planned.file, planned.length) {
            let file = files::open(&path)?;
            self.work.ground.complete(&file, &path, record)?;
            self.queue.push(Job::Whole(file, path, self.in_hand.clone()));
        }
        Ok(true)
    }

    fn open(&mut self, part: usize) -> Result<(), RestoreError> {
        if self.current.as_ref().is_some_and(|open| open.part == part) {
            return Ok(());
        }
        let planned = self.file(part);
        let path = self.work.ground.path(self.pack.parts[part].file, planned);
        // A file of several parts was made when its share was begun.
        let is_mine = planned.parts == 1 && !self.states[part].is_created;
        let file = match is_mine {
            true => existing::open(&path, planned.size, self.work.standing)?,
            false => files::open(&path)?,
        };
        self.states[part].is_created = true;
        self.current = Some(Open { part, file, path });
        Ok(())
    }

    fn finish(&mut self, part: usize) -> Result<(), RestoreError> {
        let planned = self.pack.parts[part];
        let state = &mut self.states[part];
        let crc = self.work.with_crcs.then(|| {
            state.crcs.sort_unstable();
            state.crcs.drain(..).fold(0, |crc, (_, next, length)| combine(crc, next, length))
        });
        let checksum = state.told.expect("a part is finished after its footer was read").checksum;
        let done = PartDone { offset: planned.offset, length: planned.length, checksum, crc };
        let Open { file, path, .. } = self.current.take().expect("a part is finished while its file is open");
        if self.work.ledger.enter(planned.file, done)? {
            let record = self.file(part);
            self.work.ground.complete(&file, &path, record)?;
            self.queue.push(Job::Whole(file, path, self.in_hand.clone()));
        } else if planned.length >= PART_SYNC_BYTES {
            self.in_hand.one_more();
            self.queue.push(Job::Part(file, path, self.in_hand.clone()));
        }
        Ok(())
    }
}
