//! Does one unit: read, check pages, hash blocks, compress, seal for each repository, upload to all at once.
//!
//! ```text
//! slot's thread                                         runtime
//! read --> pages --> hashes --> frame --> compress --> seal per repository --> [bounded queue] --> upload
//!                     |
//!                     +--> a block that the prior has: no more than a line in the footer
//! ```
//!
//! Invariants
//! 1. Each byte is read once, whatever the number of repositories, and compressed once for all that rest on the same prior.
//! 2. A range lies at its planned offset; nothing is joined by length.
//! 3. A pack is whole in a repository before the receipt says so. A repository that fails or stalls ends its own pack only.
//! 4. Memory is bounded: one raw frame per lane, and per repository [`PIECES_IN_FLIGHT`] sealed ones.
//! 5. A repository that stalls is paid for once: later units pass it by while they have another one.
//! 6. The same content gives the same receipt, whichever attempt read it; only the time that it took is its own.
//!
//! Failure story: an error of the source ends the attempt; its uploads are dropped and publish nothing.
//! So does the end of the job, within a frame.

mod archived;
mod compressors;
mod files;
mod foreign;
mod frames;
mod known;
mod lane;
mod origin;
mod outgoing;
mod pages;
mod patience;
pub(crate) mod reader;
mod stopwatch;
#[cfg(test)]
mod tests;
pub(crate) mod unread;

use crate::job::JobContext;
use bytes::Bytes;
use compressors::Compressors;
use futures::future::join_all;
use lane::Lane;
use origin::Origin;
use outgoing::Outgoing;
use pages::PageChecker;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::pack::{PackBody, PackRange};
use pgconvoy_core::wire::{
    FromStandby, PartReceipt, Receipt, RepositoryFailure, StoredPack, UnitFailure, UnitOrder, UnitPart,
};
use reader::{Opened, PartReader};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stopwatch::{Lap, Stopwatch, Upload};
use unread::Unread;

/// What a slot keeps between units: buffers, and the compressor's tables.
pub struct Slot {
    number: u16,
    compressors: Compressors,
    buffers: Vec<Vec<u8>>,
    /// For pages that did not change for the better.
    waited_in_vain: Duration,
}

/// A unit whose bytes are all on their way; what remains is waiting for the stores.
pub struct Sent {
    outgoing: Vec<Outgoing>,
    order: Arc<UnitOrder>,
    slot: u16,
    done: Packed,
    lap: Lap,
    standby: Option<FromStandby>,
}

/// What was read and kept of a unit.
#[derive(Default)]
struct Packed {
    parts: Vec<PartReceipt>,
    ranges: Vec<PackRange>,
    vanished: Vec<String>,
    read: u64,
    changed: u64,
    skipped: u64,
    wrong_summary: Option<String>,
}

impl Slot {
    pub fn new(number: u16, context: &JobContext) -> Result<Self, Failure> {
        let compressors = Compressors::new(&context.units)?;
        Ok(Slot { number, compressors, buffers: Vec::new(), waited_in_vain: Duration::ZERO })
    }

    /// Blocks until the last piece is handed over. Called on the slot's own thread.
    pub fn run(&mut self, context: &Arc<JobContext>, order: Arc<UnitOrder>) -> Result<Sent, UnitFailure> {
        let name = PackName {
            label: context.units.label,
            plan: context.units.plan,
            unit: order.unit,
            attempt: order.attempt,
        };
        let outgoing: Vec<Outgoing> =
            order.repositories.iter().map(|key| Outgoing::begin(context, &order, *key, name)).collect();
        let buffers = &mut self.buffers;
        let buffer = || buffers.pop().unwrap_or_default();
        let mut lanes = Lane::all(context, &self.compressors, outgoing, buffer);
        let mut stopwatch = Stopwatch::start();
        let mut origin = Origin::Own;
        let packed = self.pack(context, &order, &mut origin, &mut lanes, &mut stopwatch);
        let wrong_summary = origin.wrong_summary(context);
        match packed {
            Ok(packed) => {
                let done = Packed { wrong_summary, ..packed };
                let outgoing = self.end(context, name, &done, lanes);
                let standby = context.standby(&order);
                Ok(Sent { outgoing, order, slot: self.number, done, lap: stopwatch.stop(), standby })
            }
            Err(failure) => Err(unit_failure(&order, failure, wrong_summary, &lanes)),
        }
    }

    fn pack(
        &mut self,
        context: &Arc<JobContext>,
        order: &UnitOrder,
        origin: &mut Origin,
        lanes: &mut [Lane],
        stopwatch: &mut Stopwatch,
    ) -> Result<Packed, Failure> {
        let mut done = Packed::default();
        *origin = stopwatch.read(|| Origin::begin(context, order))?;
        for (number, part) in order.parts.iter().enumerate() {
            let opened = stopwatch.read(|| origin.open(context, order, number, part))?;
            let Opened::Present(mut reader) = opened else {
                done.vanished.push(part.path.to_string());
                done.parts.push(PartReceipt::Vanished);
                continue;
            };
            lanes.iter_mut().for_each(|lane| lane.begin_part(context, part));
            // What keeps files as such needs their bytes, known ones too.
            let unread = match lanes.iter().any(Lane::has_files) {
                true => None,
                false => reader.unread(context, order, part)?,
            };
            let Slot { compressors, waited_in_vain, .. } = self;
            let pages = context.page_check(part).map(|size| PageChecker::new(size, part, waited_in_vain));
            let mut reading =
                Reading { context, part, reader, pages, unread, compressors, stopwatch, read: 0, skipped: 0 };
            let (receipt, range) = reading.run(lanes, done.ranges.len())?;
            done.read += reading.read;
            done.skipped += reading.skipped;
            for lane in &mut *lanes {
                lane.end_part(range.is_some())?;
            }
            done.ranges.extend(range);
            done.parts.push(receipt);
        }
        for lane in &mut *lanes {
            lane.flush(&mut self.compressors)?;
        }
        wanted_by_somebody(lanes)?;
        done.changed = lanes.first().map_or(0, |lane| lane.stored);
        Ok(done)
    }

    /// Footers, each repository's own.
    fn end(
        &mut self,
        context: &JobContext,
        name: PackName,
        done: &Packed,
        lanes: Vec<Lane>,
    ) -> Vec<Outgoing> {
        let body = PackBody {
            backup: context.units.backup,
            label: name.label,
            plan: name.plan,
            unit: name.unit,
            attempt: name.attempt,
            worker: context.worker.clone(),
            slot: self.number,
            ranges: done.ranges.clone(),
            foreign: Vec::new(),
            vanished: done.vanished.clone(),
            skipped: done.skipped,
            plain: false,
        };
        let mut ended = Vec::new();
        for lane in lanes {
            let (outgoing, buffer) = lane.end(&body, &mut self.compressors);
            ended.extend(outgoing);
            self.buffers.push(buffer);
        }
        ended
    }
}

/// One range of one file, from its first byte to the end of what is there.
struct Reading<'a> {
    context: &'a JobContext,
    part: &'a UnitPart,
    reader: PartReader<'a>,
    pages: Option<PageChecker<'a>>,
    unread: Option<Unread>,
    compressors: &'a mut Compressors,
    stopwatch: &'a mut Stopwatch,
    read: u64,
    skipped: u64,
}

impl Reading<'_> {
    fn run(&mut self, lanes: &mut [Lane], place: usize) -> Result<(PartReceipt, Option<PackRange>), Failure> {
        let (context, part) = (self.context, self.part);
        let block_size = lanes.iter().find_map(Lane::block_size).unwrap_or(part.block_size);
        lanes.iter_mut().for_each(|lane| lane.agree_on(block_size));
        let mut range = PackRange {
            path: part.path.to_string(),
            offset: part.offset,
            length: 0,
            block_size,
            hashes: Vec::new(),
            runs: Vec::new(),
            checksum: context.secret.hash(&[]),
            bad_pages: Vec::new(),
            sha1: None,
        };
        if self.reader.awaits_plan() {
            let ranges = self.to_read(lanes, &range);
            self.reader.expect(ranges)?;
        }
        let mut digest = context.digest_for(part);
        let path: Arc<str> = part.path.as_str().into();
        loop {
            self.skip(lanes, &mut range);
            let Some((filled, is_last)) = self.fill(lanes, &mut range)? else { break };
            if let Some(digest) = &mut digest {
                digest.update(lanes[0].packer.read(0..filled));
            }
            give_files(lanes, &path, filled);
            self.sort(lanes, &mut range, filled)?;
            if is_last {
                break;
            }
        }
        range.checksum = context.secret.hash(&range.hashes);
        range.sha1 = digest.map(|digest| digest.finish());
        let stored = range.length > 0;
        let receipt = PartReceipt::Present {
            place: stored.then(|| u32::try_from(place).expect("a unit has a few thousand parts")),
            length: range.length,
            checksum: range.checksum,
            pages_checked: self.pages.as_ref().map_or(0, PageChecker::checked),
            bad_pages: range.bad_pages.clone(),
        };
        Ok((receipt, stored.then_some(range)))
    }

    /// All bytes of the file that will be read, if it is as long as it was planned.
    fn to_read(&self, lanes: &[Lane], range: &PackRange) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut before = 0;
        while before < self.part.length {
            let length = (self.part.length - before).min(u64::from(range.block_size));
            let (start, end) = (range.offset + before, range.offset + before + length);
            match ranges.last_mut() {
                _ if self.unread(lanes, range, before).is_some() => {}
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
            before += length;
        }
        ranges
    }

    /// Passes over blocks that need not be read, as long as there are any.
    fn skip(&mut self, lanes: &mut [Lane], range: &mut PackRange) {
        while let Some((hash, length)) = self.unread(lanes, range, range.length) {
            let block = block_at(range, range.length);
            for lane in &mut *lanes {
                lane.refer(block, hash);
            }
            range.hashes.extend_from_slice(&hash.0);
            range.length += length;
            self.skipped += length;
            self.reader.skip(length);
        }
    }

    /// What every lane knows of the block that begins so far into the part, if it need not be read; and its length.
    fn unread(&self, lanes: &[Lane], range: &PackRange, before: u64) -> Option<(BlockHash, u64)> {
        let unread = self.unread.as_ref()?;
        let length = self.part.length.checked_sub(before)?.min(u64::from(range.block_size));
        let (block, at) = (block_at(range, before), range.offset + before);
        let hash = lanes.first()?.unread(block, length)?;
        let is_known = lanes.iter().all(|lane| lane.unread(block, length) == Some(hash));
        (is_known && length > 0 && unread.may_skip(at..at + length)).then_some((hash, length))
    }

    /// Bytes from here to the next block that need not be read, one block at least and no more than there is room for.
    fn wanted(&self, lanes: &[Lane], range: &PackRange, room: usize) -> usize {
        if self.unread.is_none() {
            return room;
        }
        let block_size = range.block_size as usize;
        let is_unread = |before: &usize| self.unread(lanes, range, range.length + *before as u64).is_some();
        (block_size..room).step_by(block_size).find(is_unread).unwrap_or(room)
    }

    /// Reads into the first lane's free space and checks the pages. `None`: there is nothing more; `true`: there was less than
    /// there was room for.
    fn fill(&mut self, lanes: &mut [Lane], range: &mut PackRange) -> Result<Option<(usize, bool)>, Failure> {
        self.context.check_running()?;
        wanted_by_somebody(lanes)?;
        let (block_size, offset) = (range.block_size as usize, range.offset + range.length);
        let lane = lanes.first_mut().ok_or_else(for_nobody)?;
        if !lane.packer.has_room(block_size) {
            lane.flush(self.compressors)?;
        }
        let room = lane.packer.room(block_size).len();
        let wanted = self.wanted(lanes, range, room);
        let lane = lanes.first_mut().ok_or_else(for_nobody)?;
        let free = &mut lane.packer.room(block_size)[..wanted];
        let filled = self.stopwatch.read(|| self.reader.fill(free))?;
        if filled == 0 {
            return Ok(None);
        }
        self.read += filled as u64;
        self.stopwatch.pace(|| self.context.pace(filled));
        if let Some(pages) = &mut self.pages {
            pages.check(offset, &mut free[..filled], &mut self.reader, &mut range.bad_pages)?;
        }
        Ok(Some((filled, filled < free.len())))
    }

    /// Block by block: each lane keeps what its prior has not. A block with a bad page is stored again in any case.
    fn sort(&mut self, lanes: &mut [Lane], range: &mut PackRange, filled: usize) -> Result<(), Failure> {
        let block_size = range.block_size as usize;
        let (first, others) = lanes.split_first_mut().ok_or_else(for_nobody)?;
        let mut kept = 0;
        for begin in (0..filled).step_by(block_size) {
            let from = begin - kept..(begin + block_size).min(filled) - kept;
            let block = block_at(range, range.length);
            let bytes = first.packer.read(from.clone());
            let hash = self.context.secret.hash(bytes);
            let is_bad = self.is_bad(range, bytes.len());
            for other in &mut *others {
                if is_bad || !other.refer(block, hash) {
                    other.add(first.packer.read(from.clone()), block_size, self.compressors)?;
                }
            }
            range.hashes.extend_from_slice(&hash.0);
            range.length += bytes.len() as u64;
            if is_bad || !first.refer(block, hash) {
                kept += first.keep(from, block_size);
            }
        }
        Ok(())
    }

    /// Whether the block that comes next has a bad page.
    fn is_bad(&self, range: &PackRange, bytes: usize) -> bool {
        let page_size = u64::from(self.context.shape.page_size.bytes());
        let begin = range.offset + range.length;
        let pages = begin / page_size..(begin + bytes as u64).div_ceil(page_size);
        range.bad_pages.iter().any(|page| pages.contains(&u64::from(*page)))
    }
}

/// What was read goes as it is to those that keep files.
fn give_files(lanes: &mut [Lane], path: &Arc<str>, filled: usize) {
    if lanes.iter().any(Lane::has_files) {
        let bytes = Bytes::copy_from_slice(lanes[0].packer.read(0..filled));
        lanes.iter_mut().for_each(|lane| lane.file(path, &bytes));
    }
}

/// The number of the block that begins so far into the part.
fn block_at(range: &PackRange, before: u64) -> usize {
    usize::try_from(before / u64::from(range.block_size)).unwrap_or(usize::MAX)
}

/// Reading on for no repository at all would be work for nothing.
fn wanted_by_somebody(lanes: &[Lane]) -> Result<(), Failure> {
    let mut failure = None;
    for one in lanes.iter().flat_map(Lane::outgoing) {
        match one.failure() {
            None => return Ok(()),
            Some(failed) => failure = failure.or(Some(failed.failure)),
        }
    }
    Err(failure.unwrap_or_else(for_nobody))
}

fn for_nobody() -> Failure {
    Failure::new(ErrorCode::Assert, "a unit was ordered for no repository")
}

impl Sent {
    /// Waits until every repository has the pack or has failed.
    pub async fn settle(self) -> Result<Receipt, UnitFailure> {
        let settling = self.outgoing.into_iter().map(|one| async move {
            let (repository, queued, begin) = (one.repository(), one.queued(), Instant::now());
            let settled = one.settle().await;
            (Upload { repository, queued, settled: begin.elapsed() }, settled)
        });
        let (mut stored, mut failed, mut uploads) = (Vec::new(), Vec::new(), Vec::new());
        for (upload, settled) in join_all(settling).await {
            let repository = upload.repository;
            uploads.push(upload);
            match settled {
                Ok(bytes) => stored.push(StoredPack { repository, bytes }),
                Err(failure) => failed.push(RepositoryFailure { repository, failure }),
            }
        }
        if stored.is_empty() {
            let failure = failed.first().map_or_else(
                || Failure::new(ErrorCode::Assert, "a unit was ordered for no repository"),
                |first| first.failure.clone(),
            );
            let (unit, attempt, token) = (self.order.unit, self.order.attempt, self.order.token);
            let wrong_summary = self.done.wrong_summary;
            return Err(UnitFailure { unit, attempt, token, failure, failed, wrong_summary });
        }
        Ok(Receipt {
            unit: self.order.unit,
            attempt: self.order.attempt,
            token: self.order.token,
            slot: self.slot,
            parts: self.done.parts,
            read: self.done.read,
            changed: self.done.changed,
            skipped: self.done.skipped,
            wrong_summary: self.done.wrong_summary,
            stored,
            failed,
            spent: self.lap.spent(&uploads),
            standby: self.standby,
        })
    }
}

fn unit_failure(
    order: &UnitOrder,
    failure: Failure,
    wrong_summary: Option<String>,
    lanes: &[Lane],
) -> UnitFailure {
    let failed = lanes.iter().flat_map(Lane::outgoing).filter_map(Outgoing::failure).collect();
    let (unit, attempt, token) = (order.unit, order.attempt, order.token);
    UnitFailure { unit, attempt, token, failure, failed, wrong_summary }
}
