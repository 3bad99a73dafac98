//! Does one unit: read, check pages, hash blocks, compress, seal for each repository, upload to all at once.
//!
//! ```text
//! slot's thread                                         runtime
//! read --> pages --> hashes --> frame --> compress --> seal per repository --> [bounded queue] --> upload
//! ```
//!
//! Invariants
//! 1. Each byte is read once, whatever the number of repositories, and compressed once.
//! 2. A range lies at its planned offset; nothing is joined by length.
//! 3. A pack is whole in a repository before the receipt says so. A repository that fails or stalls ends its own pack only.
//! 4. Memory is bounded: one raw frame, and per repository [`PIECES_IN_FLIGHT`] sealed ones.
//! 5. A repository that stalls is paid for once: later units pass it by while they have another one.
//! 6. The same content gives the same receipt, whichever attempt read it; only the time that it took is its own.
//!
//! Failure story: an error of the source ends the attempt; its uploads are dropped and publish nothing.
//! So does the end of the job, within a frame.

mod frames;
mod outgoing;
mod pages;
mod patience;
mod reader;
mod stopwatch;
#[cfg(test)]
mod tests;

use crate::job::JobContext;
use frames::FramePacker;
use futures::future::join_all;
use outgoing::Outgoing;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::pack::{PackBody, PackRange};
use pgconvoy_core::wire::{
    PartReceipt, Receipt, RepositoryFailure, StoredPack, UnitFailure, UnitOrder, UnitPart,
};
use pgconvoy_repository::codec::{Codec, Compressor, Level};
use reader::{Opened, PartReader};
use std::sync::Arc;
use std::time::Instant;
use stopwatch::{Lap, Stopwatch, Upload};

/// What a slot keeps between units: buffers, and the compressor's tables.
pub struct Slot {
    number: u16,
    compressor: Compressor,
    raw: Vec<u8>,
}

/// A unit whose bytes are all on their way; what remains is waiting for the stores.
pub struct Sent {
    outgoing: Vec<Outgoing>,
    order: Arc<UnitOrder>,
    slot: u16,
    parts: Vec<PartReceipt>,
    read: u64,
    lap: Lap,
}

impl Slot {
    pub fn new(number: u16, context: &JobContext) -> Result<Self, Failure> {
        let compress = context.units.compress;
        let codec = Codec::from_number(compress.codec)?;
        let compressor = Compressor::new(codec, Level::new(codec, compress.level)?)?;
        Ok(Slot { number, compressor, raw: Vec::new() })
    }

    /// Blocks until the last piece is handed over. Called on the slot's own thread.
    pub fn run(&mut self, context: &Arc<JobContext>, order: Arc<UnitOrder>) -> Result<Sent, UnitFailure> {
        let name = PackName {
            label: context.units.label,
            plan: context.units.plan,
            unit: order.unit,
            attempt: order.attempt,
        };
        let mut outgoing: Vec<Outgoing> =
            order.repositories.iter().map(|key| Outgoing::begin(context, &order, *key, name)).collect();
        let mut stopwatch = Stopwatch::start();
        match self.pack(context, &order, &mut outgoing, &mut stopwatch) {
            Ok((parts, read)) => {
                Ok(Sent { outgoing, order, slot: self.number, parts, read, lap: stopwatch.stop() })
            }
            Err(failure) => Err(unit_failure(&order, failure, &outgoing)),
        }
    }

    fn pack(
        &mut self,
        context: &Arc<JobContext>,
        order: &UnitOrder,
        outgoing: &mut [Outgoing],
        stopwatch: &mut Stopwatch,
    ) -> Result<(Vec<PartReceipt>, u64), Failure> {
        let mut raw = std::mem::take(&mut self.raw);
        let mut packer = FramePacker::new(&mut raw, &mut self.compressor, outgoing);
        let (mut parts, mut ranges, mut vanished, mut read) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for part in &order.parts {
            let Opened::Present(reader) = stopwatch.read(|| PartReader::open(context, part))? else {
                vanished.push(part.path.to_string());
                parts.push(PartReceipt::Vanished);
                continue;
            };
            let (receipt, range) = read_part(context, part, reader, &mut packer, stopwatch, ranges.len())?;
            if let Some(range) = range {
                read += range.length;
                ranges.push(range);
            }
            parts.push(receipt);
        }
        packer.flush()?;
        self.raw = raw;
        let body = PackBody {
            backup: context.units.backup,
            label: context.units.label,
            plan: context.units.plan,
            unit: order.unit,
            attempt: order.attempt,
            worker: context.worker.clone(),
            slot: self.number,
            ranges,
            foreign: Vec::new(),
            vanished,
        };
        for one in outgoing {
            one.end(&body, &mut self.compressor);
        }
        Ok((parts, read))
    }
}

/// One range of one file, from its first byte to the end of what is there.
fn read_part(
    context: &JobContext,
    part: &UnitPart,
    mut reader: PartReader,
    packer: &mut FramePacker<'_>,
    stopwatch: &mut Stopwatch,
    place: usize,
) -> Result<(PartReceipt, Option<PackRange>), Failure> {
    let block_size = part.block_size as usize;
    let mut range = PackRange {
        path: part.path.to_string(),
        offset: part.offset,
        length: 0,
        block_size: part.block_size,
        hashes: Vec::new(),
        runs: Vec::new(),
        checksum: context.secret.hash(&[]),
        bad_pages: Vec::new(),
        sha1: None,
    };
    let mut pages_checked = 0;
    let mut digest = context.digest_for(part);
    loop {
        context.check_running()?;
        let (free, room) = packer.room(block_size)?;
        let filled = stopwatch.read(|| reader.fill(free))?;
        if filled == 0 {
            break;
        }
        stopwatch.pace(|| context.pace(filled));
        let bytes = &mut free[..filled];
        if let Some(page_size) = context.page_check(part) {
            pages_checked += pages::check(
                page_size,
                part,
                range.offset + range.length,
                bytes,
                &mut reader,
                &mut range.bad_pages,
            )?;
        }
        if let Some(digest) = &mut digest {
            digest.update(bytes);
        }
        for block in bytes.chunks(block_size) {
            range.hashes.extend_from_slice(&context.secret.hash(block).0);
        }
        range.runs.push(packer.take(filled, block_size));
        range.length += filled as u64;
        if filled < room {
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
        pages_checked,
        bad_pages: range.bad_pages.clone(),
    };
    Ok((receipt, stored.then_some(range)))
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
            return Err(UnitFailure { unit, attempt, token, failure, failed });
        }
        Ok(Receipt {
            unit: self.order.unit,
            attempt: self.order.attempt,
            token: self.order.token,
            slot: self.slot,
            parts: self.parts,
            read: self.read,
            stored,
            failed,
            spent: self.lap.spent(&uploads),
        })
    }
}

fn unit_failure(order: &UnitOrder, failure: Failure, outgoing: &[Outgoing]) -> UnitFailure {
    let failed = outgoing.iter().filter_map(Outgoing::failure).collect();
    UnitFailure { unit: order.unit, attempt: order.attempt, token: order.token, failure, failed }
}
